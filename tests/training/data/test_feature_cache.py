"""Sights: what a frozen stem saw of varied pictures, once, and the training that draws on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.anatomy import View
from detector.boxes import Detection
from detector.yolo.flip import mirrored
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import FILL, Preprocessor
from training.data import feature_cache
from training.data.augment import vary
from training.data.feature_cache import with_copies, with_sights
from training.data.prepared import Evidence
from training.data.samples import Origin, Sample
from training.recipes import SpatialClipRecipe
from training.train.small_spatialclip import PICTURE_SIZE, train_small_spatialclip, train_tokenizer
from training.train.spatialclip import copy_change, make_batch, predict

WORDS = ("The nuchal translucency is seen.", "The palate is seen.")
SIZE = (400, 300)


def an_item(number: int, origin: Origin = Origin.REAL) -> Evidence:
    pixels = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), FILL, np.uint8)
    generator = np.random.default_rng(number)
    pixels[36:252] = generator.integers(0, 255, (216, PICTURE_SIZE, 3), np.uint8)
    own = (Detection("NT", (100.0, 120.0, 180.0, 160.0), 0.8),)
    sample = Sample(
        Path(f"{number}.png"), number % 2 == 0, view=View.NT, origin=origin, group=f"g{number}"
    )
    return Evidence(pixels, (own, mirrored(own, SIZE[0])), WORDS, SIZE, sample)


@pytest.fixture(scope="module")
def network() -> SpatialClip:
    torch.manual_seed(0)
    return SpatialClip(small_config(300)).eval()


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    return Preprocessor(train_tokenizer(WORDS, 300), PICTURE_SIZE)


def test_the_network_says_the_same_of_a_picture_and_of_what_its_stem_saw(
    network: SpatialClip, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    items = [an_item(0), an_item(1, Origin.SIMULATED)]
    stem = network.trimodal_clip.stem
    assert stem is not None
    seen = with_sights(items, stem, preprocessor, tmp_path, varied=0, seed=0)
    assert [len(item.sights) for item in seen] == [1, 1]
    plain, told = (predict(network, part, preprocessor) for part in (items, seen))
    # Features are kept in half precision.
    assert np.abs(plain.logit - told.logit).max() < 5e-3
    assert np.abs(plain.image - told.image).max() < 5e-3


def test_sights_are_made_once_and_drawn_at_random(
    network: SpatialClip,
    preprocessor: Preprocessor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stem = network.trimodal_clip.stem
    assert stem is not None
    items = [an_item(0), an_item(1, Origin.SIMULATED)]
    first = with_sights(items, stem, preprocessor, tmp_path, varied=3, seed=0)
    assert [len(item.sights) for item in first] == [4, 2]

    def never(*_: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr(feature_cache, "vary", never)
    again = with_sights(items, stem, preprocessor, tmp_path, varied=3, seed=0)
    for a, b in zip(first, again, strict=True):
        assert all(
            np.array_equal(x.picture, y.picture) and x[1:] == y[1:]
            for x, y in zip(a.sights, b.sights, strict=True)
        )
    with pytest.raises(AssertionError, match="looked again"):
        with_sights(items, stem, preprocessor, tmp_path, varied=3, seed=1)

    plain = make_batch(again, preprocessor).inputs.pixel_values
    assert torch.equal(plain[0], torch.from_numpy(again[0].sights[0].picture).float())
    generator = np.random.default_rng(0)
    drawn = [make_batch(again, preprocessor, generator).inputs.pixel_values[0] for _ in range(12)]
    assert len({float(features.sum()) for features in drawn}) == 3
    assert not any(torch.equal(features, plain[0]) for features in drawn)
    # As serving sees it, in the share that is asked for.
    mixed = [
        make_batch(again, preprocessor, generator, 0.5).inputs.pixel_values[0] for _ in range(40)
    ]
    assert 8 <= sum(torch.equal(features, plain[0]) for features in mixed) <= 32


def test_copies_are_of_real_pictures_as_they_lie_on_disk(
    network: SpatialClip, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    stem = network.trimodal_clip.stem
    assert stem is not None
    items = [an_item(0), an_item(1, Origin.SIMULATED)]
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    for item in items:
        path = tmp_path / f"{item.sample.origin}.png"
        Image.fromarray(pixels).save(path)
        item.sample = replace(item.sample, image=path, region=(0.0, 0.0, *map(float, SIZE)))
        item.picture = preprocessor.letterbox(pixels)
    seen = with_sights(items, stem, preprocessor, tmp_path / "kept", varied=1, seed=0)
    real, simulated = with_copies(seen, stem, preprocessor, tmp_path / "kept", seed=0)
    assert not simulated.copies
    plain = real.sights[0].picture
    off = [float(np.abs(copy - plain).mean()) for copy in real.copies]
    assert len(off) == 4
    # Noise is the hardest picture for JPEG: features are off, but are still of the same picture.
    assert all(0 < each < 0.5 * float(np.abs(plain).mean()) for each in off)
    kept = [path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("copies-*")]
    again, _ = with_copies(seen, stem, preprocessor, tmp_path / "kept", seed=0)
    assert kept == [path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("copies-*")]
    assert all(np.array_equal(a, b) for a, b in zip(real.copies, again.copies, strict=True))

    batch = make_batch([simulated, real], preprocessor, np.random.default_rng(0), 1.0)
    assert batch.copied == (1,)
    features = network.encode(**{n: getattr(batch.inputs, n) for n in batch.inputs.__slots__})
    with torch.no_grad():
        change = copy_change(network, features, batch)
        assert change is not None
        assert float(change) > 0
        same = replace(batch, copies=batch.inputs.pixel_values[1:])
        assert float(copy_change(network, features, same)) == pytest.approx(0, abs=1e-8)  # type: ignore[arg-type]
    # A varied picture has no copy to be compared with.
    varied = make_batch([simulated, real], preprocessor, np.random.default_rng(0), 0.0)
    assert copy_change(network, features, varied) is None


def test_training_on_sights_leaves_the_stem_as_it_was(tmp_path: Path) -> None:
    items = [an_item(i) for i in range(6)] + [an_item(i, Origin.SIMULATED) for i in range(6, 10)]
    for item in items:
        image = tmp_path / f"{item.sample.source}{item.sample.image.name}"
        image.write_bytes(item.picture.tobytes())
        item.sample = replace(item.sample, image=image)
    start = tmp_path / "start"
    train_small_spatialclip(
        items, items, start, SpatialClipRecipe(epochs=0, batch=4), resume=False, command="test"
    )
    recipe = SpatialClipRecipe(
        stages=(0, 1, 1),
        batch=4,
        simulated_ratio=0.5,
        cached_augmentations=2,
        pooled=True,
        mirrored=True,
    )
    facts = train_small_spatialclip(
        items[:8],
        items[8:],
        tmp_path / "run",
        recipe,
        start=start,
        cache=tmp_path / "cache",
        resume=False,
        command="test",
    )
    assert facts["recipe"]["sights"] == 2
    # Six real and two simulated to learn from, two more to judge.
    assert len(list((tmp_path / "cache" / "sights").glob("*.npz"))) == 10
    from model.spatialclip.checkpoint import load_spatialclip

    before, after = (load_spatialclip(tmp_path / name) for name in ("start", "run"))
    assert before.trimodal_clip.stem is not None
    assert after.trimodal_clip.stem is not None
    kept = before.trimodal_clip.stem.features.state_dict()
    now = after.trimodal_clip.stem.features.state_dict()
    assert all(torch.equal(kept[name], now[name]) for name in kept)
    assert not torch.equal(before.classifier.weight, after.classifier.weight)
    assert (before.config.pooled, before.config.mirrored) == (False, False)
    assert (after.config.pooled, after.config.mirrored) == (True, True)
    assert after.trimodal_clip.pooled_projection is not None
    assert after.trimodal_clip.pooled_projection.projection.weight.abs().max() > 0


def test_a_real_picture_gets_another_shape_and_a_simulated_one_keeps_it() -> None:
    shapes: dict[str, set[float]] = {}
    for origin in Origin:
        item = an_item(0, origin)
        # Filling and black are grey, the picture is not.
        item.picture[36:252] = (200, 40, 90)
        for seed in range(20):
            picture = vary(item, np.random.default_rng(seed)).picture
            spread = picture.astype(int).max(-1) - picture.astype(int).min(-1)
            shown = spread > 40
            rows, columns = (np.flatnonzero(shown.mean(axis) > 0.2) for axis in (1, 0))
            aspect = (columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1)
            shapes.setdefault(origin, set()).add(round(aspect, 1))
    assert len(shapes[Origin.SIMULATED]) <= 2
    assert len(shapes[Origin.REAL]) >= 4

"""Cached backbone features of augmented pictures, and the training that draws on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.anatomy import View
from detector.boxes import Detection
from detector.yolo.flip import mirror_detections
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import FILL, Preprocessor
from training.data import feature_cache
from training.data.augment import augment
from training.data.feature_cache import add_augmented, add_jpeg_features
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample
from training.recipes import SpatialClipRecipe
from training.train.batches import make_batch
from training.train.losses import jpeg_consistency
from training.train.small_spatialclip import PICTURE_SIZE, train_small_spatialclip, train_tokenizer
from training.train.spatialclip import predict

DESCRIPTIONS = ("The nuchal translucency is seen.", "The palate is seen.")
SIZE = (400, 300)
# Of `prepared_sample(0)`, augmented with seeds 0 to 3: mean grey, and the box in pixels.
GREY_LEVELS = {
    Origin.REAL: [145.7, 132.1, 104.9, 141.6],
    Origin.SIMULATED: [130.9, 124.3, 123.1, 127.6],
}
BOXES = {
    Origin.REAL: [
        (46.8, 91.2, 99.7, 117.5),
        (37.7, 150.3, 102.2, 182.6),
        (178.8, 95.8, 234.3, 122.6),
        (177.8, 130.2, 232.0, 156.4),
    ],
    Origin.SIMULATED: [
        (69.2, 117.7, 123.7, 144.8),
        (65.3, 127.3, 125.5, 156.7),
        (161.5, 118.4, 219.1, 146.1),
        (159.3, 123.6, 217.3, 153.9),
    ],
}


def prepared_sample(number: int, origin: Origin = Origin.REAL) -> PreparedSample:
    pixels = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), FILL, np.uint8)
    generator = np.random.default_rng(number)
    pixels[36:252] = generator.integers(0, 255, (216, PICTURE_SIZE, 3), np.uint8)
    own = (Detection("NT", (100.0, 120.0, 180.0, 160.0), 0.8),)
    sample = Sample(
        Path(f"{number}.png"), number % 2 == 0, view=View.NT, origin=origin, group=f"g{number}"
    )
    return PreparedSample(
        pixels, (own, mirror_detections(own, SIZE[0])), DESCRIPTIONS, SIZE, sample
    )


@pytest.fixture(scope="module")
def network() -> SpatialClip:
    torch.manual_seed(0)
    return SpatialClip(small_config(300)).eval()


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    return Preprocessor(train_tokenizer(DESCRIPTIONS, 300), PICTURE_SIZE)


def test_the_network_predicts_the_same_from_a_picture_and_from_its_features(
    network: SpatialClip, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    items = [prepared_sample(0), prepared_sample(1, Origin.SIMULATED)]
    backbone = network.trimodal_clip.stem
    assert backbone is not None
    cached = add_augmented(items, backbone, preprocessor, tmp_path, count=0, seed=0)
    assert [len(item.augmented) for item in cached] == [1, 1]
    from_pictures, from_features = (
        predict(network, part, preprocessor) for part in (items, cached)
    )
    # Features are kept in half precision.
    assert np.abs(from_pictures.logit - from_features.logit).max() < 5e-3
    assert np.abs(from_pictures.image - from_features.image).max() < 5e-3


def test_augmented_features_are_computed_once_and_drawn_at_random(
    network: SpatialClip,
    preprocessor: Preprocessor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = network.trimodal_clip.stem
    assert backbone is not None
    items = [prepared_sample(0), prepared_sample(1, Origin.SIMULATED)]
    first = add_augmented(items, backbone, preprocessor, tmp_path, count=3, seed=0)
    assert [len(item.augmented) for item in first] == [4, 2]

    def refuse(*_: object) -> None:
        raise AssertionError("augmented again")

    monkeypatch.setattr(feature_cache, "augment", refuse)
    again = add_augmented(items, backbone, preprocessor, tmp_path, count=3, seed=0)
    for a, b in zip(first, again, strict=True):
        assert all(
            np.array_equal(x.picture, y.picture) and x[1:] == y[1:]
            for x, y in zip(a.augmented, b.augmented, strict=True)
        )
    with pytest.raises(AssertionError, match="augmented again"):
        add_augmented(items, backbone, preprocessor, tmp_path, count=3, seed=1)

    plain = make_batch(again, preprocessor).inputs.pixel_values
    assert torch.equal(plain[0], torch.from_numpy(again[0].augmented[0].picture).float())
    generator = np.random.default_rng(0)
    draws = [make_batch(again, preprocessor, generator).inputs.pixel_values[0] for _ in range(12)]
    assert len({float(features.sum()) for features in draws}) == 3
    assert not any(torch.equal(features, plain[0]) for features in draws)
    # The picture itself, in the share that is asked for.
    mixed = [
        make_batch(again, preprocessor, generator, 0.5).inputs.pixel_values[0] for _ in range(40)
    ]
    assert 8 <= sum(torch.equal(features, plain[0]) for features in mixed) <= 32


def test_jpeg_features_are_of_real_pictures_at_full_size(
    network: SpatialClip, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    backbone = network.trimodal_clip.stem
    assert backbone is not None
    items = [prepared_sample(0), prepared_sample(1, Origin.SIMULATED)]
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    for item in items:
        path = tmp_path / f"{item.sample.origin}.png"
        Image.fromarray(pixels).save(path)
        item.sample = replace(item.sample, image=path, region=(0.0, 0.0, *map(float, SIZE)))
        item.picture = preprocessor.letterbox(pixels)
    cached = add_augmented(items, backbone, preprocessor, tmp_path / "cache", count=1, seed=0)
    real, simulated = add_jpeg_features(cached, backbone, preprocessor, tmp_path / "cache", seed=0)
    assert not simulated.jpeg_features
    plain = real.augmented[0].picture
    differences = [float(np.abs(copy - plain).mean()) for copy in real.jpeg_features]
    assert len(differences) == 2
    # Noise is the hardest picture for JPEG: features differ, but are still of the same picture.
    assert all(0 < each < 0.5 * float(np.abs(plain).mean()) for each in differences)
    times = [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("copies-*")]
    again, _ = add_jpeg_features(cached, backbone, preprocessor, tmp_path / "cache", seed=0)
    assert times == [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("copies-*")]
    assert all(
        np.array_equal(a, b) for a, b in zip(real.jpeg_features, again.jpeg_features, strict=True)
    )

    batch = make_batch([simulated, real], preprocessor, np.random.default_rng(0), 1.0)
    assert batch.jpeg_rows == (1,)
    features = network.encode(**batch.inputs.arguments())
    with torch.no_grad():
        change = jpeg_consistency(network, features, batch)
        assert change is not None
        assert float(change) > 0
        same = replace(batch, jpeg_features=batch.inputs.pixel_values[1:])
        assert float(jpeg_consistency(network, features, same)) == pytest.approx(0, abs=1e-8)  # type: ignore[arg-type]
    # An augmented picture has no JPEG copy to be compared with.
    augmented = make_batch([simulated, real], preprocessor, np.random.default_rng(0), 0.0)
    assert jpeg_consistency(network, features, augmented) is None


def test_training_on_cached_features_leaves_the_backbone_unchanged(tmp_path: Path) -> None:
    items = [prepared_sample(i) for i in range(6)] + [
        prepared_sample(i, Origin.SIMULATED) for i in range(6, 10)
    ]
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
    weights = before.trimodal_clip.stem.features.state_dict()
    now = after.trimodal_clip.stem.features.state_dict()
    assert all(torch.equal(weights[name], now[name]) for name in weights)
    assert not torch.equal(before.classifier.weight, after.classifier.weight)
    assert (before.config.pooled, before.config.mirrored) == (False, False)
    assert (after.config.pooled, after.config.mirrored) == (True, True)
    assert after.trimodal_clip.pooled_projection is not None
    assert after.trimodal_clip.pooled_projection.projection.weight.abs().max() > 0


def test_augmentation_changes_the_aspect_of_real_pictures_only() -> None:
    shapes: dict[str, set[float]] = {}
    for origin in Origin:
        item = prepared_sample(0, origin)
        # Filling and black are grey, the picture is not.
        item.picture[36:252] = (200, 40, 90)
        for seed in range(20):
            picture = augment(item, np.random.default_rng(seed)).picture
            spread = picture.astype(int).max(-1) - picture.astype(int).min(-1)
            coloured = spread > 40
            rows, columns = (np.flatnonzero(coloured.mean(axis) > 0.2) for axis in (1, 0))
            aspect = (columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1)
            shapes.setdefault(origin, set()).add(round(aspect, 1))
    assert len(shapes[Origin.SIMULATED]) <= 2
    assert len(shapes[Origin.REAL]) >= 4


def test_the_key_stays_while_the_augmentation_version_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key of an earlier commit: other words in the code leave cached features valid."""
    assert feature_cache.AUGMENTATION_VERSION == 1
    item = prepared_sample(0)
    key, without_augmentation = (feature_cache._augmented_key(item, b"", n, 0) for n in (3, 0))
    assert key == "6c1bfdc941fa2bfc90ba54d9"
    monkeypatch.setattr(feature_cache, "AUGMENTATION_VERSION", 2)
    assert feature_cache._augmented_key(item, b"", 3, 0) != key
    assert feature_cache._augmented_key(item, b"", 0, 0) == without_augmentation


@pytest.mark.parametrize("origin", list(Origin))
def test_augmentation_changes_with_its_version_only(origin: Origin) -> None:
    """Where these values change, AUGMENTATION_VERSION must be raised with them."""
    assert feature_cache.AUGMENTATION_VERSION == 1
    pictures, boxes = [], []
    for seed in range(4):
        augmented = augment(prepared_sample(0, origin), np.random.default_rng(seed))
        pictures.append(float(augmented.picture.mean()))
        boxes.append(augmented.detections[0].bbox)
    assert pictures == pytest.approx(GREY_LEVELS[origin], abs=0.5)
    assert np.asarray(boxes) == pytest.approx(np.asarray(BOXES[origin]), abs=0.1)

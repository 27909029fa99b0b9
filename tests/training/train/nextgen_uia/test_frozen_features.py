"""Features of frozen image networks: as good as the pictures, computed once, and repaired."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.console import UsageError
from model.nextgen_uia.adapters import AdapterConfig, Kind
from model.nextgen_uia.checkpoint import load_network, load_tower
from model.nextgen_uia.network import ClipTower, HeadConfig, Task
from model.spatialclip.backbone import SONONET
from model.spatialclip.checkpoint import save_spatialclip
from model.spatialclip.preprocess import FILL
from tests.support.towers import spatialclip, vision_tower
from training.adapter_recipes import HeadRecipe
from training.data.lesions import Lesion
from training.train.nextgen_uia.few_shot import FewShotPlan, adapter_few_shot_curve
from training.train.nextgen_uia.frozen_features import FrozenFeatures
from training.train.nextgen_uia.trainer import Pictures, predict, train_head

HEAD = HeadConfig(Task.CLASSIFICATION, ("dark", "light"), width=8)
RECIPE = HeadRecipe(epochs=2, batch=4, learning_rate=3e-3, copies=2)
ADAPTERS = AdapterConfig(Kind.HYBRID, (0, 1, 2, 3), bottleneck=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower") / "spatialclip"
    save_spatialclip(folder, spatialclip(SONONET))
    return folder


def a_tower(folder: Path) -> ClipTower:
    tower = load_tower(folder)
    assert isinstance(tower, ClipTower)
    return tower


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> list[Lesion]:
    folder = tmp_path_factory.mktemp("pictures")
    lesions = []
    for number in range(20):
        label, level = (("dark", 40), ("light", 200))[number % 2]
        pixels = np.random.default_rng(number).normal(level, 15, (64, 48, 3)).clip(0, 255)
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        lesions.append(Lesion(path, label, f"p{number // 2}"))
    return lesions


def test_a_run_on_features_is_a_run_on_its_copies(
    lesions: list[Lesion], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = lesions[:12], lesions[12:]

    def run(name: str, features: FrozenFeatures | None) -> dict[str, Any]:
        return train_head(
            a_tower(folder), HEAD, train, val, tmp_path / name, RECIPE,
            adapters=ADAPTERS, features=features,
        )  # fmt: skip

    plain = run("plain", None)
    first = run("first", FrozenFeatures(a_tower(folder), tmp_path / "cache"))
    # They are kept in half precision.
    assert np.allclose(first["losses"], plain["losses"], atol=2e-3)
    files = list((tmp_path / "cache").glob("*/*.npy"))
    assert len(train) + len(val) < len(files) <= 3 * len(train) + len(val)

    features = FrozenFeatures(a_tower(folder), tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(ClipTower, "stem_features", _fail)
        again = run("again", features)
    assert again["losses"] == first["losses"]
    assert again["scores"] == first["scores"]

    with pytest.raises(UsageError, match="another frozen features"):
        train_head(
            a_tower(folder), HEAD, train, val, tmp_path / "first", RECIPE,
            adapters=ADAPTERS, resume=True,
        )  # fmt: skip

    # A damaged file is written anew.
    files[0].write_bytes(files[0].read_bytes()[:-100])
    files[1].write_bytes(b"")
    assert run("repaired", features)["losses"] == first["losses"]
    assert files[0].stat().st_size == files[1].stat().st_size == files[2].stat().st_size

    # What was learnt is used on pictures as any other head is.
    network = load_network(tmp_path / "first", a_tower(folder))
    by_features = predict(network, Pictures(val, 64, HEAD, features=features), 4)
    by_pictures = predict(network, Pictures(val, 64, HEAD), 4)
    for each, other in zip(by_features, by_pictures, strict=True):
        assert np.allclose(each, other, atol=2e-3)


def test_runs_from_before_there_were_copies_go_on() -> None:
    assert "copies" not in HeadRecipe().to_json()
    assert RECIPE.to_json()["copies"] == 2


def test_copies_are_the_same_in_each_division(lesions: list[Lesion]) -> None:
    one, other = Pictures(lesions, 64, HEAD, copies=3), Pictures(lesions[4:], 64, HEAD, copies=3)
    assert np.array_equal(one.square(5, 2)[0], other.square(1, 2)[0])
    copies = [one.square(5, copy)[0].tobytes() for copy in range(4)]
    assert len(set(copies)) == 4
    draws, _ = one.batch([5] * 40, np.random.default_rng(1))
    assert len({each.numpy().tobytes() for each in draws}) == 4


def test_masks_go_with_their_copies(tmp_path: Path) -> None:
    # Around a picture that is moved stands the fill, too.
    pixels = np.full((32, 32, 3), FILL, np.uint8)
    pixels[8:16, 4:16] = 250
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray((pixels[..., 0] > FILL).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    lesion = Lesion(tmp_path / "a.png", "", "p", masks=(tmp_path / "mask.png",))
    config = HeadConfig(Task.SEGMENTATION, ("background", "lesion"), width=8)
    pictures = Pictures([lesion], 32, config, copies=4)
    for copy in range(1, 5):
        square, mask = pictures.square(0, copy)
        assert mask is not None
        levels = square.mean(-1)
        bright = levels > (levels.max() + np.median(levels)) / 2
        assert (bright & (mask > 0)).sum() / (bright | (mask > 0)).sum() > 0.8


def test_the_curve_reads_features(
    lesions: list[Lesion], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = a_tower(folder)
    features = FrozenFeatures(tower, tmp_path / "cache")
    plan = FewShotPlan(shots=(1,), steps=1)
    adapters = AdapterConfig(Kind.MONA, (0,), bottleneck=4)

    def curve(name: str) -> list[dict[str, Any]]:
        return adapter_few_shot_curve(
            tower, HEAD, lesions, tmp_path / name, RECIPE, plan, adapters, features
        )

    points = curve("first")
    assert [point["trials"] for point in points] == [5]
    with monkeypatch.context() as patch:
        patch.setattr(FrozenFeatures, "_compute", _fail)
        assert points == curve("again")


def _fail(*_: Any) -> None:
    raise AssertionError("the image networks were asked again")


def test_a_tower_without_image_networks_has_nothing_to_keep(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(UsageError, match="this tower has none"):
        FrozenFeatures(ClipTower(vision_tower(4), (1, 2, 3)), tmp_path)

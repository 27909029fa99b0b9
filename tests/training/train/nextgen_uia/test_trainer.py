"""Heads on towers learn, resume to the same losses, and keep only what validated best."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.console import UsageError
from model.nextgen_uia.adapters import AdapterConfig, Kind, adapter_state
from model.nextgen_uia.checkpoint import load_network, read_trained
from model.nextgen_uia.network import (
    AdaptedNetwork,
    ClipTower,
    HeadConfig,
    SonoNetTower,
    Task,
)
from tests.support.lesions import write_published
from tests.support.towers import vision_tower
from training.adapter_recipes import HeadRecipe
from training.data.labelled import divide
from training.data.lesions import Lesion, read_published
from training.train.nextgen_uia import trainer as nextgen_uia
from training.train.nextgen_uia.losses import dice_ce_loss, focal_loss
from training.train.nextgen_uia.trainer import Pictures, augment, predict, train_head

RECIPE = HeadRecipe(epochs=3, batch=4, learning_rate=3e-3)
CLASSES = HeadConfig(Task.CLASSIFICATION, ("0", "1"), width=16)
MASKS = HeadConfig(Task.SEGMENTATION, ("background", "lesion"), width=16)


def _tower() -> ClipTower:
    return ClipTower(vision_tower(5), (1, 2, 3))


def _lesions(root: Path, task: Task) -> tuple[list[Lesion], list[Lesion], list[Lesion]]:
    train, val, test = divide(read_published(root, task.value, "BUSI"), 0, 0, 0).values()
    return train, val, test


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_published(tmp_path / "data")


@pytest.mark.parametrize("kind", [Kind.HYBRID, Kind.LORA])
def test_a_run_resumes_to_the_same_losses(
    tmp_path: Path, data: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val, _ = _lesions(data, Task.SEGMENTATION)
    adapters = AdapterConfig(kind, tuple(range(5)), bottleneck=8, rank=4)
    whole = train_head(_tower(), MASKS, train, val, tmp_path / "a", RECIPE, adapters=adapters)
    assert whole["losses"][-1] < whole["losses"][0]

    end_epoch = nextgen_uia._Run.end_epoch

    def die(self: Any, loss: float, score: float) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt
        end_epoch(self, loss, score)

    with monkeypatch.context() as patch:
        patch.setattr(nextgen_uia._Run, "end_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            train_head(_tower(), MASKS, train, val, tmp_path / "b", RECIPE, adapters=adapters)
    again = train_head(
        _tower(), MASKS, train, val, tmp_path / "b", RECIPE, adapters=adapters, resume=True
    )
    assert again["losses"] == whole["losses"]
    assert again["scores"] == whole["scores"]

    # Adapters trained with the head are in the file, of the blocks that the head reads only.
    network = load_network(tmp_path / "a", _tower())
    other = load_network(tmp_path / "b", _tower())
    assert {name.partition(".")[0] for name in adapter_state(network.tower)} == set("0123")
    pictures = Pictures(val, 32, MASKS)
    assert all(map(np.array_equal, predict(network, pictures, 2), predict(other, pictures, 4)))


def test_checkpoints_keep_their_names(tmp_path: Path, data: Path) -> None:
    train, val, _ = _lesions(data, Task.CLASSIFICATION)
    recipe = HeadRecipe(epochs=1, batch=4)
    train_head(_tower(), CLASSES, train, val, tmp_path / "a", recipe)
    state = torch.load(tmp_path / "a/checkpoint.pt", weights_only=True)
    names = {"learnt", "optimizer", "best", "run", "place", "losses", "scores"}
    assert set(state) == names
    assert set(state["learnt"]) == {f"head.{name}" for name in _head_names()}


def _head_names() -> list[str]:
    return [name for name, _ in AdaptedNetwork(_tower(), CLASSES).head.named_parameters()]


def test_without_patients_to_validate_with_the_last_epoch_counts(
    tmp_path: Path, data: Path
) -> None:
    train, _, _ = _lesions(data, Task.CLASSIFICATION)
    facts = train_head(_tower(), CLASSES, train, None, tmp_path / "a", RECIPE)
    assert (facts["best epoch"], facts["validation"]) == (3, None)


def test_another_recipe_is_not_resumed(tmp_path: Path, data: Path) -> None:
    train, val, _ = _lesions(data, Task.CLASSIFICATION)
    recipe = HeadRecipe(epochs=1, batch=4)
    train_head(_tower(), CLASSES, train, val, tmp_path / "a", recipe)
    other = HeadRecipe(epochs=1, batch=4, learning_rate=1e-3)
    with pytest.raises(UsageError, match="another learning_rate"):
        train_head(_tower(), CLASSES, train, val, tmp_path / "a", other, resume=True)


def test_a_validation_that_is_not_finite_is_never_the_best(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Upstream's mean of no finite batch is 0, the lowest loss there is.
    train, val, _ = _lesions(data, Task.CLASSIFICATION)
    scores = iter([0.2, math.nan, 0.1])
    monkeypatch.setattr(nextgen_uia, "validation_score", lambda *_: next(scores))
    facts = train_head(_tower(), CLASSES, train, val, tmp_path / "a", RECIPE)
    assert facts["best epoch"] == 1
    assert facts["scores"] == [0.2, None, 0.1]
    monkeypatch.setattr(nextgen_uia, "validation_score", lambda *_: math.nan)
    with pytest.raises(UsageError, match="no validation gave a finite value"):
        train_head(_tower(), CLASSES, train, val, tmp_path / "b", RECIPE)


def test_the_test_set_is_never_read(tmp_path: Path, data: Path) -> None:
    train, val, test = _lesions(data, Task.SEGMENTATION)
    for lesion in test:
        lesion.path.unlink()
    facts = train_head(_tower(), MASKS, train, val, tmp_path / "a", RECIPE)
    # And each epoch is validated, from the first on.
    assert len(facts["scores"]) == 3


def test_a_tuned_tower_is_saved_with_its_head(tmp_path: Path, data: Path) -> None:
    train, val, _ = _lesions(data, Task.SEGMENTATION)
    torch.manual_seed(0)
    tower = SonoNetTower(32)
    start = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    recipe = HeadRecipe(epochs=2, batch=4, learning_rate=3e-3, tune_tower=True)
    train_head(tower, MASKS, train, val, tmp_path / "a", recipe)
    assert read_trained(tmp_path / "a").tuned
    fresh = SonoNetTower(32)
    fresh.load_state_dict(start)
    network = load_network(tmp_path / "a", fresh)
    assert not torch.equal(
        network.tower.state_dict()["network.blocks.0.0.0.weight"],
        start["network.blocks.0.0.0.weight"],
    )


def test_a_leaking_division_is_refused(tmp_path: Path, data: Path) -> None:
    train, val, _ = _lesions(data, Task.CLASSIFICATION)
    with pytest.raises(UsageError, match="its patient is learnt from in"):
        train_head(_tower(), CLASSES, train, [*val, train[0]], tmp_path / "a", RECIPE)
    with pytest.raises(UsageError, match="fewer than a batch of 32"):
        train_head(_tower(), CLASSES, train, val, tmp_path / "a", HeadRecipe())


def test_adapters_begin_where_a_run_ended(tmp_path: Path, data: Path) -> None:
    train, val, _ = _lesions(data, Task.CLASSIFICATION)
    adapters = AdapterConfig(Kind.MONA, (0, 1, 2, 3, 4), bottleneck=8)
    train_head(_tower(), CLASSES, train, val, tmp_path / "a", RECIPE, adapters=adapters)
    start = read_trained(tmp_path / "a")
    facts = train_head(_tower(), CLASSES, train, val, tmp_path / "b", RECIPE, start=start)
    assert facts["adapters"]["layers"] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "b/training.json").read_text())["adapters"] == facts["adapters"]


def test_a_picture_and_its_mask_are_augmented_alike() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 8:24] = 1
    pixels = np.repeat(np.where(mask, 200, 40).astype(np.uint8)[..., None], 3, -1)
    mirrored = 0
    for seed in range(20):
        moved, moved_mask = augment(pixels, mask, np.random.default_rng(seed))
        assert moved_mask is not None
        bright = moved[..., 0] > 150
        assert 2 * (bright & (moved_mask == 1)).sum() / (bright.sum() + moved_mask.sum()) > 0.9
        columns = np.nonzero(moved_mask)[1]
        mirrored += int(columns.mean() > 32)
    assert 0 < mirrored < 20


def test_focal_loss_is_of_the_softmax_that_is_scored() -> None:
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    p = logits.softmax(1)[torch.arange(6), target]
    assert torch.allclose(focal_loss(logits, target, 2.0), ((1 - p) ** 2 * -p.log()).mean())
    plain = torch.nn.functional.cross_entropy(logits, target)
    assert torch.allclose(focal_loss(logits, target, 0.0), plain)


def test_dice_loss_is_nothing_for_a_perfect_mask_and_one_for_a_wrong_one() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, 2:6, 2:6] = 1
    right = torch.stack([1 - target, target], 1).float() * 60 - 30
    assert float(dice_ce_loss(right, target)) == pytest.approx(0, abs=1e-4)
    assert float(dice_ce_loss(-right, target)) == pytest.approx(1 + 60, abs=0.1)

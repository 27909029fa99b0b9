"""The curve of adapters over patients: goes on where it was killed, to the same points."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.console import UsageError
from model.nextgen_uia.adapters import AdapterConfig, Kind
from model.nextgen_uia.network import ClipTower, HeadConfig, Task
from tests.support.towers import vision_tower
from training.adapter_recipes import HeadRecipe
from training.data.lesions import Lesion
from training.train.nextgen_uia import few_shot as adapter_few_shot
from training.train.nextgen_uia.few_shot import FewShotPlan, adapter_few_shot_curve

RECIPE = HeadRecipe(batch=4, learning_rate=3e-3, augment=False)
PLAN = FewShotPlan(shots=(1, 3), steps=2)
HEAD = HeadConfig(Task.CLASSIFICATION, ("dark", "light"), width=8)
ADAPTERS = AdapterConfig(Kind.MONA, (0, 1), bottleneck=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Lesion]:
    folder = tmp_path_factory.mktemp("pictures")
    lesions = []
    for number in range(24):
        label, level = (("dark", 40), ("light", 200))[number % 2]
        pixels = np.random.default_rng(number).normal(level, 15, (32, 32, 3)).clip(0, 255)
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        lesions.append(Lesion(path, label, f"p{number // 2}"))
    return lesions


def curve(pictures: list[Lesion], out: Path, plan: FewShotPlan = PLAN) -> list[dict[str, Any]]:
    tower = ClipTower(vision_tower(2), (0, 1))
    return adapter_few_shot_curve(tower, HEAD, pictures, out, RECIPE, plan, ADAPTERS)


def test_a_killed_curve_goes_on_to_the_same_points(
    pictures: list[Lesion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = curve(pictures, tmp_path / "whole")
    assert [point["patients"] for point in whole] == [1, 3]
    assert {point["trials"] for point in whole} == {5}
    assert all(0 <= point["macro F1"] <= 1 for point in whole)
    train, calls = adapter_few_shot.train_head, []

    def die(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    out = tmp_path / "killed"
    with monkeypatch.context() as patched:
        patched.setattr(adapter_few_shot, "train_head", die)
        with pytest.raises(KeyboardInterrupt):
            curve(pictures, out)
    lines = (out / "trials.jsonl").read_text()
    assert len(lines.splitlines()) == 4
    # The kill may come in the middle of a line.
    (out / "trials.jsonl").write_text(lines + '{"fold": 1, "rep')
    assert curve(pictures, out) == whole
    # Nobody learns from those who are judged, and smaller supports are part of larger ones.
    supports = [{lesion.group for lesion in call[2]} for call in calls[:2]]
    assert supports[0] < supports[1]
    assert [path.name for path in out.iterdir()] == ["trials.jsonl"]


def test_another_curve_does_not_go_on(pictures: list[Lesion], tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text(json.dumps({"steps": 7}) + "\n")
    with pytest.raises(UsageError, match="--resume: the run had another"):
        curve(pictures, tmp_path)


def test_too_few_patients_are_said_before_anything_is_learnt(
    pictures: list[Lesion], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="patients to learn from, fewer than 32"):
        curve(pictures, tmp_path, FewShotPlan(shots=(1, 32)))
    assert not list(tmp_path.iterdir())

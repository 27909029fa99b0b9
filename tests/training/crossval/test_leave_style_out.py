"""Leaving a look out: its figures where it has both classes, and where it has one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.crossval.folds import Plan
from training.crossval.leave_style_out import by_branch, by_group, told
from training.data.samples import read_samples
from training.evaluation.ablation import ABLATIONS
from training.phantom.dataset import write_dataset


def rows(standard: list[bool]) -> list[dict[str, Any]]:
    return [{"standard": each, "group": f"g{i}"} for i, each in enumerate(standard)]


def test_both_classes_have_all_figures() -> None:
    found = told(np.array([0.9, 0.8, 0.4, 0.7, 0.1, 0.2]), rows([True] * 3 + [False] * 3))
    assert found["AUROC"]["value"] == pytest.approx(8 / 9)
    assert found["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert found["specificity"]["value"] == pytest.approx(2 / 3)
    assert (found["standard"], found["non-standard"]) == (3, 3)


@pytest.mark.parametrize("standard", [True, False])
def test_one_class_has_its_own_rate_and_no_area(standard: bool) -> None:
    found = told(np.array([0.9, 0.8, 0.1, 0.2]), rows([standard] * 4))
    assert math.isnan(found["AUROC"]["value"])
    own, other = ("sensitivity", "specificity") if standard else ("specificity", "sensitivity")
    assert found[own]["value"] == 0.5
    assert math.isnan(found[other]["value"])


def test_each_branch_is_judged_by_its_own_logits() -> None:
    said = {name: [0.0, 1.0, 2.0, 3.0] for name in ABLATIONS} | {"text alone": [3.0, 2.0, 1.0, 0.0]}
    judged = [
        row | {"logits": {name: logits[i] for name, logits in said.items()}}
        for i, row in enumerate(rows([False, False, True, True]))
    ]
    found = by_branch(judged)
    assert {name: area["value"] for name, area in found.items()} == {
        name: float(name != "text alone") for name in ABLATIONS
    }


def test_a_group_has_one_look(tmp_path: Path) -> None:
    real = read_samples(write_dataset(tmp_path, 6, 3, progress=False))
    plan = Plan(
        tmp_path,
        [*real, real[0]],
        [],
        [],
        tmp_path,
        tmp_path,
        tmp_path,
        None,
        None,  # type: ignore[arg-type]
    )
    found = by_group(plan)
    assert found == {sample.group: "look 1" for sample in real}, "too few to tell looks apart"

"""Leaving a style out: its figures where it has both classes, and where it has one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.crossval.folds import Plan
from training.crossval.leave_style_out import auroc_by_ablation, style_by_group, style_metrics
from training.data.samples import read_samples
from training.evaluation.ablation import ABLATIONS
from training.phantom.dataset import write_dataset


def rows(standard: list[bool]) -> list[dict[str, Any]]:
    return [{"standard": each, "group": f"g{i}"} for i, each in enumerate(standard)]


def test_a_style_with_both_classes_has_auroc_sensitivity_and_specificity() -> None:
    metrics = style_metrics(
        np.array([0.9, 0.8, 0.4, 0.7, 0.1, 0.2]), rows([True] * 3 + [False] * 3)
    )
    assert metrics["AUROC"]["value"] == pytest.approx(8 / 9)
    assert metrics["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert metrics["specificity"]["value"] == pytest.approx(2 / 3)
    assert (metrics["standard"], metrics["non-standard"]) == (3, 3)


@pytest.mark.parametrize("standard", [True, False])
def test_a_style_with_one_class_has_its_rate_and_no_auroc(standard: bool) -> None:
    metrics = style_metrics(np.array([0.9, 0.8, 0.1, 0.2]), rows([standard] * 4))
    assert math.isnan(metrics["AUROC"]["value"])
    rate, missing = ("sensitivity", "specificity") if standard else ("specificity", "sensitivity")
    assert metrics[rate]["value"] == 0.5
    assert math.isnan(metrics[missing]["value"])


def test_the_auroc_of_each_ablation_is_of_its_own_logits() -> None:
    logits_by_ablation = {name: [0.0, 1.0, 2.0, 3.0] for name in ABLATIONS} | {
        "text alone": [3.0, 2.0, 1.0, 0.0]
    }
    predictions = [
        row | {"logits": {name: logits[i] for name, logits in logits_by_ablation.items()}}
        for i, row in enumerate(rows([False, False, True, True]))
    ]
    aurocs = auroc_by_ablation(predictions)
    assert {name: area["value"] for name, area in aurocs.items()} == {
        name: float(name != "text alone") for name in ABLATIONS
    }


def test_a_group_has_one_style(tmp_path: Path) -> None:
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
    assert style_by_group(plan) == {sample.group: "look 1" for sample in real}, (
        "too few to tell looks apart"
    )

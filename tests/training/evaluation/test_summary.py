"""The metrics of a set of evaluated samples."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from detector.anatomy import View
from detector.boxes import Detection
from model.finding import NON_STANDARD, REVIEW, STANDARD, Criterion, Reason
from training.evaluation.ablation import ABLATIONS
from training.evaluation.metrics.detection import match_boxes
from training.evaluation.record import EvaluatedSample
from training.evaluation.summary import (
    FAULT_NAMED,
    UNMET_ON_STANDARD,
    evaluate,
    list_failures,
    to_plain,
)

RIGHT = EvaluatedSample(
    picture="a.png",
    group="a",
    source="set",
    view=View.NT,
    standard=True,
    predicted_view=View.NT,
    probability=0.9,
    label=STANDARD,
    gates=(0.5, 0.3, 0.2),
)


def samples(count: int = 60, seed: int = 0) -> list[EvaluatedSample]:
    generator = np.random.default_rng(seed)
    evaluated = []
    for i in range(count):
        standard = bool(generator.random() < 0.5)
        p = float(np.clip(0.5 * standard + 0.5 * generator.random(), 0.01, 0.99))
        evaluated.append(
            replace(
                RIGHT,
                picture=f"{i}.png",
                group=str(i),
                source="one" if i % 3 else "two",
                view=View.NT if i % 2 else View.CRL,
                predicted_view=View.NT if i % 2 else View.CRL,
                standard=standard,
                probability=p,
                label=REVIEW if 0.4 < p < 0.6 else STANDARD if p >= 0.6 else NON_STANDARD,
                ablated_probabilities={name: p if name == "all" else 0.5 for name in ABLATIONS},
                style="look 1" if i % 4 else "look 2",
            )
        )
    return evaluated


def test_strata_sum_up_to_the_whole() -> None:
    metrics = evaluate(samples())
    for kind, parts in metrics["strata"].items():
        assert sum(part["pictures"] for part in parts.values()) == 60, kind
        assert sum(part["standard"] for part in parts.values()) == metrics["quality"]["standard"]
    assert set(metrics["strata"]) == {"view", "set", "look"}


def test_a_kind_of_one_stratum_is_left_out() -> None:
    assert set(evaluate([v for v in samples() if v.source == "one"])["strata"]) == {"view", "look"}


def test_ablation_on_request_has_the_quality_of_all_branches() -> None:
    assert "ablation" not in evaluate(samples())
    metrics = evaluate(samples(), ablation=True)
    assert set(metrics["ablation"]) == set(ABLATIONS)
    assert metrics["ablation"]["all"] == metrics["quality"]
    assert metrics["ablation"]["image alone"]["AUROC"]["value"] == 0.5


def test_confusion_counts_every_picture() -> None:
    other = replace(
        RIGHT,
        view=View.OTHER,
        standard=False,
        predicted_view=View.OTHER,
        probability=None,
        label=REVIEW,
    )
    missed = replace(RIGHT, predicted_view=View.OTHER, probability=None, label=REVIEW)
    unknown = replace(RIGHT, view=None)
    metrics = evaluate([RIGHT, missed, other, unknown])
    assert metrics["labels"]["matrix"] == {
        "standard": {"standard": 2, "review": 1, "non-standard": 0},
        "none of the views": {"standard": 0, "review": 1, "non-standard": 0},
    }
    assert metrics["labels"]["taken for OTHER"] == 2
    assert metrics["views"]["matrix"]["NT"]["NT"] == 1
    assert metrics["views"]["matrix"]["NT"]["OTHER"] == 1
    assert metrics["quality"]["pictures"] == 3, "OTHER has no quality"


def test_a_picture_taken_for_other_counts_as_not_standard_at_chance() -> None:
    sample = replace(RIGHT, predicted_view=View.OTHER, probability=None, label=REVIEW)
    metrics = evaluate([sample] * 4)["quality"]
    assert metrics["accuracy"]["value"] == 0
    assert metrics["Brier"]["value"] == pytest.approx(0.25)


def test_only_annotated_labels_count_for_the_detector() -> None:
    boxes = [Detection("NT", (0, 0, 10, 10), 1.0)]
    detections = [Detection("NT", (0, 0, 10, 10), 0.9), Detection("NB", (5, 5, 9, 9), 0.99)]
    annotated = replace(RIGHT, matches=match_boxes(detections, boxes, frozenset({"NT"})))
    unannotated = replace(RIGHT, group="b", matches=match_boxes(detections, [], frozenset()))
    metrics = evaluate([annotated, unannotated])["detector"]
    assert metrics["pictures"] == 1
    assert metrics["ap50"] == {"NT": 1.0}
    assert "detector" not in evaluate([unannotated])


def test_failures_are_sorted_by_wrong_probability_with_reasons() -> None:
    criteria = (Criterion("CRIT-NT", False), Criterion("CRIT-GAIN", True))
    poor = replace(RIGHT, picture="poor.png", standard=False, probability=0.99)
    refused = replace(
        RIGHT,
        picture="refused.png",
        probability=0.2,
        label=NON_STANDARD,
        criteria_outcomes=criteria,
    )
    astray = replace(
        RIGHT, picture="astray.png", predicted_view=View.CRL, probability=0.5, label=REVIEW
    )
    strange = replace(astray, picture="strange.png", flags=("out-of-distribution",))
    left = replace(RIGHT, picture="left.png", standard=False, probability=0.55, label=REVIEW)
    failures = list_failures([RIGHT, astray, strange, left, refused, poor])
    assert [each["picture"] for each in failures] == [
        "poor.png",
        "refused.png",
        "astray.png",
        "strange.png",
    ]
    assert failures[0]["reason"] == "passed though not standard; no criterion seen as unmet"
    assert failures[1]["reason"] == "refused though standard"
    assert failures[1]["unmet"] == ["CRIT-NT"]
    assert failures[2]["reason"] == "NT taken for CRL"
    assert failures[3]["reason"] == "NT taken for CRL; out-of-distribution"
    assert len(evaluate([poor, refused, astray], worst=2)["failures"]) == 2


def test_mistakes_count_which_branch_is_wrong_too() -> None:
    sure = dict.fromkeys(ABLATIONS, 0.9)
    passed = replace(RIGHT, standard=False, ablated_probabilities=sure | {"text alone": 0.2})
    refused = replace(
        RIGHT,
        probability=0.1,
        label=NON_STANDARD,
        ablated_probabilities=sure | {"layout alone": 0.1},
    )
    hopeless = replace(passed, ablated_probabilities=sure)
    left = replace(passed, label=REVIEW, probability=0.5)
    right = replace(RIGHT, ablated_probabilities=sure)
    metrics = evaluate([right, passed, passed, refused, left], ablation=True)["mistakes"]
    everyone = evaluate([hopeless, passed], ablation=True)["mistakes"]
    assert everyone["passed though not standard"]["each of them"] == 1
    counts = {"image alone": 2, "text alone": 0, "layout alone": 2, "each of them": 0}
    assert metrics["passed though not standard"] == {"pictures": 2} | counts
    counts = {"image alone": 0, "text alone": 0, "layout alone": 1, "each of them": 0}
    assert metrics["refused though standard"] == {"pictures": 1} | counts


def test_criteria_and_defects_are_counted_where_the_truth_is_known() -> None:
    outcomes = (Criterion("CRIT-NT", False), Criterion("CRIT-GAIN", None))
    sample = replace(
        RIGHT,
        criteria_outcomes=outcomes,
        criteria={"CRIT-NT": False, "CRIT-GAIN": True},
        defects=("blurred",),
    )
    metrics = evaluate([sample, replace(sample, criteria={"CRIT-NT": True}), replace(RIGHT)])
    assert metrics["criteria"] == {
        "CRIT-GAIN": {"right": 0, "wrong": 0, "cannot tell": 1},
        "CRIT-NT": {"right": 1, "wrong": 1, "cannot tell": 0},
    }
    assert metrics["missed by defect"] == {"blurred": {"pictures": 2, "missed": 2}}


def test_one_picture_of_one_class_is_strict_json() -> None:
    metrics = to_plain(evaluate([RIGHT], ablation=True))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["quality"]["AUROC"]["value"] is None
    assert to_plain({"a": (math.nan, np.float64(1.5), np.int64(3))}) == {"a": [None, 1.5, 3]}


def test_reasons_are_counted_by_the_verdict_that_they_must_fit() -> None:
    unmet, met = (Criterion("CRIT-GAIN", False),), (Criterion("CRIT-GAIN", True),)
    refused = replace(RIGHT, label=NON_STANDARD, criteria_outcomes=met)
    structure = Reason("structure", "NB", "nasal bone not visible: insonate the nose")
    region = Reason("region", "whole", "the picture as a whole is unlike standard views: compare")
    several = [
        replace(RIGHT, criteria_outcomes=unmet),
        *[replace(RIGHT, criteria_outcomes=met, group=str(i)) for i in range(3)],
        replace(RIGHT, label=REVIEW, criteria_outcomes=unmet),
        replace(refused, criteria_outcomes=unmet, reasons=(Reason("criterion", "CRIT-GAIN", "x"),)),
        replace(refused, reasons=(structure, region)),
        replace(refused, reasons=(region,), group="b"),
        replace(refused, reasons=(region,), group="c"),
    ]
    reasons = evaluate(several)["reasons"]
    assert reasons[UNMET_ON_STANDARD]["value"] == 0.25
    assert reasons[FAULT_NAMED]["value"] == 0.5
    low, high = reasons[FAULT_NAMED]["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert reasons["first reason"] == {"criterion": 1, "structure": 1, "region": 2}


def test_without_criteria_nothing_is_said_of_reasons() -> None:
    assert "reasons" not in evaluate([RIGHT])

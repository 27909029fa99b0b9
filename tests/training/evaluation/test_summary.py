"""The figures of a set of verdicts."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from detector.anatomy import View
from detector.boxes import Detection
from model.finding import NON_STANDARD, REVIEW, STANDARD, Criterion
from training.evaluation.ablation import ABLATIONS
from training.evaluation.detection import match_boxes
from training.evaluation.record import EvaluatedSample
from training.evaluation.summary import evaluate, list_failures, to_plain

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


def verdicts(count: int = 60, seed: int = 0) -> list[EvaluatedSample]:
    generator = np.random.default_rng(seed)
    made = []
    for i in range(count):
        standard = bool(generator.random() < 0.5)
        p = float(np.clip(0.5 * standard + 0.5 * generator.random(), 0.01, 0.99))
        made.append(
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
    return made


def test_strata_are_the_whole_divided() -> None:
    found = evaluate(verdicts())
    for kind, parts in found["strata"].items():
        assert sum(part["pictures"] for part in parts.values()) == 60, kind
        assert sum(part["standard"] for part in parts.values()) == found["quality"]["standard"]
    assert set(found["strata"]) == {"view", "set", "look"}


def test_what_divides_nothing_is_no_stratum() -> None:
    assert set(evaluate([v for v in verdicts() if v.source == "one"])["strata"]) == {"view", "look"}


def test_ablation_is_told_when_asked_for_and_its_whole_is_the_headline() -> None:
    assert "ablation" not in evaluate(verdicts())
    found = evaluate(verdicts(), ablation=True)
    assert set(found["ablation"]) == set(ABLATIONS)
    assert found["ablation"]["all"] == found["quality"]
    assert found["ablation"]["image alone"]["AUROC"]["value"] == 0.5


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
    found = evaluate([RIGHT, missed, other, unknown])
    assert found["labels"]["matrix"] == {
        "standard": {"standard": 2, "review": 1, "non-standard": 0},
        "none of the views": {"standard": 0, "review": 1, "non-standard": 0},
    }
    assert found["labels"]["taken for OTHER"] == 2
    assert found["views"]["matrix"]["NT"]["NT"] == 1
    assert found["views"]["matrix"]["NT"]["OTHER"] == 1
    assert found["quality"]["pictures"] == 3, "OTHER has no quality"


def test_a_picture_taken_for_other_counts_as_not_standard_at_chance() -> None:
    taken = replace(RIGHT, predicted_view=View.OTHER, probability=None, label=REVIEW)
    found = evaluate([taken] * 4)["quality"]
    assert found["accuracy"]["value"] == 0
    assert found["Brier"]["value"] == pytest.approx(0.25)


def test_only_annotated_labels_count_for_the_detector() -> None:
    boxes = [Detection("NT", (0, 0, 10, 10), 1.0)]
    found = [Detection("NT", (0, 0, 10, 10), 0.9), Detection("NB", (5, 5, 9, 9), 0.99)]
    annotated = replace(RIGHT, matches=match_boxes(found, boxes, frozenset({"NT"})))
    unannotated = replace(RIGHT, group="b", matches=match_boxes(found, [], frozenset()))
    told = evaluate([annotated, unannotated])["detector"]
    assert told["pictures"] == 1
    assert told["ap50"] == {"NT": 1.0}
    assert "detector" not in evaluate([unannotated])


def test_failures_are_the_surest_errors_first_with_their_reasons() -> None:
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
    found = list_failures([RIGHT, astray, strange, left, refused, poor])
    assert [each["picture"] for each in found] == [
        "poor.png",
        "refused.png",
        "astray.png",
        "strange.png",
    ]
    assert found[0]["reason"] == "passed though not standard; no criterion seen as unmet"
    assert found[1]["reason"] == "refused though standard"
    assert found[1]["unmet"] == ["CRIT-NT"]
    assert found[2]["reason"] == "NT taken for CRL"
    assert found[3]["reason"] == "NT taken for CRL; out-of-distribution"
    assert len(evaluate([poor, refused, astray], worst=2)["failures"]) == 2


def test_mistakes_tell_which_branch_was_wrong_as_well() -> None:
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
    found = evaluate([right, passed, passed, refused, left], ablation=True)["mistakes"]
    everyone = evaluate([hopeless, passed], ablation=True)["mistakes"]
    assert everyone["passed though not standard"]["each of them"] == 1
    told = {"image alone": 2, "text alone": 0, "layout alone": 2, "each of them": 0}
    assert found["passed though not standard"] == {"pictures": 2} | told
    told = {"image alone": 0, "text alone": 0, "layout alone": 1, "each of them": 0}
    assert found["refused though standard"] == {"pictures": 1} | told


def test_criteria_and_defects_are_tallied_where_their_truth_is_known() -> None:
    outcomes = (Criterion("CRIT-NT", False), Criterion("CRIT-GAIN", None))
    known = replace(
        RIGHT,
        criteria_outcomes=outcomes,
        criteria={"CRIT-NT": False, "CRIT-GAIN": True},
        defects=("blurred",),
    )
    found = evaluate([known, replace(known, criteria={"CRIT-NT": True}), replace(RIGHT)])
    assert found["criteria"] == {
        "CRIT-GAIN": {"right": 0, "wrong": 0, "cannot tell": 1},
        "CRIT-NT": {"right": 1, "wrong": 1, "cannot tell": 0},
    }
    assert found["missed by defect"] == {"blurred": {"pictures": 2, "missed": 2}}


def test_one_picture_of_one_class_is_strict_json() -> None:
    found = to_plain(evaluate([RIGHT], ablation=True))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["quality"]["AUROC"]["value"] is None
    assert to_plain({"a": (math.nan, np.float64(1.5), np.int64(3))}) == {"a": [None, 1.5, 3]}

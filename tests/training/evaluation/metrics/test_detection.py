"""Average precision, against cases worked by hand."""

from collections.abc import Sequence

import pytest

from detector.boxes import Detection
from training.evaluation.metrics.detection import DetectorScore, match_boxes, score_detector

NT = frozenset({"NT"})


def box(x: float, confidence: float = 1.0, label: str = "NT") -> Detection:
    return Detection(label, (x, 0.0, x + 10, 10.0), confidence)


def scored(
    predicted: Sequence[Sequence[Detection]],
    true: Sequence[Sequence[Detection]],
    annotated: Sequence[frozenset[str]],
) -> DetectorScore:
    return score_detector(
        [match_boxes(*each) for each in zip(predicted, true, annotated, strict=True)]
    )


def test_every_box_matched_is_an_ap_of_one() -> None:
    assert scored([[box(0, 0.9)]], [[box(0)]], [NT]).map50 == 1.0


def test_a_false_box_of_higher_confidence_halves_the_precision() -> None:
    # Precision at the one hit is 1/2, recall 1.
    reached = scored([[box(50, 0.9), box(0, 0.8)]], [[box(0)]], [NT])
    assert reached.ap50["NT"] == pytest.approx(0.5)


def test_a_missed_structure_costs_its_recall() -> None:
    reached = scored([[box(0, 0.9)], []], [[box(0)], [box(0)]], [NT, NT])
    assert reached.ap50["NT"] == pytest.approx(0.5)


def test_a_second_box_on_one_structure_is_false() -> None:
    reached = scored([[box(0, 0.9), box(1, 0.8)], [box(0, 0.7)]], [[box(0)], [box(0)]], [NT, NT])
    assert reached.ap50["NT"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_pictures_without_annotation_do_not_count() -> None:
    score = scored([[box(0, 0.9)]], [[box(0)]], [NT])
    more = scored([[box(0, 0.9)], [box(0, 0.95)]], [[box(0)], []], [NT, frozenset()])
    assert more == score


def test_a_half_covering_box_is_no_hit() -> None:
    assert scored([[box(5.1, 0.9)]], [[box(0)]], [NT]).map50 == 0.0

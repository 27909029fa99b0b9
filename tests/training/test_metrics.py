"""Average precision, against cases worked by hand."""

import pytest

from detector.detection import Detection
from training.metrics import score_detector

NT = frozenset({"NT"})


def box(x: float, confidence: float = 1.0, label: str = "NT") -> Detection:
    return Detection(label, (x, 0.0, x + 10, 10.0), confidence)


def test_all_found_is_one() -> None:
    assert score_detector([[box(0, 0.9)]], [[box(0)]], [NT]).map50 == 1.0


def test_a_surer_false_box_halves_the_precision() -> None:
    # Precision at the one hit is 1/2, recall 1.
    score = score_detector([[box(50, 0.9), box(0, 0.8)]], [[box(0)]], [NT])
    assert score.ap50["NT"] == pytest.approx(0.5)


def test_a_missed_structure_costs_its_recall() -> None:
    score = score_detector([[box(0, 0.9)], []], [[box(0)], [box(0)]], [NT, NT])
    assert score.ap50["NT"] == pytest.approx(0.5)


def test_a_second_box_on_one_structure_is_false() -> None:
    score = score_detector(
        [[box(0, 0.9), box(1, 0.8)], [box(0, 0.7)]], [[box(0)], [box(0)]], [NT, NT]
    )
    assert score.ap50["NT"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_pictures_without_annotation_count_in_nothing() -> None:
    known = score_detector([[box(0, 0.9)]], [[box(0)]], [NT])
    more = score_detector([[box(0, 0.9)], [box(0, 0.95)]], [[box(0)], []], [NT, frozenset()])
    assert more == known


def test_a_half_covering_box_is_no_hit() -> None:
    assert score_detector([[box(5.1, 0.9)]], [[box(0)]], [NT]).map50 == 0.0

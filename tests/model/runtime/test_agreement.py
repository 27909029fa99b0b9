"""What a faster judge changes is counted, picture by picture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import View
from detector.frame import Frame
from model.finding import NON_STANDARD, STANDARD, Judgement
from model.judge import Judge
from model.runtime.agreement import measure_agreement, probability_change
from model.runtime.precision import PrecisionRecord

BLACK = np.zeros((2, 2, 3), np.uint8)
BOX = (0.0, 0.0, 2.0, 2.0)
FIRST = Judgement(0, BOX, View.NT, 0.9, STANDARD, 0.9, 0.9, (1.0, 0.0, 0.0), (), "", ())


class FixedJudge:
    """Gives these judgements, frame after frame."""

    def __init__(self, judgements: Sequence[Sequence[Judgement]]) -> None:
        self.judgements = iter(judgements)

    def judge(self, frame: Frame) -> Sequence[Judgement]:
        return next(self.judgements)


def record_of(
    exact: list[list[Judgement]], fast: list[list[Judgement]], simulated: int = 0
) -> PrecisionRecord:
    frames = [Frame(1, BLACK, (), simulated=number < simulated) for number in range(len(exact))]
    return measure_agreement(
        exact,
        cast(Judge, FixedJudge(fast)),
        frames,
        version="1",
        parts=("detector",),
        cpu_flag="amx_bf16",
    )


def test_pictures_verdicts_and_views_are_counted() -> None:
    other = replace(FIRST, view=View.OTHER, probability=None, quality=NON_STANDARD)
    nearby = replace(FIRST, probability=0.85)
    record = record_of([[FIRST, FIRST], [FIRST], []], [[FIRST, nearby], [other], []], simulated=1)
    assert (record.pictures, record.simulated) == (3, 2)
    assert (record.verdict_changes, record.view_changes) == (1, 1)
    assert record.probability_change_max == 1
    assert record.shortcoming is not None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_changes_are_those_of_the_pictures(probabilities: list[float]) -> None:
    fast = [[replace(FIRST, probability=p)] for p in probabilities]
    record = record_of([[FIRST]] * len(fast), fast)
    changes = sorted(abs(0.9 - p) for p in probabilities)
    assert record.probability_change_max == changes[-1]
    assert changes[0] <= record.probability_change_p95 <= changes[-1]


def test_another_view_is_another_verdict() -> None:
    other = replace(FIRST, view=View.CRL)
    assert other.quality == FIRST.quality
    record = record_of([[FIRST], [FIRST]], [[other], [FIRST]])
    assert (record.verdict_changes, record.view_changes) == (1, 1)


def test_the_percentile_is_that_of_pictures_of_scanners() -> None:
    nearby = replace(FIRST, probability=0.7)
    exact = [[FIRST]] * 100
    # Ninety phantoms stay as they are; of ten pictures of scanners all change.
    record = record_of(exact, [[FIRST]] * 90 + [[nearby]] * 10, simulated=90)
    assert record.real == 10
    assert record.probability_change_p95 == pytest.approx(0.2)
    # Nor do phantoms that change say anything of scanners.
    record = record_of(exact, [[nearby]] * 90 + [[FIRST]] * 10, simulated=90)
    assert record.probability_change_p95 == 0
    assert record.probability_change_max == pytest.approx(0.2)


def test_two_without_a_probability_agree() -> None:
    none = replace(FIRST, probability=None)
    assert probability_change(none, none) == 0
    assert probability_change(none, FIRST) == probability_change(FIRST, none) == 1


def test_no_pictures_are_no_agreement() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        record_of([[]], [[]])

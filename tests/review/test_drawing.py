"""Drawing: the same finding has the same answer, shares are what they say, a risk has more."""

import os
from dataclasses import replace

import pytest

from qc_daemon.review import drawing
from qc_daemon.review.drawing import DrawnFinding, Shares, draw_first, draw_second

SHARES = Shares(first=0.1, second=0.05, risk=0.5, near=0.15, flags=frozenset({"low-resolution"}))
SECRET = b"k" * 32
SURE = DrawnFinding("1.2.3/1/1/0/m", "standard", 0.97, ())
COUNT = 4000


def findings(**changes: object) -> list[DrawnFinding]:
    return [replace(SURE, key=f"1.2.{number}/1/1/0/m", **changes) for number in range(COUNT)]  # type: ignore[arg-type]


def test_what_the_models_leave_to_a_person_is_always_read() -> None:
    draw = draw_first(replace(SURE, verdict="review"), SHARES, SECRET)
    assert draw is not None
    assert (draw.rules, draw.probability) == (("left-to-person",), 1.0)


def test_a_share_of_the_others_is_drawn_at_random() -> None:
    drawn = [draw_first(finding, SHARES, SECRET) for finding in findings()]
    # Four standard deviations of a binomial share of 0.1.
    assert sum(draw is not None for draw in drawn) / COUNT == pytest.approx(0.1, abs=0.019)
    assert {draw.probability for draw in drawn if draw} == {0.1}
    assert [draw_first(finding, SHARES, SECRET) for finding in findings()] == drawn
    assert [draw_first(finding, SHARES, os.urandom(32)) for finding in findings()] != drawn
    assert draw_first(SURE, replace(SHARES, first=1.0), None) is None


def test_second_readings_are_drawn_independently_of_first_ones() -> None:
    both = sum(
        bool(draw_first(f, SHARES, SECRET)) and bool(draw_second(f, SHARES, SECRET, disagrees=True))
        for f in findings()
    )
    assert both / COUNT == pytest.approx(0.05, abs=0.014)


@pytest.mark.parametrize(
    ("finding", "disagrees", "further", "rule"),
    [
        (replace(SURE, probability=0.64), False, (), drawing.NEAR_THRESHOLD),
        (replace(SURE, flags=("low-resolution",)), False, (), drawing.FLAGGED),
        (SURE, True, (), drawing.DISAGREES),
        (SURE, False, (drawing.NEW_PERSON,), drawing.NEW_PERSON),
        (SURE, False, (drawing.NEW_DEVICE,), drawing.NEW_DEVICE),
        (SURE, False, (drawing.OWN_PICTURE,), drawing.OWN_PICTURE),
    ],
)
def test_a_risk_is_drawn_more_often_and_named(
    finding: DrawnFinding, disagrees: bool, further: tuple[str, ...], rule: str
) -> None:
    drawn = [
        draw_second(each, SHARES, SECRET, disagrees=disagrees, further=further)
        for each in (replace(finding, key=f"1.2.{number}") for number in range(COUNT))
    ]
    assert sum(draw is not None for draw in drawn) / COUNT == pytest.approx(0.5, abs=0.032)
    assert {(draw.rules, draw.probability) for draw in drawn if draw} == {((rule,), 0.5)}


def test_where_the_models_left_it_to_a_person_nobody_disagrees_with_them() -> None:
    every = replace(SHARES, second=1.0)
    draw = draw_second(replace(SURE, verdict="review"), every, SECRET, disagrees=True)
    assert draw is not None
    assert draw.rules == (drawing.AT_RANDOM,)


def test_a_share_of_nothing_draws_nothing() -> None:
    none = Shares(0.0, 0.0, 0.0, 0.15, frozenset())
    assert not any(draw_first(finding, none, SECRET) for finding in findings())
    assert not any(draw_second(f, none, SECRET, disagrees=True) for f in findings())

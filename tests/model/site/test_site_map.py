"""A site's map: it rises, keeps the ranking to the bit, and says no more than it may."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from detector.anatomy import View
from model.site.site_map import MAX_SHIFT, SiteMap, capped

# What findings have: no two log odds differ by less than a millionth unless they are equal.
log_odds = st.lists(
    st.integers(-30_000_000, 30_000_000).map(lambda n: n / 1e6), min_size=2, max_size=40
)
slopes = st.floats(0.25, 4.0)
shifts = st.floats(-MAX_SHIFT, MAX_SHIFT)


@st.composite
def maps(draw: st.DrawFn) -> SiteMap:
    slope, shift = draw(slopes), draw(shifts)
    knots = sorted(draw(st.sets(st.integers(-60, 60), max_size=6)))
    steps = draw(st.lists(st.floats(1e-3, 3.0), min_size=len(knots), max_size=len(knots)))
    if len(knots) < 2:
        return SiteMap(shift * slope * 0.999, slope)
    values = np.cumsum(steps)
    # They turn at one of the knots, the line somewhere else.
    values -= draw(st.sampled_from(values.tolist()))
    return SiteMap(
        shift * slope * 0.999,
        slope,
        knots=tuple(k / 10 for k in knots),
        values=tuple(values.tolist()),
    )


@given(maps(), log_odds)
def test_it_ranks_as_the_bundle_does(site_map: SiteMap, values: list[float]) -> None:
    s = np.array(values)
    mapped = site_map.probability(s)
    assert np.array_equal(
        np.sign(np.subtract.outer(s, s)), np.sign(np.subtract.outer(mapped, mapped))
    )
    assert ((mapped > 0) & (mapped < 1)).all()


@given(maps(), log_odds, st.integers(0, 2**32 - 1))
def test_auroc_is_the_same_to_the_bit(site_map: SiteMap, values: list[float], seed: int) -> None:
    s = np.array(values)
    labels = np.random.default_rng(seed).permutation(np.arange(len(s)) % 2)
    assert roc_auc_score(labels, site_map.probability(s)) == roc_auc_score(labels, s)


@given(maps())
def test_its_json_is_read_back(site_map: SiteMap) -> None:
    assert SiteMap.from_json(site_map.to_json()) == site_map


def test_no_change_is_exactly_no_change() -> None:
    s = np.array([-40.0, -3.2, 0.0, 1e-9, 7.7, 35.0])
    assert SiteMap().is_identity
    assert np.array_equal(SiteMap().log_odds_of(s), s)


def test_the_shift_is_where_the_verdict_turns() -> None:
    site_map = SiteMap(bias=3.0, slope=1.5)
    assert site_map.shift == 2.0
    assert site_map.probability(-2.0) == pytest.approx(0.5)


@given(maps())
def test_the_shift_of_steps_is_where_they_turn(site_map: SiteMap) -> None:
    assert site_map.log_odds_of(-site_map.shift) == pytest.approx(0.0, abs=1e-9)


def test_steps_shift_by_no_more_than_a_line_may() -> None:
    with pytest.raises(ValueError, match="shift"):
        SiteMap(knots=(-12.0, -11.0), values=(1.0, 2.0))


def test_a_view_has_an_offset_of_its_own() -> None:
    site_map = SiteMap(bias=1.0, views={View.NT: 0.5}, devices={"d": -0.25})
    assert site_map.log_odds_of(0.0, View.NT) == 1.5
    assert site_map.log_odds_of(0.0, View.NT, "d") == 1.25
    assert site_map.log_odds_of(0.0, View.HEAD, "e") == 1.0


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_what_is_capped_is_a_map(bias: float, slope: float) -> None:
    shift = SiteMap(*capped(bias, slope)).shift
    # The verdict turns where it did: only how steep it turns there is capped.
    assert shift == pytest.approx(np.clip(bias / slope, -MAX_SHIFT, MAX_SHIFT))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bias": 9.0, "slope": 1.0},
        {"bias": float("inf"), "slope": 1.0},
        {"bias": 0.0, "slope": -1.0},
        {"bias": float("nan"), "slope": 1.0},
        {"bias": 0.0, "slope": 1.0, "views": {"NT": 50}},
        {"bias": 0.0, "slope": 1.0, "views": {"KNEE": 0.1}},
        {"bias": 0.0, "slope": 1.0, "isotonic": {"log_odds": [0, 1], "values": [1, 0]}},
        {"bias": 0.0, "slope": 1.0, "more": 1},
        {"slope": 1.0},
    ],
)
def test_what_is_no_map_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        SiteMap.from_json(wrong)

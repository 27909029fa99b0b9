"""Published figures: Newcombe 1998, R binom, FunnelPlotR's tests, Wetherill and Brown 1991,
Benjamini and Hochberg 1995."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.audit.statistics.proportions import (
    ALARM,
    WARNING,
    Overdispersion,
    Proportion,
    adjust,
    dispersion_test,
    exact_limit,
    funnel_limits,
    power,
    tail,
    two_sided,
)


@pytest.mark.parametrize(
    ("x", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (18, 20, 0.698966, 0.972134),
        (4, 20, 0.080658, 0.416017),
        (100, 200, 0.4313609, 0.5686391),
        (19, 38, 0.348499, 0.651501),
        (30, 30, 0.8865, 1),
        (29, 30, 0.8333, 0.9941),
        (0, 30, 0, 0.1135),
    ],
)
def test_wilson(x, n, low, high):
    assert Proportion(x, n).interval() == pytest.approx((low, high), abs=6e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_an_interval_holds_its_share(x, extra):
    share = Proportion(x, x + extra)
    low, high = share.interval()
    assert 0 <= low <= high <= 1
    if share.value is None:
        assert (low, high) == (0, 1)
    else:
        assert low <= share.value + 1e-12
        assert high >= share.value - 1e-12


def test_more_than_all_is_no_share():
    with pytest.raises(ValueError, match="4 of 3"):
        Proportion(4, 3)


@pytest.mark.parametrize(
    ("target", "n", "limits"),
    [
        (0.2, 50, (0.0348, 0.0844, 0.3071, 0.3791)),
        (0.2, 100, (0.0810, 0.1197, 0.2765, 0.3268)),
        (0.5, 30, (0.2050, 0.3043, 0.6624, 0.7617)),
        (0.9, 30, (0.6783, 0.7651, 0.9803, 0.9992)),
        (0.9, 100, (0.7916, 0.8323, 0.9496, 0.9758)),
        (0.074, 500, (0.0393, 0.0508, 0.0968, 0.1115)),
    ],
)
def test_exact_limits_are_interpolated(target, n, limits):
    for probability, expected in zip((0.001, 0.025, 0.975, 0.999), limits, strict=True):
        assert exact_limit(target, n, probability) == pytest.approx(expected, abs=6e-5)
    lines = funnel_limits(target, n)
    assert lines.low_alarm <= lines.low_warning <= lines.high_warning <= lines.high_alarm


@pytest.mark.parametrize(("target", "n"), [(0.0, 10), (1.0, 10), (0.5, 0)])
def test_there_is_no_limit_without_a_target_or_pictures(target, n):
    with pytest.raises(ValueError, match="no limit"):
        exact_limit(target, n, 0.001)


@given(st.floats(0.02, 0.98), st.integers(1, 400), st.data())
def test_what_lies_beyond_a_drawn_limit_by_a_picture_is_decided_so(target, n, data):
    share = Proportion(data.draw(st.integers(0, n)), n)
    lines = funnel_limits(target, n)
    is_beyond = tail(share, target) < ALARM
    if share.x / n < lines.low_alarm - 1 / n or share.x / n > lines.high_alarm + 1 / n:
        assert is_beyond
    if lines.low_alarm + 1 / n < share.x / n < lines.high_alarm - 1 / n:
        assert not is_beyond


def test_power_at_the_floor():
    """At a target of 0.85 the lower 99.8 % limit catches a true share of 0.70 in 16 % of periods of
    30 pictures, in 32 % of 50 and in 70 % of 100."""
    for n, expected in ((30, 0.16), (50, 0.32), (100, 0.70)):
        assert power(0.85, n, 0.70) == pytest.approx(expected, abs=0.01)
    assert power(0.15, 100, 0.30) == pytest.approx(power(0.85, 100, 0.70))


@given(st.floats(0.05, 0.95), st.integers(5, 200))
def test_under_the_target_itself_the_power_is_at_most_the_level(target, n):
    assert power(target, n, target - 1e-12) <= ALARM + 1e-9


def test_power_of_no_difference_is_that_of_a_false_alarm():
    assert 0 < power(0.85, 30, 0.85) < ALARM
    assert power(0.85, 30, 0.85) == pytest.approx(power(0.85, 30, 0.85 - 1e-12), rel=1e-6)


def test_two_sides_are_counted():
    assert two_sided(0.01) == 0.02
    assert two_sided(0.7) == 1.0


COUNTS = (12, 30, 26, 50, 42, 71, 4, 29, 48, 36)
SIZES = (82, 98, 100, 125, 162, 151, 12, 100, 82, 99)


def test_overdispersion_of_funnelplotr():
    shares = [Proportion(x, n) for x, n in zip(COUNTS, SIZES, strict=True)]
    spread = Overdispersion(tuple(shares), winsorised=0.0)
    assert spread.target == pytest.approx(0.344214, abs=5e-7)
    scores = (-4.246, -0.805, -1.838, 1.291, -2.361, 3.161, -0.080, -1.166, 4.423, 0.404)
    assert spread.scores == pytest.approx(scores, abs=6e-4)
    assert spread.phi == pytest.approx(6.0374, abs=5e-5)
    assert spread.variance == pytest.approx(0.0143565, abs=5e-8)
    spread = Overdispersion.of(shares)
    assert np.quantile(spread.scores, (0.1, 0.9)) == pytest.approx((-2.54945, 3.28686), abs=5e-6)
    assert spread.phi == pytest.approx(4.00905, abs=5e-6)
    assert spread.variance == pytest.approx(0.00868826, abs=5e-9)


def test_limits_with_and_without_overdispersion():
    shares = [Proportion(x, n) for x, n in zip(COUNTS, SIZES, strict=True)]
    spread = Overdispersion.of(shares)
    limits = spread.limits(100)
    assert (limits.low_alarm, limits.low_warning) == pytest.approx((0.0874, 0.1660), abs=6e-5)
    assert (limits.high_warning, limits.high_alarm) == pytest.approx((0.5488, 0.6653), abs=6e-5)
    alike = Overdispersion.of([Proportion(34, 100), Proportion(35, 100), Proportion(34, 99)])
    assert alike.variance == 0
    assert alike.phi < 1


def test_plain_limits_are_those_without_variance():
    spread = Overdispersion.of([Proportion(x, n) for x, n in zip(COUNTS, SIZES, strict=True)])
    spread.__dict__["variance"] = 0.0
    limits = spread.limits(100)
    lines = (limits.low_alarm, limits.low_warning, limits.high_warning, limits.high_alarm)
    assert lines == pytest.approx((0.2071, 0.2547, 0.4397, 0.4961), abs=6e-5)


def test_one_unit_varies_with_nobody():
    with pytest.raises(ValueError, match="two units"):
        Overdispersion.of([Proportion(1, 3), Proportion(0, 0)])


@given(
    st.lists(
        st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
        min_size=2,
        max_size=12,
    ),
    st.integers(1, 1000),
)
def test_limits_are_shares_in_order(pairs, n):
    spread = Overdispersion.of([Proportion(x, of) for x, of in pairs])
    limits = spread.limits(n)
    lines = [limits.low_alarm, limits.low_warning, limits.high_warning, limits.high_alarm]
    assert lines == sorted(lines)
    assert lines[0] >= 0
    assert lines[-1] <= 1 + 1e-12


def test_dispersion_of_wetherill_and_brown():
    counts = (12, 11, 18, 11, 10, 16, 9, 11, 14, 15, 11, 9, 10, 13, 12)
    counts += (8, 12, 13, 10, 12, 13, 16, 12, 18, 16, 10, 16, 10, 12, 14)
    ratio, statistic, p = dispersion_test(counts, 50)
    assert (ratio, statistic, p) == pytest.approx((0.76446, 22.1692, 0.8131), abs=6e-5)


@pytest.mark.parametrize("counts", [(), (3,), (0, 0, 0), (50, 50)])
def test_counts_that_cannot_vary_have_no_dispersion(counts):
    with pytest.raises(ValueError, match="could vary"):
        dispersion_test(counts, 50)


def test_false_discoveries_of_benjamini_and_hochberg():
    values = (0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344)
    values += (0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1)
    adjusted = adjust(values)
    assert (adjusted <= 0.05).sum() == 4
    assert (np.array(values) * len(values) <= 0.05).sum() == 3
    assert adjust([]).size == 0


def test_the_limits_are_those_of_the_guidelines():
    assert (1 - 2 * WARNING, 1 - 2 * ALARM) == (0.95, 0.998)

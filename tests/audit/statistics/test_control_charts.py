"""Published figures: Montgomery's orange juice and 9.1, Steiner 2000, R's vlad, NHS's XmR."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from qc_daemon.audit.statistics.control_charts import (
    Rule,
    average_run_length,
    cusum,
    ewma_chart,
    limit_for_run_length,
    mean_and_deviation,
    p_chart,
    p_prime_chart,
    risk_adjusted_cusum,
    risk_adjusted_weights,
    self_starting_cusum,
    two_sided_run_length,
    xmr_chart,
)

JUICE = (12, 15, 8, 10, 4, 7, 16, 9, 14, 10, 5, 6, 17, 12, 22)
JUICE += (8, 10, 5, 13, 11, 20, 18, 24, 15, 9, 12, 7, 13, 9, 6)


def beyond(chart):
    return [index + 1 for index, rule in chart.signals() if rule is Rule.BEYOND]


def test_p_chart_of_orange_juice():
    chart = p_chart(JUICE, 50)
    assert chart.centre[0] == pytest.approx(0.23133, abs=6e-6)
    assert (chart.low[0], chart.high[0]) == pytest.approx((0.05243, 0.41024), abs=6e-6)
    assert beyond(chart) == [15, 23]
    rest = [x for number, x in enumerate(JUICE, 1) if number not in (15, 23)]
    chart = p_chart(rest, 50)
    ends = (chart.centre[0], chart.low[0], chart.high[0])
    assert ends == pytest.approx((0.2150, 0.0407, 0.3893), abs=6e-5)
    assert beyond(p_chart(JUICE, 50, target=0.2150)) == [15, 21, 23]


def test_limits_follow_the_size_of_each_period():
    chart = p_chart([10, 20], [100, 200])
    assert chart.high[0] > chart.high[1]
    with pytest.raises(ValueError, match="leave out"):
        p_chart([0, 3], [0, 10])


def test_p_prime_limits_follow_the_variation_between_periods():
    rng = np.random.default_rng(0)
    alike = rng.binomial(1000, 0.3, 4000)
    plain, wide = p_chart(alike, 1000), p_prime_chart(alike, 1000)
    assert wide.high_reach[0] == pytest.approx(plain.high_reach[0], rel=0.05)
    varied = rng.binomial(1000, np.clip(rng.normal(0.3, 0.05, 200), 0, 1))
    assert len(beyond(p_chart(varied, 1000))) > 50
    assert len(beyond(p_prime_chart(varied, 1000))) <= 3
    with pytest.raises(ValueError, match="two periods"):
        p_prime_chart([3], [10])


def test_xmr_screens_one_wide_range():
    values = (1, 2, 1, 2, 10, *(1, 2) * 6, 1)
    chart = xmr_chart(values)
    assert chart.centre[0] == pytest.approx(np.mean(values))
    assert beyond(chart) == [5]
    assert (chart.low[0], chart.high[0]) == pytest.approx((-0.72, 4.60), abs=0.01)


SHIFTED = (9.45, 7.99, 9.29, 11.66, 12.16, 10.18, 8.04, 11.46, 9.20, 10.34, 9.03, 11.47, 10.51)
SHIFTED += (9.40, 10.08, 9.37, 10.62, 10.31, 8.52, 10.84, 10.90, 9.33, 12.29, 11.50, 10.60)
SHIFTED += (11.08, 10.38, 11.62, 11.31, 10.52)


def test_cusum_of_montgomery():
    sums = cusum(SHIFTED, 10, 0.5, 5)
    assert (sums.upper[28], sums.upper[29]) == pytest.approx((5.28, 5.30))
    assert sums.first_signal == 28
    assert cusum(SHIFTED[:20], 10, 0.5, 5).first_signal is None


def test_ewma_of_montgomery():
    chart = ewma_chart(SHIFTED, 10, 1)
    points = (chart.values[0], chart.values[27], chart.values[28])
    assert points == pytest.approx((9.945, 10.5731, 10.6468), abs=6e-5)
    assert chart.high[28] == pytest.approx(10.6187, abs=6e-5)
    assert beyond(chart)[0] == 29
    with pytest.raises(ValueError, match="weight"):
        ewma_chart(SHIFTED, 10, 1, weight=0)


@pytest.mark.parametrize(
    ("slack", "limit", "shift", "expected"),
    [(0.5, 4, 0, 167.7), (0.5, 4, 1, 8.4), (0.5, 5, 1, 10.4), (0.25, 9.2, 1, 13.0)],
)
def test_run_lengths_of_the_tabular_cusum(slack, limit, shift, expected):
    rng = np.random.default_rng(1)
    runs = 3000
    upper, lower, lengths = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    is_running = np.ones(runs, bool)
    for _ in range(2500):
        x = rng.normal(shift, 1, runs)
        upper, lower = np.maximum(0, upper + x - slack), np.maximum(0, lower - x - slack)
        lengths += is_running
        is_running &= np.maximum(upper, lower) <= limit
    assert lengths.mean() == pytest.approx(expected, rel=0.06)
    # The vectorised sums are those of the chart.
    x = rng.normal(shift, 1, 50)
    sums = cusum(x, 0, slack, limit)
    assert sums.upper[-1] == pytest.approx(max(0, sums.upper[-2] + x[-1] - slack))


def test_alarms_of_a_process_in_control():
    """3 sigma and eight on one side: one in 153 points (Champ and Woodall 1987: 152.7)."""
    rng = np.random.default_rng(2)
    runs = 8000
    length, run, side = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    is_running = np.ones(runs, bool)
    for _ in range(2000):
        x = rng.normal(size=runs)
        run = np.where(np.sign(x) == side, run + 1, 1)
        side = np.sign(x)
        length += is_running
        is_running &= (np.abs(x) <= 3) & (run < 8)
    assert length.mean() == pytest.approx(152.7, rel=0.03)


def test_eight_on_one_side_and_two_of_three():
    values = np.r_[np.zeros(30), np.full(8, 0.6), 0, 2.5, 0.0, 2.4]
    chart = ewma_chart(values, 0.0, 1.0, weight=1.0, width=3.0)
    signals = chart.signals()
    assert [index for index, rule in signals if rule is Rule.RUN] == [37]
    assert [index for index, rule in signals if rule is Rule.TWO_OF_THREE] == [41]
    assert not [index for index, rule in signals if rule is Rule.BEYOND]


def test_a_limit_that_ends_at_one_does_not_make_good_months_rare():
    """All of 30 are 1.8 standard deviations above a target of 0.9, whose upper limit ends at 1."""
    chart = p_chart([27, 30, 30, 26], 30, target=0.9)
    assert chart.high[0] == 1
    assert chart.scores == pytest.approx([0, 1.826, 1.826, -0.609], abs=1e-3)
    assert chart.signals() == []
    assert p_chart([3, 0, 0, 4], 30, target=0.1).signals() == []


@pytest.mark.parametrize(
    "chart",
    [
        lambda x: xmr_chart(x),
        lambda x: ewma_chart(x, 0, 1),
        lambda x: cusum(x, 0, 0.5, 4),
        lambda x: self_starting_cusum(x),
        lambda x: mean_and_deviation(x),
        lambda x: p_chart(x, 10),
    ],
)
def test_what_is_no_number_is_refused(chart):
    chart([1.0, 2.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"not finite|no number"):
        chart([1.0, 2.0, float("nan"), 2.0])


def test_more_than_all_and_a_target_that_is_no_share_are_refused():
    with pytest.raises(ValueError, match="to its size"):
        p_chart([11], [10])
    with pytest.raises(ValueError, match="no share"):
        p_chart([1], [10], target=1.5)


def test_a_sum_that_never_rises_never_signals():
    assert average_run_length([0.0, 0.0], 2.0, 3.0) == float("inf")
    assert average_run_length([0.1], 1.0, 3.0) == float("inf")
    assert limit_for_run_length([0.0, 0.0], 2.0, 300) > 0


def risk_of(parsonnet, intercept=-3.68):
    return float(expit(intercept + 0.077 * parsonnet))


def test_weights_of_steiner():
    assert (risk_of(0), risk_of(50)) == pytest.approx((0.025, 0.542), abs=6e-4)
    for score, ratio, survived, failed in (
        (0, 2, -0.024, 0.669),
        (50, 2, -0.433, 0.260),
        (0, 0.5, 0.012, -0.681),
        (50, 0.5, 0.316, -0.377),
    ):
        weights = risk_adjusted_weights([0, 1], [risk_of(score)] * 2, ratio)
        assert weights == pytest.approx((survived, failed), abs=6e-4)
    # The two weights of one risk lie ln 2 apart: the published -0.0954 has two digits exchanged.
    weights = risk_adjusted_weights([0, 1], [risk_of(19, -3.67)] * 2, 2)
    assert weights == pytest.approx((-0.0945, 0.5986), abs=6e-5)


@pytest.mark.parametrize(("ratio", "expected"), [(2.0, 4474.738), (0.5, 5658.854)])
def test_run_lengths_of_vlad(ratio, expected):
    """Parsonnet's score over 71 as Beta(1, 3). With more states our chain converges to 4,486 and
    5,727: vlad's 600 are 1.2 % off where the odds are halved."""
    scores = 71 * stats.beta.ppf((np.arange(2000) + 0.5) / 2000, 1, 3)
    risks = expit(-3.6798 + 0.0768 * scores)
    length = average_run_length(risks, ratio, 4.5, states=600)
    assert length == pytest.approx(expected, rel=0.012)


def test_a_limit_gives_the_run_length_that_it_was_asked_for():
    rng = np.random.default_rng(3)
    risks = expit(rng.normal(-1.5, 0.7, 400))
    limit = limit_for_run_length(risks, 2.0, 500)
    lengths = []
    for _ in range(200):
        sample = rng.choice(risks, 4000)
        signal = risk_adjusted_cusum(rng.random(4000) < sample, sample, 2.0, limit)
        over = np.flatnonzero(signal.upper > limit)
        lengths.append(over[0] + 1 if len(over) else 4000)
    assert np.mean(lengths) == pytest.approx(500, rel=0.2)
    assert average_run_length(risks, 2.0, limit, true_ratio=2.0) < 100
    with pytest.raises(ValueError, match="too short"):
        limit_for_run_length(risks, 2.0, 1)


def test_two_sides_signal_sooner_than_one():
    assert two_sided_run_length(300, 600) == pytest.approx(200)


def test_a_self_starting_cusum_needs_no_baseline():
    rng = np.random.default_rng(4)
    steady = rng.normal(50, 4, 60)
    assert self_starting_cusum(steady).first_signal is None
    shifted = np.r_[steady, rng.normal(58, 4, 20)]
    signal = self_starting_cusum(shifted).first_signal
    assert signal is not None
    assert 60 <= signal <= 70
    assert self_starting_cusum([1.0, 1.0, 1.0, 5.0]).first_signal is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_sums_are_never_negative_and_rise_by_no_more_than_the_step(values):
    sums = cusum(values, 0.0, 0.5, 4.0)
    assert (sums.upper >= 0).all()
    assert (sums.lower >= 0).all()
    for before, after, value in zip(sums.upper, sums.upper[1:], values[1:], strict=False):
        assert after <= max(0.0, before + value - 0.5) + 1e-9
    self_starting_cusum(values)

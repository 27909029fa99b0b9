"""Published figures: Gwet, SAS, Fleiss 1971, Feinstein and Cicchetti 1990, Shrout and Fleiss."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qc_daemon.audit.statistics.agreement import (
    Agreement,
    bootstrap_tables,
    cross_table,
    fleiss_kappa,
    intraclass_correlations,
    mcnemar,
)

GWET_3 = [[13, 0, 0], [0, 20, 7], [0, 4, 56]]
GWET_4 = [[40, 6, 4, 15], [4, 25, 1, 5], [4, 2, 21, 9], [17, 13, 12, 45]]


def test_gwet_s_tables():
    three = Agreement.of(GWET_3)
    figures = (three.observed, three.kappa, three.pi, three.ac1, three.uniform)
    assert figures == pytest.approx((0.89, 0.796, 0.796, 0.849, 0.835), abs=6e-4)
    reach = 1.96 * three.kappa_error()
    assert (three.kappa - reach, three.kappa + reach) == pytest.approx((0.680, 0.913), abs=6e-3)
    four = Agreement.of(GWET_4)
    assert (four.observed, four.kappa, four.ac1) == pytest.approx((0.587, 0.432, 0.456), abs=6e-4)
    assert four.kappa_error() == pytest.approx(0.046, abs=6e-4)


def test_the_table_of_sas():
    table = Agreement.of([[0, 4, 1], [0, 8, 0], [0, 1, 5]])
    assert table.kappa == pytest.approx(0.4842, abs=6e-5)
    assert table.kappa_error() == pytest.approx(0.1380, abs=6e-5)
    reach = 1.959964 * table.kappa_error()
    assert (table.kappa - reach, table.kappa + reach) == pytest.approx((0.2137, 0.7547), abs=2e-4)
    assert table.weighted_kappa == pytest.approx(0.4701, abs=6e-5)


@pytest.mark.parametrize(
    ("counts", "kappa", "ac1"),
    [
        ([[90, 5], [5, 0]], -0.053, 0.889),
        ([[40, 9], [6, 45]], 0.70, None),
        ([[80, 10], [5, 5]], 0.32, 0.81),
    ],
)
def test_the_paradox_of_kappa(counts, kappa, ac1):
    table = Agreement.of(counts)
    assert table.kappa == pytest.approx(kappa, abs=6e-3)
    if ac1 is not None:
        assert table.ac1 == pytest.approx(ac1, abs=6e-3)
    assert table.prevalence.sum() == pytest.approx(1)


def test_fleiss_1971():
    """Six psychiatrists, 30 patients, five diagnoses."""
    counts = [
        *([0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0]),
        *([2, 0, 4, 0, 0], [0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6]),
        *([1, 0, 0, 5, 0], [1, 1, 0, 4, 0], [0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1]),
        *([0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0], [0, 2, 0, 4, 0], [1, 0, 2, 0, 3]),
        *([0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0], [1, 0, 0, 4, 1]),
        *([0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6]),
    ]
    assert fleiss_kappa(counts) == pytest.approx(0.4302445, abs=6e-8)
    with pytest.raises(ValueError, match="equally many"):
        fleiss_kappa([[1, 1], [2, 1]])
    with pytest.raises(ValueError, match="equally many"):
        fleiss_kappa([])


SHROUT = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


@pytest.mark.parametrize(
    ("form", "value", "low", "high"),
    [
        ("1,1", 0.17, -0.13, 0.72),
        ("2,1", 0.29, 0.02, 0.76),
        ("3,1", 0.71, 0.34, 0.95),
        ("1,k", 0.44, -0.88, 0.91),
        ("2,k", 0.62, 0.07, 0.93),
        ("3,k", 0.91, 0.68, 0.99),
    ],
)
def test_shrout_and_fleiss(form, value, low, high):
    icc = intraclass_correlations(SHROUT)[form]
    assert (icc.value, icc.low, icc.high) == pytest.approx((value, low, high), abs=6e-3)


@pytest.mark.parametrize(
    "scores",
    [
        [[1, 2]],
        [[1], [2]],
        [[1, 2], [math.nan, 3]],
        [[1, 1], [2, 2]],
        [[1, 2], [2, 1]],
        [[1, 1.1], [2, 2.1], [3, 3.1]],
    ],
)
def test_scores_that_cannot_be_compared_are_refused(scores):
    with pytest.raises(ValueError, match=r"needed|vary"):
        intraclass_correlations(scores)


@pytest.mark.parametrize("counts", [[[1, 2]], [[0, 0], [0, 0]], [1, 2]])
def test_what_is_no_table_is_refused(counts):
    with pytest.raises(ValueError, match="square"):
        Agreement.of(counts)


def test_answers_are_counted_in_their_order():
    table = cross_table(["a", "b", "b"], ["a", "a", "b"], ["a", "b"])
    assert table.tolist() == [[1, 0], [1, 1]]
    with pytest.raises(ValueError, match="none of those"):
        cross_table(["c"], ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        cross_table(["a", "b"], ["a"], ["a", "b"])


def test_all_of_one_answer_leaves_kappa_open():
    table = Agreement.of([[30, 0], [0, 0]])
    assert math.isnan(table.kappa)
    assert math.isnan(table.kappa_error())
    assert table.ac1 == 1


def test_the_error_of_perfect_agreement_is_nothing():
    rng = np.random.default_rng(0)
    for _ in range(300):
        table = Agreement.of(np.diag(rng.integers(1, 40, 3)))
        assert table.kappa == pytest.approx(1)
        assert table.kappa_error() == pytest.approx(0, abs=1e-7)


tables = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 50), min_size=k, max_size=k), min_size=k, max_size=k)
)


@given(tables)
def test_figures_are_at_most_one_and_do_not_depend_on_who_is_first(counts):
    if not np.sum(counts):
        return
    one, other = Agreement.of(counts), Agreement.of(np.transpose(counts))
    for name in ("observed", "kappa", "pi", "ac1", "uniform", "weighted_kappa"):
        value = getattr(one, name)
        assert math.isnan(value) or value <= 1 + 1e-12
        assert value == pytest.approx(getattr(other, name), abs=1e-9, nan_ok=True)


def test_exams_are_resampled_as_a_whole():
    """Twenty pictures an exam that are all alike: the interval is that of exams."""
    rng = np.random.default_rng(0)
    cells = np.repeat(rng.random(40) < 0.5, 20).astype(np.int64)
    exams = np.repeat(np.arange(40), 20).tolist()
    share = {"share": lambda counts: float(counts[1] / counts.sum())}
    low, high = bootstrap_tables(cells, exams, 2, share)["share"]
    assert high - low == pytest.approx(4 * math.sqrt(0.25 / 40), rel=0.2)
    narrow = bootstrap_tables(cells, list(range(len(cells))), 2, share)["share"]
    assert narrow[1] - narrow[0] < (high - low) / 3
    assert bootstrap_tables(cells, exams, 2, share)["share"] == (low, high)
    nothing = bootstrap_tables(np.empty(0, np.int64), [], 2, share)["share"]
    assert all(map(math.isnan, nothing))


def test_mcnemar_is_exact_where_few_pairs_differ():
    assert mcnemar(0, 0).p == 1.0
    assert (mcnemar(1, 5).method, mcnemar(1, 5).p) == ("exact", pytest.approx(14 / 64))
    assert mcnemar(5, 1) == mcnemar(1, 5)
    assert mcnemar(20, 4).method == "exact"
    # Agresti 2013, table 11.1: 794 voters, 150 and 86 changed; with continuity correction.
    many = mcnemar(150, 86)
    assert many.method == "chi-square"
    assert many.p == pytest.approx(float(stats.chi2.sf(63**2 / 236, 1)))
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 3)

"""What is promised of verdicts: kept at made-up sites, never claimed of too few, and tested."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from detector.anatomy import View
from model.site.calibrate import calibrate_site
from model.site.promise import (
    Promise,
    Tolerance,
    check_promise,
    describe,
    describe_promised,
    least_called,
    make_promise,
    one_of_each_exam,
    p_value,
    review_band,
)
from model.site.reviewed import fit_reviewed
from model.site.samples import Samples
from model.site.site_map import SiteMap
from model.site.use import SiteUse
from tests.support.sites import log_odds_of_site, question, site_samples

BAND = (0.4, 0.6)


def promise_of(reviews: int, seed: int = 0, tolerance: Tolerance | None = None) -> Promise:
    s, y = log_odds_of_site(np.random.default_rng(seed), reviews)
    return make_promise(Samples.of(site_samples(s, y)), SiteMap(), BAND, tolerance or Tolerance())


@pytest.mark.parametrize("reviews", [60, 120, 250])
def test_it_is_kept_at_nine_sites_of_ten(reviews: int) -> None:
    everything, truth = log_odds_of_site(np.random.default_rng(99), 50_000)
    kept, claimed, sites = 0, 0, 60
    for seed in range(sites):
        s, y = log_odds_of_site(np.random.default_rng(seed), reviews)
        samples = Samples.of(site_samples(s, y))
        site_map = fit_reviewed(samples, SiteMap())
        promise = make_promise(samples, site_map, BAND, Tolerance())
        p = site_map.probability(everything)
        high, low = promise.standard.threshold, promise.non_standard.threshold
        claimed += high is not None or low is not None
        kept += (high is None or truth[p >= high].mean() >= 0.95) and (
            low is None or truth[p <= low].mean() <= 0.05
        )
    assert kept >= 0.9 * sites
    # 59 called ones without one that is wrong are the least, and 60 reviews do not have them.
    assert (claimed == 0) == (reviews == 60)


def test_too_few_reviews_say_how_many_are_missing() -> None:
    promise = promise_of(50)
    for side in (promise.standard, promise.non_standard):
        assert not side.is_promised
        assert side.missing is not None
        assert side.missing > 0
    assert review_band(promise, BAND) == BAND
    assert describe_promised(promise) == []
    assert all("more reviews are needed" in line for line in describe(promise))


def test_many_reviews_promise_both_and_leave_little() -> None:
    promise = promise_of(1000)
    low, high = review_band(promise, BAND)
    assert promise.standard.is_promised
    assert promise.non_standard.is_promised
    assert low <= high
    assert promise.left_to_people < 0.25
    assert len(describe_promised(promise)) == 2


def test_where_both_sides_are_safe_everything_is_decided() -> None:
    s, y = log_odds_of_site(np.random.default_rng(0), 1000)
    easy = np.where(y == 1, 6.0, -6.0) + 0.1 * s
    promise = make_promise(Samples.of(site_samples(easy, y)), SiteMap(), BAND, Tolerance())
    low, high = review_band(promise, BAND)
    assert low == high
    assert promise.left_to_people == 0


def test_a_laxer_promise_decides_more() -> None:
    strict, lax = promise_of(400), promise_of(400, tolerance=Tolerance(0.1, 0.1, 0.9))
    assert lax.left_to_people <= strict.left_to_people


def test_least_called() -> None:
    assert least_called(0.05, 0.05) == 59
    assert least_called(0.05, 0.1) == 45
    assert least_called(0.05, 0.05, wrong=1) == 93


def test_p_values_are_valid() -> None:
    generator = np.random.default_rng(0)
    small = 0
    for _ in range(400):
        wrong = (generator.random(100) < 0.05).astype(float)
        assert p_value(wrong, np.ones(100), 0.05) == pytest.approx(
            binom.cdf(wrong.sum(), 100, 0.05)
        )
        # Findings of a class that is drawn more often weigh less.
        weights = np.where(generator.random(100) < 0.5, 1.0, 4.0)
        small += p_value(wrong, weights, 0.05) <= 0.1
    assert small <= 0.1 * 400
    assert p_value(np.zeros(500), np.where(np.arange(500) % 2, 1.0, 2.0), 0.05) < 0.01
    assert p_value(np.zeros(0), np.zeros(0), 0.05) == 1.0


def test_one_of_each_exam_counts() -> None:
    s, y = log_odds_of_site(np.random.default_rng(0), 300)
    rows = [replace(row, exam=i // 3) for i, row in enumerate(site_samples(s, y))]
    chosen = one_of_each_exam(Samples.of(rows))
    assert chosen.exams == len(chosen.rows) == 100
    assert {row.key for row in chosen.rows} == {
        row.key for row in one_of_each_exam(Samples.of(rows[::-1])).rows
    }
    assert make_promise(Samples.of(rows), SiteMap(), BAND, Tolerance()).exams == 100


def test_later_reviews_keep_it_or_break_it() -> None:
    promise = promise_of(1000)
    high = promise.standard.threshold
    assert high is not None
    called = np.full(100, high)
    kept = check_promise(promise, called, np.repeat([1.0, 0.0], [95, 5]))["standard"]
    broken = check_promise(promise, called, np.repeat([1.0, 0.0], [86, 14]))["standard"]
    assert kept.is_consistent
    assert (broken.called, broken.wrong) == (100, 14)
    assert broken.tail == pytest.approx(binom.sf(13, 100, 0.05))
    assert not broken.is_consistent
    nothing = check_promise(promise, [], [])
    assert all(check.is_consistent and check.called == 0 for check in nothing.values())
    assert check_promise(promise_of(50), called, np.zeros(100)) == {}


def test_reviews_drawn_for_being_doubtful_break_no_promise_by_themselves() -> None:
    """Of 100 called 10 are wrong, all among 20 that were ten times as likely to be drawn."""
    promise = promise_of(1000)
    assert promise.standard.threshold is not None
    called, labels = np.full(100, promise.standard.threshold), np.ones(100)
    labels[:10] = 0
    weights = np.where(np.arange(100) < 20, 1.0, 10.0)
    assert check_promise(promise, called, labels)["standard"].tail < 0.05
    assert check_promise(promise, called, labels, weights)["standard"].tail == 1.0
    all_wrong = check_promise(promise, called, np.zeros(100), weights)["standard"]
    assert all_wrong.wrong == 100
    assert not all_wrong.is_consistent


def test_its_json_is_read_back() -> None:
    for reviews in (50, 1000):
        promise = promise_of(reviews)
        assert Promise.from_json(json.loads(json.dumps(promise.to_json()))) == promise


@pytest.mark.parametrize("wrong", [(0.0, 0.05, 0.9), (0.05, 0.7, 0.9), (0.05, 0.05, 1.0)])
def test_a_tolerance_that_means_nothing_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="lies between"):
        Tolerance(*wrong)


def test_thresholds_are_probabilities_of_the_site() -> None:
    s, y = log_odds_of_site(np.random.default_rng(0), 1000)
    moved = SiteMap(bias=2.0)
    plain = make_promise(Samples.of(site_samples(s, y)), SiteMap(bias=0.5), BAND, Tolerance())
    other = make_promise(Samples.of(site_samples(s, y)), moved, BAND, Tolerance())
    for promise, bias in ((plain, 0.5), (other, 2.0)):
        assert promise.standard.threshold is not None
        log_odds = np.log(promise.standard.threshold / (1 - promise.standard.threshold)) - bias
        assert log_odds * 2 == pytest.approx(round(log_odds * 2), abs=1e-6)
        assert promise.standard.called == (s >= log_odds - 1e-9).sum()


def test_views_with_offsets_are_promised_for_as_their_verdicts_are_given() -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random(300) < 0.45).astype(float)
    lower = generator.random(300) < 0.5
    s = np.where(labels == 1, 3.0, -3.0) + generator.normal(0, 1.2, 300) - 4.0 * lower
    samples = Samples.of(
        replace(row, view=View.CRL if of_lower else View.NT)
        for row, of_lower in zip(site_samples(s, labels), lower, strict=True)
    )
    site_map = fit_reviewed(samples, SiteMap())
    assert set(site_map.views) == {View.NT, View.CRL}
    promise = make_promise(samples, site_map, BAND, Tolerance())
    p = np.array(
        [
            float(site_map.probability(row.log_odds, row.view))
            for row in one_of_each_exam(samples).rows
        ]
    )
    for side, called in (
        (promise.standard, p >= (promise.standard.threshold or 2.0) - 1e-9),
        (promise.non_standard, p <= (promise.non_standard.threshold or -1.0) + 1e-9),
    ):
        assert side.is_promised
        assert side.called == called.sum()


def test_one_wrong_verdict_of_one_does_not_ask_for_a_larger_tolerance() -> None:
    samples = Samples.of(site_samples(np.array([-4.0]), np.array([1.0])))
    promise = make_promise(samples, SiteMap(), BAND, Tolerance())
    assert (promise.non_standard.called, promise.non_standard.wrong) == (1, 1)
    assert promise.non_standard.missing == least_called(0.05, 0.05) - 1
    assert "58 more reviews are needed" in describe(promise)[1]


@pytest.mark.parametrize("reviews", [0, 10, 58, 59, 80, 130])
def test_reviews_are_missing_or_will_not_do_where_nothing_is_called(reviews: int) -> None:
    poor = Samples.of(site_samples(np.full(reviews, -3.0), np.zeros(reviews)))
    promise = make_promise(poor, SiteMap(), BAND, Tolerance())
    least = least_called(0.05, 0.05)
    assert promise.standard.missing == (least - reviews if reviews < least else None)
    words = "more review" if reviews < least else f"of {reviews} reviewed exams none has one"
    assert words in describe(promise)[0]


def test_where_almost_too_many_are_wrong_no_million_of_reviews_is_asked_for() -> None:
    """39 of 400 called ones: at a share so near to the tolerated one 81,497 more would do."""
    s, y = np.full(400, 1.0), np.r_[np.zeros(39), np.ones(361)]
    promise = make_promise(Samples.of(site_samples(s, y)), SiteMap(), BAND, Tolerance())
    assert promise.standard.missing is None
    assert "name a larger share" in describe(promise)[0]
    assert least_called(1e-6, 0.05) == 2_995_731


def test_findings_that_are_seldom_drawn_count_although_none_of_them_is_called() -> None:
    """A tenth of the called findings is drawn with a probability of 0.05, and 60 % of these are
    wrong: 6 % of all. Among 70 called reviews there often is none of them."""
    generator = np.random.default_rng(0)
    passed = passed_unknown = 0
    for _ in range(200):
        is_seldom = generator.random(20_000) < 0.1
        probability = np.where(is_seldom, 0.05, 1.0)
        at = generator.choice(20_000, 70, p=probability / probability.sum())
        wrong = (is_seldom[at] & (generator.random(70) < 0.6)).astype(float)
        weights = 1 / probability[at]
        passed += p_value(wrong, weights, 0.05, largest=20.0) <= 0.05
        passed_unknown += p_value(wrong, weights, 0.05) <= 0.05
    assert passed <= 0.05 * 200
    assert passed_unknown > 0.5 * 200


def test_a_large_weight_elsewhere_makes_a_promise_need_more() -> None:
    s, y = np.r_[np.full(100, 3.0), np.full(20, -3.0)], np.r_[np.ones(100), np.zeros(20)]
    alike = site_samples(s, y)
    drawn = [replace(row, weight=20.0 if i >= 100 else 1.0) for i, row in enumerate(alike)]
    promises = [make_promise(Samples.of(r), SiteMap(), BAND, Tolerance()) for r in (alike, drawn)]
    assert [promise.standard.is_promised for promise in promises] == [True, False]


def test_one_missing_review_is_one() -> None:
    promise = make_promise(Samples.of(()), SiteMap(), BAND, Tolerance())
    one = replace(promise, standard=replace(promise.standard, missing=1))
    assert describe(one)[0].endswith("about 1 more review is needed.")


def test_nothing_is_promised_of_a_view_that_was_not_reviewed() -> None:
    s, y = log_odds_of_site(np.random.default_rng(0), 250)
    record = calibrate_site(site_samples(s, y), question())
    assert record.promise is not None
    assert record.promise.non_standard.is_promised
    assert record.promise.views == (View.NT,)
    use = SiteUse.of_record(record)
    assert "at most 5%" in (use.facts(View.NT, 0.9).promise or "")
    assert use.facts(View.HEAD, 0.9).promise is None
    assert Promise.from_json(record.promise.to_json()) == record.promise
    older = {key: each for key, each in record.promise.to_json().items() if key != "views"}
    assert Promise.from_json(older).is_about(View.HEAD)

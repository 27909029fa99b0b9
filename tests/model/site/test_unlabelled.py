"""Two classes of log odds are told from one, and which of them is said to be neither."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import skewnorm

from model.site.mixture import Mixture, fit_mixture, one_class_log_likelihood
from model.site.reference import Reference
from model.site.samples import Samples
from model.site.unlabelled import MIN_LIKELIHOOD_RATIO, find_problem, fit_unlabelled
from tests.support.sites import (
    REFERENCE,
    Floats,
    log_odds_of_second_hospital,
    log_odds_of_site,
    site_samples,
)


def accepted(draw: Callable[[np.random.Generator, int], Floats], n: int, sites: int) -> int:
    """Of so many sites of n pictures, how many have two classes."""
    count = 0
    for seed in range(sites):
        s, weights = draw(np.random.default_rng(seed), n), np.ones(n)
        count += find_problem(fit_mixture(s, weights, REFERENCE), s, weights) is None
    return count


def test_most_sites_like_the_second_hospital_have_two_classes() -> None:
    assert accepted(log_odds_of_second_hospital, 100, 30) >= 17
    assert accepted(log_odds_of_second_hospital, 156, 20) >= 14


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator, n: log_odds_of_site(generator, n, share=1.0)[0],
        lambda generator, n: log_odds_of_site(generator, n, share=0.0)[0],
        lambda generator, n: generator.normal(-2, 1.5, n),
        lambda generator, n: -7 + generator.gamma(1.5, 1.6, n),
        lambda generator, n: generator.logistic(-4, 1, n),
    ],
)
def test_sites_of_one_class_seldom_have_two(
    draw: Callable[[np.random.Generator, int], Floats],
) -> None:
    assert accepted(draw, 60, 24) <= 2


def test_the_likelihood_of_one_class_is_that_of_scipy_s_skew_normal() -> None:
    for seed, skew in enumerate((-4.0, 0.0, 2.0)):
        s = skewnorm.rvs(skew, size=120, random_state=seed)
        best = max(skewnorm.logpdf(s, *skewnorm.fit(s, start)).sum() for start in (-2, 2))
        ours = one_class_log_likelihood(s, np.ones(120))
        assert ours == pytest.approx(best, abs=0.01)
        # Pictures of one exam count together as one.
        twice = one_class_log_likelihood(np.repeat(s, 2), np.full(240, 0.5))
        assert twice == pytest.approx(ours, abs=1e-3)


def test_two_classes_are_found_where_they_lie() -> None:
    truth = Mixture(2.0, -4.0, 1.2, 1.8, 0.3)
    generator = np.random.default_rng(0)
    is_standard = generator.random(4000) < truth.share
    noise = generator.standard_normal(4000)
    s = np.where(is_standard, 2.0 + 1.2 * noise, -4.0 + 1.8 * noise)
    fitted = fit_mixture(s, np.ones(4000), REFERENCE)
    assert fitted.parameters == pytest.approx(truth.parameters, abs=0.15)


@pytest.mark.parametrize("n", [30, 200])
def test_findings_that_are_all_alike_are_of_one_class(n: int) -> None:
    """Also where each of two values is repeated, which no smooth class explains."""
    same = fit_unlabelled(Samples.of(site_samples(np.full(n, 1.5))), REFERENCE)
    assert same.map is None
    assert "two groups" in same.reason
    two_values = np.where(np.arange(n) % 2, 3.0, -3.0)
    fit = fit_unlabelled(Samples.of(site_samples(two_values)), REFERENCE)
    assert fit.map is not None
    assert fit.share == pytest.approx(0.5, abs=0.05)


def test_a_shift_beyond_all_sense_is_not_applied() -> None:
    s, _ = log_odds_of_site(np.random.default_rng(0), 200, shift=20.0)
    fit = fit_unlabelled(Samples.of(site_samples(s)), REFERENCE)
    assert fit.map is None
    assert "would be shifted" in fit.reason


def test_the_ratio_is_what_is_asked_for() -> None:
    """The sites on both sides of the limit differ by nothing but the ratio."""
    reference = Reference(0.06, 1.45, -4.5, 1.6, is_measured=True)
    reasons = set()
    for seed in range(16):
        s = log_odds_of_second_hospital(np.random.default_rng(seed), 60)
        weights = np.ones(60)
        mixture = fit_mixture(s, weights, reference)
        ratio = 2 * (mixture.log_likelihood(s, weights) - one_class_log_likelihood(s, weights))
        problem = find_problem(mixture, s, weights) or ""
        assert ("in two groups" in problem) == (ratio < MIN_LIKELIHOOD_RATIO)
        reasons.add(problem)
    assert len(reasons) >= 2

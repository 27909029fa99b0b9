"""Site calibration without labels: two classes of log odds, where there clearly are two."""

from dataclasses import dataclass

import numpy as np

from model.site.mixture import (
    Floats,
    Mixture,
    fit_mixture,
    one_class_log_likelihood,
)
from model.site.reference import Reference
from model.site.samples import Samples
from model.site.site_map import MAX_SHIFT, SiteMap, capped

MIN_EXAMS = 30
MIN_SHARE = 0.1
MIN_LIKELIHOOD_RATIO = 9.0
"""Twice the log of how much likelier two classes are than one skew-normal class. The law of this
ratio is not chi squared, for with a share of 0 the other class has no place (McLachlan 1987), so
that the level is simulated: of sites of one class about 1 in 100 at most reaches it, passes the
other tests and is changed (docs/experiments.md, `benchmarks/site_classes.py`)."""
MAX_VALLEY = 0.9
"""Between the classes the fitted density falls to at most this share of that at the lower one."""
MIN_DISTANCE_SDS = 2.5
"""The classes lie at least so many standard deviations apart (AUROC 0.96 of normal classes)."""
LEAST_SHIFT = 1.5
"""A smaller shift, in log odds, is left out: normal classes fit real ones no better than that."""
LEAST_EVIDENCE = 0.5
"""The nearer end of the shift's interval over resampled exams lies at least so far from 0."""
_RESAMPLES = 60


@dataclass(frozen=True, slots=True)
class UnlabelledFit:
    """The map, or why there is none (`reason`, a plain sentence).

    `shift_interval`: 95 % of the shifts of resampled exams. With `fits_as_is` the map leaves all as
    it is, since these log odds do not speak against the bundle's probabilities.
    """

    map: SiteMap | None
    reason: str
    share: float | None = None
    shift_interval: tuple[float, float] | None = None
    fits_as_is: bool = False


def fit_unlabelled(samples: Samples, reference: Reference | None, seed: int = 0) -> UnlabelledFit:
    """The line that two classes of log odds give, if there are two by a stated test.

    The test: `MIN_EXAMS` exams, a likelihood ratio of `MIN_LIKELIHOOD_RATIO` against one class,
    each class with `MIN_SHARE`, a valley between them, and `MIN_DISTANCE_SDS` apart. Each exam
    counts once. It cannot tell two classes from one whose log odds lie flat over a wide range.
    The map changes something only where the shift is at least `LEAST_SHIFT` and its interval, over
    resampled exams, stays `LEAST_EVIDENCE` away from 0.
    """
    if reference is None:
        return UnlabelledFit(
            None, "the bundle says nothing of its own classes: review findings, and fit with labels"
        )
    if samples.exams < MIN_EXAMS:
        return UnlabelledFit(
            None, f"{samples.exams} exams, and at least {MIN_EXAMS} are needed: score more"
        )
    s, weights = samples.log_odds, samples.exam_weights()
    mixture = fit_mixture(s, weights, reference)
    problem = find_problem(mixture, s, weights)
    if problem:
        return UnlabelledFit(None, problem)
    bias, slope = mixture.line(s, weights)
    shifts = _resampled_shifts(samples, reference, mixture, seed)
    low, high = (float(each) for each in np.quantile(shifts, [0.025, 0.975]))
    shift, interval = bias / slope, (low, high)
    is_material = low >= LEAST_EVIDENCE or high <= -LEAST_EVIDENCE
    if abs(shift) < LEAST_SHIFT or not is_material:
        return UnlabelledFit(
            SiteMap(),
            "the bundle's probabilities fit these findings: left as they are",
            mixture.share,
            interval,
            fits_as_is=True,
        )
    if abs(shift) > MAX_SHIFT:
        return UnlabelledFit(
            None,
            f"the findings would be shifted by {shift:.1f} log odds, more than {MAX_SHIFT:g}: see"
            " whether the pictures are of these views, and fit with labels",
        )
    return UnlabelledFit(
        SiteMap(*capped(bias, slope)), "two classes of log odds", mixture.share, interval
    )


def find_problem(mixture: Mixture, s: Floats, weights: Floats) -> str | None:
    """Why (n,) log odds are not clearly of two classes; None where they are."""
    gain = mixture.log_likelihood(s, weights) - one_class_log_likelihood(s, weights)
    if 2 * gain < MIN_LIKELIHOOD_RATIO:
        return "the log odds do not lie in two groups, as of standard and non-standard views"
    if min(mixture.share, 1 - mixture.share) < MIN_SHARE:
        rarer = "standard" if mixture.share < 0.5 else "non-standard"
        return f"fewer than {MIN_SHARE:.0%} seem to be {rarer}: too few to tell the two apart"
    spread = np.sqrt(
        (np.square(mixture.standard_deviation) + np.square(mixture.non_standard_deviation)) / 2
    )
    distance = (mixture.standard_mean - mixture.non_standard_mean) / spread
    if distance < MIN_DISTANCE_SDS or mixture.valley > MAX_VALLEY:
        return "the two groups of log odds lie too close to be told apart"
    return None


def _resampled_shifts(
    samples: Samples, reference: Reference, start: Mixture, seed: int
) -> list[float]:
    """The shifts of bootstrap samples of whole exams."""
    generator = np.random.default_rng(seed)
    weights, shifts = samples.exam_weights(), []
    for _ in range(_RESAMPLES):
        times = np.bincount(
            generator.integers(samples.exams, size=samples.exams), minlength=samples.exams
        )[samples.exam]
        is_drawn = times > 0
        s, w = samples.log_odds[is_drawn], (weights * times)[is_drawn]
        bias, slope = fit_mixture(s, w, reference, start).line(s, w)
        shifts.append(bias / slope)
    return shifts

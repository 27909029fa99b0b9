"""Whether a site has two classes of log odds: how often `model.site.unlabelled` says so, and
changes something, at made-up sites of two classes and of one, by its constants and their pictures.

Thousands of made-up sites are fitted side by side in numpy: the same two classes with the same
priors as `model.site.mixture`, by expectation-maximisation, and one skew-normal class.

.venv/bin/python benchmarks/site_classes.py                  # some minutes
.venv/bin/python benchmarks/site_classes.py --sites 100 --sizes 60 156
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.special import expit, log_ndtr, logit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model.bundle.bundle import read_manifest
from model.site import mixture, unlabelled
from model.site.reference import Reference
from tests.support.sites import log_odds_of_second_hospital, log_odds_of_site

Floats = npt.NDArray[np.float64]
Site = Callable[[np.random.Generator, int], Floats]
SIZES = (30, 60, 100, 156, 400)
RATIOS = (6.0, 9.0, 12.0)
SHIFTS = (1.0, 1.5, 2.0)
STEPS, RESAMPLES = 100, 40
_LOG_ROOT_2PI = 0.5 * float(np.log(2 * np.pi))


TWO_CLASSES: dict[str, Site] = {
    "second hospital": log_odds_of_second_hospital,
    "lower by 3": lambda generator, n: log_odds_of_site(generator, n, shift=3.0)[0],
    "its own hospital": lambda generator, n: log_odds_of_site(generator, n)[0],
    "its own, normal": lambda generator, n: (
        np.where(generator.random(n) < 0.45, 4.8, -4.8) + generator.normal(0, 3.1, n)
    ),
}
ONE_CLASS: dict[str, Site] = {
    "all standard": lambda generator, n: log_odds_of_site(generator, n, share=1.0)[0],
    "all poor": lambda generator, n: log_odds_of_site(generator, n, share=0.0)[0],
    "normal": lambda generator, n: generator.normal(0, 1.5, n),
    "wide normal": lambda generator, n: generator.normal(0, 3.3, n),
    "gamma": lambda generator, n: -7 + generator.gamma(1.5, 1.6, n),
    "logistic": lambda generator, n: generator.logistic(-4, 1, n),
    "uniform": lambda generator, n: generator.uniform(-3.5, 3.5, n),
}


@dataclass(frozen=True, slots=True)
class Fits:
    """Two classes fitted to each of (sites, n) log odds: `parameters` (sites, 5) as of a
    `Mixture`; all else (sites,)."""

    parameters: Floats
    log_likelihood: Floats

    @property
    def share(self) -> Floats:
        return np.asarray(expit(self.parameters[:, 4]))

    @property
    def distance(self) -> Floats:
        """In standard deviations."""
        m1, m0, l1, l0, _ = self.parameters.T
        return np.asarray((m1 - m0) / np.sqrt((np.exp(2 * l1) + np.exp(2 * l0)) / 2))

    @property
    def valley(self) -> Floats:
        """As `Mixture.valley`."""
        m1, m0 = self.parameters[:, 0], self.parameters[:, 1]
        grid = m0[:, None] + np.linspace(0, 1, 61) * (m1 - m0)[:, None]
        density = np.exp(np.logaddexp(*log_densities(grid, self.parameters)))
        return np.asarray(density.min(axis=1) / np.minimum(density[:, 0], density[:, -1]))


def log_densities(s: Floats, parameters: Floats) -> tuple[Floats, Floats]:
    """Log densities of both classes, shares included, at (sites, n) log odds."""
    m1, m0, l1, l0, lp = (column[:, None] for column in parameters.T)
    upper = -0.5 * np.square((s - m1) / np.exp(l1)) - l1 - np.logaddexp(0, -lp)
    lower = -0.5 * np.square((s - m0) / np.exp(l0)) - l0 - np.logaddexp(0, lp)
    return upper - _LOG_ROOT_2PI, lower - _LOG_ROOT_2PI


def fit_two_classes(
    s: Floats, weights: Floats, reference: Reference, start: Floats, steps: int = STEPS
) -> Fits:
    """The likeliest two classes of each of (sites, n) log odds, from these (sites, 5) starts."""
    precision, centre = np.zeros((5, 5)), np.zeros(5)
    for direction, mean, deviation in mixture.priors(reference):
        precision += np.outer(direction, direction) / deviation**2
        centre += direction * mean / deviation**2
    p = start.copy()
    for _ in range(steps):
        upper, lower = log_densities(s, p)
        r = weights * expit(upper - lower)
        for _ in range(2):
            _step(s, r, weights - r, p, precision, centre)
        mass = r.sum(axis=1)
        share = logit((mass + 1) / (weights.sum(axis=1) + 2))
        p[:, 4] = np.clip(share, *mixture.SHARE_RANGE)
    return Fits(p, (weights * np.logaddexp(*log_densities(s, p))).sum(axis=1))


def _step(s: Floats, r: Floats, q: Floats, p: Floats, precision: Floats, centre: Floats) -> None:
    """A step of Newton for the means in p, then for the deviations, where r and q are how far each
    is of one class and of the other."""
    masses = np.column_stack((r.sum(axis=1), q.sum(axis=1)))
    scale = np.exp(p[:, 2:4])
    pull = centre - p @ precision
    sums = [(w * (s - p[:, k : k + 1])).sum(axis=1) for k, w in enumerate((r, q))]
    p[:, :2] += _solve(
        masses / scale**2, precision[:2, :2], np.column_stack(sums) / scale**2 + pull[:, :2]
    )
    sums = [(w * np.square(s - p[:, k : k + 1])).sum(axis=1) for k, w in enumerate((r, q))]
    squares = np.column_stack(sums) / scale**2
    step = _solve(squares + masses, precision[2:4, 2:4], squares - masses + pull[:, 2:4])
    p[:, 2:4] = np.clip(p[:, 2:4] + np.clip(step, -0.5, 0.5), *mixture.LOG_SD_RANGE)


def penalty(fits: Fits, reference: Reference) -> Floats:
    """(sites,) minus the log of the prior density, but for a constant."""
    lp = fits.parameters[:, 4]
    value = np.logaddexp(0, -lp) + np.logaddexp(0, lp)
    for direction, mean, deviation in mixture.priors(reference):
        value = value + 0.5 * np.square((fits.parameters @ direction - mean) / deviation)
    return np.asarray(value)


def fit_sites(s: Floats, reference: Reference) -> Fits:
    """The best of several starts for each site."""
    weights = np.ones_like(s)
    best: Fits | None = None
    for number in range(len(mixture.STARTS)):
        start = np.array([mixture.split_starts(row)[number] for row in s])
        fits = fit_two_classes(s, weights, reference, start)
        if best is None:
            best = fits
            continue
        is_better = (fits.log_likelihood - penalty(fits, reference)) > (
            best.log_likelihood - penalty(best, reference)
        )
        best = Fits(
            np.where(is_better[:, None], fits.parameters, best.parameters),
            np.where(is_better, fits.log_likelihood, best.log_likelihood),
        )
    assert best is not None
    flip = best.parameters[:, 0] < best.parameters[:, 1]
    turned = best.parameters[:, [1, 0, 3, 2, 4]] * [1, 1, 1, 1, -1]
    return Fits(np.where(flip[:, None], turned, best.parameters), best.log_likelihood)


def one_skew_normal(s: Floats) -> Floats:
    """(sites,) log likelihood of one skew-normal class, or of a normal one where that is likelier,
    by expectation-maximisation."""
    mean, deviation = s.mean(axis=1, keepdims=True), s.std(axis=1, keepdims=True)
    best = -s.shape[1] * (np.log(deviation[:, 0]) + 0.5 + _LOG_ROOT_2PI)
    for side in (-1.0, 1.0):
        place, skew = mean - side * 0.9 * deviation, side * 1.1 * deviation
        variance = np.square(0.5 * deviation)
        for _ in range(4 * STEPS):
            total = variance + np.square(skew)
            middle = skew * (s - place) / total
            spread = np.sqrt(variance / total)
            z = middle / spread
            ratio = np.exp(-0.5 * z * z - _LOG_ROOT_2PI - log_ndtr(z))
            first = middle + spread * ratio
            second = np.square(middle) + np.square(spread) + spread * middle * ratio
            place = (s - skew * first).mean(axis=1, keepdims=True)
            skew = (first * (s - place)).sum(axis=1, keepdims=True) / second.sum(
                axis=1, keepdims=True
            )
            error = np.square(s - place) - 2 * skew * first * (s - place) + skew**2 * second
            variance = np.maximum(error.mean(axis=1, keepdims=True), 1e-3 * np.square(deviation))
        scale = np.sqrt(variance + np.square(skew))
        x = (s - place) / scale
        density = (
            np.log(2) - 0.5 * x * x - _LOG_ROOT_2PI - np.log(scale)
            + log_ndtr(skew / np.sqrt(variance) * x)
        )  # fmt: skip
        best = np.maximum(best, density.sum(axis=1))
    return best


def lines(s: Floats, fits: Fits, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """(sites,) bias and slope, as of `Mixture.line`, by scoring."""
    w = np.ones_like(s) if weights is None else weights
    upper, lower = log_densities(s, fits.parameters)
    target = expit(upper - lower)
    target = np.where(s >= fits.parameters[:, :1], np.maximum(target, 0.5), target)
    target = np.where(s <= fits.parameters[:, 1:2], np.minimum(target, 0.5), target)
    a, b = np.zeros(len(s)), np.zeros(len(s))
    for _ in range(40):
        slope = np.exp(a)[:, None]
        p = expit(slope * s + b[:, None])
        error, mass = w * (p - target), w * p * (1 - p) + 1e-12
        x = slope * s
        g = np.column_stack(((error * x).sum(axis=1) + a / 0.25, error.sum(axis=1)))
        h11, h12, h22 = ((mass * x * x).sum(axis=1) + 4, (mass * x).sum(axis=1), mass.sum(axis=1))
        determinant = h11 * h22 - h12 * h12
        a = a - np.clip((h22 * g[:, 0] - h12 * g[:, 1]) / determinant, -0.5, 0.5)
        b = b - np.clip((h11 * g[:, 1] - h12 * g[:, 0]) / determinant, -3, 3)
    return b, np.exp(a)


def intervals(s: Floats, fits: Fits, reference: Reference, seed: int = 0) -> tuple[Floats, Floats]:
    """(sites,) ends of the 95 % interval of the shift over resampled pictures."""
    sites, n = s.shape
    indices = np.random.default_rng(seed).integers(n, size=(sites * RESAMPLES, n))
    weights = np.array([np.bincount(row, minlength=n) for row in indices], float)
    repeated = np.repeat(s, RESAMPLES, axis=0)
    start = np.repeat(fits.parameters, RESAMPLES, axis=0)
    again = fit_two_classes(repeated, weights, reference, start, STEPS // 3)
    bias, slope = lines(repeated, again, weights)
    low, high = np.quantile((bias / slope).reshape(sites, RESAMPLES), (0.025, 0.975), axis=1)
    return low, high


@dataclass(frozen=True, slots=True)
class Answers:
    """Of sites side by side, all (sites,): twice the log likelihood ratio (minus infinity where
    another test fails), the shift, and whether its interval is away from 0."""

    ratio: Floats
    shift: Floats
    is_material: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, s: Floats, reference: Reference) -> "Answers":
        fits = fit_sites(s, reference)
        ratio = 2 * (fits.log_likelihood - one_skew_normal(s))
        passes = (
            (np.minimum(fits.share, 1 - fits.share) >= unlabelled.MIN_SHARE)
            & (fits.distance >= unlabelled.MIN_DISTANCE_SDS)
            & (fits.valley <= unlabelled.MAX_VALLEY)
        )
        bias, slope = lines(s, fits)
        shift, is_material = bias / slope, np.zeros(len(s), bool)
        asked = np.flatnonzero(passes & (ratio >= min(RATIOS)) & (np.abs(shift) >= min(SHIFTS)))
        if len(asked):
            of_asked = Fits(fits.parameters[asked], fits.log_likelihood[asked])
            low, high = intervals(s[asked], of_asked, reference)
            least = unlabelled.LEAST_EVIDENCE
            is_material[asked] = (low >= least) | (high <= -least)
        return cls(np.where(passes, ratio, -np.inf), shift, is_material)

    def changed(self, ratio: float, shift: float) -> float:
        """The share of sites that is given another probability, by these two constants."""
        is_changed = (self.ratio >= ratio) & self.is_material & (np.abs(self.shift) >= shift)
        return float(is_changed.mean())


def classes_table(reference: Reference, sites: int, sizes: tuple[int, ...]) -> Table:
    """Of each kind of site: said to have two classes, and changed."""
    table = Table("site", "pictures", *(f"two classes at {ratio:g}" for ratio in RATIOS))
    for shift in SHIFTS:
        table.add_column(f"changed at {', '.join(f'{r:g}' for r in RATIOS)} and {shift:g}")
    for name, draw in (TWO_CLASSES | ONE_CLASS).items():
        for n in sizes:
            s = np.array([draw(np.random.default_rng([k, n]), n) for k in range(sites)])
            answers = Answers.of(s, reference)
            table.add_row(
                name,
                str(n),
                *(f"{(answers.ratio >= ratio).mean():.1%}" for ratio in RATIOS),
                *(
                    ", ".join(f"{answers.changed(ratio, shift):.1%}" for ratio in RATIOS)
                    for shift in SHIFTS
                ),
            )
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--bundle", default="default", help="its reference is the prior")
    parser.add_argument("--sites", type=int, default=400, help="of each kind and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pictures of a site")
    arguments = parser.parse_args()
    reference = Reference.from_manifest(read_manifest(arguments.bundle))
    if reference is None:
        parser.error("the bundle says nothing of its own classes")
    console = Console(width=160)
    console.print(classes_table(reference, arguments.sites, tuple(arguments.sizes)))


def _solve(diagonal: Floats, matrix: Floats, right: Floats) -> Floats:
    """(sites, 2) solutions of (diagonal + matrix) x = right."""
    a, d = diagonal[:, 0] + matrix[0, 0], diagonal[:, 1] + matrix[1, 1]
    b = matrix[0, 1]
    determinant = a * d - b * b
    return (
        np.column_stack((d * right[:, 0] - b * right[:, 1], a * right[:, 1] - b * right[:, 0]))
        / determinant[:, None]
    )


if __name__ == "__main__":
    main()

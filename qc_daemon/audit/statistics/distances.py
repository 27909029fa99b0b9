"""How far a sample lies from a reference: population stability, maximum mean discrepancy, energy.

Each is judged by how often as large a distance arises without any drift, never by a fixed
threshold: what a small sample shows by chance alone is large (Yurdakul 2018, arXiv 2307.11878).
Gretton et al. 2012 (JMLR 13:723); Szekely and Rizzo 2013.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist, pdist

Floats = npt.NDArray[np.float64]

BINS = 10
PERMUTATIONS = 400
_ENOUGH_LARGER = 10
"""So many permuted distances beyond the observed one say its p-value well enough."""
_LEAST_P = 1e-12
MIN_SAMPLE = 200
"""Of fewer values in bins nothing is said: chance alone moves them too far."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceBins:
    """Deciles of a reference: inner edges (bins - 1,), its share in each (bins,), its size N."""

    edges: Floats
    shares: Floats
    size: int

    @classmethod
    def of(cls, values: npt.ArrayLike, bins: int = BINS) -> "ReferenceBins":
        """Of (N,) values; equal values share a bin. Raises ValueError on fewer than two values that
        differ, or on values that are not finite."""
        x = np.asarray(values, float)
        if not np.isfinite(x).all():
            raise ValueError("a reference has a value that is not finite")
        if not len(x) or x.min() == x.max():
            raise ValueError("a reference needs values that differ")
        quantiles = np.unique(np.quantile(x, np.arange(1, bins) / bins, method="lower"))
        # Values up to and with an edge are below it: the largest one is no edge.
        edges = quantiles[quantiles < x.max()]
        shares = _counts(edges, x) / len(x)
        return cls(edges, shares, len(x))

    def stability_index(self, values: npt.ArrayLike) -> float:
        """PSI of (M,) values: the sum of (q - p) ln(q / p) over the bins. An empty bin counts as
        half a value. Raises ValueError without values, or on one that is not finite."""
        return stability_index(self.shares, self._shares_of(values))

    def p_value(self, values: npt.ArrayLike) -> float:
        """How often values of the reference's own law lie as far: PSI / (1/N + 1/M) has a chi
        squared law of bins - 1 degrees of freedom. For values that are independent."""
        x = np.asarray(values, float)
        index = self.stability_index(x)
        return float(stats.chi2.sf(index / (1 / self.size + 1 / len(x)), len(self.shares) - 1))

    def _shares_of(self, values: npt.ArrayLike) -> Floats:
        x = np.asarray(values, float)
        if not len(x):
            raise ValueError("no values to compare with the reference")
        if not np.isfinite(x).all():
            raise ValueError("a value that is compared with the reference is not finite")
        return np.asarray(np.maximum(_counts(self.edges, x), 0.5) / len(x))


def stability_index(reference: npt.ArrayLike, sample: npt.ArrayLike) -> float:
    """PSI of two rows of (bins,) shares, all above 0."""
    p, q = (np.asarray(each, float) for each in (reference, sample))
    return float(((q - p) * np.log(q / p)).sum())


def squared_discrepancy(x: npt.ArrayLike, y: npt.ArrayLike, bandwidth: float) -> float:
    """Unbiased MMD^2 of (n, d) and (m, d) rows with a Gaussian kernel of this bandwidth; it may be
    negative. Raises ValueError for fewer than two rows of either."""
    a, b = _rows(x), _rows(y)
    if min(len(a), len(b)) < 2:
        raise ValueError("two rows of each at least are needed")
    pooled = np.vstack((a, b))
    kernel = _kernel(cdist(pooled, pooled, "sqeuclidean"), bandwidth)
    return float(_discrepancies(kernel, _sides(len(a), len(b)))[0])


def median_bandwidth(reference: npt.ArrayLike) -> float:
    """The median distance between (n, d) rows of the reference alone, so that the drift that is to
    be seen does not set the scale. Raises ValueError where it is 0."""
    rows = _rows(reference)
    distance = float(np.median(pdist(rows))) if len(rows) > 1 else 0.0
    if distance <= 0:
        raise ValueError("the reference's rows do not differ")
    return distance


def energy_distance(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of (n, d) and (m, d) rows; scipy's is its square root."""
    a, b = _rows(x), _rows(y)
    pooled = np.vstack((a, b))
    return float(_energies(cdist(pooled, pooled), _sides(len(a), len(b)))[0])


@dataclass(frozen=True, slots=True)
class SampleComparison:
    """Unbiased MMD^2 and energy distance of a sample from a reference, each with its p-value."""

    discrepancy: float
    discrepancy_p: float
    energy: float
    energy_p: float


def compare_samples(
    reference: npt.ArrayLike,
    sample: npt.ArrayLike,
    reference_groups: Sequence[Hashable],
    sample_groups: Sequence[Hashable],
    *,
    seed: int,
    permutations: int = PERMUTATIONS,
) -> SampleComparison:
    """(n, d) rows of a reference and (m, d) of a sample, with the reference's median bandwidth.

    p-values: how often a distance is as large where whole groups (exams) are dealt out anew,
    (1 + as large) / (1 + permutations); below what so few can say, the tail of a Pearson III law
    with the permuted distances' moments (Minas and Montana 2014, doi:10.1002/sam.11231). Costs
    permutations x (n + m)^2. Raises ValueError where a group has rows of both sides, or the
    reference's rows do not differ.
    """
    a, b = _rows(reference), _rows(sample)
    bandwidth = median_bandwidth(a)
    numbers: dict[Hashable, int] = {}
    group = np.array(
        [numbers.setdefault(each, len(numbers)) for each in (*reference_groups, *sample_groups)]
    )
    own = _sides(len(a), len(b))[0]
    side = np.zeros(len(numbers))
    side[group[len(a) :]] = 1.0
    if (side[group] != own).any():
        raise ValueError("a group has rows of both sides")
    generator = np.random.default_rng(seed)
    dealt = np.array([generator.permutation(side)[group] for _ in range(permutations)])
    sides = np.vstack((own, dealt.reshape(permutations, len(group))))
    pooled = np.vstack((a, b))
    squares = cdist(pooled, pooled, "sqeuclidean")
    discrepancies = _discrepancies(_kernel(squares, bandwidth), sides)
    energies = _energies(np.sqrt(squares), sides)
    return SampleComparison(
        float(discrepancies[0]),
        _permutation_p_value(discrepancies),
        float(energies[0]),
        _permutation_p_value(energies),
    )


def _permutation_p_value(distances: Floats) -> float:
    """Of the first distance among those permuted after it."""
    observed, permuted = float(distances[0]), distances[1:]
    larger = int((permuted >= observed).sum())
    spread = float(permuted.std(ddof=1)) if len(permuted) > 1 else 0.0
    if larger >= _ENOUGH_LARGER or spread <= 0:
        return (1 + larger) / (1 + len(permuted))
    skewness = max(0.0, float(stats.skew(permuted)))
    score = (observed - float(permuted.mean())) / spread
    return max(_LEAST_P, float(stats.pearson3.sf(score, skewness)))


def _sides(reference: int, sample: int) -> Floats:
    return np.concatenate((np.zeros(reference), np.ones(sample)))[None, :]


def _discrepancies(kernel: Floats, sides: Floats) -> Floats:
    """(p,) Unbiased MMD^2 for each row of sides (p, n), 1 for the sample; kernel (n, n)."""
    inner, outer, between, m, n = _sums(kernel, sides)
    # The diagonal is a row with itself.
    return np.asarray(
        (inner - m) / (m * (m - 1)) + (outer - n) / (n * (n - 1)) - 2 * between / (m * n)
    )


def _energies(distance: Floats, sides: Floats) -> Floats:
    """(p,) Energy distance for each row of sides."""
    inner, outer, between, m, n = _sums(distance, sides)
    return np.asarray(2 * between / (m * n) - inner / m**2 - outer / n**2)


def _sums(matrix: Floats, sides: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Sums over pairs of the sample, of the reference, and of one of each; and their sizes."""
    inner = ((sides @ matrix) * sides).sum(axis=1)
    with_all = sides @ matrix.sum(axis=1)
    m = sides.sum(axis=1)
    outer = matrix.sum() - 2 * with_all + inner
    return inner, outer, with_all - inner, m, sides.shape[1] - m


def _counts(edges: Floats, x: Floats) -> Floats:
    return np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(edges) + 1).astype(
        float
    )


def _rows(values: npt.ArrayLike) -> Floats:
    rows = np.asarray(values, float)
    return rows[:, None] if rows.ndim == 1 else rows


def _kernel(squares: Floats, bandwidth: float) -> Floats:
    return np.asarray(np.exp(-squares / (2 * bandwidth**2)))

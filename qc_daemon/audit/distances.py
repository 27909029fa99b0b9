"""How far a sample lies from a reference: population stability, maximum mean discrepancy, energy.

Each is judged by how often as large a distance arises without any drift, never by a fixed
threshold: what a small sample shows by chance alone is large (Yurdakul 2018, arXiv 2307.11878).
Gretton et al. 2012 (JMLR 13:723); Szekely and Rizzo 2013.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist, pdist

Floats = npt.NDArray[np.float64]

BINS = 10
PERMUTATIONS = 200
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
    inner = [float(_kernel(pdist(each, "sqeuclidean"), bandwidth).mean()) for each in (a, b)]
    return inner[0] + inner[1] - 2 * float(_kernel(cdist(a, b, "sqeuclidean"), bandwidth).mean())


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
    between = 2 * float(cdist(a, b).mean())
    return between - sum(float(cdist(each, each).mean()) for each in (a, b))


def permutation_p_value(
    distance: Callable[[npt.NDArray[np.bool_]], float],
    is_sample: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    seed: int,
    permutations: int = PERMUTATIONS,
) -> float:
    """(1 + as large) / (1 + permutations): how often the distance is as large where whole groups
    (exams) are dealt out anew.

    `distance` takes the (n,) rows that are of the sample; `is_sample` (n,) says which are. All rows
    of a group are of the same side. Raises ValueError where they are not.
    """
    own = np.asarray(is_sample, bool)
    number: dict[Hashable, int] = {}
    group = np.array([number.setdefault(each, len(number)) for each in groups])
    side = np.zeros(len(number), bool)
    side[group[own]] = True
    if (side[group] != own).any():
        raise ValueError("a group has rows of both sides")
    observed = distance(own)
    generator = np.random.default_rng(seed)
    larger = sum(
        distance(generator.permutation(side)[group]) >= observed for _ in range(permutations)
    )
    return (1 + larger) / (1 + permutations)


def _counts(edges: Floats, x: Floats) -> Floats:
    return np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(edges) + 1).astype(
        float
    )


def _rows(values: npt.ArrayLike) -> Floats:
    rows = np.asarray(values, float)
    return rows[:, None] if rows.ndim == 1 else rows


def _kernel(squares: Floats, bandwidth: float) -> Floats:
    return np.asarray(np.exp(-squares / (2 * bandwidth**2)))

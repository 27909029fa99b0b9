"""A calibration that takes its shape from the data and never falls.

Centred isotonic regression (Oron and Flournoy 2017): adjacent violators are pooled, each pool
stands at its mean logit. Between pools it is linear in log odds, and beyond them it rises as
temperature scaling does. So it rises everywhere: it ranks no two pictures otherwise than their
logits do, and says neither 0 nor 1.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from model.scaling import Floats, Scaling, checked


@dataclass(frozen=True, slots=True)
class Isotonic:
    """The pools' mean `logits` and their `log_odds`, both rising; `scaling` gives the slope
    beyond them, and is what a reader takes that knows no isotonic calibration."""

    scaling: Scaling
    logits: tuple[float, ...]
    log_odds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.logits or len(self.logits) != len(self.log_odds):
            raise ValueError(f"{len(self.logits)} logits for {len(self.log_odds)} log odds")
        for values in (self.logits, self.log_odds):
            if not np.isfinite(values).all() or np.any(np.diff(values) <= 0):
                raise ValueError("an isotonic calibration must be finite and rise")

    def probability(self, logits: npt.ArrayLike) -> Floats:
        """Elementwise, 0..1."""
        return np.asarray(expit(self.log_odds_of(logits)), float)

    def log_odds_of(self, logits: npt.ArrayLike) -> Floats:
        """Elementwise, unlike the probability without an end."""
        z = np.asarray(logits, float)
        inside = np.clip(z, self.logits[0], self.logits[-1])
        beyond = (z - inside) / self.scaling.temperature
        return np.asarray(np.interp(inside, self.logits, self.log_odds) + beyond, float)

    @classmethod
    def fit(cls, logits: npt.ArrayLike, labels: npt.ArrayLike) -> Self:
        """Raises ValueError on samples of one class or that are not finite."""
        z, y = checked(logits, labels)
        pool = np.unique(IsotonicRegression().fit_transform(z, y), return_inverse=True)[1]
        size = np.bincount(pool).astype(float)
        centre = np.bincount(pool, weights=z) / size
        # Half a sample of each class more (Krichevsky and Trofimov 1981): no pool is certain.
        share = (np.bincount(pool, weights=y) + 0.5) / (size + 1)
        # Small pools are pulled further, and may so have changed their order: pooled once more.
        order = np.arange(len(size))
        rising = IsotonicRegression().fit(order, share, sample_weight=size).predict(order)
        values, again = np.unique(rising, return_inverse=True)
        middle = np.bincount(again, weights=centre * size) / np.bincount(again, weights=size)
        return cls(Scaling.fit(z, y), tuple(map(float, middle)), tuple(map(float, logit(values))))

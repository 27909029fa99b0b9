"""What a bundle says of itself: where its log odds of standard and non-standard views lie."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

KEY = "reference_log_odds"
"""The manifest's optional key: for each verdict the mean and standard deviation of the calibrated
log odds of real pictures, by networks that never saw them."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Means and standard deviations of the bundle's calibrated log odds, of each class.

    `is_measured`: the bundle says them; else they follow from its AUROC.
    """

    standard_mean: float
    standard_deviation: float
    non_standard_mean: float
    non_standard_deviation: float
    is_measured: bool

    @property
    def distance(self) -> float:
        """Log odds between the classes' means."""
        return self.standard_mean - self.non_standard_mean

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self | None:
        """The bundle's reference; None for a bundle on which nothing was measured.

        A bundle without the key has the AUROC of its cross-validation. Two normal classes of one
        variance whose log odds are calibrated can only lie one way: d standard deviations apart,
        each of d log odds, where d = sqrt(2) * probit(AUROC), about 0.
        Raises ValueError on a key that is no reference.
        """
        if KEY in manifest:
            try:
                standard, other = manifest[KEY]["standard"], manifest[KEY]["non-standard"]
                values = [
                    float(each[name]) for each in (standard, other) for name in ("mean", "SD")
                ]
            except (KeyError, TypeError) as error:
                raise ValueError(f"{KEY} is no reference") from error
            if not all(map(math.isfinite, values)) or values[0] <= values[2]:
                raise ValueError(f"{KEY}: standard views must lie above the others")
            if min(values[1], values[3]) <= 0:
                raise ValueError(f"{KEY}: a standard deviation is not positive")
            return cls(values[0], values[1], values[2], values[3], is_measured=True)
        try:
            auroc = float(manifest["cross_validation"]["set 2"]["AUROC"]["value"])
        except (KeyError, TypeError, ValueError):
            return None
        return cls.from_auroc(auroc) if 0.6 < auroc < 1 else None

    @classmethod
    def from_auroc(cls, auroc: float) -> Self:
        """Two normal classes of one variance with this AUROC, calibrated."""
        d = math.sqrt(2) * float(ndtri(auroc))
        return cls(d * d / 2, d, -d * d / 2, d, is_measured=False)

    @staticmethod
    def measure(log_odds: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, Any]:
        """What `KEY` holds, from (n,) calibrated log odds and labels (1: standard).

        Raises ValueError on fewer than two of a class.
        """
        s, y = np.asarray(log_odds, float), np.asarray(labels)
        body: dict[str, Any] = {"pictures": len(s)}
        for name, of_class in (("standard", s[y == 1]), ("non-standard", s[y == 0])):
            if len(of_class) < 2:
                raise ValueError("a reference needs pictures of both classes")
            body[name] = {"mean": float(of_class.mean()), "SD": float(of_class.std(ddof=1))}
        return body

"""Temperature scaling after Guo et al. 2017, with a bias since the decision is binary, fitted to
Platt's targets (1999)."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

Floats = npt.NDArray[np.float64]
_SLOPE_RANGE = (0.02, 20.0)
_BIAS_RANGE = (-10.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scaling:
    """probability = sigmoid(logit / temperature + bias); monotone, for temperature > 0."""

    temperature: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature} is not positive")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias {self.bias} is not finite")

    def probability(self, logits: npt.ArrayLike) -> Floats:
        """Elementwise, 0..1."""
        return np.asarray(expit(self.log_odds_of(logits)), float)

    def log_odds_of(self, logits: npt.ArrayLike) -> Floats:
        """Elementwise, unlike the probability without an end."""
        return np.asarray(logits, float) / self.temperature + self.bias

    @classmethod
    def fit(cls, logits: npt.ArrayLike, labels: npt.ArrayLike, *, bias: bool = True) -> Self:
        """By least negative log-likelihood; raises ValueError on samples of one class or that are
        not finite.

        The targets are not quite 0 and 1, the less so the fewer samples a class has. Else samples
        that can almost be separated would have a slope near infinity, and a new one on the wrong
        side be judged with certainty.
        """
        z, y = checked(logits, labels)
        positives, negatives = y.sum(), (1 - y).sum()
        target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

        def loss(parameters: Floats) -> tuple[float, Floats]:
            slope, shift = parameters
            s = slope * z + shift
            residual = expit(s) - target
            return float(np.mean(np.logaddexp(0.0, s) - target * s)), np.array(
                [np.mean(residual * z), np.mean(residual)]
            )

        found = minimize(
            loss,
            x0=np.array([1.0, 0.0]),
            jac=True,
            method="L-BFGS-B",
            bounds=[_SLOPE_RANGE, _BIAS_RANGE if bias else (0.0, 0.0)],
        )
        return cls(float(1.0 / found.x[0]), float(found.x[1]))


def checked(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Both as arrays; raises ValueError on what no calibration can be fitted to."""
    z, y = np.asarray(logits, float), np.asarray(labels, float)
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"{z.shape} logits for {y.shape} labels")
    if not np.isfinite(z).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("logits must be finite and labels 0 or 1")
    if len(np.unique(y)) < 2:
        raise ValueError("calibration needs samples of both classes")
    return z, y

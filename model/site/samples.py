"""The findings that a site is calibrated on, as arrays."""

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from detector.anatomy import View

Floats = npt.NDArray[np.float64]

MAX_LOG_ODDS = 36.0
"""Where a probability rounds to 1 in double precision; further out none can be read back."""


@dataclass(frozen=True, slots=True)
class SiteSample:
    """One finding: the bundle's calibrated log odds, its exam, view, device and, where a person
    reviewed it, whether it is standard.

    `weight` is one over the probability that it was drawn for review.
    """

    key: str
    log_odds: float
    exam: Hashable
    view: View
    device: str | None = None
    is_standard: bool | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Samples:
    """Findings side by side; `exam` (n,) numbers each one's exam from 0."""

    rows: tuple[SiteSample, ...]
    log_odds: Floats
    exam: npt.NDArray[np.intp]

    @classmethod
    def of(cls, rows: Iterable[SiteSample]) -> "Samples":
        """Raises ValueError on log odds that are no number or a weight that is not above 0."""
        all_rows = tuple(rows)
        names = {
            name: number for number, name in enumerate(dict.fromkeys(r.exam for r in all_rows))
        }
        s = np.array([each.log_odds for each in all_rows], float)
        if np.isnan(s).any():
            raise ValueError("a finding's log odds are no number")
        if not all(0 < each.weight < math.inf for each in all_rows):
            raise ValueError("a review's weight is not above 0")
        return cls(
            all_rows,
            np.clip(s, -MAX_LOG_ODDS, MAX_LOG_ODDS),
            np.array([names[each.exam] for each in all_rows], dtype=np.intp),
        )

    @property
    def exams(self) -> int:
        """How many exams they are of."""
        return int(self.exam.max()) + 1 if len(self.rows) else 0

    def exam_weights(self) -> Floats:
        """(n,) weights with which each exam counts once."""
        return np.asarray(1.0 / np.bincount(self.exam)[self.exam], float)

    def reviewed(self) -> "Samples":
        """Those that a person reviewed."""
        return Samples.of(row for row in self.rows if row.is_standard is not None)

    def labels(self) -> Floats:
        """(n,) 1 where standard; of reviewed samples only."""
        return np.array([float(bool(row.is_standard)) for row in self.rows])

    def review_weights(self) -> Floats:
        """(n,) weights of mean 1: how many findings each review stands for."""
        weights = np.array([row.weight for row in self.rows], float)
        return weights / weights.mean() if len(weights) else weights

    def sha256(self) -> str:
        """The hash of what was fitted on: keys, log odds, labels and weights, in any order."""
        lines = sorted(
            json.dumps([r.key, repr(r.log_odds), r.is_standard, repr(r.weight)]) for r in self.rows
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def at(self, indices: Sequence[int] | npt.NDArray[np.intp]) -> "Samples":
        """The samples at these indices."""
        return Samples.of(self.rows[int(i)] for i in indices)

    def with_distinct_exams(self, indices: npt.NDArray[np.intp], exams: Sequence[int]) -> "Samples":
        """The samples at these indices, as resampled exams that count apart."""
        return Samples.of(
            replace(self.rows[int(i)], exam=number)
            for i, number in zip(indices, exams, strict=True)
        )


def log_odds_of(probability: float) -> float:
    """The log odds of a probability, within `MAX_LOG_ODDS`."""
    return float(np.clip(logit(probability), -MAX_LOG_ODDS, MAX_LOG_ODDS))

"""The out-of-distribution score: how unlike the pictures of the fit a picture is.

Mahalanobis distance of the image feature to the nearest view's mean, with one shrunk covariance
(Lee et al. 2018; Ledoit and Wolf 2004); a lack of detections adds to it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.imaging.colour_check import coloured_tissue

Floats = npt.NDArray[np.float64]
_EVIDENCE_DETECTIONS = 3
"""The detector's evidence sums so many of the highest confidences."""
_LEAST_SPREAD = 1e-6
"""A standard deviation is at least this, so that a score stays finite."""
COLOURED_EVERYWHERE = 0.6
"""A region is coloured everywhere if more than this part of its tissue is. Colour flow and tinted
grey maps stay below (the pictures of the bundles' fit reach 0.35); wrong colour spaces and rendered
volumes lie above."""


def is_coloured_everywhere(pixels: Pixels) -> bool:
    """Whether nearly all tissue of the region has a colour, unlike any picture of the fit.

    `pixels` is (H, W, 3) uint8 RGB.
    """
    return coloured_tissue(pixels) > COLOURED_EVERYWHERE


def detector_evidence(confidences: Sequence[float]) -> float:
    """The sum of the three highest confidences of a picture's detections, 0..3."""
    return float(sum(sorted(confidences, reverse=True)[:_EVIDENCE_DETECTIONS]))


@dataclass(frozen=True, slots=True)
class OutlierModel:
    """Scores are in standard deviations above the mean of the pictures fitted on.

    `means` (views, d); `whitening` (d, d) turns feature differences into unit covariance;
    `distance` and `evidence` are (mean, standard deviation) of distance and detector evidence.
    """

    views: tuple[View, ...]
    means: Floats
    whitening: Floats
    distance: tuple[float, float]
    evidence: tuple[float, float] | None = None
    weight: float = 1.0
    threshold: float = float("inf")

    @classmethod
    def fit(
        cls,
        features: npt.ArrayLike,
        views: Sequence[View],
        evidence: Sequence[float] | None = None,
        *,
        weight: float = 1.0,
    ) -> Self:
        """Fits on (n, d) features of pictures, their views, and their detector evidence if any.

        The threshold is open until `with_threshold` sets it on pictures not fitted on.
        Raises ValueError on fewer than two pictures or values that are not finite.
        """
        from sklearn.covariance import LedoitWolf

        x = np.asarray(features, float)
        if x.ndim != 2 or len(x) != len(views) or len(x) < 2 or not np.isfinite(x).all():
            raise ValueError(f"{x.shape} features for {len(views)} views, all must be finite")
        known_views = tuple(sorted(set(views)))
        index = np.array([known_views.index(view) for view in views])
        means = np.stack([x[index == k].mean(0) for k in range(len(known_views))])
        shrunk = LedoitWolf(assume_centered=True).fit(x - means[index])
        values, vectors = np.linalg.eigh(shrunk.covariance_)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-12))
        model = cls(known_views, means, whitening, (0.0, 1.0), weight=weight)
        return replace(
            model,
            distance=_spread(model.distances(x)),
            evidence=None if evidence is None else _spread(np.asarray(evidence, float)),
        )

    @classmethod
    def indifferent(cls, dim: int) -> Self:
        """A model to which no picture is an outlier: for bundles whose parts were not fitted
        together; `dim` is the width of a feature."""
        return cls((View.OTHER,), np.zeros((1, dim)), np.zeros((dim, dim)), (0.0, 1.0))

    def distances(self, features: npt.ArrayLike) -> Floats:
        """(n, d) features -> (n,) Mahalanobis distances to the nearest view's mean."""
        x = np.asarray(features, float)
        apart = (x[:, None, :] - self.means[None]) @ self.whitening
        return np.asarray(np.sqrt(np.square(apart).sum(-1)).min(1), float)

    def score_many(
        self, features: npt.ArrayLike, evidence: Sequence[float] | None = None
    ) -> Floats:
        """(n, d) features -> (n,) scores; higher is less like the pictures of the fit.

        Evidence below its mean adds to a score; evidence above it takes nothing away.
        """
        mean, deviation = self.distance
        scores = (self.distances(features) - mean) / deviation
        if self.evidence is not None and evidence is not None:
            usual, spread = self.evidence
            scores = scores + self.weight * np.maximum(
                0.0, (usual - np.asarray(evidence, float)) / spread
            )
        return scores

    def score(self, feature: npt.ArrayLike, evidence: float | None = None) -> float:
        """The score of one (d,) feature."""
        many = self.score_many(
            np.asarray(feature, float)[None], None if evidence is None else [evidence]
        )
        return float(many[0])

    def is_outlier(self, feature: npt.ArrayLike, evidence: float | None = None) -> bool:
        return self.score(feature, evidence) > self.threshold

    def with_threshold(self, threshold: float) -> Self:
        return replace(self, threshold=float(threshold))

    def save(self, path: Path) -> None:
        """One safetensors file; the scalars stand in its header."""
        scalars = {
            "views": [view.value for view in self.views],
            "distance": self.distance,
            "found": self.evidence,
            "weight": self.weight,
            "threshold": None if np.isinf(self.threshold) else self.threshold,
        }
        arrays = {
            "means": np.ascontiguousarray(self.means, np.float32),
            "whitening": np.ascontiguousarray(self.whitening, np.float32),
        }
        save_file(arrays, path, metadata={"outlier": json.dumps(scalars, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`; raises QCError on anything else."""
        try:
            with safe_open(path, framework="numpy") as file:
                scalars = json.loads(file.metadata()["outlier"])
                arrays = {key: file.get_tensor(key).astype(float) for key in file.keys()}  # noqa: SIM118
            threshold = scalars["threshold"]
            return cls(
                views=tuple(View(view) for view in scalars["views"]),
                means=arrays["means"],
                whitening=arrays["whitening"],
                distance=_pair(scalars["distance"]),
                evidence=None if scalars["found"] is None else _pair(scalars["found"]),
                weight=float(scalars["weight"]),
                threshold=float("inf") if threshold is None else float(threshold),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"{path.name} is no outlier model ({type(error).__name__}): fit it anew",
            ) from error


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


def _spread(values: Floats) -> tuple[float, float]:
    return float(values.mean()), max(float(values.std()), _LEAST_SPREAD)

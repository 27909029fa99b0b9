"""How unlike the pictures it knows a picture is: the out-of-distribution score.

Mahalanobis distance of the image feature to the nearest view's mean, with one shrunk covariance
(Lee et al. 2018; Ledoit and Wolf 2004), and beside it how little the detector found.
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
from sklearn.covariance import LedoitWolf

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.imaging.colour_check import coloured_tissue

Floats = npt.NDArray[np.float64]
_TOP = 3
_LEAST_SPREAD = 1e-6


COLOURED_EVERYWHERE = 0.6
"""Part of the tissue. Colour flow and grey maps with a tint stay below (the pictures that the
bundles know reach 0.35), wrong colour spaces and rendered volumes come above it."""


def is_coloured_everywhere(pixels: Pixels) -> bool:
    """Whether nearly all tissue of the region has a colour: no picture like the grey ones known."""
    return coloured_tissue(pixels) > COLOURED_EVERYWHERE


def evidence(confidences: Sequence[float]) -> float:
    """What the detector found: the sum of its best three confidences, 0..3."""
    return float(sum(sorted(confidences, reverse=True)[:_TOP]))


@dataclass(frozen=True, slots=True)
class OutlierModel:
    """Scores are in standard deviations above the mean of the pictures fitted on.

    `means` (views, d); `whitening` (d, d) turns feature differences into unit covariance;
    `distance` and `found` are (mean, standard deviation) of distance and evidence.
    """

    views: tuple[View, ...]
    means: Floats
    whitening: Floats
    distance: tuple[float, float]
    found: tuple[float, float] | None = None
    weight: float = 1.0
    threshold: float = float("inf")

    @classmethod
    def fit(
        cls,
        features: npt.ArrayLike,
        views: Sequence[View],
        found: Sequence[float] | None = None,
        *,
        weight: float = 1.0,
    ) -> Self:
        """On (n, d) features of known pictures, their views, and their detector evidence if any.

        The threshold is open until `with_threshold` sets it on pictures not fitted on.
        Raises ValueError on fewer than two pictures or values that are not finite.
        """
        x = np.asarray(features, float)
        if x.ndim != 2 or len(x) != len(views) or len(x) < 2 or not np.isfinite(x).all():
            raise ValueError(f"{x.shape} features for {len(views)} views, all must be finite")
        known = tuple(sorted(set(views)))
        index = np.array([known.index(view) for view in views])
        means = np.stack([x[index == k].mean(0) for k in range(len(known))])
        shrunk = LedoitWolf(assume_centered=True).fit(x - means[index])
        values, vectors = np.linalg.eigh(shrunk.covariance_)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-12))
        model = cls(known, means, whitening, (0.0, 1.0), weight=weight)
        return replace(
            model,
            distance=_spread(model.distances(x)),
            found=None if found is None else _spread(np.asarray(found, float)),
        )

    @classmethod
    def indifferent(cls, dim: int) -> Self:
        """Finds nothing strange: for bundles whose parts were never fitted together."""
        return cls((View.OTHER,), np.zeros((1, dim)), np.zeros((dim, dim)), (0.0, 1.0))

    def distances(self, features: npt.ArrayLike) -> Floats:
        """(n, d) features -> (n,) Mahalanobis distances to the nearest view's mean."""
        x = np.asarray(features, float)
        apart = (x[:, None, :] - self.means[None]) @ self.whitening
        return np.asarray(np.sqrt(np.square(apart).sum(-1)).min(1), float)

    def score_many(self, features: npt.ArrayLike, found: Sequence[float] | None = None) -> Floats:
        """(n, d) features -> (n,) scores, higher is stranger; much evidence earns no bonus."""
        mean, deviation = self.distance
        scores = (self.distances(features) - mean) / deviation
        if self.found is not None and found is not None:
            usual, spread = self.found
            scores = scores + self.weight * np.maximum(
                0.0, (usual - np.asarray(found, float)) / spread
            )
        return scores

    def score(self, feature: npt.ArrayLike, found: float | None = None) -> float:
        """The score of one (d,) feature."""
        many = self.score_many(np.asarray(feature, float)[None], None if found is None else [found])
        return float(many[0])

    def is_outlier(self, feature: npt.ArrayLike, found: float | None = None) -> bool:
        return self.score(feature, found) > self.threshold

    def with_threshold(self, threshold: float) -> Self:
        return replace(self, threshold=float(threshold))

    def save(self, path: Path) -> None:
        """One safetensors file; the scalars stand in its header."""
        scalars = {
            "views": [view.value for view in self.views],
            "distance": self.distance,
            "found": self.found,
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
                found=None if scalars["found"] is None else _pair(scalars["found"]),
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

"""What a bundle says of pictures: image statistics and embeddings of those that calibrated it.

An audit compares a device's first pictures with them, while it has no earlier ones of its own.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.image_features import MOST_DIMENSIONS, STATISTICS, ImageStatistics

KEY = "reference_image_features"
"""The manifest's optional key: by view the statistics and embeddings of a sample of real pictures
that no part learnt from."""
MOST_PICTURES = 200
"""Of a view at most so many pictures are kept, by lot: 0.6 kB each."""
_MOST_READ = 10_000
_DIGITS = 5


@dataclass(frozen=True, slots=True, eq=False)
class ViewReference:
    """A sample of a view's pictures, of which there were `pictures`.

    `group` (n,) numbers their exams; `statistics` (n, k) are in the order of STATISTICS, NaN where
    not known; `embeddings` (n, d) are of unit length.
    """

    pictures: int
    group: npt.NDArray[np.int64]
    statistics: npt.NDArray[np.float64]
    embeddings: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, slots=True, eq=False)
class ImageReference:
    """The pictures of each view, and the SHA-256 of all that they were taken from."""

    data_sha256: str
    views: Mapping[View, ViewReference]

    @property
    def pictures(self) -> int:
        """How many are kept."""
        return sum(len(each) for each in self.views.values())

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self | None:
        """The bundle's reference; None for a bundle without one.

        Raises ValueError on a key that is none.
        """
        if KEY not in manifest:
            return None
        try:
            body = manifest[KEY]
            views = {View(name): _read_view(each) for name, each in body["views"].items()}
            return cls(str(body["data_sha256"]), views)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{KEY} is no reference ({error})") from error

    def to_json(self) -> dict[str, Any]:
        """What `KEY` holds."""
        return {
            "data_sha256": self.data_sha256,
            "views": {view.value: _view_json(each) for view, each in self.views.items()},
        }


def measured_view(
    pictures: int,
    groups: Sequence[str],
    statistics: Sequence[ImageStatistics],
    embeddings: npt.ArrayLike,
) -> ViewReference:
    """The reference of a view, from a sample (n,) of its pictures and their embeddings (n, d)."""
    numbers: dict[str, int] = {}
    return ViewReference(
        pictures,
        np.array([numbers.setdefault(each, len(numbers)) for each in groups], np.int64),
        np.array(
            [[_number(getattr(each, name)) for name in STATISTICS] for each in statistics], float
        ).reshape(len(groups), len(STATISTICS)),
        np.asarray(embeddings, np.float32),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _view_json(view: ViewReference) -> dict[str, Any]:
    columns = {}
    for name, column in zip(STATISTICS, view.statistics.T.tolist(), strict=True):
        rounded = [None if math.isnan(each) else float(f"{each:.{_DIGITS}g}") for each in column]
        if any(each is not None for each in rounded):
            columns[name] = rounded
    return {
        "pictures": view.pictures,
        "n": len(view),
        "group": view.group.tolist(),
        "statistics": columns,
        "embeddings": {
            "dimensions": view.embeddings.shape[1],
            "float16": base64.b64encode(view.embeddings.astype("<f2").tobytes()).decode("ascii"),
        },
    }


def _read_view(body: Mapping[str, Any]) -> ViewReference:
    group = np.array(body["group"], np.int64)
    n = len(group)
    if group.ndim != 1 or not 0 < n <= _MOST_READ:
        raise ValueError(f"a view has no 1 to {_MOST_READ} pictures")
    statistics = np.full((n, len(STATISTICS)), math.nan)
    for place, name in enumerate(STATISTICS):
        column = body["statistics"].get(name)
        if column is not None:
            # None becomes NaN.
            statistics[:, place] = np.array(column, float)
    if np.isinf(statistics).any():
        raise ValueError("a statistic is not finite")
    dimensions = int(body["embeddings"]["dimensions"])
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"an embedding has no 1 to {MOST_DIMENSIONS} numbers")
    content = base64.b64decode(body["embeddings"]["float16"], validate=True)
    embeddings = np.frombuffer(content, "<f2").reshape(n, dimensions).astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise ValueError("an embedding is not finite")
    return ViewReference(int(body["pictures"]), group, statistics, embeddings)

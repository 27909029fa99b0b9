"""Which scanner's look a picture has: its grey values, grain and size, not its anatomy.

Pictures are put together by k-means on those, so that figures can be told for each look.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from detector.frame import Pixels

Floats = npt.NDArray[np.float64]
LEAST_PICTURES = 40
"""Fewer are called one look."""
_MOST_LOOKS = 6
_LEAST_SHARE = 0.02
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BANDS = 6
_SIDE = 256


def style_features(pixels: Pixels) -> Floats:
    """(16,) numbers of an RGB region (H, W, 3) uint8: quantiles of grey, share of black and of
    colour, brightness of the four borders, spectrum by distance from its centre, size."""
    height, width = pixels.shape[:2]
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    spread = pixels.max(-1).astype(int) - pixels.min(-1)
    edge_y, edge_x = max(1, height // 12), max(1, width // 12)
    borders = (grey[:edge_y], grey[-edge_y:], grey[:, :edge_x], grey[:, -edge_x:])
    return np.array(
        [
            *(np.quantile(grey, _QUANTILES) / 255),
            float(np.mean(grey < 8)),
            float(np.mean(spread > 40)),
            np.mean([float(border.mean()) / 255 for border in borders]),
            *_spectrum(grey),
            np.log(width),
            width / height,
        ]
    )


def _spectrum(grey: npt.NDArray[np.uint8]) -> Floats:
    """(6,) shares of power from coarse to fine, of the middle at its own resolution: the grain."""
    height, width = grey.shape
    side = min(_SIDE, height, width)
    y, x = (height - side) // 2, (width - side) // 2
    middle = grey[y : y + side, x : x + side].astype(float)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2((middle - middle.mean()) * window)) ** 2
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    edges = np.geomspace(1 / 128, 0.5, _BANDS + 1)
    band = np.digitize(radius.ravel(), edges[1:-1])
    sums = np.bincount(band, weights=power.ravel(), minlength=_BANDS)
    return np.asarray(np.log10((sums + 1e-9) / (power.sum() + 1e-9) + 1e-6), float)


def cluster_styles(appearances: Sequence[Floats], seed: int = 0) -> tuple[list[str], float | None]:
    """ "look 1", the most common, "look 2", …: as many as separate best; and how well they do, by
    silhouette (Rousseeuw 1987: 1 well, 0 not at all), None for one look."""
    if len(appearances) < LEAST_PICTURES:
        return ["look 1"] * len(appearances), None
    found = np.stack(appearances)
    scaled = (found - found.mean(0)) / np.maximum(found.std(0), 1e-9)
    best, reached = np.zeros(len(scaled), int), 0.0
    for count in range(2, _MOST_LOOKS + 1):
        chosen = KMeans(count, n_init=5, random_state=seed).fit_predict(scaled)
        if np.bincount(chosen, minlength=count).min() < _LEAST_SHARE * len(scaled):
            continue
        quality = silhouette_score(scaled, chosen)
        if quality > reached:
            best, reached = chosen, quality
    order = np.argsort(-np.bincount(best), kind="stable")
    place = {int(cluster): rank for rank, cluster in enumerate(order, 1)}
    return [f"look {place[int(cluster)]}" for cluster in best], reached or None

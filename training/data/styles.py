"""Clusters pictures by the style of their scanner: grey levels, grain and size, not anatomy.

Figures can then be given for each style. The labels "look 1", "look 2", … are those of reports.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from detector.frame import Pixels

Floats = npt.NDArray[np.float64]
MIN_PICTURES = 40
"""Fewer pictures count as one style."""
_MAX_STYLES = 6
_MIN_SHARE = 0.02  # A cluster with a smaller share of the pictures is no style.
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of grey
_BANDS = 6  # of spatial frequency
_SIDE = 256  # pixels of the central square whose spectrum is taken, at most


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
    """(6,) log10 shares of power from coarse to fine, of the central square at full resolution:
    the grain."""
    height, width = grey.shape
    side = min(_SIDE, height, width)
    y, x = (height - side) // 2, (width - side) // 2
    centre = grey[y : y + side, x : x + side].astype(float)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2((centre - centre.mean()) * window)) ** 2
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    edges = np.geomspace(1 / 128, 0.5, _BANDS + 1)
    band = np.digitize(radius.ravel(), edges[1:-1])
    sums = np.bincount(band, weights=power.ravel(), minlength=_BANDS)
    return np.asarray(np.log10((sums + 1e-9) / (power.sum() + 1e-9) + 1e-6), float)


def cluster_styles(features: Sequence[Floats], seed: int = 0) -> tuple[list[str], float | None]:
    """The style of each picture by its `style_features`, and how well styles separate.

    Styles are "look 1", the most common, "look 2", …: as many k-means clusters as have the best
    silhouette (Rousseeuw 1987: 1 well separated, 0 not at all), which is None for one style.
    """
    if len(features) < MIN_PICTURES:
        return ["look 1"] * len(features), None
    table = np.stack(features)
    scaled = (table - table.mean(0)) / np.maximum(table.std(0), 1e-9)
    best, best_silhouette = np.zeros(len(scaled), int), 0.0
    for count in range(2, _MAX_STYLES + 1):
        clusters = KMeans(count, n_init=5, random_state=seed).fit_predict(scaled)
        if np.bincount(clusters, minlength=count).min() < _MIN_SHARE * len(scaled):
            continue
        silhouette = silhouette_score(scaled, clusters)
        if silhouette > best_silhouette:
            best, best_silhouette = clusters, silhouette
    order = np.argsort(-np.bincount(best), kind="stable")
    ranks = {int(cluster): rank for rank, cluster in enumerate(order, 1)}
    return [f"look {ranks[int(cluster)]}" for cluster in best], best_silhouette or None

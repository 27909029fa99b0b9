"""How well masks agree, picture by picture, in mm where the spacing is known.

A picture in which nothing was found, or something where nothing is, has the worst value of each
metric, not none, and is counted: leaving it out would flatter.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

from model.nextgen_uia.preprocess import Mask
from training.data.lesions import circumference, contour_ellipse
from training.evaluation.metrics.classification import metric_with_interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a predicted mask with the true one. Distances are in mm, or in pixels without spacing."""

    dice: float
    iou: float
    hd95: float  # 95 % quantile of the distances between the surfaces, the larger of both ways
    asd: float  # their mean, of both ways together
    failed: bool  # one of the two is empty: distances are the picture's diagonal


def agreement(predicted: Mask, truth: Mask, spacing: float = 1.0) -> Agreement:
    """Compare two masks (H, W); two empty ones agree. `spacing` is the side of a pixel.

    Raises ValueError on masks of unlike size.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"masks of {predicted.shape} and {truth.shape} pixels")
    a, b = predicted > 0, truth > 0
    if not a.any() and not b.any():
        return Agreement(1.0, 1.0, 0.0, 0.0, False)
    both, total = int((a & b).sum()), int(a.sum() + b.sum())
    dice, iou = 2 * both / total, both / (total - both)
    if not a.any() or not b.any():
        diagonal = math.hypot(*truth.shape) * spacing
        return Agreement(dice, iou, diagonal, diagonal, True)
    surface_a, surface_b = _surface(a), _surface(b)
    to_b = distance_transform_edt(~surface_b, sampling=spacing)[surface_a]
    to_a = distance_transform_edt(~surface_a, sampling=spacing)[surface_b]
    hd95 = max(float(np.quantile(to_b, 0.95)), float(np.quantile(to_a, 0.95)))
    return Agreement(dice, iou, hd95, float(np.concatenate((to_b, to_a)).mean()), False)


def head_circumference_mm(mask: Mask, spacing_mm: float) -> float | None:
    """Circumference of the ellipse of the mask's largest piece; None where there is none."""
    ellipse = contour_ellipse(mask)
    return None if ellipse is None else circumference(ellipse) * spacing_mm


def segmentation_metrics(
    agreements: Sequence[Agreement],
    groups: Sequence[Hashable],
    unit: str,
    circumferences: Sequence[tuple[float | None, float]] = (),
    *,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Mean, standard deviation and 95 % interval over resampled groups of each metric, and how many
    failed; of `circumferences` (measured, true, in mm) the absolute and the signed error, those of
    heads that were not found counted as `not measured`, with their whole circumference as error."""
    if not agreements or len(agreements) != len(groups):
        raise ValueError(f"{len(agreements)} agreements, {len(groups)} groups")
    columns: Mapping[str, Floats] = {
        "Dice": np.array([each.dice for each in agreements]),
        "IoU": np.array([each.iou for each in agreements]),
        f"HD95 {unit}": np.array([each.hd95 for each in agreements]),
        f"ASD {unit}": np.array([each.asd for each in agreements]),
    }
    figures: dict[str, Any] = {
        "pictures": len(agreements),
        "groups": len(set(groups)),
        "failed": sum(each.failed for each in agreements),
    }
    if circumferences:
        errors = np.array([(0.0 if m is None else m) - true for m, true in circumferences])
        columns = {
            **columns,
            "circumference absolute error mm": np.abs(errors),
            "circumference error mm": errors,
        }
        figures["not measured"] = sum(measured is None for measured, _ in circumferences)
    everyone = np.arange(len(agreements))
    for name, values in columns.items():
        summary = metric_with_interval(
            lambda rows, values=values: float(values[rows].mean()),  # type: ignore[misc]
            everyone,
            groups,
            resamples,
        )
        figures[name] = summary | {"standard deviation": float(values.std())}
    return figures


def _surface(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of the mask beside one that is none of it; the picture's edge is an edge."""
    return mask & ~np.asarray(binary_erosion(mask), np.bool_)

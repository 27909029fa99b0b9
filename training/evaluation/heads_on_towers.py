"""Figures of a trained head over pictures: classes, or masks at the pictures' own size."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.nextgen_uia.network import AdaptedNetwork, Task
from training.data.labelled import read_first_frame
from training.data.lesions import read_truth
from training.evaluation.multiclass import multiclass_metrics
from training.evaluation.segmentation import (
    Agreement,
    agreement,
    head_circumference_mm,
    segmentation_metrics,
)
from training.train.nextgen_uia import Pictures, predict, predict_mask


def evaluate_head(
    network: AdaptedNetwork, pictures: Pictures, batch: int, masks: Path | None = None
) -> dict[str, Any]:
    """The figures; masks are written to the folder `masks`, as PNG of 0 and 255, under the
    pictures' names. Raises QCError, SampleError on pictures and masks."""
    if network.head.config.task is Task.CLASSIFICATION:
        return _classification(network, pictures, batch)
    return _segmentation(network, pictures, batch, masks)


def _classification(network: AdaptedNetwork, pictures: Pictures, batch: int) -> dict[str, Any]:
    classes = network.head.config.classes
    predicted = [classes[int(each.argmax())] for each in predict(network, pictures, batch)]
    lesions = pictures.lesions
    return multiclass_metrics(
        [lesion.label for lesion in lesions], predicted, [lesion.group for lesion in lesions]
    )


def _segmentation(
    network: AdaptedNetwork, pictures: Pictures, batch: int, masks: Path | None
) -> dict[str, Any]:
    lesions = pictures.lesions
    has_spacing = all(lesion.spacing_mm is not None for lesion in lesions)
    agreements: list[Agreement] = []
    circumferences: list[tuple[float | None, float]] = []
    if masks is not None:
        masks.mkdir(parents=True, exist_ok=True)
    for lesion, probability in zip(lesions, predict(network, pictures, batch), strict=True):
        height, width = read_first_frame(lesion.image).pixels.shape[:2]
        mask = predict_mask(probability, height, width)
        spacing = (lesion.spacing_mm or 1.0) if has_spacing else 1.0
        agreements.append(agreement(mask, read_truth(lesion, height, width), spacing))
        if lesion.circumference_mm is not None and lesion.spacing_mm is not None:
            measured = head_circumference_mm(mask, lesion.spacing_mm)
            circumferences.append((measured, lesion.circumference_mm))
        if masks is not None:
            Image.fromarray(mask * np.uint8(255)).save(masks / f"{lesion.image.stem}.png")
    return segmentation_metrics(
        agreements,
        [lesion.group for lesion in lesions],
        "mm" if has_spacing else "pixels",
        circumferences,
    )

"""Figures of trained heads over pictures: classes, or masks at the pictures' own size."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from detector.frame import Pixels
from model.nextgen_uia.network import AdaptedNetwork, Task
from model.nextgen_uia.preprocess import Mask
from training.data.labelled import read_first_frame
from training.data.lesions import Lesion, read_truth
from training.evaluation.metrics.multiclass import multiclass_metrics
from training.evaluation.metrics.segmentation import (
    Agreement,
    agreement,
    head_circumference_mm,
    segmentation_metrics,
)
from training.evaluation.planes import draw_roc
from training.train.nextgen_uia.trainer import Pictures, predict, predict_mask

TRUTH_RGB, MASK_RGB = (0, 114, 178), (230, 159, 0)
"""Okabe and Ito's blue and orange: told apart with any colour vision, and on grey."""


def evaluate_heads(
    judges: Iterable[tuple[AdaptedNetwork, Pictures]],
    batch: int,
    *,
    in_mm: bool = False,
    masks: Path | None = None,
    overlays: Path | None = None,
    roc: Path | None = None,
) -> dict[str, Any]:
    """The figures of all pictures together, each judged by the network that it comes with. All
    networks have the same task and classes; distances are in mm where every picture says how large
    its pixels are (`in_mm`).

    To the folder `masks` go PNGs of 0 and 255 under the pictures' names, to `overlays` the pictures
    with the outlines of both masks; to `roc` the curves of each class. Raises QCError, SampleError
    on pictures and masks.
    """
    for folder in (masks, overlays):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    classes: tuple[str, ...] = ()
    lesions: list[Lesion] = []
    probabilities: list[npt.NDArray[np.float32]] = []
    agreements: list[Agreement] = []
    circumferences: list[tuple[float | None, float]] = []
    for network, pictures in judges:
        classes = network.head.config.classes
        answers = predict(network, pictures, batch)
        for lesion, probability in zip(pictures.lesions, answers, strict=True):
            lesions.append(lesion)
            if network.head.config.task is Task.CLASSIFICATION:
                probabilities.append(probability)
                continue
            truth, mask = _segment(lesion, probability, masks, overlays)
            agreements.append(agreement(mask, truth, (lesion.spacing_mm or 1.0) if in_mm else 1.0))
            if lesion.circumference_mm is not None and lesion.spacing_mm is not None:
                measured = head_circumference_mm(mask, lesion.spacing_mm)
                circumferences.append((measured, lesion.circumference_mm))
    groups = [lesion.group for lesion in lesions]
    if agreements:
        return segmentation_metrics(agreements, groups, "mm" if in_mm else "pixels", circumferences)
    labels = [lesion.label for lesion in lesions]
    stacked = np.stack(probabilities)
    if roc is not None:
        draw_roc(stacked, [classes.index(label) for label in labels], classes, roc)
    return multiclass_metrics(labels, [classes[k] for k in stacked.argmax(1)], groups)


def draw_overlay(pixels: Pixels, truth: Mask, mask: Mask) -> Pixels:
    """(H, W, 3): the picture with the outline of the drawn mask and of the network's over it."""
    overlay = np.ascontiguousarray(pixels).copy()
    width = max(1, round(min(overlay.shape[:2]) / 300))
    for each, colour in ((truth, TRUTH_RGB), (mask, MASK_RGB)):
        outlines, _ = cv2.findContours(each, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(overlay, outlines, -1, colour, width)
    return overlay


def _segment(
    lesion: Lesion, probability: npt.NDArray[np.float32], masks: Path | None, overlays: Path | None
) -> tuple[Mask, Mask]:
    """The mask that was drawn and the network's, at the picture's size; both are written."""
    pixels = read_first_frame(lesion.path).pixels
    mask = predict_mask(probability, *pixels.shape[:2])
    truth = read_truth(lesion, *pixels.shape[:2])
    if masks is not None:
        Image.fromarray(mask * np.uint8(255)).save(masks / f"{lesion.path.stem}.png")
    if overlays is not None:
        Image.fromarray(draw_overlay(pixels, truth, mask)).save(
            overlays / f"{lesion.path.stem}.png"
        )
    return truth, mask

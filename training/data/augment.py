"""A training picture with its boxes and words, varied at random: place, size, side and look."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from detector.boxes import Box, Detection
from detector.frame import Pixels
from detector.letterbox import Letterbox
from model.spatialclip.preprocess import FILL
from training.augment import scanner
from training.data.prepared import Evidence, Sight


def vary(item: Evidence, generator: np.random.Generator) -> Sight:
    """The picture mirrored, cut, scaled, moved and re-toned, its boxes moved along; its words.

    A real picture gets another scanner's look, place and shape: where the anatomy lies, and how
    much the machine shows around it, is the hospital's habit. A simulated one is changed little:
    its gain, sharpness, size and place are themselves judged.
    """
    flip = int(generator.random() < 0.5)
    side = item.picture.shape[0]
    spread, shift = (0.03, 0.02) if item.sample.simulated else (0.15, 0.12)
    scale = math.exp(generator.uniform(-spread, spread))
    move = generator.uniform(-shift, shift, 2) * side + side * (1 - scale) / 2
    picture = np.array(item.picture[:, ::-1] if flip else item.picture, order="C")
    fit = Letterbox.fit(*item.size, side)
    kept = (0.0, 0.0, float(side), float(side))
    if not item.sample.simulated:
        kept = reshape(picture, fit, generator)
    picture = np.asarray(
        cv2.warpAffine(
            picture,
            np.array([[scale, 0, move[0]], [0, scale, move[1]]]),
            (side, side),
            flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
            borderValue=(FILL, FILL, FILL),
        ),
        np.uint8,
    )
    picture = (
        retone(picture, generator) if item.sample.simulated else scanner.change(picture, generator)
    )
    boxes = tuple(
        moved
        for detection in item.detections[flip]
        if (moved := _moved(detection, fit, kept, scale, move, side, generator)) is not None
    )
    return Sight(picture, item.descriptions[flip], boxes, (side, side))


def reshape(picture: Pixels, fit: Letterbox, generator: np.random.Generator) -> Box:
    """Another height and width of what the machine shows, in place: filling drawn over its borders,
    or black joined to it. Returns what still shows the picture, in pixels of the square.

    Where a region ends is the machine's layout; on set 2 its aspect alone told quality by an AUROC
    of 0.73.
    """
    side = picture.shape[0]
    left, top, right, bottom = (round(v) for v in fit.to_model((0, 0, fit.width, fit.height)))
    cut = [0, 0, 0, 0]
    for at, length in enumerate((right - left, bottom - top) * 2):
        if generator.random() < 0.5:
            cut[at] = round(generator.uniform(-0.08, 0.08) * length)
    black = int(generator.integers(0, 12))
    x0, y0 = max(0, left + cut[0]), max(0, top + cut[1])
    x1, y1 = min(side, right - cut[2]), min(side, bottom - cut[3])
    shown = np.full_like(picture, FILL)
    shown[y0:y1, x0:x1] = black
    kept = (max(left, x0), max(top, y0), min(right, x1), min(bottom, y1))
    rows, columns = slice(kept[1], kept[3]), slice(kept[0], kept[2])
    shown[rows, columns] = picture[rows, columns]
    picture[:] = shown
    return kept


def _moved(
    detection: Detection,
    fit: Letterbox,
    kept: Box,
    scale: float,
    move: npt.NDArray[np.float64],
    side: int,
    generator: np.random.Generator,
) -> Detection | None:
    """The box in the varied square, a little uncertain; None once most of it has left, or lies
    outside what is kept of the square."""
    x0, y0, x1, y1 = fit.to_model(detection.bbox)
    inside = np.clip((x0, y0, x1, y1), (kept[0], kept[1]) * 2, (kept[2], kept[3]) * 2)
    noise = generator.normal(0, 0.02, 4) * (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
    moved = inside * scale + np.tile(move, 2) + noise
    box = np.clip(moved, 0, side)
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 1 or height <= 1 or width * height < 0.5 * (x1 - x0) * (y1 - y0) * scale**2:
        return None
    sure = min(max(detection.confidence, 1e-3), 1 - 1e-3)
    logit = math.log(sure / (1 - sure)) + generator.normal(0, 0.2)
    return Detection(detection.label, (box[0], box[1], box[2], box[3]), 1 / (1 + math.exp(-logit)))


def retone(picture: Pixels, generator: np.random.Generator) -> Pixels:
    """A slightly other gain and gamma; small, since gain and sharpness are themselves judged."""
    gamma = math.exp(generator.normal(0, 0.06))
    gain = math.exp(generator.normal(0, 0.04))
    curve = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, curve), np.uint8)

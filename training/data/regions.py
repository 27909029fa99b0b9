"""The tissue region of a sample's picture, and what a detector finds in it."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from detector.boxes import Box, Detection
from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.imaging.regions import estimated_region
from detector.yolo.yolo import YoloDetector
from training.data.samples import Sample
from training.evaluation.metrics.detection import Matches, match_boxes

REGION_VERSION = 2
"""Raise this when `read_region` gives other pixels or boxes for the same sample: when this module
or `detector.imaging.regions` computes otherwise. Cached samples are then prepared anew; another
wording of the code keeps them."""


def read_region(sample: Sample) -> tuple[Pixels, list[Detection]]:
    """The sample's tissue region (H, W, 3) uint8 RGB, estimated as in serving where it states none,
    and its boxes in pixels of the region. Raises QCError on a file that cannot be decoded."""
    bgr: Any = cv2.imread(str(sample.image), cv2.IMREAD_COLOR)
    if bgr is None:
        raise QCError(
            ErrorCode.UNREADABLE,
            f"{sample.location}: {sample.image.name} is no readable picture".removeprefix(": "),
        )
    pixels: Any = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    region = sample.region or estimated_region(pixels).bbox
    x0, y0, x1, y1 = _whole_pixels(region, pixels.shape[1], pixels.shape[0])
    boxes = [
        Detection(
            box.label,
            (box.bbox[0] - x0, box.bbox[1] - y0, box.bbox[2] - x0, box.bbox[3] - y0),
            box.confidence,
        )
        for box in sample.boxes
    ]
    return np.ascontiguousarray(pixels[y0:y1, x0:x1]), boxes


def _whole_pixels(region: Box, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = region
    return (
        max(0, math.floor(x0)),
        max(0, math.floor(y0)),
        min(width, math.ceil(x1)),
        min(height, math.ceil(y1)),
    )


def match_regions(detector: YoloDetector, samples: Sequence[Sample]) -> list[dict[str, Matches]]:
    """Match the detector's boxes of each sample's region with the sample's own, by label code.

    The detector runs as in serving, but gives unsure boxes too: average precision counts them.
    """
    matches: list[dict[str, Matches]] = []
    for start in range(0, len(samples), 16):
        chunk = samples[start : start + 16]
        regions = [read_region(sample) for sample in chunk]
        detections = detector.detect([pixels for pixels, _ in regions], confidence=0.001)
        matches += [
            match_boxes(boxes, truth, sample.annotated)
            for sample, boxes, (_, truth) in zip(chunk, detections, regions, strict=True)
        ]
    return matches

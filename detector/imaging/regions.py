"""Finds the tissue regions of a picture from its US Region Calibration module, else its pixels.

Source: PS3.3 C.8.5.5 (US Region Calibration Module).
"""

import math

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from detector.boxes import Box, area, clip
from detector.frame import Pixels, Region
from detector.imaging.dicom_file import element, integer, number

_TWO_D = 1
_TISSUE = 1
_COLOUR_FLOW = 2
_CENTIMETRE = 3

_MIN_SIDE = 16
"""A region with a side below this many pixels shows no anatomy (grey bars are narrower)."""
_NOISE = 4
"""Grey levels up to which lossy compression moves a background; dark tissue is not far above it."""
_PIECE = 0.05
"""A piece of content smaller than this part of the largest is a mark."""
_MOST = 0.75
"""A region that takes more of the picture than this gains nothing by being cut out."""
_MIN_INSIDE = 0.5
"""Part of a region's area inside the picture; below, it describes another pixel matrix, as after
a picture was scaled without its header."""


def tissue_regions(dataset: Dataset, rows: int, columns: int) -> tuple[Region, ...]:
    """2-D tissue regions of the header, else its 2-D colour flow ones, else none.

    `index` is the position in the Sequence of Ultrasound Regions; boxes are clipped to the
    picture. The stated maximum is inclusive (C.8.5.5.1.2), ours exclusive.
    """
    items = element(dataset, "SequenceOfUltrasoundRegions")
    if not isinstance(items, Sequence):
        return ()
    for data_type in (_TISSUE, _COLOUR_FLOW):
        regions = []
        for index, item in enumerate(items):
            if integer(item, "RegionSpatialFormat") != _TWO_D:
                continue
            if integer(item, "RegionDataType") != data_type:
                continue
            box = _location(item, rows, columns)
            if box is not None:
                regions.append(Region(index, box, _spacing(item)))
        if regions:
            return tuple(regions)
    return ()


def whole(rows: int, columns: int) -> Region:
    """The full picture as a region."""
    return Region(0, (0.0, 0.0, float(columns), float(rows)))


def estimated_region(pixels: Pixels) -> Region:
    """The bounding box of the content without overlay text; the whole picture if it is most of it.

    Content is what differs from the background, the commonest value of the picture's border.
    Opening by a square a twentieth of the short side removes text, rulers and grey bars, which
    are thinner than any tissue; what the opening shaved off the tissue is grown back. Fluid and
    shadows part the tissue into pieces, so that all but small ones count. To cut off tissue is
    worse than to show a margin.
    """
    rows, columns = pixels.shape[:2]
    red, green, blue = cv2.split(pixels)
    # In OpenCV this takes a twentieth of the time that NumPy takes along so short an axis.
    grey = cv2.max(cv2.max(red, green), blue)
    border = np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))
    background = int(np.bincount(border, minlength=256).argmax())
    differs = (np.abs(np.arange(256) - background) > _NOISE).astype(np.uint8)
    content = differs[grey]
    side = max(3, min(rows, columns) // 20)
    joined = cv2.morphologyEx(content, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    core = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
    if count < 2:
        return whole(rows, columns)
    areas = stats[1:, cv2.CC_STAT_AREA]
    pieces = 1 + np.flatnonzero(areas >= _PIECE * areas.max())
    kernel = np.ones((2 * side + 1, 2 * side + 1), np.uint8)
    is_piece = np.zeros(count, np.uint8)
    is_piece[pieces] = 1
    grown = cv2.dilate(is_piece[labels], kernel) & joined
    x, y, width, height = cv2.boundingRect(grown)
    share = width * height / (rows * columns)
    if min(width, height) < _MIN_SIDE or not 0.05 <= share < _MOST:
        return whole(rows, columns)
    return Region(0, (float(x), float(y), float(x + width), float(y + height)))


def _location(item: Dataset, rows: int, columns: int) -> Box | None:
    corners = [
        number(item, f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    ]
    if any(corner is None for corner in corners):
        return None
    x0, y0, x1, y1 = (float(corner or 0) for corner in corners)
    stated = (x0, y0, x1 + 1, y1 + 1)
    box = clip(stated, float(columns), float(rows))
    if min(box[2] - box[0], box[3] - box[1]) < _MIN_SIDE:
        return None
    return box if area(box) >= _MIN_INSIDE * area(stated) else None


def _spacing(item: Dataset) -> tuple[float, float] | None:
    """Millimetres a pixel along x and y; a negative delta only tells the axis's direction."""
    spacing = []
    for axis in "XY":
        delta = number(item, f"PhysicalDelta{axis}")
        if integer(item, f"PhysicalUnits{axis}Direction") != _CENTIMETRE:
            return None
        if delta is None or delta == 0 or not math.isfinite(delta):
            return None
        spacing.append(abs(delta) * 10)
    return spacing[0], spacing[1]

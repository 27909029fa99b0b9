"""Measures a picture's field of view, gain, sharpness and shadows from its grey levels alone.

Measured at one working size, so that thresholds hold for every matrix size.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from detector.boxes import Box, clip
from detector.frame import Pixels

Floats = npt.NDArray[np.float32]

LONG_SIDE = 384
MIN_SIDE = 48
"""Pictures are measured with a longer side of LONG_SIDE pixels, and not at all with a shorter side
below MIN_SIDE."""

BLACK = 0.02
"""Outside the field of view the smoothed picture is no brighter than this (0..1)."""

APEX_HEIGHTS = (0.15, 0.4, 0.8, 1.6, 8.0)
"""The beams' meeting point is tried at these heights above the picture, in picture heights: convex
arrays have many radii, and the last height is as good as a linear array."""

BEAMS, DEPTHS = 192, 128
"""A structure is sampled by this many beams, each at this many depths."""

BEAM_QUANTILE = 0.85
"""A beam's level is this quantile of its brightness: fluid darkens a stretch, a shadow the whole
beam."""

OUTSIDE = 0.03
"""A box may overstep the recognised field of view by this share of the picture's shorter side."""


@dataclass(frozen=True, slots=True)
class Sonogram:
    """Brightness 0..1 at working size, shape (rows, columns); `scale` is working px per input px;
    `hull` the convex outline of the field of view, shape (n, 1, 2), working px; `inside` its mask.
    """

    grey: Floats
    scale: float
    hull: npt.NDArray[np.int32]
    inside: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, pixels: Pixels) -> "Sonogram | None":
        """From RGB pixels (rows, columns, 3); None if too small or black all over."""
        if min(pixels.shape[:2]) < MIN_SIDE:
            return None
        grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.float32) / np.float32(255)
        scale = min(1.0, LONG_SIDE / max(grey.shape))
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
        hull = _field_of_view(grey)
        if hull is None:
            return None
        inside = np.zeros(grey.shape, np.uint8)
        cv2.fillConvexPoly(inside, hull, 1)
        return cls(grey, scale, hull, inside.astype(bool))

    def brightness(self) -> float:
        """Level of the brighter tissue: 90th percentile after smoothing the speckle away, 0..1."""
        smooth = cv2.GaussianBlur(self.grey, (0, 0), 3.0)
        return float(np.percentile(smooth[self.inside], 90))

    def sharpness(self) -> float | None:
        """Share of fine detail: gradient energy at 1 px over that at 3 px, sqrt; free of gain.

        Speckle has its own fixed size, so blur takes the fine scale away and leaves the coarse
        one. None where there is no structure at all.
        """
        core = cv2.erode(self.inside.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
        if not core.any():
            return None
        fine, coarse = (_gradient_energy(self.grey, sigma)[core].mean() for sigma in (1.0, 3.0))
        return float(np.sqrt(fine / coarse)) if coarse > 1e-9 else None

    def margin(self, box: Box) -> float | None:
        """Least distance of the box's four edge middles from the edge of the field of view, in
        shares of the picture's shorter side; negative outside it.

        None if far outside: then the field of view was not recognised (dark or shadowed edges).
        """
        rows, columns = self.grey.shape
        x0, y0, x1, y1 = clip(self._scale(box), columns, rows)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        distances = [
            cv2.pointPolygonTest(self.hull, point, True)
            for point in ((x0, y), (x1, y), (x, y0), (x, y1))
        ]
        least = float(min(distances)) / min(self.grey.shape)
        return least if least > -OUTSIDE else None

    def shadow(self, box: Box) -> float | None:
        """How dark the darkest bundle of beams through the box is, 0 (as the rest) to 1 (black).

        A shadow darkens a beam all the way, fluid over a stretch only: so each beam counts with a
        high quantile (BEAM_QUANTILE) of its brightness between the box's top and just below it. The
        beams' meeting point is unknown; the one that sets the beams most apart is taken. None if
        the box holds too little of the field of view.
        """
        darknesses = [
            darkness
            for height in APEX_HEIGHTS
            if (darkness := self._darkest_beam(box, height)) is not None
        ]
        return max(darknesses) if darknesses else None

    def _scale(self, box: Box) -> Box:
        x0, y0, x1, y1 = box
        return (self.scale * x0, self.scale * y0, self.scale * x1, self.scale * y1)

    def _darkest_beam(self, box: Box, apex_height: float) -> float | None:
        x0, y0, x1, y1 = self._scale(box)
        rows, columns = self.grey.shape
        apex_x, apex_y = columns / 2, -apex_height * rows
        middle = (y0 + y1) / 2 - apex_y
        slopes = np.linspace((x0 - apex_x) / middle, (x1 - apex_x) / middle, BEAMS)
        bottom = min(y1 + 0.1 * (y1 - y0), rows - 1.0)
        y = np.linspace(max(y0, 0.0), bottom, DEPTHS)[:, None]
        x = apex_x + slopes[None, :] * (y - apex_y)
        map_x, map_y = x.astype(np.float32), np.broadcast_to(y, x.shape).astype(np.float32)
        beams = cv2.remap(self.grey, map_x, map_y, cv2.INTER_LINEAR, borderValue=-1.0)
        is_inside = cv2.remap(self.inside.astype(np.float32), map_x, map_y, cv2.INTER_NEAREST) > 0.5
        long_enough = is_inside.sum(axis=0) >= DEPTHS // 4
        if long_enough.sum() < BEAMS // 4:
            return None
        # NaN sorts last, so the rank among the samples in the field of view is the percentile.
        ranked = np.sort(np.where(is_inside, beams, np.nan)[:, long_enough], axis=0)
        rank = np.round(BEAM_QUANTILE * (is_inside.sum(axis=0)[long_enough] - 1)).astype(int)
        level = np.take_along_axis(ranked, rank[None, :], axis=0)[0].astype(np.float64)
        window = max(3, len(level) // 10)
        smooth = np.convolve(level, np.full(window, 1 / window), mode="valid")
        usual = float(np.median(level))
        return float(np.clip(1 - smooth.min() / usual, 0, 1)) if usual > BLACK else None


def _field_of_view(grey: Floats) -> npt.NDArray[np.int32] | None:
    """Convex hull of the largest connected bright area; small overlays beside it do not count."""
    bright = (cv2.GaussianBlur(grey, (0, 0), 2.0) > BLACK).astype(np.uint8)
    closed = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    return np.asarray(hull, np.int32) if cv2.contourArea(hull) >= MIN_SIDE**2 else None


def _gradient_energy(grey: Floats, sigma: float) -> Floats:
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
    return np.asarray(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(smooth, cv2.CV_32F, 0, 1) ** 2
    )

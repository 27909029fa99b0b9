"""The geometry of a scan: where the beams of a curved array run through the canvas."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from detector.boxes import Box

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
"""Shape (n, 2): x, y."""


@dataclass(frozen=True, slots=True)
class Sector:
    """A curved array's field of view in pixels of the canvas; angles in radians from straight down.

    `apex` is the centre of curvature, usually above the canvas; tissue lies from `near` to `far`
    from it and within `half_angle` of the vertical.
    """

    width: int
    height: int
    apex: tuple[float, float]
    near: float
    far: float
    half_angle: float

    def inside(self, points: Points) -> npt.NDArray[np.bool_]:
        """Which points are both in the canvas and in the field of view; shape (n,)."""
        x, y = points[:, 0] - self.apex[0], points[:, 1] - self.apex[1]
        radius, angle = np.hypot(x, y), np.arctan2(x, y)
        in_canvas = (
            (points[:, 0] >= 0)
            & (points[:, 0] < self.width)
            & (points[:, 1] >= 0)
            & (points[:, 1] < self.height)
        )
        in_beam = (radius >= self.near) & (radius <= self.far) & (np.abs(angle) <= self.half_angle)
        return np.asarray(in_canvas & in_beam)

    def polar(self) -> tuple[Floats, Floats]:
        """Radius and angle of each pixel centre; two arrays of shape (height, width)."""
        x = np.arange(self.width, dtype=np.float32)[None, :] + np.float32(0.5 - self.apex[0])
        y = np.arange(self.height, dtype=np.float32)[:, None] + np.float32(0.5 - self.apex[1])
        shape = (self.height, self.width)
        radius, angle = cv2.cartToPolar(
            np.ascontiguousarray(np.broadcast_to(y, shape)),
            np.ascontiguousarray(np.broadcast_to(x, shape)),
        )
        angle = np.where(angle > np.pi, angle - np.float32(2 * np.pi), angle)
        return np.asarray(radius), np.asarray(angle, dtype=np.float32)


def mask_of(sector: Sector, radius: Floats, angle: Floats) -> npt.NDArray[np.bool_]:
    """Pixels within the field of view; shape (height, width)."""
    return np.asarray(
        (radius >= sector.near) & (radius <= sector.far) & (np.abs(angle) <= sector.half_angle)
    )


def region_of(mask: npt.NDArray[np.bool_]) -> Box:
    """The box around the tissue; the whole canvas where there is none."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if width == 0 or height == 0:
        return (0.0, 0.0, float(mask.shape[1]), float(mask.shape[0]))
    return (float(x), float(y), float(x + width), float(y + height))

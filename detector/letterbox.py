"""Fits a picture of any aspect into the square input of a model, and converts boxes both ways."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from detector.boxes import Box, clip
from detector.frame import Frame, Pixels, Region


@dataclass(frozen=True, slots=True)
class Letterbox:
    """A picture of `width` x `height` scaled by `scale` into a square of `size`, centred.

    `pad_x`, `pad_y` are the pixels left and above the picture; `mirror` flips the square
    left to right. One scale serves both axes, so the aspect is kept.
    """

    width: int
    height: int
    size: int
    scale: float
    pad_x: int
    pad_y: int
    mirror: bool = False

    @classmethod
    def fit(cls, width: int, height: int, size: int) -> "Letterbox":
        """The letterbox of a picture. Raises ValueError for a side below 1."""
        if min(width, height, size) < 1:
            raise ValueError("width, height and size are at least 1")
        scale = size / max(width, height)
        inner_width, inner_height = _inner(width, height, scale)
        return cls(
            width, height, size, scale, (size - inner_width) // 2, (size - inner_height) // 2
        )

    @property
    def mirrored(self) -> "Letterbox":
        """The same letterbox, flipped left to right."""
        return replace(self, mirror=not self.mirror)

    def apply(self, pixels: Pixels, fill: int = 128) -> Pixels:
        """The model input, shape (size, size, 3); antialiased where it shrinks."""
        if pixels.shape[:2] != (self.height, self.width):
            raise ValueError("the picture is not of the letterbox's width and height")
        inner_width, inner_height = _inner(self.width, self.height, self.scale)
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        inner = cv2.resize(
            np.ascontiguousarray(pixels), (inner_width, inner_height), interpolation=method
        )
        square = np.full((self.size, self.size, 3), fill, np.uint8)
        square[self.pad_y : self.pad_y + inner_height, self.pad_x : self.pad_x + inner_width] = (
            inner
        )
        return np.ascontiguousarray(square[:, ::-1]) if self.mirror else square

    def to_model(self, box: Box) -> Box:
        """A box of the picture in pixels of the model input."""
        x0, y0, x1, y1 = box
        x0, x1 = x0 * self.scale + self.pad_x, x1 * self.scale + self.pad_x
        y0, y1 = y0 * self.scale + self.pad_y, y1 * self.scale + self.pad_y
        return (self.size - x1, y0, self.size - x0, y1) if self.mirror else (x0, y0, x1, y1)

    def to_image(self, box: Box) -> Box:
        """A box of the model input in pixels of the picture, clipped to it."""
        x0, y0, x1, y1 = box
        if self.mirror:
            x0, x1 = self.size - x1, self.size - x0
        in_picture = (
            (x0 - self.pad_x) / self.scale,
            (y0 - self.pad_y) / self.scale,
            (x1 - self.pad_x) / self.scale,
            (y1 - self.pad_y) / self.scale,
        )
        return clip(in_picture, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Crop:
    """A region's pixels, and the position (x, y) of their top-left corner in the stored image."""

    pixels: Pixels
    x: int
    y: int

    def to_image(self, box: Box) -> Box:
        """A box of the crop in pixels of the stored image."""
        return (box[0] + self.x, box[1] + self.y, box[2] + self.x, box[3] + self.y)

    def to_crop(self, box: Box) -> Box:
        """A box of the stored image in pixels of the crop."""
        return (box[0] - self.x, box[1] - self.y, box[2] - self.x, box[3] - self.y)


def crop(frame: Frame, region: Region) -> Crop:
    """Cuts the region out of the frame: all pixels that it touches, at least one."""
    rows, columns = frame.pixels.shape[:2]
    x0, y0, x1, y1 = clip(region.bbox, columns, rows)
    left, top = min(int(x0), columns - 1), min(int(y0), rows - 1)
    right, bottom = max(left + 1, int(np.ceil(x1))), max(top + 1, int(np.ceil(y1)))
    return Crop(frame.pixels[top:bottom, left:right], left, top)


def _inner(width: int, height: int, scale: float) -> tuple[int, int]:
    """The scaled picture's size in whole pixels; at least one."""
    return max(1, round(width * scale)), max(1, round(height * scale))

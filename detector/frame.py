"""A frame of an image or cine, and the ultrasound region that shows tissue."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.boxes import Box
from detector.errors import Flag

Pixels = npt.NDArray[np.uint8]
"""RGB, shape (rows, columns, 3), 0..255."""


@dataclass(frozen=True, slots=True)
class Region:
    """A tissue region in pixels of the stored image; `spacing_mm` is (x, y) per pixel if known."""

    index: int
    bbox: Box
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame; `number` counts from 1, `regions` has at least one entry.

    `simulated`: it says of itself that our simulator made it, and not a scanner. `flags`: what is
    doubtful in how its object was read.
    """

    number: int
    pixels: Pixels
    regions: tuple[Region, ...]
    simulated: bool = False
    flags: tuple[Flag, ...] = ()

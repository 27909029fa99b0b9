"""Measures how coloured a picture is, which reveals a wrong colour space or sample order.

Ultrasound is mostly grey: a Doppler box, a depth bar and a caption are a small part of a screen.
RGB read as YBR makes its black background green, YBR read as RGB makes it teal, and planes read
as pixels give every speckle a colour.
"""

import numpy as np

from detector.frame import Pixels

COLOURED = 24
"""A pixel whose channels differ by more than this (0..255) has a colour; JPEG leaves less than this
in a grey one."""
_BRIGHT, _LEAST_BRIGHT = 48, 0.01
"""Tissue is brighter than the first (0..255); a picture has tissue if at least this part is."""
_TINT = 0.25
"""Tissue is coloured where its channels differ by more than this part of its brightness."""
_STEP = 2
"""Every second row and column is measured, which is enough for a share."""


def coloured_share(pixels: Pixels) -> float:
    """The part of the picture that has a colour, 0..1."""
    few = pixels[::_STEP, ::_STEP]
    if few.size == 0:
        return 0.0
    return float((np.ptp(few, axis=2) > COLOURED).mean())


def roughness(pixels: Pixels) -> float:
    """How much a pixel differs from the one below it, a mean over the picture, 0..255."""
    if len(pixels) < 2:
        return 0.0
    return float(np.abs(np.diff(pixels.astype(np.int16), axis=0)).mean())


def coloured_tissue(pixels: Pixels) -> float:
    """The part of what is bright enough to be tissue that has a colour, 0..1.

    A colour is one here where it takes more than a quarter of the brightness: the tint of some
    grey maps takes less. 0 for a picture that is dark all over.
    """
    few = pixels[::_STEP, ::_STEP]
    brightness = few.max(axis=2)
    is_bright = brightness > _BRIGHT
    if is_bright.mean() < _LEAST_BRIGHT:
        return 0.0
    spread = np.ptp(few, axis=2)[is_bright]
    return float((spread > brightness[is_bright] * _TINT).mean())

"""Test-time augmentation: the same region, shifted and scaled a little.

It is never mirrored, because some structures are named by their side, and moved no more than
training moves a simulated picture, because size and position are themselves judged.
"""

import cv2
import numpy as np

from detector.frame import Pixels
from model.spatialclip.preprocess import FILL

SHIFT, SCALE = 0.02, 0.03
"""A region is shifted by at most the first share of its sides, and its size changed by at
most the second."""


def augment(pixels: Pixels, number: int) -> Pixels:
    """The `number`-th augmented copy, from 0, of an RGB region (H, W, 3) uint8; always the same."""
    height, width = pixels.shape[:2]
    generator = np.random.default_rng(number)
    factor = 1 + generator.uniform(-SCALE, SCALE)
    shift = generator.uniform(-SHIFT, SHIFT, 2) * (width, height)
    left, top = shift + (1 - factor) / 2 * np.array([width, height])
    return np.asarray(
        cv2.warpAffine(
            pixels,
            np.array([[factor, 0, left], [0, factor, top]]),
            (width, height),
            # Linear interpolation would blur, and sharpness is judged.
            flags=cv2.INTER_CUBIC,
            borderValue=(FILL, FILL, FILL),
        ),
        np.uint8,
    )

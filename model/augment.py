"""A further look at the same region, shifted and scaled a little: test-time augmentation.

Never mirrored, for some structures are named by their side. No more than training moves a
simulated picture, for size and place are themselves judged.
"""

import cv2
import numpy as np

from detector.frame import Pixels
from model.spatialclip.preprocess import FILL

SHIFT, SCALE = 0.02, 0.03
"""The largest shift, as a share of the sides, and the largest change of size."""


def glance(pixels: Pixels, number: int) -> Pixels:
    """The `number`-th further look, from 0, at an RGB region (H, W, 3) uint8; always the same."""
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

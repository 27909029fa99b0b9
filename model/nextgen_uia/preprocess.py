"""NextGen-UIA's preprocessing for training and serving: pictures and masks to squares and back.

Upstream squeezes a picture into the square, and gives it to CLIP without CLIP's normalisation.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.letterbox import Letterbox
from model.spatialclip.preprocess import FILL, MEAN, STD

Mask = npt.NDArray[np.uint8]
"""(H, W): the class of each pixel, 0 is the background."""
THRESHOLD = 128
"""A mask's grey level from which a pixel belongs to the structure."""


def letterbox_of(pixels: Pixels | Mask, size: int) -> Letterbox:
    """How a picture fits into the square of that side, aspect kept."""
    return Letterbox.fit(pixels.shape[1], pixels.shape[0], size)


def fit_mask(mask: Mask, size: int) -> Mask:
    """(H, W) -> (size, size) as the picture goes, by the nearest pixel; background around it."""
    box = letterbox_of(mask, size)
    width = max(1, min(size, round(mask.shape[1] * box.scale)))
    height = max(1, min(size, round(mask.shape[0] * box.scale)))
    square = np.zeros((size, size), np.uint8)
    square[box.pad_y : box.pad_y + height, box.pad_x : box.pad_x + width] = cv2.resize(
        mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return square


def unfit(values: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Values (C, size, size) of the square -> (C, height, width) of the picture, bilinear."""
    box = Letterbox.fit(width, height, values.shape[-1])
    inner_width = max(1, round(width * box.scale))
    inner_height = max(1, round(height * box.scale))
    inner = values[:, box.pad_y : box.pad_y + inner_height, box.pad_x : box.pad_x + inner_width]
    return np.stack(
        [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in inner]
    )


def normalise(squares: Sequence[Pixels]) -> Tensor:
    """Squares (S, S, 3) uint8 -> (B, 3, S, S), CLIP-normalised."""
    stacked = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    return (stacked - mean) / std


def square(pixels: Pixels, size: int) -> Pixels:
    """(H, W, 3) -> (size, size, 3), aspect kept, grey around it."""
    return letterbox_of(pixels, size).apply(pixels, FILL)


def read_mask(path: Path) -> Mask:
    """A mask's picture -> (H, W) of 0 and 1, by a threshold: dithering would make noise of grey
    edges. Raises QCError DECODE_FAILED."""
    try:
        with Image.open(path) as picture:
            return (np.asarray(picture.convert("L")) >= THRESHOLD).astype(np.uint8)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise QCError(
            ErrorCode.DECODE_FAILED, f"mask {path.name} cannot be read ({type(error).__name__})"
        ) from None

"""Pictures with speckle for tissue, and words burned into them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from detector.frame import Pixels
from qc_daemon.deidentification.text_detector import PixelBox
from qc_daemon.language.catalogues import ENGLISH
from qc_daemon.language.fonts import load_font

WORDS = ("MUELLER ANNA", "12.03.1985", "St. Mary", "4711-22", "CRL 61.2 mm", "Dr. Lee")


@dataclass(frozen=True, slots=True)
class BurnedIn:
    """A picture, and the box of each word in it."""

    pixels: Pixels
    boxes: tuple[PixelBox, ...]


def speckle(rows: int, columns: int, seed: int = 0) -> Pixels:
    """Blurred noise between dark and half bright, as tissue has it; RGB and grey."""
    noise = np.random.default_rng(seed).rayleigh(45, (rows, columns)).clip(0, 150)
    blurred = Image.fromarray(noise.astype(np.uint8), "L").filter(ImageFilter.GaussianBlur(1.5))
    return np.repeat(np.asarray(blurred)[..., None], 3, axis=2).copy()


def burn_in(
    pixels: Pixels,
    words: Sequence[str] = WORDS,
    height: int = 14,
    grey: int = 255,
    left: int = 20,
    top: int = 20,
    language: str = ENGLISH,
) -> BurnedIn:
    """A copy with the words below each other; letters are `height` pixels high, `grey` bright,
    in the font of the language."""
    image = Image.fromarray(pixels, "RGB")
    draw = ImageDraw.Draw(image)
    font = load_font(height, language)
    boxes = []
    for row, word in enumerate(words):
        place = (left, top + row * 3 * height)
        draw.text(place, word, (grey, grey, grey), font=font)
        x0, y0, x1, y1 = draw.textbbox(place, word, font=font)
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    return BurnedIn(np.asarray(image).copy(), tuple(boxes))


def covered_share(box: PixelBox, words: Sequence[PixelBox], shape: tuple[int, ...]) -> float:
    """The part of the box that lies in any of the words."""
    mask = np.zeros(shape[:2], np.bool_)
    for x0, y0, x1, y1 in words:
        mask[y0:y1, x0:x1] = True
    x0, y0, x1, y1 = box
    return float(mask[y0:y1, x0:x1].mean())

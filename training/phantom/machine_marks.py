"""Neutral marks a scanner burns into its picture: rulers, grey bar, settings, calipers, a logo."""

import cv2
import numpy as np

from detector.boxes import Box
from detector.frame import Pixels

_WORDS = (
    "Gn",
    "MI",
    "TIs",
    "TIb",
    "Har",
    "FF",
    "C",
    "P",
    "FR",
    "DR",
    "2D",
    "Pwr",
    "Dist",
    "Frq",
    "cm",
)
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_PLAIN)


def burn_in(pixels: Pixels, region: Box, rng: np.random.Generator) -> None:
    """Draw a random choice of marks onto the pixels, in place."""
    height, width = pixels.shape[:2]
    shade = int(rng.integers(140, 250))
    colour = (shade, shade, int(shade * rng.uniform(0.7, 1.0)))
    if rng.random() < 0.45:
        _grey_bar(pixels, rng, is_left=bool(rng.random() < 0.6))
    if rng.random() < 0.6:
        _ruler(pixels, region, colour, rng)
    if rng.random() < 0.65:
        _settings(pixels, colour, rng)
    if rng.random() < 0.25:
        _header(pixels, colour, rng)
    if rng.random() < 0.3:
        _logo(pixels, rng)
    if rng.random() < 0.3:
        _calipers(pixels, region, rng)
    if rng.random() < 0.2:
        text = f"{rng.choice(_WORDS)} {rng.uniform(0.05, 9):.2f} cm"
        write(pixels, text, (int(width * rng.uniform(0.01, 0.6)), height - 6), colour, rng)


def write(
    pixels: Pixels,
    text: str,
    at: tuple[int, int],
    colour: tuple[int, int, int],
    rng: np.random.Generator,
    size: float = 0.0,
) -> None:
    """One line of lettering."""
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    scale = size or float(rng.uniform(0.3, 0.45))
    scale *= 2.2 if font == cv2.FONT_HERSHEY_PLAIN else 1.0
    cv2.putText(pixels, text, at, font, scale, colour, 1, cv2.LINE_AA)


def phrase(rng: np.random.Generator) -> str:
    """A setting such as a machine shows: a word and a figure."""
    word = str(rng.choice(_WORDS))
    figure = rng.uniform(0, 99)
    return f"{word} {figure:.0f}" if rng.random() < 0.5 else f"{word} {figure / 10:.1f}"


def _grey_bar(pixels: Pixels, rng: np.random.Generator, is_left: bool) -> None:
    height, width = pixels.shape[:2]
    length, thick = int(height * rng.uniform(0.15, 0.35)), int(rng.integers(4, 11))
    x = int(rng.integers(2, 14)) if is_left else width - thick - int(rng.integers(8, 30))
    y = int(rng.integers(4, height // 4))
    ramp = np.linspace(255, 0, length).astype(np.uint8)
    pixels[y : y + length, x : x + thick] = ramp[: height - y, None, None]


def _ruler(
    pixels: Pixels, region: Box, colour: tuple[int, int, int], rng: np.random.Generator
) -> None:
    height, width = pixels.shape[:2]
    x = width - int(rng.integers(4, 20)) if rng.random() < 0.7 else int(rng.integers(2, 12))
    step = rng.uniform(0.025, 0.07) * height
    for i, y in enumerate(np.arange(region[1] + 4, min(region[3], height - 2), step)):
        reach = 6 if i % 5 == 0 else 2
        cv2.line(pixels, (x - reach, int(y)), (x, int(y)), colour, 1)
    if rng.random() < 0.4:
        cv2.line(pixels, (x, int(region[1]) + 4), (x, height - 6), colour, 1)


def _settings(pixels: Pixels, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    width = pixels.shape[1]
    x = int(width * rng.uniform(0.88, 0.91)) if rng.random() < 0.7 else 4
    size = float(rng.uniform(0.28, 0.42))
    for i in range(int(rng.integers(3, 9))):
        write(pixels, phrase(rng), (x, int(12 + i * size * 34)), colour, rng, size)


def _header(pixels: Pixels, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    height, width = pixels.shape[:2]
    band = int(height * 0.045)
    pixels[:band] = int(rng.integers(0, 45))
    for x in np.arange(0.03, 0.9, rng.uniform(0.12, 0.25)):
        write(pixels, phrase(rng), (int(x * width), band - 6), colour, rng, 0.36)


def _logo(pixels: Pixels, rng: np.random.Generator) -> None:
    at = (int(rng.integers(8, 24)), int(rng.integers(8, 24)))
    colour = tuple(int(v) for v in rng.integers(60, 230, 3))
    if rng.random() < 0.5:
        cv2.circle(pixels, at, int(rng.integers(4, 9)), colour, 1, cv2.LINE_AA)
    else:
        cv2.ellipse(pixels, at, (9, 5), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)


def _calipers(pixels: Pixels, region: Box, rng: np.random.Generator) -> None:
    low, high = np.array(region[:2]), np.array(region[2:])
    colour = (255, 255, 255) if rng.random() < 0.6 else (240, 230, 60)
    a = low + (high - low) * rng.uniform(0.2, 0.8, 2)
    b = a + (high - low) * rng.uniform(-0.3, 0.3, 2)
    for x, y in (a, b):
        cv2.drawMarker(pixels, (int(x), int(y)), colour, cv2.MARKER_CROSS, 9, 1)
    for t in np.linspace(0.05, 0.95, 24):
        x, y = (a + (b - a) * t).astype(int)
        cv2.circle(pixels, (int(x), int(y)), 0, colour, -1)

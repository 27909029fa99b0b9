"""What machines and people burn into a picture: banner, settings, callipers, inset; or none of it.

Marks tell which hospital and which habit, never how good the view is. In the real set a banner
seems commoner on poor pictures; put in and taken out at random it tells nothing.
"""

import cv2
import numpy as np

from detector.frame import Pixels
from model.spatialclip.preprocess import FILL

_TEXT = list("0123456789.cmHzTIbMFRAP /'")
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def add_annotations(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """A copy of an RGB picture (H, W, 3) uint8 with other marks at its borders and on tissue."""
    marked = pixels.copy()
    top, bottom = _content(marked)
    if min(bottom - top, marked.shape[1]) < 32:
        return marked
    # A view of the same memory, without the rows of a letterbox.
    inner = marked[top:bottom]
    for chance, mark in (
        (0.3, _without_borders),
        (0.35, _banner),
        (0.3, _settings),
        (0.3, _callipers),
        (0.15, _inset),
    ):
        if generator.random() < chance:
            mark(inner, generator)
    return marked


def _content(pixels: Pixels) -> tuple[int, int]:
    """First row and the one after the last that a letterbox did not fill."""
    rows = np.flatnonzero((pixels != FILL).any(axis=(1, 2)))
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)


def _without_borders(pixels: Pixels, generator: np.random.Generator) -> None:
    """What stands at the top and in the upper corners blanked, as where a machine shows nothing."""
    height, width = pixels.shape[:2]
    pixels[: int(height * generator.uniform(0.05, 0.11))] = 0
    deep, wide = int(height * generator.uniform(0.1, 0.25)), int(width * 0.09)
    if generator.random() < 0.5:
        pixels[:deep, width - wide :] = 0
    if generator.random() < 0.5:
        pixels[:deep, :wide] = 0


def _banner(pixels: Pixels, generator: np.random.Generator) -> None:
    """A bar with the hospital, date and indices."""
    height, width = pixels.shape[:2]
    deep = max(3, int(height * generator.uniform(0.04, 0.1)))
    grey = int(generator.integers(0, 70))
    pixels[:deep] = np.clip((grey, grey + 8, grey + int(generator.integers(0, 25))), 0, 255)
    for x in generator.uniform(0, 0.9, 4) * width:
        _write(pixels, int(x), int(deep * generator.uniform(0.5, 0.95)), generator)


def _settings(pixels: Pixels, generator: np.random.Generator) -> None:
    """Lines of text, and covered patches, near the left and right border."""
    height, width = pixels.shape[:2]
    for _ in range(int(generator.integers(1, 4))):
        side = generator.uniform(0, 0.2) if generator.random() < 0.5 else generator.uniform(0.75, 1)
        x, y = int(side * 0.95 * width), int(generator.uniform(0.03, 0.97) * height)
        if generator.random() < 0.4:
            grey = int(generator.integers(0, 256))
            wide, deep = generator.uniform(0.02, 0.12, 2) * (width, height)
            cv2.rectangle(pixels, (x, y), (x + int(wide), y + int(deep)), (grey,) * 3, -1)
        else:
            _write(pixels, x, y, generator)


def _callipers(pixels: Pixels, generator: np.random.Generator) -> None:
    """Two crosses a little apart anywhere, perhaps a line between them, and what they measured."""
    height, width = pixels.shape[:2]
    at = generator.uniform(0.15, 0.85, 2) * (width, height)
    apart = generator.normal(0, 0.06, 2) * (width, height)
    ends = [(int(x), int(y)) for x, y in (at - apart / 2, at + apart / 2)]
    colour = tuple(int(c) for c in generator.integers(120, 256, 3))
    size = max(3, int(height * generator.uniform(0.012, 0.03)))
    kind = int(generator.choice([cv2.MARKER_CROSS, cv2.MARKER_TILTED_CROSS]))
    for end in ends:
        cv2.drawMarker(pixels, end, colour, kind, size, 1)
    if generator.random() < 0.3:
        cv2.line(pixels, ends[0], ends[1], colour, 1)
    if generator.random() < 0.5:
        _write(pixels, int(0.02 * width), int(0.97 * height), generator)


def _inset(pixels: Pixels, generator: np.random.Generator) -> None:
    """The whole picture small in a lower corner, framed."""
    height, width = pixels.shape[:2]
    share = generator.uniform(0.15, 0.3)
    wide, deep = int(width * share), int(height * share)
    x = width - wide if generator.random() < 0.7 else 0
    pixels[height - deep :, x : x + wide] = cv2.resize(pixels, (wide, deep))
    cv2.rectangle(pixels, (x, height - deep), (x + wide - 1, height - 1), (150,) * 3, 1)


def _write(pixels: Pixels, x: int, y: int, generator: np.random.Generator) -> None:
    text = "".join(generator.choice(_TEXT, 8))
    scale = float(generator.uniform(0.5, 1.1)) * pixels.shape[0] / 600
    grey = int(generator.integers(90, 256))
    cv2.putText(pixels, text, (x, y), _FONT, scale, (grey,) * 3, 1, cv2.LINE_AA)

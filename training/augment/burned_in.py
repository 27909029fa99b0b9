"""Adds burned-in annotations (PS3.3 C.7.6.1): banner, settings, callipers, inset.

They depend on the hospital and its habits, never on how good the view is. In the real set a banner
seems commoner on poor pictures; added and removed at random, it carries no information.
"""

import cv2
import numpy as np

from detector.frame import Pixels
from model.spatialclip.preprocess import FILL

_TEXT = list("0123456789.cmHzTIbMFRAP /'")
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def add_annotations(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """A copy of an RGB picture (H, W, 3) uint8 with random annotations on borders and tissue; its
    own at the upper border may be blanked."""
    output = pixels.copy()
    top, bottom = _content_rows(output)
    if min(bottom - top, output.shape[1]) < 32:
        return output
    # A view of the same memory, without the rows of a letterbox.
    content = output[top:bottom]
    for probability, draw in (
        (0.3, _blank_borders),
        (0.35, _draw_banner),
        (0.3, _draw_settings),
        (0.3, _draw_callipers),
        (0.15, _draw_inset),
    ):
        if generator.random() < probability:
            draw(content, generator)
    return output


def _content_rows(pixels: Pixels) -> tuple[int, int]:
    """The first row that is no letterbox, and the one after the last."""
    rows = np.flatnonzero((pixels != FILL).any(axis=(1, 2)))
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)


def _blank_borders(pixels: Pixels, generator: np.random.Generator) -> None:
    """Blank the top and perhaps the upper corners, as on machines that show no text there."""
    height, width = pixels.shape[:2]
    pixels[: int(height * generator.uniform(0.05, 0.11))] = 0
    deep, wide = int(height * generator.uniform(0.1, 0.25)), int(width * 0.09)
    if generator.random() < 0.5:
        pixels[:deep, width - wide :] = 0
    if generator.random() < 0.5:
        pixels[:deep, :wide] = 0


def _draw_banner(pixels: Pixels, generator: np.random.Generator) -> None:
    """Draw a bar at the top with text like hospital, date and indices."""
    height, width = pixels.shape[:2]
    deep = max(3, int(height * generator.uniform(0.04, 0.1)))
    grey = int(generator.integers(0, 70))
    pixels[:deep] = np.clip((grey, grey + 8, grey + int(generator.integers(0, 25))), 0, 255)
    for x in generator.uniform(0, 0.9, 4) * width:
        _write_text(pixels, int(x), int(deep * generator.uniform(0.5, 0.95)), generator)


def _draw_settings(pixels: Pixels, generator: np.random.Generator) -> None:
    """Draw lines of text, and filled rectangles, near the left and right border."""
    height, width = pixels.shape[:2]
    for _ in range(int(generator.integers(1, 4))):
        side = generator.uniform(0, 0.2) if generator.random() < 0.5 else generator.uniform(0.75, 1)
        x, y = int(side * 0.95 * width), int(generator.uniform(0.03, 0.97) * height)
        if generator.random() < 0.4:
            grey = int(generator.integers(0, 256))
            wide, deep = generator.uniform(0.02, 0.12, 2) * (width, height)
            cv2.rectangle(pixels, (x, y), (x + int(wide), y + int(deep)), (grey,) * 3, -1)
        else:
            _write_text(pixels, x, y, generator)


def _draw_callipers(pixels: Pixels, generator: np.random.Generator) -> None:
    """Draw two crosses near each other, perhaps with a line between them and a measurement."""
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
        _write_text(pixels, int(0.02 * width), int(0.97 * height), generator)


def _draw_inset(pixels: Pixels, generator: np.random.Generator) -> None:
    """Draw the whole picture, small and framed, in a lower corner."""
    height, width = pixels.shape[:2]
    share = generator.uniform(0.15, 0.3)
    wide, deep = int(width * share), int(height * share)
    x = width - wide if generator.random() < 0.7 else 0
    pixels[height - deep :, x : x + wide] = cv2.resize(pixels, (wide, deep))
    cv2.rectangle(pixels, (x, height - deep), (x + wide - 1, height - 1), (150,) * 3, 1)


def _write_text(pixels: Pixels, x: int, y: int, generator: np.random.Generator) -> None:
    text = "".join(generator.choice(_TEXT, 8))
    scale = float(generator.uniform(0.5, 1.1)) * pixels.shape[0] / 600
    grey = int(generator.integers(90, 256))
    cv2.putText(pixels, text, (x, y), _FONT, scale, (grey,) * 3, 1, cv2.LINE_AA)

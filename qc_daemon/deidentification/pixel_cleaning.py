"""Which pixels of an image are blanked (PS3.15 E.3.1, Clean Pixel Data): all that lies outside of
its tissue regions, and every word inside them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.boxes import Box
from detector.errors import ErrorCode, QCError
from detector.frame import Frame, Pixels
from qc_daemon.deidentification.text_detector import PixelBox

Mask = npt.NDArray[np.bool_]
"""Shape (rows, columns)."""
FindWords = Callable[[Pixels], list[PixelBox]]


@dataclass(frozen=True, slots=True)
class PixelPlan:
    """What is blanked in every frame of an image.

    `is_tissue`: inside of a region; `is_text`: a word stood there in any frame. `regions` are
    the boxes of the tissue, by their position in the header's sequence. `words_inside` counts the
    words of all frames that touch tissue, `words_outside` the others. `is_grey`: what is left has
    no colour in any frame.
    """

    rows: int
    columns: int
    frames: int
    regions: tuple[tuple[int, Box], ...]
    is_tissue: Mask
    is_text: Mask
    words_inside: int
    words_outside: int
    is_grey: bool

    @property
    def is_whole(self) -> bool:
        """Whether no edge was cut off: words beside the tissue were left to the text detector."""
        return bool(self.is_tissue.all())

    @property
    def blanked_share(self) -> float:
        """The part of the tissue that is blanked because words stood there."""
        return float((self.is_text & self.is_tissue).sum() / max(1, self.is_tissue.sum()))


def plan_cleaning(frames: Iterable[Frame], find_words: FindWords) -> PixelPlan:
    """What to blank in these frames, all of an image; one is in memory at a time.

    A word that one frame has is blanked in all of them: a detector that misses it in the next
    frame must not let it through. Raises QCError NO_FRAMES without frames, DECODE_FAILED for frames
    of several sizes.
    """
    plan: PixelPlan | None = None
    is_text = np.zeros((0, 0), np.bool_)
    count = inside = outside = 0
    is_grey = True
    for frame in frames:
        pixels = frame.pixels
        if plan is None:
            plan = _empty_plan(frame)
            is_text = plan.is_text
        if pixels.shape[:2] != (plan.rows, plan.columns):
            raise QCError(ErrorCode.DECODE_FAILED, "its frames have several sizes")
        count += 1
        for x0, y0, x1, y1 in find_words(pixels):
            is_text[y0:y1, x0:x1] = True
            is_inside = bool(plan.is_tissue[y0:y1, x0:x1].any())
            inside, outside = inside + is_inside, outside + (not is_inside)
        is_grey = is_grey and _is_grey(pixels[plan.is_tissue])
    if plan is None:
        raise QCError(ErrorCode.NO_FRAMES, "the object has no frames")
    return PixelPlan(
        plan.rows,
        plan.columns,
        count,
        plan.regions,
        plan.is_tissue,
        is_text,
        inside,
        outside,
        is_grey,
    )


def clean_frame(pixels: Pixels, plan: PixelPlan) -> Pixels:
    """A copy of the frame, black where the plan says. Raises QCError DECODE_FAILED for a frame of
    another size."""
    if pixels.shape[:2] != (plan.rows, plan.columns):
        raise QCError(ErrorCode.DECODE_FAILED, "its frames have several sizes")
    cleaned = pixels.copy()
    cleaned[~plan.is_tissue | plan.is_text] = 0
    return cleaned


def _empty_plan(frame: Frame) -> PixelPlan:
    rows, columns = frame.pixels.shape[:2]
    is_tissue = np.zeros((rows, columns), np.bool_)
    for region in frame.regions:
        x0, y0, x1, y1 = region.bbox
        # Whole pixels inside of the box: half of one belongs to what is beside it.
        is_tissue[
            max(0, int(np.ceil(y0))) : max(0, int(np.floor(y1))),
            max(0, int(np.ceil(x0))) : max(0, int(np.floor(x1))),
        ] = True
    regions = tuple((region.index, region.bbox) for region in frame.regions)
    is_text = np.zeros((rows, columns), np.bool_)
    return PixelPlan(rows, columns, 0, regions, is_tissue, is_text, 0, 0, True)


def _is_grey(pixels: Pixels) -> bool:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return bool((red == green).all() and (green == blue).all())

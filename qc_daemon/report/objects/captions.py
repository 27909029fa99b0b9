"""Places the captions of boxes: beside their boxes, inside the picture, none over another."""

from collections.abc import Iterator, Sequence
from itertools import count, takewhile

from detector.boxes import Box

Size = tuple[float, float]


def place_captions(boxes: Sequence[Box], sizes: Sequence[Size], frame: Size) -> list[Box]:
    """The rectangle of each box's caption, of that caption's size, in pixels of the frame.

    `sizes` and `frame` are (width, height). It is the nearest free one around the box; two overlap
    only where the frame has no free one left.
    """
    captions: list[Box] = []
    for box, size in zip(boxes, sizes, strict=True):
        around = list(_around(box, size, frame))
        # One that had to be pushed into the picture may cover its own box: it comes last.
        whole = [candidate for candidate in around if candidate == _move_inside(candidate, frame)]
        candidates = [*whole, *(_move_inside(candidate, frame) for candidate in around)]
        free = (
            candidate
            for candidate in candidates
            if not any(overlap(candidate, caption) for caption in captions)
        )
        captions.append(next(free, candidates[0]))
    return captions


def overlap(a: Box, b: Box) -> bool:
    """Whether they share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _around(box: Box, size: Size, frame: Size) -> Iterator[Box]:
    """Rectangles around the box from the nearest outward, in rings of the caption's size."""
    width, height = size
    x0, y0, x1, y1 = box
    reach = takewhile(lambda ring: ring * height < max(frame), count())
    for ring in reach:
        dx, dy = ring * width / 2, ring * height
        corners = (
            (x0, y0 - height - 1 - dy),
            (x0, y1 + 1 + dy),
            (x1 - width, y0 - height - 1 - dy),
            (x1 - width, y1 + 1 + dy),
            (x1 + 1 + dx, y0),
            (x0 - width - 1 - dx, y0),
            (x1 + 1 + dx, y1 - height),
            (x0 - width - 1 - dx, y1 - height),
            (x1 + 1 + dx, y0 - height - 1 - dy),
            (x0 - width - 1 - dx, y0 - height - 1 - dy),
            (x1 + 1 + dx, y1 + 1 + dy),
            (x0 - width - 1 - dx, y1 + 1 + dy),
        )
        yield from ((x, y, x + width, y + height) for x, y in corners)


def _move_inside(caption: Box, frame: Size) -> Box:
    x0, y0, x1, y1 = caption
    dx = max(0.0, -x0) - max(0.0, x1 - frame[0])
    dy = max(0.0, -y0) - max(0.0, y1 - frame[1])
    if dx == dy == 0:
        return caption
    return (x0 + dx, y0 + dy, x1 + dx, y1 + dy)

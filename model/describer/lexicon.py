"""The words a description may use: names of structures, places, and how to join them.

A closed vocabulary: whatever is not here cannot be written (see `model.describer.grammar`). No name
contains another label's name, so that naming one structure never mentions a second.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from detector.anatomy import BY_CODE, LABELS
from detector.boxes import Box, Detection
from detector.errors import ErrorCode, QCError

SYNONYMS: dict[str, str] = {
    "CB": "skull outline",
    "CF": "falx cerebri",
    "NT": "nuchal lucency",
    "F": "face in profile",
    "NA": "nasal tip",
    "S": "gastric bubble",
    "AS": "abdominal outline",
    "MB": "mesencephalon",
    "IT": "fourth ventricle",
}
NAMES: dict[str, tuple[str, ...]] = {
    label.code: (label.meaning, *filter(None, [SYNONYMS.get(label.code)])) for label in LABELS
}
"""Per label code the names that may be written; the usual one (the vocabulary's) first."""

PLACES: tuple[str, ...] = (
    *("upper left", "upper centre", "upper right"),
    *("middle left", "centre", "middle right"),
    *("lower left", "lower centre", "lower right"),
)
"""The cells of a 3 x 3 grid over the picture, in reading order."""

NOTHING = "No labelled structure detected."


class Wording(StrEnum):
    """How a description is put; the value is the cue that the prompt ends with.

    GROUPED: "nasal bone and palate in the upper left; ...". SINGLE: one phrase a structure.
    PLACED: "upper left: nasal bone and palate; ...". SYNONYM: as GROUPED, with the other names.
    """

    GROUPED = "grouped"
    SINGLE = "single"
    PLACED = "placed"
    SYNONYM = "synonym"


class Mention(NamedTuple):
    """A structure to be named: label code and index into PLACES."""

    label: str
    place: int


def grid_cell(box: Box, width: float, height: float) -> int:
    """Index into PLACES of the cell that holds the box's centre; boxes outside count as nearest."""
    column = _third((box[0] + box[2]) / 2, width)
    row = _third((box[1] + box[3]) / 2, height)
    return 3 * row + column


def select_mentions(
    detections: Iterable[Detection], width: float, height: float, limit: int
) -> tuple[Mention, ...]:
    """The mentions of a description, in reading order: each label once a place, at most `limit`,
    the most confident ones.

    Raises QCError (bundle-mismatch) on a label that the vocabulary lacks.
    """
    confidences: dict[Mention, float] = {}
    for detection in detections:
        if detection.label not in BY_CODE:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH, f"the vocabulary has no label {detection.label!r}"
            )
        mention = Mention(detection.label, grid_cell(detection.bbox, width, height))
        confidences[mention] = max(confidences.get(mention, 0.0), detection.confidence)
    selected = sorted(
        confidences, key=lambda mention: (-confidences[mention], reading_order(mention))
    )[:limit]
    return tuple(sorted(selected, key=reading_order))


def reading_order(mention: Mention) -> tuple[int, int]:
    """Sort key: by place, then by vocabulary index."""
    return (mention.place, BY_CODE[mention.label].index)


def group_by_place(mentions: Sequence[Mention]) -> list[tuple[str, list[Mention]]]:
    """The mentions of each place, places and mentions in reading order."""
    ordered = sorted(mentions, key=reading_order)
    groups = groupby(ordered, key=lambda mention: mention.place)
    return [(PLACES[place], list(group)) for place, group in groups]


def enumerate_names(names: Sequence[str]) -> list[str]:
    """The pieces of a list of at least one name: a | a and b | a , b and c."""
    *first, last = names
    pieces = [piece for name in first for piece in (name, ",")]
    return [*pieces[:-1], "and", last] if first else [last]


def prompt(mentions: Sequence[Mention], wording: Wording) -> str:
    """The prompt of the language model: each place with its structures, in the usual names, then
    the wording's cue. It is close to the answer's form, so that writing is mostly copying."""
    items = [
        join([place, ":", *enumerate_names([NAMES[m.label][0] for m in group])]).lower()
        for place, group in group_by_place(mentions)
    ]
    return f"{'; '.join(items)}. {wording.value}:"


def join(pieces: Iterable[str]) -> str:
    """One sentence of words and marks: no space before a mark, a capital first."""
    text = ""
    for piece in pieces:
        text += piece if piece in ",;:." or not text else f" {piece}"
    return text[:1].upper() + text[1:]


def _third(position: float, extent: float) -> int:
    return min(max(int(3 * position / extent), 0), 2) if extent > 0 else 1

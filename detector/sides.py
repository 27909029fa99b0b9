"""Which choroid plexus is CP1 and which CP2: sides of the picture, not of the fetus.

Where the falx stands, CP1 is the left one; where it lies flat, CP1 is the upper one. The mirror
image exchanges the names only where the falx stands.
"""

from collections.abc import Mapping

from detector.boxes import Box

FALX = "CF"
PLEXUSES = ("CP1", "CP2")
_FLAT = 3**0.5
"""Width by height of the falx's box from which it lies flat: more than 60 degrees from upright.
Phantoms' falx stands within 60 degrees, so that theirs are always named left and right."""


def is_flat(falx: Box) -> bool:
    """Whether a falx of this box lies rather than stands."""
    return falx[2] - falx[0] > _FLAT * (falx[3] - falx[1])


def name_plexus(plexus: Box, falx: Box) -> str:
    """CP1 or CP2, by the side of the falx's centre on which the plexus lies."""
    axis = 1 if is_flat(falx) else 0
    return PLEXUSES[plexus[axis] + plexus[axis + 2] > falx[axis] + falx[axis + 2]]


def names_in_mirror_image(boxes: Mapping[str, Box]) -> dict[str, str]:
    """What the plexuses of a picture are called in its mirror image, by their names of now.

    Without a falx two plexuses tell by their own places; one alone is taken for a standing head's.
    """
    one, other = PLEXUSES
    return {one: one, other: other} if _lies(boxes) else {one: other, other: one}


def name_plexuses(boxes: Mapping[str, Box]) -> dict[str, Box] | None:
    """The boxes with each plexus named by its side of the falx; None where no falx tells it."""
    plexuses = [boxes[name] for name in PLEXUSES if name in boxes]
    others = {name: box for name, box in boxes.items() if name not in PLEXUSES}
    if not plexuses:
        return others
    if FALX not in boxes:
        return None
    named = {name_plexus(plexus, boxes[FALX]): plexus for plexus in plexuses}
    return others | named if len(named) == len(plexuses) else None


def _lies(boxes: Mapping[str, Box]) -> bool:
    if FALX in boxes:
        return is_flat(boxes[FALX])
    if not all(plexus in boxes for plexus in PLEXUSES):
        return False
    one, other = (boxes[plexus] for plexus in PLEXUSES)
    across = abs(one[0] + one[2] - other[0] - other[2])
    down = abs(one[1] + one[3] - other[1] - other[3])
    # Two plexuses lie across the falx: one above the other where it is flat.
    return down > _FLAT * across

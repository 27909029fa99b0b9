"""The names of the choroid plexuses, by the side of the falx on which they lie."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detector.boxes import Box
from detector.sides import (
    FALX,
    PLEXUSES,
    is_flat,
    name_plexus,
    name_plexuses,
    names_in_mirror_image,
)

WIDTH = 1000.0
STANDING: Box = (480.0, 300.0, 520.0, 700.0)
FLAT: Box = (300.0, 480.0, 700.0, 520.0)
corner = st.floats(0, 400)
side = st.floats(20, 500)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)


def _mirrored(box: Box) -> Box:
    return (WIDTH - box[2], box[1], WIDTH - box[0], box[3])


@pytest.mark.parametrize(
    ("falx", "plexus", "name"),
    [
        (STANDING, (350.0, 450.0, 450.0, 600.0), "CP1"),
        (STANDING, (550.0, 450.0, 650.0, 600.0), "CP2"),
        (FLAT, (450.0, 350.0, 600.0, 450.0), "CP1"),
        (FLAT, (450.0, 550.0, 600.0, 650.0), "CP2"),
    ],
)
def test_a_plexus_is_named_left_or_right_of_a_standing_falx_and_above_or_below_a_flat_one(
    falx: Box, plexus: Box, name: str
) -> None:
    assert name_plexus(plexus, falx) == name


@given(boxes, boxes)
def test_a_plexus_named_in_the_mirror_image_has_the_name_that_its_place_there_gives(
    falx: Box, plexus: Box
) -> None:
    axis = 1 if is_flat(falx) else 0
    assume(abs(plexus[axis] + plexus[axis + 2] - falx[axis] - falx[axis + 2]) > 1e-6)
    name = name_plexus(plexus, falx)
    renamed = names_in_mirror_image({FALX: falx, name: plexus})[name]
    assert renamed == name_plexus(_mirrored(plexus), _mirrored(falx))


@given(boxes, boxes)
def test_names_of_two_plexuses_without_a_falx_come_back_when_mirrored_twice(
    one: Box, other: Box
) -> None:
    names = names_in_mirror_image(dict(zip(PLEXUSES, (one, other), strict=True)))
    assert sorted(names.values()) == sorted(PLEXUSES)
    placed = {names[PLEXUSES[0]]: _mirrored(one), names[PLEXUSES[1]]: _mirrored(other)}
    assert {names_in_mirror_image(placed)[names[name]] for name in PLEXUSES} == set(PLEXUSES)


def test_plexuses_on_one_side_of_the_falx_or_without_one_are_not_named() -> None:
    left, right = (350.0, 450.0, 450.0, 600.0), (550.0, 450.0, 650.0, 600.0)
    assert name_plexuses({FALX: STANDING, "CP1": right, "CP2": left}) == {
        FALX: STANDING,
        "CP1": left,
        "CP2": right,
    }
    assert name_plexuses({"CP1": left, "CP2": right}) is None
    assert name_plexuses({FALX: STANDING, "CP1": left, "CP2": left}) is None
    assert name_plexuses({"CB": STANDING}) == {"CB": STANDING}

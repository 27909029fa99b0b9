"""What lies outside of the tissue is blanked, and words inside it in every frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import QCError
from detector.frame import Frame, Pixels, Region
from qc_daemon.deidentification.pixel_cleaning import clean_frame, plan_cleaning
from qc_daemon.deidentification.text_detector import PixelBox


def frame(number: int = 1, *boxes: tuple[float, float, float, float], grey: bool = True) -> Frame:
    pixels = np.random.default_rng(number).integers(1, 255, (40, 50, 3), dtype=np.uint8)
    if grey:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    regions = tuple(Region(index, box) for index, box in enumerate(boxes))
    return Frame(number, pixels, regions or (Region(0, (0.0, 0.0, 50.0, 40.0)),))


def no_words(_pixels: Pixels) -> list[PixelBox]:
    return []


def test_only_tissue_stays_and_half_a_pixel_is_none_of_it() -> None:
    picture = frame(1, (5.0, 10.5, 20.0, 30.0), (30.0, 5.0, 45.5, 20.0))
    plan = plan_cleaning([picture], no_words)
    cleaned = clean_frame(picture.pixels, plan)
    expected = np.zeros_like(picture.pixels)
    expected[11:30, 5:20] = picture.pixels[11:30, 5:20]
    expected[5:20, 30:45] = picture.pixels[5:20, 30:45]
    np.testing.assert_array_equal(cleaned, expected)
    assert picture.pixels[0, 0].all()
    assert (plan.is_whole, plan.is_grey) == (False, True)


def test_a_word_of_one_frame_is_blanked_in_all() -> None:
    frames = [frame(number, (10.0, 10.0, 40.0, 30.0)) for number in (1, 2, 3)]
    words = iter([[], [(15, 15, 25, 20), (0, 0, 5, 5)], [(35, 5, 45, 15)]])
    plan = plan_cleaning(frames, lambda _pixels: next(words))
    assert (plan.frames, plan.words_inside, plan.words_outside) == (3, 2, 1)
    for each in frames:
        cleaned = clean_frame(each.pixels, plan)
        assert not cleaned[15:20, 15:25].any()
        assert not cleaned[10:15, 35:40].any()
        np.testing.assert_array_equal(cleaned[20:30, 10:40], each.pixels[20:30, 10:40])
    assert plan.blanked_share == pytest.approx((5 * 10 + 5 * 5) / (20 * 30))


def test_colour_counts_where_it_stays() -> None:
    grey = frame(1, (10.0, 10.0, 40.0, 30.0))
    grey.pixels[0, 0] = (255, 0, 0)
    assert plan_cleaning([grey], no_words).is_grey
    coloured = frame(2, (10.0, 10.0, 40.0, 30.0), grey=False)
    assert not plan_cleaning([grey, coloured], no_words).is_grey


def test_frames_that_do_not_fit_are_refused() -> None:
    other = Frame(2, np.zeros((41, 50, 3), np.uint8), (Region(0, (0.0, 0.0, 50.0, 41.0)),))
    with pytest.raises(QCError, match="several sizes"):
        plan_cleaning([frame(), other], no_words)
    with pytest.raises(QCError, match="several sizes"):
        clean_frame(other.pixels, plan_cleaning([frame()], no_words))
    with pytest.raises(QCError, match="no frames"):
        plan_cleaning([], no_words)


@given(
    st.tuples(st.floats(-5, 60), st.floats(-5, 60), st.floats(-5, 60), st.floats(-5, 60)),
    st.lists(st.tuples(*(st.integers(0, 50) for _ in range(4))), max_size=3),
)
def test_nothing_outside_of_region_and_nothing_of_a_word_stays(
    box: tuple[float, float, float, float], words: list[PixelBox]
) -> None:
    picture = frame(1, box)
    plan = plan_cleaning([picture], lambda _pixels: words)
    stays = clean_frame(picture.pixels, plan).any(axis=2)
    rows, columns = np.nonzero(stays)
    x0, y0, x1, y1 = box
    assert ((columns >= x0) & (columns + 1 <= x1) & (rows >= y0) & (rows + 1 <= y1)).all()
    for left, top, right, bottom in words:
        assert not stays[top:bottom, left:right].any()

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.frame import Frame, Region
from detector.letterbox import Letterbox, crop

SIDES = st.integers(1, 5000)
SIZES = st.sampled_from([32, 224, 416, 640])


@st.composite
def letterboxes(draw: st.DrawFn) -> Letterbox:
    box_back = Letterbox.fit(draw(SIDES), draw(SIDES), draw(SIZES))
    return box_back.mirrored if draw(st.booleans()) else box_back


def box_in(draw: st.DrawFn, width: float, height: float) -> tuple[float, float, float, float]:
    x = sorted((draw(st.floats(0, width)), draw(st.floats(0, width))))
    y = sorted((draw(st.floats(0, height)), draw(st.floats(0, height))))
    return (x[0], y[0], x[1], y[1])


@given(st.data())
def test_a_box_comes_back_from_the_model(data: st.DataObject) -> None:
    letterbox = data.draw(letterboxes())
    box = box_in(data.draw, letterbox.width, letterbox.height)
    assert letterbox.to_image(letterbox.to_model(box)) == pytest.approx(box, abs=1e-6 * 5000)


@given(letterboxes())
def test_the_whole_picture_lies_inside_the_model_input(letterbox: Letterbox) -> None:
    x0, y0, x1, y1 = letterbox.to_model((0, 0, letterbox.width, letterbox.height))
    # The pads are whole pixels, so the picture may reach a pixel past the far edge at most.
    assert min(x0, y0) >= -1
    assert max(x1, y1) <= letterbox.size + 1
    assert x1 - x0 == pytest.approx(letterbox.scale * letterbox.width)
    assert y1 - y0 == pytest.approx(letterbox.scale * letterbox.height)
    assert max(x1 - x0, y1 - y0) == pytest.approx(letterbox.size)


@given(st.data())
def test_boxes_from_the_model_are_clipped_to_the_picture(data: st.DataObject) -> None:
    letterbox = data.draw(letterboxes())
    x0, y0, x1, y1 = letterbox.to_image(box_in(data.draw, letterbox.size, letterbox.size))
    assert 0 <= x0 <= x1 <= letterbox.width
    assert 0 <= y0 <= y1 <= letterbox.height


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1), (1, 1), (799, 600), (30, 20)])
def test_any_aspect_can_be_applied(width: int, height: int) -> None:
    pixels = np.full((height, width, 3), 200, np.uint8)
    square = Letterbox.fit(width, height, 64).apply(pixels, fill=7)
    assert square.shape == (64, 64, 3)
    assert set(np.unique(square)) <= {7, 200}
    assert 200 in square


def test_a_bright_square_is_where_its_box_says() -> None:
    pixels = np.zeros((300, 800, 3), np.uint8)
    pixels[100:140, 500:600] = 255
    for letterbox in (Letterbox.fit(800, 300, 416), Letterbox.fit(800, 300, 416).mirrored):
        x0, y0, x1, y1 = letterbox.to_model((500, 100, 600, 140))
        ys, xs = np.nonzero(letterbox.apply(pixels, fill=0)[..., 0] > 127)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == pytest.approx(
            (x0, y0, x1, y1), abs=1
        )


def test_shrinking_is_antialiased() -> None:
    """A one-pixel checkerboard becomes grey; picking single pixels would leave black and white."""
    board = np.indices((512, 512)).sum(0) % 2 * 255
    small = Letterbox.fit(512, 512, 64).apply(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    assert small.min() >= 126
    assert small.max() <= 129


def test_the_picture_must_be_the_letterbox_s() -> None:
    with pytest.raises(ValueError):
        Letterbox.fit(100, 50, 64).apply(np.zeros((100, 50, 3), np.uint8))
    with pytest.raises(ValueError):
        Letterbox.fit(0, 50, 64)


@given(st.data())
def test_a_crop_s_boxes_come_back_in_stored_image_coordinates(data: st.DataObject) -> None:
    pixels = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)
    region = Region(0, box_in(data.draw, 80, 60))
    part = crop(Frame(1, pixels, (region,)), region)
    rows, columns = part.pixels.shape[:2]
    assert rows >= 1
    assert columns >= 1
    assert np.array_equal(part.pixels, pixels[part.y : part.y + rows, part.x : part.x + columns])
    inside = part.to_crop(region.bbox)
    assert part.to_image(inside) == pytest.approx(region.bbox)
    assert inside[0] > -1
    assert inside[2] <= columns

"""Captions: inside the picture, and none over another."""

from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.report.objects.captions import overlap, place_captions

FRAME = (640.0, 480.0)
SIZES = st.tuples(st.floats(12, 40), st.just(18.0))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x, y = draw(st.floats(0, 639)), draw(st.floats(0, 479))
    return (x, y, draw(st.floats(x, 640)), draw(st.floats(y, 480)))


@given(st.lists(st.tuples(boxes(), SIZES), max_size=32))
def test_captions_never_overlap(
    boxes_and_sizes: list[tuple[tuple[float, ...], tuple[float, float]]],
) -> None:
    captions = place_captions(
        [box for box, _ in boxes_and_sizes], [size for _, size in boxes_and_sizes], FRAME
    )  # type: ignore[misc]
    assert len(captions) == len(boxes_and_sizes)
    for number, (caption, (_, size)) in enumerate(zip(captions, boxes_and_sizes, strict=True)):
        x0, y0, x1, y1 = caption
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= FRAME[0] + 1e-6
        assert y1 <= FRAME[1] + 1e-6
        assert abs((x1 - x0) - size[0]) < 1e-6
        assert abs((y1 - y0) - size[1]) < 1e-6
        assert not any(overlap(caption, earlier) for earlier in captions[:number])


def test_a_lone_caption_stands_above_its_box() -> None:
    assert place_captions([(100, 200, 300, 280)], [(30, 18)], FRAME) == [(100, 181, 130, 199)]


def test_a_full_picture_still_names_all() -> None:
    frame = (40.0, 20.0)
    assert len(place_captions([(0, 0, 40, 20)] * 9, [(30.0, 18.0)] * 9, frame)) == 9


def test_a_caption_does_not_hide_a_box_at_the_edge() -> None:
    box = (100.0, 0.0, 120.0, 10.0)
    (caption,) = place_captions([box], [(30, 18)], FRAME)
    assert not overlap(caption, box)

"""Frames come out of a stream as they went in, however it is cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.hl7.frames import END, START, Frame, FrameReader, write_frame

CONTENT = st.binary(max_size=60).map(
    lambda raw: bytes(each for each in raw if each not in (START, END))
)


def read(stream: bytes, cuts: list[int], maximum: int = 1000) -> list[Frame]:
    reader = FrameReader(maximum)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    frames = []
    for start, stop in pairwise(places):
        frames += list(reader.feed(stream[start:stop]))
    return frames


@given(st.lists(CONTENT, max_size=5), st.lists(st.integers(0, 400), max_size=20))
def test_each_message_comes_out_however_the_stream_is_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(map(write_frame, messages))
    assert [each.content for each in read(stream, cuts)] == messages
    # Senders put line ends between frames, and some leave the last carriage return away.
    loose = b"\r\n".join(write_frame(each)[:-1] for each in messages)
    assert [each.content for each in read(loose, cuts)] == messages


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_end_in_frames_of_a_bounded_size(stream: bytes, cuts: list[int]) -> None:
    for frame in read(stream, cuts, maximum=50):
        assert len(frame.content) <= 50 or frame.fault


def test_a_message_without_its_end_is_an_error_and_the_next_one_is_read() -> None:
    first, second = read(b"\x0bMSH|cut" + write_frame(b"MSH|whole"), [])
    assert first.fault == "the end of the message is missing"
    assert (second.content, second.fault) == (b"MSH|whole", None)


def test_nothing_is_read_after_a_message_that_is_too_large() -> None:
    [frame] = read(b"\x0b" + b"x" * 101, [], maximum=100)
    assert (frame.fault, frame.is_last) == ("the message is too large", True)
    [frame] = read(write_frame(b"x" * 101), [], maximum=100)
    assert frame.is_last
    [frame] = read(write_frame(b"x" * 100), [], maximum=100)
    assert frame.fault is None


def test_bytes_outside_of_a_frame_end_it() -> None:
    [frame] = read(b"GET / HTTP/1.1\r\n", [])
    assert (frame.fault, frame.is_last) == ("bytes outside of a frame", True)

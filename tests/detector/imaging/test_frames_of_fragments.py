"""Which fragments make a frame, whatever the offset tables say (PS3.5 A.4), and what becomes of a
frame that cannot be decoded."""

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from detector.errors import ErrorCode, Flag, QCError
from detector.imaging.encapsulation import frame_fragments
from detector.imaging.reader import read_frames, summarise_image

Write = Callable[..., Path]
SYNTAXES = (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit)


def streams_of(write: Write, frames: np.ndarray, syntax: UID) -> list[bytes]:
    """The codestream of each frame."""
    if syntax == JPEGBaseline8Bit:
        codestreams = []
        for pixels in frames:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
            codestreams.append(buffer.getvalue())
        return codestreams
    dataset = dcmread(write(frames, syntax=syntax))
    return list(generate_frames(dataset.PixelData, number_of_frames=len(frames)))


def item(content: bytes) -> bytes:
    content += b"\0" * (len(content) % 2)
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def cine(
    write: Write,
    fragments: Sequence[bytes],
    table: bytes | None,
    syntax: UID,
    extended: bytes | None = None,
    frames: int = 3,
) -> Path:
    """A colour cine of 48 x 64 with exactly these items; table None: none at all."""
    path = write(np.zeros((frames, 48, 64, 3), np.uint8))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == JPEGBaseline8Bit:
        dataset.PhotometricInterpretation = "YBR_FULL"
    items = b"" if table is None else item(table)
    dataset.PixelData = items + b"".join(map(item, fragments))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    if extended is not None:
        dataset.ExtendedOffsetTable = extended
        dataset.ExtendedOffsetTableLengths = extended
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    return path


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}L", *values)


def tables(streams: Sequence[bytes]) -> dict[str, bytes | None]:
    """Right and wrong Basic Offset Tables of these frames, one fragment each."""
    offsets = [0]
    for stream in streams[:-1]:
        offsets.append(offsets[-1] + 8 + len(stream) + len(stream) % 2)
    right = words(*offsets)
    return {
        "right": right,
        "empty": b"",
        "absent": None,
        "odd length": right[:10],
        "of one": words(0),
        "zeros": words(0, 0, 0),
        "too long": right + words(offsets[-1] + 9999),
        "not from the first item": words(*(offset + 8 for offset in offsets)),
        "from the file's start": words(*(offset + 1234 for offset in offsets)),
        "descending": words(*reversed(offsets)),
        "big endian": struct.pack(f">{len(offsets)}L", *offsets),
        "rubbish": b"\xff" * 12,
    }


NAMES = tuple(tables([b"", b"", b""]))


def assert_decoded(path: Path, speckle: np.ndarray, syntax: UID) -> None:
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == [1, 2, 3]
    tolerance = 12 if syntax == JPEGBaseline8Bit else 0
    for frame in frames:
        gap = np.abs(frame.pixels.astype(int) - speckle[frame.number - 1]).mean()
        assert gap <= tolerance
    (last,) = read_frames(path, [3])
    assert np.array_equal(last.pixels, frames[2].pixels)


@pytest.fixture(scope="module")
def codestreams() -> dict[UID, list[bytes]]:
    return {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_as_many_fragments_as_frames_are_one_each(
    write_dicom: Write,
    speckle: np.ndarray,
    codestreams: dict[UID, list[bytes]],
    syntax: UID,
    name: str,
) -> None:
    streams = codestreams.setdefault(syntax, streams_of(write_dicom, speckle, syntax))
    assert_decoded(cine(write_dicom, streams, tables(streams)[name], syntax), speckle, syntax)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_frames_of_several_fragments_begin_at_codestreams(
    write_dicom: Write,
    speckle: np.ndarray,
    codestreams: dict[UID, list[bytes]],
    syntax: UID,
    name: str,
) -> None:
    streams = codestreams.setdefault(syntax, streams_of(write_dicom, speckle, syntax))
    parts = [part for s in streams for part in (s[:200], s[200:500], s[500:])]
    assert_decoded(cine(write_dicom, parts, tables(streams)[name], syntax), speckle, syntax)


@pytest.mark.parametrize("extended", [b"\0" * 24, b"\xff" * 24, b"\1\2\3", b""])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_extended_offset_tables_that_are_wrong(
    write_dicom: Write,
    speckle: np.ndarray,
    codestreams: dict[UID, list[bytes]],
    syntax: UID,
    extended: bytes,
) -> None:
    streams = codestreams.setdefault(syntax, streams_of(write_dicom, speckle, syntax))
    assert_decoded(cine(write_dicom, streams, b"", syntax, extended), speckle, syntax)


def test_a_table_settles_what_codestreams_do_not() -> None:
    """Fragments of no known codestream: two of the first frame, one of the second."""
    stream = io.BytesIO(b"".join(map(item, (b"aa", b"bb", b"cc"))))
    spans = [(8, 2), (18, 2), (28, 2)]
    with pytest.raises(QCError):
        frame_fragments(stream, spans, 2, [(), (0, 15), (0, 0)])
    for offset_tables in ([(0, 20)], [(), (0, 20)]):
        assert frame_fragments(stream, spans, 2, offset_tables) == [((8, 2), (18, 2)), ((28, 2),)]


BAD = {
    "blank": bytes(1024),
    "empty": b"",
    "text": b"this is no picture at all " * 9,
    "another size": None,
}


@pytest.mark.parametrize("bad", [1, 2, 3])
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_bad_frame_does_not_affect_the_others(
    write_dicom: Write,
    speckle: np.ndarray,
    codestreams: dict[UID, list[bytes]],
    syntax: UID,
    name: str,
    bad: int,
) -> None:
    streams = list(codestreams.setdefault(syntax, streams_of(write_dicom, speckle, syntax)))
    content = BAD[name]
    if content is None:
        if syntax == RLELossless:
            pytest.skip("RLE states no size")
        content = streams_of(write_dicom, speckle[:1, :40, :40], syntax)[0]
    streams[bad - 1] = content
    path = cine(write_dicom, streams, b"", syntax)
    failures: dict[int, QCError] = {}
    frames = list(read_frames(path, failed=failures.__setitem__))
    others = [number for number in (1, 2, 3) if number != bad]
    assert [frame.number for frame in frames] == others
    assert list(failures) == [bad]
    assert failures[bad].code is ErrorCode.DECODE_FAILED
    assert str(bad) in failures[bad].message
    summary = summarise_image(path)
    assert summary.frames == 3
    assert list(summary.readable_frames) == others
    assert [each.number for each in summary.bad_frames] == [bad]
    with pytest.raises(QCError):
        list(read_frames(path))
    # Which others are asked for changes nothing of a frame.
    for frame in frames:
        (only,) = read_frames(path, [frame.number])
        assert np.array_equal(only.pixels, frame.pixels)
        assert only.regions == frame.regions


def test_a_cine_of_bad_frames_only_is_refused(write_dicom: Write) -> None:
    path = cine(write_dicom, [bytes(64)] * 3, b"", JPEG2000Lossless)
    with pytest.raises(QCError) as caught:
        summarise_image(path)
    assert caught.value.code is ErrorCode.DECODE_FAILED


@pytest.mark.parametrize("stated", [None, "0", "1", "2"])
def test_more_frames_than_the_header_says_are_flagged(
    write_dicom: Write, speckle: np.ndarray, stated: str | None
) -> None:
    native = write_dicom(speckle, NumberOfFrames=stated)
    streams = streams_of(write_dicom, speckle, JPEG2000Lossless)
    compressed = cine(write_dicom, streams, b"", JPEG2000Lossless)
    dataset = dcmread(compressed)
    dataset.NumberOfFrames = stated
    dataset.save_as(compressed)
    for path in (native, compressed):
        frames = list(read_frames(path))
        assert len(frames) == int(stated or 1) or 1
        for frame in frames:
            assert frame.flags == (Flag.MORE_FRAMES_THAN_STATED,)
            assert np.array_equal(frame.pixels, speckle[frame.number - 1])


def test_as_many_frames_as_stated_are_not(write_dicom: Write, speckle: np.ndarray) -> None:
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        assert {frame.flags for frame in read_frames(write_dicom(speckle, syntax=syntax))} == {()}
    padded = write_dicom(speckle, PixelData=speckle.tobytes() + bytes(100))
    assert {frame.flags for frame in read_frames(padded)} == {()}

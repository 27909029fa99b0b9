"""Headers that no writer should make: unknown value representations, foreign orders, odd nesting.
What stands behind them is read as if they were not there (PS3.5 7.1)."""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from detector.errors import QCError
from detector.imaging.data_elements import ElementReader
from detector.imaging.reader import read_frames, read_header

Write = Callable[..., Path]
SYNTAXES = (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)
GREY = (np.arange(48 * 64).reshape(1, 48, 64) % 251).astype(np.uint8)


def parts(path: Path) -> tuple[bytes, list[bytes]]:
    """The file up to its data set, and the elements of that, each as bytes."""
    dataset = dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
    elements = []
    for element in dataset:
        buffer = DicomBytesIO()
        buffer.is_little_endian = syntax != ExplicitVRBigEndian
        buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
        write_data_element(buffer, element)
        elements.append(buffer.getvalue())
    return path.read_bytes()[:start], elements


def odd(vr: bytes, length_bytes: int, value: bytes, tag: int, syntax: UID) -> bytes:
    """An explicit element of a VR that is none."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + vr
    if length_bytes == 2:
        return head + struct.pack(f"{order}H", len(value)) + value
    return head + b"\0\0" + struct.pack(f"{order}L", len(value)) + value


def assert_read(path: Path) -> None:
    (frame,) = read_frames(path)
    assert np.array_equal(frame.pixels[..., 0], GREY[0])
    assert read_header(path).study_instance_uid == "1.2.3"


@pytest.mark.parametrize("at", [0, 3, 8, -1])
@pytest.mark.parametrize("value", [b"", b"ABDOMEN ", b"\0\0", b"USUSUSUS" * 40])
@pytest.mark.parametrize(
    ("vr", "length_bytes"),
    [
        *((vr, 2) for vr in (b"  ", b"??", b"\0\0", b"\xff\xff", b"us", b"U1", b"-9", b"QX")),
        *((vr, 4) for vr in (b"QX", b"ZZ", b"OX", b"??", b"  ")),
    ],
)
@pytest.mark.parametrize("syntax", SYNTAXES[:2])
def test_an_unknown_value_representation_is_skipped(
    write_dicom: Write, syntax: UID, vr: bytes, length_bytes: int, value: bytes, at: int
) -> None:
    path = write_dicom(GREY, "MONOCHROME2", syntax)
    head, elements = parts(path)
    index = at % len(elements)
    tag = 0x00180010 if at else 0x00080000
    elements.insert(index, odd(vr, length_bytes, value, tag, syntax))
    path.write_bytes(head + b"".join(elements))
    assert_read(path)


@pytest.mark.parametrize("syntax", SYNTAXES[:2])
def test_several_unknown_value_representations_in_a_row_are_skipped(
    write_dicom: Write, syntax: UID
) -> None:
    path = write_dicom(GREY, "MONOCHROME2", syntax)
    head, elements = parts(path)
    strange = [odd(b"??", 2, b"AB", 0x00180010 + i, syntax) for i in range(6)]
    path.write_bytes(head + b"".join([*elements[:4], *strange, *elements[4:]]))
    assert_read(path)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "PixelData"])
def test_an_element_that_is_needed_under_an_unknown_one(write_dicom: Write, keyword: str) -> None:
    path = write_dicom(GREY, "MONOCHROME2")
    whole = path.read_bytes()
    tag = dcmread(path)[keyword].tag
    start = struct.pack("<HH", tag.group, tag.element)
    vr = b"QB" if keyword == "PixelData" else b"??"
    at = whole.index(start + (b"OB" if keyword == "PixelData" else b"US"))
    path.write_bytes(whole[: at + 4] + vr + whole[at + 6 :])
    assert_read(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("order", ["reversed", "pixels first", "by keyword", "private first"])
def test_elements_in_any_order(write_dicom: Write, syntax: UID, order: str) -> None:
    path = write_dicom(GREY, "MONOCHROME2", syntax)
    head, elements = parts(path)
    if order == "reversed":
        elements.reverse()
    elif order == "pixels first":
        elements.insert(0, elements.pop())
    elif order == "by keyword":
        names = [element.keyword for element in dcmread(path)]
        elements = [element for _, element in sorted(zip(names, elements, strict=True))]
    else:
        private = Dataset()
        private.add_new(0x70150010, "LO", "ACME 1.0")
        private.add_new(0x70151060, "SH", "A")
        buffer = DicomBytesIO()
        buffer.is_little_endian = syntax != ExplicitVRBigEndian
        buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
        for element in private:
            write_data_element(buffer, element)
        elements.insert(3, buffer.getvalue())
    path.write_bytes(head + b"".join(elements))
    assert_read(path)


def test_elements_behind_encapsulated_pixels(write_dicom: Write) -> None:
    path = write_dicom(GREY, "MONOCHROME2", RLELossless)
    head, elements = parts(path)
    path.write_bytes(head + elements[-1] + b"".join(elements[:-1]))
    assert_read(path)


@pytest.mark.parametrize("tail", [bytes(4096), b"\xff" * 999, b"rubbish " * 99])
def test_rubbish_behind_the_pixels(write_dicom: Write, tail: bytes) -> None:
    path = write_dicom(GREY, "MONOCHROME2")
    path.write_bytes(path.read_bytes() + tail)
    assert_read(path)


def test_what_stands_before_the_pixels_counts_more(write_dicom: Write) -> None:
    path = write_dicom(GREY, "MONOCHROME2")
    head, elements = parts(path)
    rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 9)
    path.write_bytes(head + b"".join(elements) + rows)
    assert_read(path)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian],
)
def test_the_pixels_of_an_icon_are_not_the_pictures(
    write_dicom: Write, syntax: UID, undefined: bool
) -> None:
    icon = Dataset()
    icon.Rows, icon.Columns, icon.SamplesPerPixel = 4, 4, 1
    icon.PhotometricInterpretation, icon.BitsAllocated = "MONOCHROME2", 8
    icon.PixelData = bytes(16)
    icon["PixelData"].VR = "OB"
    icon.is_undefined_length_sequence_item = undefined
    path = write_dicom(GREY, "MONOCHROME2", IconImageSequence=[icon])
    dataset = dcmread(path)
    dataset["IconImageSequence"].is_undefined_length = undefined
    dataset.file_meta.TransferSyntaxUID = syntax
    implicit = syntax == ImplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=implicit, little_endian=True)
    assert_read(path)


def test_nesting_without_end_costs_neither_stack_nor_time(write_dicom: Write) -> None:
    path = write_dicom(GREY, "MONOCHROME2")
    head, elements = parts(path)
    opened = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    deep = (opened + item) * 20_000 + closed * 20_000
    path.write_bytes(head + b"".join([*elements[:-1], deep, elements[-1]]))
    assert_read(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=300), implicit=st.booleans(), little=st.booleans(), data=st.data()
)
def test_any_bytes_end_the_walk(
    content: bytes, implicit: bool, little: bool, data: st.DataObject
) -> None:
    order = "<" if little else ">"
    for _ in range(data.draw(st.integers(0, 3))):
        tag = data.draw(st.sampled_from([0x00080016, 0x52009229, 0x7FE00010, 0xFFFEE000]))
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + content[at:]
    with suppress(ValueError):
        ElementReader(io.BytesIO(content), little).data_set(0, implicit)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(vr=st.binary(min_size=2, max_size=2), value=st.binary(max_size=40), at=st.integers(0, 99))
def test_any_vr_with_the_length_that_the_rule_gives_it(
    write_dicom: Write, vr: bytes, value: bytes, at: int
) -> None:
    """Two capitals: 32 bits; any other: 16."""
    standard_vrs = b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
    standard_vrs += b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
    if vr in standard_vrs:
        return
    value += b" " * (len(value) % 2)
    path = write_dicom(GREY, "MONOCHROME2")
    head, elements = parts(path)
    width = 4 if vr.isalpha() and vr.isupper() else 2
    # Not first: there the encoding of the data set itself is asked for.
    index = 1 + at % (len(elements) - 1)
    elements.insert(index, odd(vr, width, value, 0x00180010, ExplicitVRLittleEndian))
    path.write_bytes(head + b"".join(elements))
    try:
        assert_read(path)
    except QCError as error:
        raise AssertionError(f"{vr!r} {value!r} at {index}: {error.message}") from error

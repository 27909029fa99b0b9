"""The header that a report inherits, of files in which a parser gets lost."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from qc_daemon.report.source import SourceInstance
from qc_daemon.report.source_file import read_header

UNKNOWN = {
    "blanks": struct.pack("<HH2sH", 0x0018, 0x0010, b"  ", 8) + b"ABDOMEN ",
    "question": struct.pack("<HH2sH", 0x0008, 0x0017, b"??", 8) + b"ABDOMEN ",
    "capitals": struct.pack("<HH2sHL", 0x0008, 0x0017, b"QX", 0, 8) + b"ABDOMEN ",
}


@pytest.fixture
def parts(tmp_path: Path, us_header: Callable[..., Dataset]) -> Callable[..., Any]:
    """A file's path, what stands before its data set, and its elements, each as bytes."""

    def make(syntax: str = ExplicitVRLittleEndian) -> tuple[Path, bytes, list[bytes]]:
        dataset = us_header()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / "object.dcm"
        implicit = syntax == ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
        written = dcmread(path)
        start = 132 + 12 + written.file_meta.FileMetaInformationGroupLength
        elements = []
        for element in written:
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
            write_data_element(buffer, element, written.original_character_set)
            elements.append(buffer.getvalue())
        return path, path.read_bytes()[:start], elements

    return make


@pytest.mark.parametrize("name", UNKNOWN)
def test_behind_an_unknown_value_representation(parts: Callable[..., Any], name: str) -> None:
    path, head, elements = parts()
    expected = SourceInstance.of(read_header(path), "")
    path.write_bytes(head + UNKNOWN[name] + b"".join(elements))
    assert SourceInstance.of(read_header(path), "") == expected


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_behind_the_pixel_data(parts: Callable[..., Any], syntax: str) -> None:
    path, head, elements = parts(syntax)
    expected = SourceInstance.of(read_header(path), "")
    if syntax == ExplicitVRLittleEndian:
        pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 64) + bytes(64)
    else:
        pixels = struct.pack("<HHL", 0x7FE0, 0x0010, 64) + bytes(64)
    path.write_bytes(head + pixels + b"".join(reversed(elements)))
    assert SourceInstance.of(read_header(path), "") == expected


def test_a_header_of_too_many_elements_is_not_parsed(parts: Callable[..., Any]) -> None:
    path, head, elements = parts()
    tiny = struct.pack("<HH2sH", 0x0009, 0x1010, b"??", 0) * 200_000
    path.write_bytes(head + tiny + b"".join(elements))
    assert "StudyInstanceUID" not in read_header(path)

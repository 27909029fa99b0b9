"""The header walk: what pydicom writes it reads, what nobody could read it refuses."""

import contextlib
import io
import struct
import tempfile
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from qc_daemon.receive.identifiers import HeaderError, Identity, data_set_offset, read_identity
from tests.support import raw_dimse
from tests.support.dicom_objects import CANARY_ID, US, part10, ultrasound

SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


def identity(content: bytes, folder: Path, syntax: str) -> Identity:
    path = folder / "object.dcm"
    path.write_bytes(content)
    return read_identity(path, data_set_offset(path), syntax)


def nested(depth: int, undefined: bool) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "X"
    if depth:
        element = DataElement(0x00081110, "SQ", Sequence([nested(depth - 1, undefined)]))
        element.is_undefined_length = undefined
        inner.add(element)
        inner[0x00081110].value[0].is_undefined_length_sequence_item = undefined
    return inner


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_reads_what_pydicom_writes(tmp_path: Path, syntax: str, undefined: bool) -> None:
    dataset = ultrasound(syntax=syntax, pixels=b"" if syntax == ExplicitVRBigEndian else b"12" * 64)
    dataset.update(nested(4, undefined))
    identifiers = identity(part10(dataset), tmp_path, syntax)
    assert identifiers == Identity(
        US, dataset.SOPInstanceUID, "1.2.3.4.5", "1.2.3.4.5.1", CANARY_ID
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("charset", "description"),
    [
        ("ISO_IR 100", "Größe"),
        ("ISO_IR 192", "早期妊娠 NT"),
        (["", "ISO 2022 IR 87"], "超音波検査"),
        ("GB18030", "早孕检查"),
        ("ISO_IR 100", "plain"),
    ],
)
def test_descriptions_equal_pydicoms(
    tmp_path: Path, syntax: str, charset: str | list[str], description: str
) -> None:
    dataset = ultrasound(
        syntax=syntax,
        pixels=b"",
        SpecificCharacterSet=charset,
        StationName="ROOM 3 ",
        StudyDescription=description,
    )
    content = part10(dataset)
    path = tmp_path / "object.dcm"
    path.write_bytes(content)
    identity = read_identity(path, data_set_offset(path), syntax, with_description=True)
    assert identity.station_name == "ROOM 3"
    assert identity.study_description == pydicom.dcmread(path).StudyDescription == description
    unasked = read_identity(path, data_set_offset(path), syntax)
    assert (unasked.station_name, unasked.study_description) == ("", "")


@given(raw=st.binary(max_size=64), charset=st.binary(max_size=32))
@example(raw=b"\x1b$B\xff", charset=b"\\ISO 2022 IR 87")
@example(raw=b"\x1b(Z\xff", charset=b"ISO 2022 IR 6\\ISO 2022 IR 149\\ISO_IR 192")
@settings(max_examples=200, derandomize=True)
def test_no_description_is_too_odd_to_receive(raw: bytes, charset: bytes) -> None:
    head = struct.pack("<HHI", 0x0008, 0x0005, len(charset)) + charset
    with tempfile.NamedTemporaryFile() as file:
        file.write(head + struct.pack("<HHI", 0x0008, 0x1030, len(raw)) + raw)
        file.flush()
        identity = read_identity(Path(file.name), 0, ImplicitVRLittleEndian, with_description=True)
    assert "\0" not in identity.study_description


def test_an_overlong_description_refuses_nothing(tmp_path: Path) -> None:
    dataset = ultrasound(syntax=ImplicitVRLittleEndian)
    dataset.add_new(0x00081030, "UT", "x" * 70_000)
    path = tmp_path / "object.dcm"
    path.write_bytes(part10(dataset))
    identity = read_identity(
        path, data_set_offset(path), ImplicitVRLittleEndian, with_description=True
    )
    assert (identity.study_description, identity.patient_id) == ("", CANARY_ID)


def test_identifiers_of_every_real_file_equal_pydicoms(shared_data: Path) -> None:
    for path in sorted((shared_data / "us_dicom").glob("*.dcm")):
        expected = pydicom.dcmread(path, stop_before_pixels=True)
        with path.open("rb") as file:
            pydicom.filereader.read_preamble(file, False)
            meta = pydicom.filereader._read_file_meta_info(file)
            identity = read_identity(path, file.tell(), str(meta.TransferSyntaxUID))
        assert identity.sop_instance_uid == expected.SOPInstanceUID, path.name
        assert identity.sop_class_uid == expected.SOPClassUID
        assert identity.study_instance_uid == expected.StudyInstanceUID
        assert identity.series_instance_uid == expected.SeriesInstanceUID
        assert identity.patient_id == str(expected.get("PatientID") or "").strip()


@pytest.mark.parametrize("declared", ["ISO_IR 999", "nonsense", "zlib", "ISO_IR 192\\x", "a\0b"])
def test_no_character_set_refuses_an_object(tmp_path: Path, declared: str) -> None:
    dataset = ultrasound()
    content = part10(dataset)
    element = b"\x08\x00\x05\x00CS" + len(declared).to_bytes(2, "little") + declared.encode()
    place = content.index(b"\x08\x00\x16\x00UI")
    content = content[:place] + element + content[place:]
    content = content.replace(CANARY_ID.encode(), b"\xff\xfe\x80\x00" + b"\xe4" * 8)
    identifiers = identity(content, tmp_path, ExplicitVRLittleEndian)
    assert identifiers.sop_instance_uid == dataset.SOPInstanceUID
    assert "\0" not in identifiers.patient_id


def test_patient_id_in_its_declared_character_set(tmp_path: Path) -> None:
    dataset = ultrasound(SpecificCharacterSet="ISO_IR 192", PatientID="Ж-7")
    assert identity(part10(dataset), tmp_path, ExplicitVRLittleEndian).patient_id == "Ж-7"


def test_absent_identifiers_are_empty(tmp_path: Path) -> None:
    dataset = ultrasound()
    del dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID
    identifiers = identity(part10(dataset), tmp_path, ExplicitVRLittleEndian)
    assert (
        identifiers.study_instance_uid,
        identifiers.series_instance_uid,
        identifiers.patient_id,
    ) == ("", "", "")


def test_explicit_elements_under_an_implicit_label_are_read(tmp_path: Path) -> None:
    dataset = ultrasound()
    identifiers = identity(part10(dataset), tmp_path, ImplicitVRLittleEndian)
    assert identifiers.sop_instance_uid == dataset.SOPInstanceUID


def test_implicit_elements_under_an_explicit_label_are_read(tmp_path: Path) -> None:
    dataset = ultrasound(syntax=ImplicitVRLittleEndian)
    identifiers = identity(part10(dataset), tmp_path, ExplicitVRLittleEndian)
    assert identifiers.sop_instance_uid == dataset.SOPInstanceUID


def _with(content: bytes, element: bytes) -> bytes:
    """The file with one more element before its Patient's Name."""
    place = content.index(b"\x10\x00\x10\x00PN")
    return content[:place] + element + content[place:]


@pytest.mark.parametrize(
    "vr", [b"  ", b"??", b"\0\0", b"un", b"1a", b"\xff\xfe", b"ZZ", b"OX", b"QQ", b"U "]
)
@pytest.mark.parametrize("length", [0, 2, 16, 300])
def test_an_unknown_value_representation_is_skipped(tmp_path: Path, vr: bytes, length: int) -> None:
    """Both lengths are tried, the one first that new representations are to have (PS3.5 7.1.2)."""
    dataset = ultrasound()
    content = part10(dataset)
    expected = Identity(US, dataset.SOPInstanceUID, "1.2.3.4.5", "1.2.3.4.5.1", CANARY_ID)
    value = b"text" * (length // 4) + b"te" * (length % 4 // 2)
    tag = b"\x09\x00\x10\x10"
    shorter = tag + vr + struct.pack("<H", length) + value
    longer = tag + vr + b"\0\0" + struct.pack("<I", length) + value
    for element in (shorter, longer):
        assert identity(_with(content, element), tmp_path, ExplicitVRLittleEndian) == expected


def test_identifiers_after_a_later_tag_are_read(tmp_path: Path) -> None:
    dataset = ultrasound()
    expected = Identity(US, dataset.SOPInstanceUID, "1.2.3.4.5", "1.2.3.4.5.1", CANARY_ID)
    content = part10(dataset)
    path = tmp_path / "ordered.dcm"
    path.write_bytes(content)
    start = data_set_offset(path)
    parts = [raw_dimse.encode_dataset(_one(each), ExplicitVRLittleEndian) for each in dataset]
    pixels = parts.pop()
    for shift in range(len(parts)):
        turned = b"".join([*parts[shift:], *parts[:shift], pixels])
        assert identity(content[:start] + turned, tmp_path, ExplicitVRLittleEndian) == expected
    last = pixels + b"".join(parts)
    assert identity(content[:start] + last, tmp_path, ExplicitVRLittleEndian) == expected


def _one(element: DataElement) -> Dataset:
    dataset = Dataset()
    dataset.add(element)
    return dataset


def test_damage_after_the_identifiers_refuses_no_object(tmp_path: Path) -> None:
    dataset = ultrasound()
    del dataset.PatientID
    content = part10(dataset)
    place = content.index(b"\x28\x00\x02\x00US")
    broken = content[:place] + b"\x28\x00\x02\x00UN\0\0\xf0\xff\xff\x7f"
    identifiers = identity(broken, tmp_path, ExplicitVRLittleEndian)
    assert (identifiers.study_instance_uid, identifiers.patient_id) == ("1.2.3.4.5", "")


def test_elements_without_end_are_refused(tmp_path: Path) -> None:
    content = part10(ultrasound())
    start = content.index(b"\x08\x00\x16\x00UI")
    flood = content[:start] + b"\x09\x00\x10\x10LO\0\0" * 30_000 + content[start:]
    with pytest.raises(HeaderError, match="too many"):
        identity(flood, tmp_path, ExplicitVRLittleEndian)


@pytest.mark.parametrize("keep", [1, 7, 30, 100])
def test_cut_inside_the_header_is_refused(tmp_path: Path, keep: int) -> None:
    content = part10(ultrasound())
    start = content.index(b"\x08\x00\x16\x00UI")
    with pytest.raises(HeaderError):
        identity(content[: start + keep], tmp_path, ExplicitVRLittleEndian)


def test_cut_inside_the_pixels_is_not_the_receivers_business(tmp_path: Path) -> None:
    dataset = ultrasound()
    identifiers = identity(part10(dataset)[:-100], tmp_path, ExplicitVRLittleEndian)
    assert identifiers.sop_instance_uid == dataset.SOPInstanceUID


def test_a_deflate_bomb_is_not_inflated(tmp_path: Path) -> None:
    head = part10(ultrasound(syntax=DeflatedExplicitVRLittleEndian))
    path = tmp_path / "head.dcm"
    path.write_bytes(head)
    compress = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # An OB element of 1 GiB of zeros before anything the walk wants.
    bomb = compress.compress(b"\x08\x00\x01\x00OB\0\0\0\0\0\x40")
    for _ in range(64):
        bomb += compress.compress(bytes(1 << 20))
    bomb += compress.flush()
    with pytest.raises(HeaderError):
        identity(head[: data_set_offset(path)] + bomb, tmp_path, DeflatedExplicitVRLittleEndian)


def test_too_deep_is_refused(tmp_path: Path) -> None:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    sequence = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff"
    content = part10(ultrasound())
    start = content.index(b"\x08\x00\x16\x00UI")
    with pytest.raises(HeaderError, match="deep"):
        identity(content[:start] + (sequence + item) * 5000, tmp_path, ExplicitVRLittleEndian)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
def test_any_bytes_give_an_identity_or_a_header_error(
    tmp_path: Path, data: bytes, syntax: str
) -> None:
    path = tmp_path / "any"
    path.write_bytes(data)
    with contextlib.suppress(HeaderError):
        assert isinstance(read_identity(path, 0, syntax), Identity)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 500), value=st.integers(0, 255), syntax=st.sampled_from(SYNTAXES))
def test_any_damaged_byte_gives_an_identity_or_a_header_error(
    tmp_path: Path, place: int, value: int, syntax: str
) -> None:
    content = bytearray(io.BytesIO(part10(ultrasound(syntax=ExplicitVRLittleEndian))).read())
    path = tmp_path / "damaged"
    path.write_bytes(content)
    start = data_set_offset(path)
    content[min(start + place, len(content) - 1)] = value
    path.write_bytes(content)
    with contextlib.suppress(HeaderError):
        assert isinstance(read_identity(path, start, syntax), Identity)

"""The normalised header: valid values exactly, the rest mapped or emptied."""

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from qc_daemon.report.normalise import PATIENT_AND_STUDY, inherit, normalise

Make = Callable[..., Dataset]
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def raw(header: Dataset, **elements: tuple[str, bytes]) -> Dataset:
    """The header as read from a file in which these elements have these bytes."""
    for keyword in elements:
        if keyword in header:
            delattr(header, keyword)
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(buffer, header, implicit_vr=False, little_endian=True)
    written = bytearray(buffer.getvalue())
    for keyword, (vr, value) in elements.items():
        tag = DataElement(keyword, vr, None).tag
        value += b" " * (len(value) % 2)
        group, element = tag.group.to_bytes(2, "little"), tag.element.to_bytes(2, "little")
        written += group + element + vr.encode() + len(value).to_bytes(2, "little") + value
    return dcmread(BytesIO(bytes(written)), force=True)


def test_valid_values_are_inherited_exactly(us_header: Make) -> None:
    header = us_header(StudyTime="1011", PatientWeight="61.50", TimezoneOffsetFromUTC="-0330")
    copy, lost = normalise(header)
    assert not lost
    for keyword in (*PATIENT_AND_STUDY, "PatientWeight", "TimezoneOffsetFromUTC", "SOPInstanceUID"):
        assert copy[keyword].value == header[keyword].value, keyword
    assert copy.SpecificCharacterSet == "ISO_IR 192"


def test_the_received_header_is_not_changed(us_header: Make) -> None:
    header = us_header(StudyDate="1994.11.05")
    before = header.to_json()
    normalise(header)
    assert header.to_json() == before


def test_missing_type_2_is_empty_and_no_loss(us_header: Make) -> None:
    header = us_header()
    for keyword in PATIENT_AND_STUDY:
        delattr(header, keyword)
    copy, lost = normalise(header)
    assert not lost
    assert all(copy[keyword].is_empty for keyword in PATIENT_AND_STUDY)


@pytest.mark.parametrize(
    ("keyword", "received", "written"),
    [
        ("StudyDate", "1994.11.05", "19941105"),
        ("PatientBirthDate", "1960.02.29", "19600229"),
        ("StudyTime", "11:20:30", "112030"),
        ("StudyTime", "11:20:30.25", "112030.25"),
        ("StudyTime", "11:20", "1120"),
    ],
)
def test_acr_nema_dates_and_times_are_mapped(
    us_header: Make, keyword: str, received: str, written: str
) -> None:
    copy, lost = normalise(us_header(**{keyword: received}))
    assert copy[keyword].value == written
    assert not lost


@pytest.mark.parametrize(
    ("keyword", "received"),
    [
        ("StudyDate", "19941305"),
        ("StudyDate", "20230229"),
        ("StudyDate", "1994.13.05"),
        ("StudyDate", "19940101-19950101"),
        ("PatientBirthDate", "unknown"),
        ("StudyTime", "250000"),
        ("StudyTime", "10-11"),
        ("PatientSex", "W"),
        ("PatientSex", "f"),
        ("PatientID", "x" * 65),
        ("PatientID", ["1", "2"]),
        ("PatientID", "a\0b"),
        ("StudyID", "x" * 17),
        ("AccessionNumber", "a\nb"),
        ("PatientName", "x" * 65),
        ("PatientName", "a^b^c^d^e^f"),
        ("PatientName", "a=b=c=d"),
        ("PatientName", "M�ller"),
        ("TimezoneOffsetFromUTC", "+2000"),
        ("PatientAge", "30"),
        ("PatientIdentityRemoved", "MAYBE"),
        ("PatientIdentityRemoved", "YES"),
    ],
)
def test_invalid_values_are_emptied_and_counted(
    us_header: Make, keyword: str, received: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy, lost = normalise(us_header(**{keyword: received}))
    assert lost
    assert copy.get(keyword) in (None, "")


@pytest.mark.parametrize(
    ("declared", "encoded"),
    [
        ("ISO-IR 100", "latin-1"),
        ("ISO_IR_100", "latin-1"),
        ("iso ir 100", "latin-1"),
        ("ISO 8859-1", "latin-1"),
        ("ISO_IR 192", "utf-8"),
        ("ISO_IR192", "utf-8"),
        ("UTF-8", "utf-8"),
        ("ISO 10646 UTF-8", "utf-8"),
        ("ISO-2022-IR-100", "latin-1"),
    ],
)
def test_misspelt_character_sets_are_understood(
    us_header: Make, declared: str, encoded: str
) -> None:
    header = raw(
        us_header(),
        SpecificCharacterSet=("CS", declared.encode()),
        PatientName=("PN", "Müller^Änne".encode(encoded)),
    )
    copy, lost = normalise(header)
    assert str(copy.PatientName) == "Müller^Änne"
    assert not lost


@pytest.mark.parametrize("declared", [b"", b"ISO_IR 999", b"KLINGON", b"base64"])
def test_text_of_unknown_character_sets_is_not_guessed(us_header: Make, declared: bytes) -> None:
    header = raw(
        us_header(),
        SpecificCharacterSet=("CS", declared),
        PatientName=("PN", "Müller".encode("latin-1")),
        PatientID=("LO", b"4711"),
    )
    copy, lost = normalise(header)
    assert lost
    assert not copy.PatientName
    assert copy.PatientID == "4711"


def test_illegal_uids_stay_for_references(us_header: Make) -> None:
    copy, lost = normalise(us_header(SOPInstanceUID="999.999.1", StudyInstanceUID="1.2.03"))
    assert (copy.SOPInstanceUID, copy.StudyInstanceUID) == ("999.999.1", "1.2.03")
    assert not lost


def test_identity_removed_and_other_identifiers_are_inherited(us_header: Make) -> None:
    whole, part = Dataset(), Dataset()
    whole.PatientID, whole.IssuerOfPatientID, whole.TypeOfPatientID = "0815", "WARD", "TEXT"
    part.PatientID = "0816"
    method = Dataset()
    method.CodeValue, method.CodingSchemeDesignator = "113100", "DCM"
    method.CodeMeaning = "Basic Application Confidentiality Profile"
    header = us_header(
        PatientIdentityRemoved="YES",
        DeidentificationMethodCodeSequence=[method],
        OtherPatientIDsSequence=[whole, part],
    )
    copy, lost = normalise(header)
    assert lost
    dataset = Dataset()
    inherit(dataset, copy)
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert [item.PatientID for item in dataset.OtherPatientIDsSequence] == ["0815"]


def test_incomplete_codes_and_steps_are_omitted(us_header: Make) -> None:
    whole, part = Dataset(), Dataset()
    whole.CodeValue, whole.CodingSchemeDesignator, whole.CodeMeaning = "1", "99X", "NT scan"
    part.CodeValue, part.CodingSchemeDesignator = "2", "99X"
    step = Dataset()
    step.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    header = us_header(
        ProcedureCodeSequence=[part, whole],
        ReferencedPerformedProcedureStepSequence=[step],
    )
    copy, lost = normalise(header)
    assert [item.CodeValue for item in copy.ProcedureCodeSequence] == ["1"]
    assert "ReferencedPerformedProcedureStepSequence" not in copy
    assert lost


KEYWORDS = {
    "PatientName": "PN",
    "PatientID": "LO",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyTime": "TM",
    "PatientWeight": "DS",
    "NumberOfFrames": "IS",
    "Rows": "US",
    "SpecificCharacterSet": "CS",
    "ProcedureCodeSequence": "LO",
}


@given(values=st.dictionaries(st.sampled_from(sorted(KEYWORDS)), st.binary(max_size=80)))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_make_a_writable_copy(us_header: Make, values: dict[str, bytes]) -> None:
    """Whatever a file holds, the copy is written without complaint and reads back equal."""
    # pydicom cannot read a file at all whose character set has a NUL inside.
    assume(b"\0" not in values.get("SpecificCharacterSet", b""))
    header = raw(us_header(), **{key: (KEYWORDS[key], value) for key, value in values.items()})
    copy, _ = normalise(header)
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dcmwrite(buffer, copy, implicit_vr=False, little_endian=True)
    again, lost = normalise(dcmread(BytesIO(buffer.getvalue()), force=True))
    assert not lost
    assert again == copy

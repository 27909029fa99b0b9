"""Facts of acquisition: read from sound headers, None for odd values, never an error."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from detector.errors import QCError
from detector.imaging.reader import summarise_image
from qc_daemon.dicom.acquisition import (
    KEYWORDS,
    Acquisition,
    Operator,
    body_mass_index,
    device_identity,
    read_acquisition,
    read_acquisition_file,
)
from tests.support.dicom_objects import part10, ultrasound


def person(code: str, scheme: str = "99LAB") -> Dataset:
    """An item of OperatorIdentificationSequence."""
    coded, item = Dataset(), Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code, scheme, "name"
    item.PersonIdentificationCodeSequence = [coded]
    return item


def stored(tmp_path: Path, **values: Any) -> Path:
    path = tmp_path / "image.dcm"
    size = {"Rows": 32, "Columns": 32, "PixelData": bytes(1024)}
    path.write_bytes(part10(ultrasound(**size, **values)))
    return path


def test_all_facts_of_a_file(tmp_path: Path) -> None:
    acquisition = read_acquisition_file(
        stored(
            tmp_path,
            SpecificCharacterSet="ISO_IR 100",
            OperatorsName=["Müller^Eva", "Doe^Jane^^"],
            PerformingPhysicianName="Grey^M",
            DeviceSerialNumber="SN 7",
            StationName="ROOM2",
            Manufacturer="ACME",
            ManufacturerModelName="V10",
            SoftwareVersions=["1.0", "2.3"],
            TransducerData=["C5-1", "", "77"],
            TransducerType="CURVED LINEAR",
            InstitutionName="St. Mary's",
            InstitutionalDepartmentName="Prenatal",
            AcquisitionDateTime="20261129081530.25+0100",
            StudyDate="20261128",
            StudyTime="0700",
            PatientAge="031Y",
            PatientSize="1.65",
            PatientWeight="70",
            LastMenstrualDate="20260904",
            StudyDescription="First trimester",
            BurnedInAnnotation="YES",
        )
    )
    assert acquisition == Acquisition(
        operators=(Operator("Müller^Eva"), Operator("Doe^Jane")),
        performing_physician="Grey^M",
        serial_number="SN 7",
        station_name="ROOM2",
        manufacturer="ACME",
        model="V10",
        software_versions="1.0; 2.3",
        transducer="C5-1; 77",
        transducer_type="CURVED LINEAR",
        institution="St. Mary's",
        department="Prenatal",
        acquired="2026-11-29T08:15:30",
        acquired_zone="+01:00",
        acquired_source="acquisition",
        patient_age_years=31.0,
        patient_size_m=1.65,
        patient_weight_kg=70.0,
        last_menstrual_date="2026-09-04",
        study_description="First trimester",
        burned_in_annotation=True,
    )
    assert acquisition.gestational_age_days == 86
    assert body_mass_index(1.65, 70.0) == 25.7
    assert Acquisition.from_json(json.loads(json.dumps(acquisition.to_json()))) == acquisition


def test_a_code_identifies_an_operator_and_is_named_where_names_are_as_many() -> None:
    dataset = ultrasound(
        OperatorIdentificationSequence=[person("17"), Dataset()], OperatorsName=["A^B", "C^D"]
    )
    first, second = read_acquisition(dataset).operators
    assert (first.identity, first.name) == ("code:99lab:17", "A^B")
    assert second == Operator("C^D")
    dataset.OperatorsName = "A^B"
    assert read_acquisition(dataset).operators == (Operator(None, "17", "99LAB"),)
    dataset.OperatorIdentificationSequence = [Dataset()] * 2
    assert read_acquisition(dataset).operators == (Operator("A^B"),)


@pytest.mark.parametrize(
    "name",
    [
        *("UNKNOWN", "unknown^unknown", "N/A", "n.a.", "None", "-", "--", "?", "Anonymous^", "^"),
        *("Operator", "OPERATOR^", "Not Given", "unbekannt", "XXX", "Unknown=不明", "null"),
    ],
)
def test_what_names_nobody_is_no_person(name: str) -> None:
    facts = read_acquisition(ultrasound(OperatorsName=name, PerformingPhysicianName=name))
    assert facts.operators == ()
    assert facts.performing_physician is None
    named = read_acquisition(ultrasound(OperatorsName=[name, "Nil^Anna", "User^Ben"]))
    assert [each.name for each in named.operators] == ["Nil^Anna", "User^Ben"]


def test_an_operator_named_twice_is_one() -> None:
    dataset = ultrasound(OperatorsName=["Doe^Jane", "DOE^JANE^^", "Lee^Ann"])
    assert read_acquisition(dataset).operators == (Operator("Doe^Jane"), Operator("Lee^Ann"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"AcquisitionDate": "20260301", "AcquisitionTime": "0910"},
         ("2026-03-01T09:10:00", "acquisition")),
        ({"AcquisitionDate": "20260301", "ContentDate": "20260302", "ContentTime": "101112"},
         ("2026-03-02T10:11:12", "content")),
        ({"SeriesDate": "2026.03.03", "SeriesTime": "10:11:60"}, ("2026-03-03T10:11:59", "series")),
        ({"StudyDate": "20260304", "StudyTime": "235959.999999"}, ("2026-03-04T23:59:59", "study")),
        ({"StudyDate": "20260304"}, (None, None)),
        ({"StudyDate": "20260230", "StudyTime": "1000"}, (None, None)),
        ({"StudyDate": "20260304", "StudyTime": "2500"}, (None, None)),
        ({"AcquisitionDateTime": "2026", "StudyDate": "20260304", "StudyTime": "10"}, (None, None)),
    ],
)  # fmt: skip
def test_the_first_elements_that_state_a_moment_count(
    values: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    acquisition = read_acquisition(ultrasound(**values))
    assert (acquisition.acquired, acquisition.acquired_source) == expected


def test_the_zone_is_the_header_s() -> None:
    values = {"StudyDate": "20260304", "StudyTime": "1000"}
    assert read_acquisition(ultrasound(**values)).acquired_zone is None
    stated = read_acquisition(ultrasound(**values, TimezoneOffsetFromUTC="-0330"))
    assert stated.acquired_zone == "-03:30"
    odd = read_acquisition(ultrasound(**values, TimezoneOffsetFromUTC="CET"))
    assert odd.acquired_zone is None


@pytest.mark.parametrize(
    ("keyword", "value", "field"),
    [
        ("PatientAge", "31", "patient_age_years"),
        ("PatientAge", "999Y", "patient_age_years"),
        ("PatientSize", "165", "patient_size_m"),
        ("PatientWeight", "-70", "patient_weight_kg"),
        ("InstitutionName", "x" * 65, "institution"),
        ("InstitutionName", " \t ", "institution"),
        ("DeviceSerialNumber", "0000", "serial_number"),
        ("DeviceSerialNumber", "N/A", "serial_number"),
        ("BurnedInAnnotation", "MAYBE", "burned_in_annotation"),
        ("LastMenstrualDate", "20261399", "last_menstrual_date"),
    ],
)
def test_odd_values_are_none(keyword: str, value: str, field: str) -> None:
    assert getattr(read_acquisition(ultrasound(**{keyword: value})), field) is None


@pytest.mark.parametrize("start", ["20250101", "20261130"])
def test_a_gestational_age_is_one(start: str) -> None:
    values = {"StudyDate": "20261129", "StudyTime": "1000", "LastMenstrualDate": start}
    assert read_acquisition(ultrasound(**values)).gestational_age_days is None


@pytest.mark.parametrize(
    ("raw", "charset", "name"),
    [
        ("Ünal^Ö".encode("latin-1"), b"ISO_IR 100", "Ünal^Ö"),
        ("Ünal^Ö".encode(), b"ISO_IR 192", "Ünal^Ö"),
        ("Wang^XiaoDong=王^小东".encode("gb18030"), b"GB18030", "Wang^XiaoDong=王^小东"),
        ("Ünal^Ö".encode("latin-1"), b"", None),
        (b"\xff\xfe^\x81", b"ISO_IR 192", None),
    ],
)
def test_names_in_their_character_sets(
    tmp_path: Path, raw: bytes, charset: bytes, name: str | None
) -> None:
    path = stored(
        tmp_path, OperatorsName="x" * (len(raw) + len(raw) % 2), SpecificCharacterSet="ISO_IR 100"
    )
    content = path.read_bytes().replace(
        b"x" * (len(raw) + len(raw) % 2), raw.ljust(len(raw) + len(raw) % 2)
    )
    path.write_bytes(content.replace(b"ISO_IR 100", charset.ljust(10)))
    operators = read_acquisition_file(path).operators
    assert [each.name for each in operators] == ([] if name is None else [name])


def test_a_serial_number_is_one_of_its_manufacturer() -> None:
    numbered = Acquisition(serial_number="7", manufacturer="ACME", station_name="A")
    assert device_identity(numbered, "X") == device_identity(
        Acquisition(serial_number="7", manufacturer="acme ", station_name="B"), "Y"
    )
    assert device_identity(numbered, "X") != device_identity(
        Acquisition(serial_number="7", manufacturer="Other"), "X"
    )


def test_without_a_serial_number_station_model_and_calling_ae_count() -> None:
    station = Acquisition(station_name="ROOM1", model="V10")
    assert device_identity(station, "US1").source == "station"
    assert device_identity(station, "US1") != device_identity(station, "US2")
    assert device_identity(Acquisition(), "US1") != device_identity(Acquisition(), "US2")


def test_a_sequence_that_is_none_hides_neither_the_picture_nor_other_facts(tmp_path: Path) -> None:
    path = stored(tmp_path, OperatorIdentificationSequence=[person("17")], OperatorsName="A^B")
    assert read_acquisition_file(path).operators == (Operator("A^B", "17", "99LAB"),)
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x72\x10SQ") + 12
    path.write_bytes(content[:at] + b"\x08\x00\x72\x10\xff\xff" + content[at + 6 :])
    assert read_acquisition_file(path).operators == (Operator("A^B"),)
    assert summarise_image(path, read_elements=read_acquisition).rows == 32


def test_facts_behind_private_elements_and_out_of_order_are_read(tmp_path: Path) -> None:
    path = stored(tmp_path, InstitutionName="St. Mary's", PatientAge="031Y")
    content = path.read_bytes()
    start = content.index(b"\x10\x00\x10\x10AS")
    age = content[start : start + 12]
    at = content.index(b"\x08\x00\x80\x00LO")
    private = b"\x77\x00\x10\x00LO\x04\x00TEST"
    path.write_bytes(content[:at] + private + age + content[at:start] + content[start + 12 :])
    acquisition = read_acquisition_file(path)
    assert (acquisition.institution, acquisition.patient_age_years) == ("St. Mary's", 31.0)


VALUES = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        ["20261129", "1000", "+0100", "031Y", "1.7", "nan", "1e400", "Doe^J", "²0260101"]
    ),
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=12))
def test_no_value_is_an_error(values: dict[str, str]) -> None:
    dataset = Dataset()
    for keyword, value in values.items():
        if not keyword.endswith("Sequence"):
            dataset.add_new(keyword, "LO", value)
    check(read_acquisition(dataset))


CONTENT = part10(
    ultrasound(
        SOPInstanceUID="1.2.3",
        OperatorsName="A^B",
        OperatorIdentificationSequence=[person("1")],
        AcquisitionDateTime="20261129081530",
        PatientAge="031Y",
    )
)


@given(st.lists(st.tuples(st.integers(132, len(CONTENT) - 1), st.integers(0, 255)), max_size=8))
def test_no_bytes_are_an_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(CONTENT)
    for position, byte in changes:
        content[position] = byte
    path = tmp_path_factory.getbasetemp() / "changed.dcm"
    path.write_bytes(content)
    try:
        acquisition = read_acquisition_file(path)
    except QCError:
        # It is no image either, and nothing is asked about it.
        return
    check(acquisition)


def check(acquisition: Acquisition) -> None:
    """It can be stored: JSON, no control characters, no longer than its columns are meant to be."""
    assert Acquisition.from_json(json.loads(json.dumps(acquisition.to_json()))) == acquisition
    for value in acquisition.to_json().values():
        assert not isinstance(value, str) or (value.isprintable() and len(value) < 1200)
    for operator in acquisition.operators:
        assert operator.identity.encode()
        assert operator.name is not None or operator.code is not None
    assert acquisition.gestational_age_days is None or acquisition.gestational_age_days > 0

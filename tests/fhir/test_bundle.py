"""What an exam's SR says is what its FHIR resources say, and they are valid R4."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from detector.errors import QCError
from qc_daemon.fhir.bundle import UID_SYSTEM, encode, to_bundle
from tests.support.fhir_server import validate
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import ScoredExam


@pytest.fixture
def exam(tmp_path: Path) -> ScoredExam:
    return ScoredExam(tmp_path, ["sr"])


def sr_of(exam: ScoredExam) -> bytes:
    exam.close()
    assert exam.report()
    payload = [each for each in exam.sent() if each.kind == "sr"][-1].payload
    assert payload is not None
    return payload


def resources(bundle: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    *observations, report = [each["resource"] for each in bundle["entry"]]
    return report, observations


def image(exam: ScoredExam, number: int, **changes: Any) -> None:
    exam.receive_image(
        ultrasound_header(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{number}"), **changes
    )


def test_each_image_is_an_observation_and_all_are_valid(exam: ScoredExam) -> None:
    image(exam, 1)
    image(exam, 2, quality="standard")
    image(exam, 3, quality="review", probability=None)
    sr = sr_of(exam)
    bundle = to_bundle(sr)
    validate(bundle)
    report, observations = resources(bundle)
    assert report["resourceType"] == "DiagnosticReport"
    assert len(observations) == 3
    assert [each["reference"] for each in report["result"]] == [
        each["fullUrl"] for each in bundle["entry"][:-1]
    ]
    verdicts = {each["valueCodeableConcept"]["coding"][0]["code"]: each for each in observations}
    assert set(verdicts) == {"NON", "STD", "REV"}
    # Public codes stand beside ours where there are any.
    codings = verdicts["STD"]["valueCodeableConcept"]["coding"]
    assert {each["code"] for each in codings} >= {"STD", "111237"}
    dataset = dcmread(BytesIO(sr))
    assert report["identifier"][1]["value"] == f"urn:oid:{dataset.SOPInstanceUID}"
    assert report["subject"]["identifier"]["value"] == "4711"
    assert report["basedOn"][0]["identifier"]["value"] == "A1"
    assert report["effectiveDateTime"] == "2026-01-02"
    assert report["imagingStudy"][0]["identifier"]["value"] == (
        "urn:oid:1.2.826.0.1.3680043.10.1.2"
    )
    # A name is nobody's business there.
    assert "Müller" not in encode(bundle).decode()


def test_an_observation_has_view_probability_and_criteria_of_its_image(exam: ScoredExam) -> None:
    image(exam, 1)
    _, [observation] = resources(to_bundle(sr_of(exam)))
    components = {each["code"]["coding"][0]["code"]: each for each in observation["component"]}
    assert components["VIEW"]["valueCodeableConcept"]["coding"][0]["code"] == "VIEW-NT"
    assert components["PSTD"]["valueQuantity"]["system"] == "http://unitsofmeasure.org"
    assert 0 <= components["PSTD"]["valueQuantity"]["value"] <= 1
    assert any(code.startswith("CRIT-") for code in components)
    assert observation["focus"][0]["identifier"] == {
        "system": UID_SYSTEM,
        "value": "urn:oid:1.2.826.0.1.3680043.10.1.1.1",
    }
    assert observation["status"] == "preliminary"
    assert observation["device"]["display"]


def test_an_amendment_has_the_identifier_of_its_report(exam: ScoredExam) -> None:
    image(exam, 1)
    first = to_bundle(sr_of(exam))
    image(exam, 2)
    second = to_bundle(sr_of(exam))
    urls = [{entry["request"]["url"] for entry in bundle["entry"]} for bundle in (first, second)]
    assert urls[0] < urls[1]
    assert resources(first)[0]["identifier"][1] != resources(second)[0]["identifier"][1]


def test_the_same_report_is_the_same_bytes(exam: ScoredExam) -> None:
    image(exam, 1)
    sr = sr_of(exam)
    assert encode(to_bundle(sr)) == encode(to_bundle(sr))


def test_without_patient_id_and_accession_nothing_is_made_up(exam: ScoredExam) -> None:
    exam.receive_image(ultrasound_header(PatientID="", AccessionNumber="", StudyDate=""))
    bundle = to_bundle(sr_of(exam))
    validate(bundle)
    report, _ = resources(bundle)
    assert not {"subject", "basedOn", "effectiveDateTime"} & set(report)


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 200])
def test_what_is_no_report_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(QCError, match="the report cannot be read as FHIR"):
        to_bundle(content)

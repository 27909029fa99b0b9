"""What docs/integration.md says of IHE AI Results, held by reports as they are delivered."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from qc_daemon.report.source import SourceInstance
from tests.support.clinic import ANNA, Clinic
from tests.support.report_objects import nuchal_finding, ultrasound_header

FETUS = "1.2.840.113619.2.1.77"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    clinic = Clinic(tmp_path_factory.mktemp("air") / "site")
    [report] = clinic.reports(ANNA)
    clinic.exam.store.close()
    return report


def equipment(report: Dataset) -> list[Dataset]:
    """The items that describe models: source and service are described too."""
    return [
        each
        for each in report.ContributingEquipmentSequence
        if str(each.ContributionDescription).startswith("Model")
    ]


def test_findings_stand_in_a_comprehensive_3d_sr_of_tid_1500(report: Dataset) -> None:
    assert report.SOPClassUID == Comprehensive3DSRStorage
    [template] = report.ContentTemplateSequence
    assert (template.MappingResource, template.TemplateIdentifier) == ("DCMR", "1500")


def test_the_procedure_reported_is_the_imaging_procedure(report: Dataset) -> None:
    procedures = [
        item.ConceptCodeSequence[0]
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121058"
    ]
    assert procedures
    for code in procedures:
        assert "ultrasound" in code.CodeMeaning.lower()


def test_each_algorithm_is_described_as_contributing_equipment(report: Dataset) -> None:
    items = equipment(report)
    assert items
    for item in items:
        assert item.Manufacturer
        assert item.ManufacturerModelName
        assert item.SoftwareVersions
        assert item.DeviceUID.is_valid


def test_the_purpose_of_reference_is_dicoms_and_not_the_profiles(report: Dataset) -> None:
    """What the statement says is not met."""
    for item in equipment(report):
        [purpose] = item.PurposeOfReferenceCodeSequence
        assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")


def test_content_date_and_time_are_when_the_report_was_made(report: Dataset) -> None:
    """Not when the analysis began, which the statement says is not met."""
    assert report.ContentDate == report.InstanceCreationDate
    assert report.ContentTime == report.InstanceCreationTime


def test_another_model_is_another_device(report: Dataset, tmp_path: Path) -> None:
    clinic = Clinic(tmp_path / "site")
    header = ultrasound_header(StudyInstanceUID=FETUS, PatientID="x", SOPInstanceUID=f"{FETUS}.1")
    finding = nuchal_finding(SourceInstance.of(header, ""))
    bundle = replace(finding.bundle, model_id="ab" * 32)
    clinic.exam.receive(header, replace(finding, bundle=bundle))
    clinic.report()
    reports = [dcmread(BytesIO(each.payload or b"")) for each in clinic.exam.sent()]
    [other] = [each for each in reports if each.StudyInstanceUID == FETUS]
    devices = [{str(each.DeviceUID) for each in equipment(one)} for one in (report, other)]
    assert devices[0].isdisjoint(devices[1])
    clinic.exam.store.close()

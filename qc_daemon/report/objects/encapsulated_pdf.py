"""The summary as a DICOM object: Encapsulated PDF (PS3.3 A.45.1)."""

from collections.abc import Sequence
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom
from pydicom.uid import EncapsulatedPDFStorage

from model.finding import Finding
from qc_daemon.report.derived_uids import derived_uid, object_uid
from qc_daemon.report.equipment import (
    MANUFACTURER,
    MODEL_NAME,
    local_time,
    serial_number,
    set_creation_time,
    software_version,
)
from qc_daemon.report.normalise import UTF8, inherit
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.document import check_study, joined_model_ids

SERIES_NUMBER = 9905
SERIES_DESCRIPTION = "Ultrasound image quality summary (machine-made)"


def build_pdf(
    sources: Sequence[SourceInstance],
    findings: Sequence[Finding],
    document: bytes,
    title: str,
    *,
    revision: int,
    created: datetime,
) -> Dataset:
    """The object around this PDF; arguments as of `build_sr`; same arguments, same dataset.

    Raises QCError REPORT_INVALID for sources of several studies.
    """
    check_study(sources)
    first = sources[0]
    model_id = joined_model_ids(findings)
    moment = local_time(created, first.header)
    dataset = Dataset()
    dataset.SpecificCharacterSet = UTF8
    dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.SOPInstanceUID = object_uid(
        "pdf",
        EncapsulatedPDFStorage,
        first.study_instance_uid,
        (source.sha256 for source in sources),
        model_id,
        revision,
    )
    dataset.StudyInstanceUID = first.study_instance_uid
    dataset.SeriesInstanceUID = derived_uid("pdf-series", first.study_instance_uid, model_id)
    # Encapsulated Document Series Module (PS3.3 C.24.1).
    dataset.Modality = "DOC"
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = SERIES_DESCRIPTION
    dataset.InstanceNumber = revision
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.DeviceSerialNumber = serial_number(model_id)
    dataset.SoftwareVersions = software_version()
    dataset.ConversionType = "WSD"
    # It tells of many acquisitions (Type 2).
    dataset.AcquisitionDateTime = None
    # The patient's name stands on the page.
    dataset.BurnedInAnnotation = "YES"
    dataset.SourceInstanceSequence = [_reference(source) for source in sources]
    dataset.DocumentTitle = title
    dataset.ConceptNameCodeSequence = [_title()]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    # Even length (PS3.5 8.2): the padding is no part of the document.
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    dataset.EncapsulatedDocumentLength = len(document)
    inherit(dataset, first.header)
    set_creation_time(dataset, moment)
    return dataset


def _reference(source: SourceInstance) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    return reference


def _title() -> Dataset:
    code = dicom.DCM.ImagingMeasurementReport
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator = code.value, code.scheme_designator
    title.CodeMeaning = code.meaning
    return title

"""The summary as a DICOM object: Encapsulated PDF (PS3.3 A.45.1)."""

from collections.abc import Sequence
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom
from pydicom.uid import EncapsulatedPDFStorage

from model.finding import Finding
from qc_daemon.report.equipment import (
    MANUFACTURER,
    MODEL_NAME,
    local_time,
    serial_number,
    software_version,
    stamp,
)
from qc_daemon.report.normalise import UTF8, inherit
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.document import check_study, model_ids
from qc_daemon.report.derived_uids import derived_uid, object_uid

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
    model_id = model_ids(findings)
    moment = local_time(created, first.header)
    made = Dataset()
    made.SpecificCharacterSet = UTF8
    made.SOPClassUID = EncapsulatedPDFStorage
    made.SOPInstanceUID = object_uid(
        "pdf",
        EncapsulatedPDFStorage,
        first.study_instance_uid,
        (source.sha256 for source in sources),
        model_id,
        revision,
    )
    made.StudyInstanceUID = first.study_instance_uid
    made.SeriesInstanceUID = derived_uid("pdf-series", first.study_instance_uid, model_id)
    # Encapsulated Document Series Module (PS3.3 C.24.1).
    made.Modality = "DOC"
    made.SeriesNumber = SERIES_NUMBER
    made.SeriesDescription = SERIES_DESCRIPTION
    made.InstanceNumber = revision
    made.Manufacturer = MANUFACTURER
    made.ManufacturerModelName = MODEL_NAME
    made.DeviceSerialNumber = serial_number(model_id)
    made.SoftwareVersions = software_version()
    made.ConversionType = "WSD"
    # It tells of many acquisitions (Type 2).
    made.AcquisitionDateTime = None
    # The patient's name stands on the page.
    made.BurnedInAnnotation = "YES"
    made.SourceInstanceSequence = [_reference(source) for source in sources]
    made.DocumentTitle = title
    made.ConceptNameCodeSequence = [_title()]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    # Even length (PS3.5 8.2): the padding is no part of the document.
    made.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    made.EncapsulatedDocumentLength = len(document)
    inherit(made, first.header)
    stamp(made, moment)
    return made


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

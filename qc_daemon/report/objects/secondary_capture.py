"""Builds a Secondary Capture (PS3.3 A.8.1) from a picture of ours."""

from collections.abc import Sequence
from datetime import datetime

from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom
from pydicom.uid import ExplicitVRLittleEndian

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from qc_daemon.report.equipment import (
    MANUFACTURER,
    MODEL_NAME,
    dicom_date,
    dicom_time,
    set_creation_time,
    software_version,
)
from qc_daemon.report.normalise import UTF8, inherit


def build_secondary_capture(
    pixels: Pixels,
    header: Dataset,
    *,
    series: tuple[str, int, str],
    sop_instance_uid: str,
    number: int,
    derivation: str,
    sources: Sequence[Dataset],
    burned_in: bool,
    moment: datetime,
) -> Dataset:
    """The Secondary Capture; patient and study as in `header`, which is a normalised one.

    `pixels` are RGB, (rows, columns, 3); `series` is its UID, number and description; `sources` are
    items of Source Image Sequence. Raises QCError REPORT_INVALID where no valid object can be made.
    """
    uid, series_number, description = series
    try:
        dataset: Dataset = SCImage(
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=str(header.StudyInstanceUID),
            series_instance_uid=uid,
            series_number=series_number,
            series_description=description,
            sop_instance_uid=sop_instance_uid,
            instance_number=number,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions=software_version(),
            patient_orientation=("L", "F"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set=UTF8,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise QCError(
            ErrorCode.REPORT_INVALID, f"the picture was refused ({type(error).__name__})"
        ) from error
    inherit(dataset, header)
    dataset.Modality = "US"
    dataset.BurnedInAnnotation = "YES" if burned_in else "NO"
    dataset.DerivationDescription = derivation
    dataset.SourceImageSequence = list(sources)
    # No direction is known of a freehand picture (Type 2C may be empty), nor has it a side.
    dataset.PatientOrientation = None
    dataset.ImageLaterality = "U"
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = (
        dicom_date(moment),
        dicom_time(moment),
    )
    set_creation_time(dataset, moment)
    return dataset


def source_image(sop_class_uid: str, sop_instance_uid: str, frames: Sequence[int] = ()) -> Dataset:
    """An item of Source Image Sequence (PS3.3 C.7.6.1.1.4); `frames` count from 1."""
    purpose = Dataset()
    code = dicom.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if frames:
        item.ReferencedFrameNumber = list(frames)
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item

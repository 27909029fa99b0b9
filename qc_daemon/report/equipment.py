"""Equipment and creation time of our objects (PS3.3 C.7.5.2), and their PS3.10 file."""

from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

from highdicom import ContributingEquipment
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from model.finding import BundleId
from model.parts.opinion import PartId
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.dicom.implementation import MANUFACTURER as MANUFACTURER
from qc_daemon.report.derived_uids import derived_uid

MODEL_NAME = "qc-daemon"


def software_version() -> str:
    """Version of the installed package; `source` where it runs from an uninstalled tree."""
    try:
        return version("qc-daemon")
    except PackageNotFoundError:
        return "source"


def serial_number(model_id: str) -> str:
    """Device Serial Number: the device that judges is the model, so it is the model's hash."""
    return model_id[:64]


def device_uid(model_id: str) -> str:
    """Device UID (0018,1002): one for each bundle, which distinguishes the reports of two."""
    return derived_uid("device", model_id)


def contributing_equipment(bundle: BundleId) -> ContributingEquipment:
    """Contributing Equipment item (PS3.3 C.12.1) of the bundle that judged."""
    return _models_equipment(bundle, "bundle", "Models that judged the images")


def _models_equipment(
    models: BundleId | PartId, kind: str, contribution: str
) -> ContributingEquipment:
    item = ContributingEquipment(
        MANUFACTURER,
        codes.DCM.ProcessingEquipment,
        manufacturer_model_name=_long_string(f"{MODEL_NAME} {kind} {models.name}"),
        software_versions=[software_version(), _long_string(models.version)],
        device_serial_number=serial_number(models.model_id),
        contribution_description=contribution,
    )
    item.DeviceUID = device_uid(models.model_id)
    return item


def contributing_equipment_of(bundles: Iterable[BundleId]) -> list[ContributingEquipment]:
    """One item a bundle, in order of appearance."""
    return [contributing_equipment(bundle) for bundle in dict.fromkeys(bundles)]


def contributing_parts_of(parts: Iterable[PartId]) -> list[ContributingEquipment]:
    """One item a part that gave opinions, in order of appearance."""
    return [
        _models_equipment(part, f"part {part.family}", "Model that gave opinions on the views")
        for part in dict.fromkeys(parts)
    ]


def _long_string(text: str) -> str:
    """LO holds 64 characters and no backslash."""
    return text.replace("\\", "/")[:64].strip()


def device_observer(model_id: str) -> ObserverContext:
    """Device observer (PS3.16, TID 1004)."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device_uid(model_id),
            name=MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=serial_number(model_id),
        ),
    )


def local_time(created: datetime, header: Dataset) -> datetime:
    """`created` in the source's zone (0008,0201) if it names one, else in this machine's.

    An object has one zone, and it inherits dates of the source. Raises ValueError for a moment
    without a zone.
    """
    if created.tzinfo is None:
        raise ValueError("a moment without a time zone")
    offset = header.get("TimezoneOffsetFromUTC")
    if not offset:
        return created.astimezone()
    return created.astimezone(datetime.strptime(offset, "%z").tzinfo)


def dicom_date(moment: datetime) -> str:
    """The date as DA (PS3.5 6.2)."""
    return moment.strftime("%Y%m%d")


def dicom_time(moment: datetime) -> str:
    """The time as TM (PS3.5 6.2), to the microsecond."""
    return moment.strftime("%H%M%S.%f")


def set_creation_time(dataset: Dataset, moment: datetime) -> None:
    """Set the times of creation to `moment` instead of highdicom's own clock, so that the same
    arguments make the same bytes."""
    for kind in ("InstanceCreation", "Content"):
        setattr(dataset, f"{kind}Date", dicom_date(moment))
        setattr(dataset, f"{kind}Time", dicom_time(moment))
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = dicom_date(moment) + dicom_time(moment)


def to_bytes(dataset: Dataset) -> bytes:
    """The PS3.10 file of the dataset, Explicit VR Little Endian; same dataset, same bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()

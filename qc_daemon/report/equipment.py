"""Who made an object (Enhanced General Equipment Module, PS3.3 C.7.5.2) and in which file."""

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
    """The device that judges is the model: its hash is what tells two of them apart."""
    return model_id[:64]


def device_uid(model_id: str) -> str:
    """Device UID (0018,1002): one for each bundle, so that reports of two are told apart."""
    return derived_uid("device", model_id)


def contribution(bundle: BundleId) -> ContributingEquipment:
    """Contributing Equipment item (PS3.3 C.12.1) of the bundle that judged."""
    item = ContributingEquipment(
        MANUFACTURER,
        codes.DCM.ProcessingEquipment,
        manufacturer_model_name=_long_string(f"{MODEL_NAME} bundle {bundle.name}"),
        software_versions=[software_version(), _long_string(bundle.version)],
        device_serial_number=serial_number(bundle.model_id),
        contribution_description="Models that judged the images",
    )
    item.DeviceUID = device_uid(bundle.model_id)
    return item


def contributions(bundles: Iterable[BundleId]) -> list[ContributingEquipment]:
    """One item a bundle, in order of appearance."""
    return [contribution(bundle) for bundle in dict.fromkeys(bundles)]


def _long_string(text: str) -> str:
    """LO holds 64 characters and no backslash."""
    return text.replace("\\", "/")[:64].strip()


def observer(model_id: str) -> ObserverContext:
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

    One object has one zone: its dates stand beside those inherited from the source, whose clock
    hangs in the same house. Raises ValueError for a moment without a zone.
    """
    if created.tzinfo is None:
        raise ValueError("a moment without a time zone")
    offset = header.get("TimezoneOffsetFromUTC")
    if not offset:
        return created.astimezone()
    return created.astimezone(datetime.strptime(offset, "%z").tzinfo)


def date_of(moment: datetime) -> str:
    """DA."""
    return moment.strftime("%Y%m%d")


def time_of(moment: datetime) -> str:
    """TM to the microsecond."""
    return moment.strftime("%H%M%S.%f")


def stamp(dataset: Dataset, moment: datetime) -> None:
    """Replaces the clock's time, which highdicom writes: same arguments make the same bytes."""
    for kind in ("InstanceCreation", "Content"):
        setattr(dataset, f"{kind}Date", date_of(moment))
        setattr(dataset, f"{kind}Time", time_of(moment))
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = date_of(moment) + time_of(moment)


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

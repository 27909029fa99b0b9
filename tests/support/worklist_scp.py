"""Real worklists: DCMTK's wlmscpfs, and Orthanc's plugin, both on a folder of entries."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.support.orthanc import Orthanc
from tests.support.ports import reserve_port
from tests.support.waiting import eventually

AE = "WORKLIST"


def write_entry(folder: Path, number: int, **values: str) -> None:
    """One entry of the worklist, as `ModalityWorklists` and wlmscpfs read it."""
    step = Dataset()
    for keyword, value in {
        "Modality": "US",
        "ScheduledStationAETitle": "VOLUSON1",
        "ScheduledProcedureStepStartDate": "20260304",
        "ScheduledProcedureStepStartTime": "101112",
        "ScheduledPerformingPhysicianName": values.pop("operator", "Roe^Rita"),
        "ScheduledProcedureStepID": f"S{number}",
        "ScheduledProcedureStepDescription": "NT",
    }.items():
        setattr(step, keyword, value)
    entry = Dataset()
    for keyword, value in {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19900304",
        "PatientSex": "F",
        "RequestedProcedureID": f"R{number}",
        "RequestedProcedureDescription": "NT",
        **values,
    }.items():
        setattr(entry, keyword, value)
    entry.ScheduledProcedureStepSequence = [step]
    entry.file_meta = FileMetaDataset()
    entry.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    entry.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
    entry.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}"
    entry.save_as(folder / f"{number}.wl", enforce_file_format=True)


@contextmanager
def dcmtk_worklist(program: str, entries: Path) -> Iterator[int]:
    """wlmscpfs on a free port; its folder is named by the called AE title."""
    assert entries.name == AE
    (entries / "lockfile").touch()
    port = reserve_port()
    process = subprocess.Popen(
        [program, "-dfp", str(entries.parent), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _answers(port))
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def orthanc_worklist(program: str, folder: Path, entries: Path, plugin: Path) -> Iterator[int]:
    """Orthanc with its plugin of worklists."""
    server = Orthanc(
        program,
        folder,
        options={
            "Plugins": [str(plugin)],
            "Worklists": {"Enable": True, "Database": str(entries)},
            "DicomAet": AE,
            "DicomAlwaysAllowFindWorklist": True,
            "DicomCheckCalledAet": False,
        },
    ).start()
    try:
        yield server.dicom_port
    finally:
        server.stop()

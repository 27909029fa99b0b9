"""Key objects at a real Orthanc: sent as any object of ours, they arrive element for element."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.transport import OutgoingObject
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.key_objects import build_rejection, build_retraction
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.settings import DestinationSettings
from tests.support.orthanc import Orthanc

NOW = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)


@pytest.fixture
def pacs(tmp_path: Path, orthanc_program: str) -> Iterator[Orthanc]:
    started = Orthanc(orthanc_program, tmp_path / "orthanc").start()
    yield started
    started.kill()


def test_key_objects_arrive_unchanged(pacs: Orthanc, shared_data: Path) -> None:
    paths = sorted((shared_data / "us_dicom").glob("*.dcm"))[:5]
    notes = {}
    for path in paths:
        source = SourceInstance.of(dcmread(path, stop_before_pixels=True), "cc" * 32)
        note = build_rejection(source, codes.REASONS["111209"], number=1, created=NOW)
        back = build_retraction(source, note, "another image was meant", number=2, created=NOW)
        notes |= {str(each.SOPInstanceUID): each for each in (note, back)}
    transport = StoreSCU(
        DestinationSettings(name="pacs", ae_title="ORTHANC", port=pacs.dicom_port), "QCDAEMON"
    )
    for uid, note in notes.items():
        payload = to_bytes(note)
        transport.send(
            OutgoingObject(str(note.SOPClassUID), uid, "1.2.840.10008.1.2.1", uid, payload=payload)
        )
    transport.close()
    arrived = pacs.instances()
    assert set(arrived) == set(notes)
    for uid, id in arrived.items():
        assert elements(pacs.received(id).dataset) == elements(notes[uid])


def elements(dataset: Dataset) -> dict[str, Any]:
    as_json: dict[str, Any] = dataset.to_json_dict()
    return as_json

"""However large an object is, the process that sends it stays as it is."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.dul import DULServiceProvider

from qc_daemon.deliver import verified_send
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.transport import OutgoingObject
from qc_daemon.settings import DestinationSettings
from tests.support.dicom_objects import part10, ultrasound
from tests.support.pacs import Pacs

MEGABYTES = 24


@pytest.fixture
def large(tmp_path: Path) -> OutgoingObject:
    dataset = ultrasound(pixels=bytes(MEGABYTES << 20))
    path = tmp_path / "large.dcm"
    path.write_bytes(part10(dataset))
    return OutgoingObject(
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
        dataset.file_meta.TransferSyntaxUID,
        "large",
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def test_few_fragments_wait_in_memory(
    pacs: Pacs, large: OutgoingObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    send = DULServiceProvider.send_pdu

    def counted(dul: Any, primitive: Any) -> None:
        send(dul, primitive)
        waiting.append(dul.to_provider_queue.qsize())

    monkeypatch.setattr(DULServiceProvider, "send_pdu", counted)
    pacs.start()
    scu = StoreSCU(DestinationSettings(name="pacs", port=pacs.port, timeout=60), "QC")
    scu.send(large)
    scu.close()
    assert len(pacs.received[0][2]) > MEGABYTES << 20
    assert len(waiting) > 4 * verified_send._MAX_QUEUE
    assert max(waiting) <= verified_send._MAX_QUEUE

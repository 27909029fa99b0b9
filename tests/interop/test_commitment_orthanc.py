"""Storage commitment asked by an Orthanc that archives through the service."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.dicom_objects import part10, ultrasound
from tests.support.orthanc import Orthanc
from tests.support.service import Service
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
[[receive.peer]]
ae_title = "ORTHANC"
address = "127.0.0.1"
port = {port}
[jobs]
poll_seconds = 0.1
backoff_seconds = 0.5
backoff_cap_seconds = 2.0
[[destination]]
name = "archive"
kind = "folder"
folder = "archive"
objects = ["source"]
"""


@dataclass
class CommitmentSetup:
    """The Orthanc and the service it sends to."""

    orthanc: Orthanc
    service: Service

    def store(self, *instances: str) -> str:
        """Send these and ask for their commitment; the Transaction UID."""
        answer = self.orthanc.send(
            "POST",
            "/modalities/qc/store",
            {"Resources": list(instances), "StorageCommitment": True, "Synchronous": True},
        )
        return str(answer["StorageCommitmentTransactionUID"])

    def outcome(self, transaction: str) -> dict[str, Any]:
        """What Orthanc knows of it, once it was told."""

        def report_of_transaction() -> dict[str, Any] | None:
            report: dict[str, Any] = self.orthanc.get(f"/storage-commitment/{transaction}")
            return None if report["Status"] == "Pending" else report

        report: dict[str, Any] = eventually(report_of_transaction, 120)
        return report


@pytest.fixture(scope="module")
def setup(
    tmp_path_factory: pytest.TempPathFactory, orthanc_program: str
) -> Iterator[CommitmentSetup]:
    folder = tmp_path_factory.mktemp("setup")
    orthanc = Orthanc(orthanc_program, folder / "orthanc").start()
    settings = SETTINGS.format(port=orthanc.dicom_port)
    (folder / "archive").mkdir()
    service = Service(folder, settings, roles=("receive", "deliver")).start()
    orthanc.send(
        "PUT",
        "/modalities/qc",
        {
            "AET": "QCDAEMON",
            "Host": "127.0.0.1",
            "Port": service.port,
            "AllowStorageCommitment": True,
        },
    )
    yield CommitmentSetup(orthanc, service)
    service.end()
    orthanc.kill()


def test_objects_in_the_archive_are_committed(setup: CommitmentSetup) -> None:
    datasets = [ultrasound(), ultrasound()]
    ids = [setup.orthanc.send("POST", "/instances", part10(dataset))["ID"] for dataset in datasets]
    report = setup.outcome(setup.store(*ids))
    assert report["Status"] == "Success"
    assert report["RemoteAET"] == "QCDAEMON"
    committed = {each["SOPInstanceUID"] for each in report["Success"]}
    assert committed == {dataset.SOPInstanceUID for dataset in datasets}
    archived = {path.stem for path in (setup.service.folder / "archive").rglob("*.dcm")}
    assert committed <= archived


def test_an_object_never_sent_is_reported_as_no_such_object(setup: CommitmentSetup) -> None:
    dataset = ultrasound()
    id = setup.orthanc.send("POST", "/instances", part10(dataset))["ID"]
    answer = setup.orthanc.send(
        "POST",
        "/modalities/qc/storage-commitment",
        {"Resources": [id]},
    )
    report = setup.outcome(answer["ID"])
    assert report["Status"] == "Failure"
    (failure,) = report["Failures"]
    assert failure["SOPInstanceUID"] == dataset.SOPInstanceUID
    assert failure["FailureReason"] == 0x0112

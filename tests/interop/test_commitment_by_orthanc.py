"""An Orthanc as the PACS that commits to what it is sent, and as one that does not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from qc_daemon.operations.destinations import list_destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobRow, OutgoingCommitment, OutgoingCommitmentItem
from qc_daemon.settings import load
from tests.support.dicom_objects import ultrasound
from tests.support.orthanc import Orthanc
from tests.support.peers import store
from tests.support.service import Service, pause
from tests.support.waiting import eventually

# The PACS is no peer: as a destination it may open an association for its reports, no more.
SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
[[receive.peer]]
ae_title = "MODALITY"
address = "127.0.0.1"
[jobs]
poll_seconds = 0.1
backoff_seconds = 0.5
backoff_cap_seconds = 2.0
[[destination]]
name = "pacs"
ae_title = "ORTHANC"
host = "localhost"
port = {port}
objects = ["source"]
commitment = "{commitment}"
commitment_timeout = 5
"""


@dataclass
class CommitmentSetup:
    """The service and the PACS behind it."""

    orthanc: Orthanc
    service: Service

    def store(self, count: int) -> list[str]:
        """Send objects to the service; their SOP Instance UIDs."""
        datasets = [ultrasound() for _ in range(count)]
        assert store(self.service.port, *datasets) == [0x0000] * count
        return [str(each.SOPInstanceUID) for each in datasets]

    def know(self) -> None:
        """Tell Orthanc who we are, and that we may ask it for commitment."""
        self.orthanc.send(
            "PUT",
            "/modalities/qc",
            {
                "AET": "QCDAEMON",
                "Host": "127.0.0.1",
                "Port": self.service.port,
                "AllowStorageCommitment": True,
            },
        )

    def rows(self, table: type) -> list:  # type: ignore[type-arg]
        with Store(f"sqlite:///{self.service.folder / 'qc.db'}").read() as session:
            return list(session.scalars(select(table)))

    def deliveries(self) -> list[tuple[str, str | None]]:
        return [
            (row.state, row.error_message)
            for row in self.rows(JobRow)
            if row.kind == JobKind.DELIVER
        ]

    def all_delivered(self) -> bool:
        deliveries = self.deliveries()
        return bool(deliveries) and {state for state, _ in deliveries} == {"done"}


@pytest.fixture
def make_setup(tmp_path: Path, orthanc_program: str) -> Iterator[Callable[[str], CommitmentSetup]]:
    setups: list[CommitmentSetup] = []

    def make(commitment: str) -> CommitmentSetup:
        orthanc = Orthanc(orthanc_program, tmp_path / "orthanc").start()
        settings = SETTINGS.format(port=orthanc.dicom_port, commitment=commitment)
        service = Service(tmp_path, settings, roles=("receive", "deliver")).start()
        setups.append(CommitmentSetup(orthanc, service))
        return setups[-1]

    yield make
    for setup in setups:
        setup.service.end()
        setup.orthanc.kill()


def test_jobs_are_done_once_the_pacs_has_committed(
    make_setup: Callable[[str], CommitmentSetup],
) -> None:
    setup = make_setup("auto")
    setup.know()
    uids = setup.store(5)
    eventually(setup.all_delivered, 120)
    assert set(uids) == set(setup.orthanc.instances())
    assert {item.sop_instance_uid for item in setup.rows(OutgoingCommitmentItem)} == set(uids)
    assert {item.failure for item in setup.rows(OutgoingCommitmentItem)} == {0}
    assert all(commitment.taken_at is not None for commitment in setup.rows(OutgoingCommitment))
    # It has said so on an association of its own, as no peer of ours.
    events = setup.service.events("commitment told")
    assert {each["role"] for each in events} == {"receive"}


def test_an_object_the_pacs_no_longer_has_is_sent_again(
    make_setup: Callable[[str], CommitmentSetup],
) -> None:
    setup = make_setup("required")
    lost, stored = setup.store(2)

    def refused() -> bool:
        deliveries = setup.deliveries()
        return len(deliveries) == 2 and all(state == "sent" and why for state, why in deliveries)

    # It does not know us yet, and so takes no request: nothing is done before it does.
    eventually(refused, 120)
    setup.orthanc.delete(setup.orthanc.instances()[lost])
    setup.know()
    eventually(setup.all_delivered, 120)
    assert set(setup.orthanc.instances()) == {lost, stored}
    (again,) = setup.service.events("commitment refused")
    assert again["reason"].endswith("no such object (0112)")


def test_a_pacs_that_refuses_commitment_requests_is_delivered_to_and_listed_as_refusing(
    make_setup: Callable[[str], CommitmentSetup],
) -> None:
    """Orthanc offers commitment, and refuses each request of an AE title that it does not know."""
    setup = make_setup("auto")
    uids = setup.store(2)
    eventually(setup.all_delivered, 120)
    assert set(setup.orthanc.instances()) == set(uids)
    assert setup.service.events("destination commits to nothing")
    (row,) = list_destinations(load(setup.service.config))
    assert str(row["commitment"]).startswith("refused since")


@pytest.mark.slow
def test_killed_at_any_moment_every_object_is_committed_to_once(
    make_setup: Callable[[str], CommitmentSetup],
) -> None:
    setup = make_setup("required")
    setup.know()
    uids = []
    # While it sends, while sent objects wait to be asked about, while a report comes.
    for seconds in (0.1, 1.0, 2.1, 2.6):
        uids += setup.store(2)
        pause(seconds)
        setup.service.kill_role("deliver")
    setup.service.kill_role("receive")
    uids += setup.store(1)
    eventually(setup.all_delivered, 120)
    assert set(setup.orthanc.instances()) == set(uids)
    assert len(setup.deliveries()) == len(uids)

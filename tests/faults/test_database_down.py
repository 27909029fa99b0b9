"""The database server goes away while objects come in, and comes back."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobRow
from tests.support.dicom_objects import ultrasound
from tests.support.peers import association
from tests.support.postgres import PostgresServer, make_postgres
from tests.support.receive_service import receive_service, stored_uids
from tests.support.waiting import eventually

OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    server = make_postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Sender:
    """Stores one object after another, each until it is acknowledged; keeps every answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.statuses: list[int] = []
        self.acknowledged: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        waiting: Dataset | None = None
        while not self._stop.is_set():
            # pynetdicom raises where the association ends between the look and the send.
            with association(self.port) as peer, contextlib.suppress(RuntimeError):
                while peer.is_established and not self._stop.is_set():
                    waiting = waiting or ultrasound()
                    status = peer.send_c_store(waiting).get("Status")
                    if status is None:
                        break
                    self.statuses.append(status)
                    if status == 0:
                        self.acknowledged.append(str(waiting.SOPInstanceUID))
                        waiting = None
                    self._stop.wait(0.02)
            self._stop.wait(0.1)


def test_nothing_acknowledged_is_lost_when_the_database_restarts(
    tmp_path: Path, database: PostgresServer
) -> None:
    url = f"{database.url}/postgres"
    service = receive_service(tmp_path, url=url, roles=("receive", "schedule", "deliver")).start()
    try:
        with Sender(service.port) as sender:
            for _ in range(2):
                before = len(sender.acknowledged)
                eventually(lambda at=before: len(sender.acknowledged) > at + 5)
                refused = len(sender.statuses)
                database.stop()
                eventually(lambda at=refused: sender.statuses[at:].count(OUT_OF_RESOURCES) > 2)
                database.start()
            before = len(sender.acknowledged)
            eventually(lambda: len(sender.acknowledged) > before + 5)
        assert set(sender.statuses) == {0x0000, OUT_OF_RESOURCES}
        # All that was acknowledged is there, once; an object whose answer was A700 may be too.
        stored = stored_uids(url)
        assert len(set(stored)) == len(stored)
        assert set(sender.acknowledged) <= set(stored)
        assert service.events("process died") == []
        with Store(url).read() as session:
            jobs = session.execute(select(JobRow.subject, JobRow.kind)).all()
        assert len(jobs) == len(set(jobs)) == len(stored)
    finally:
        service.end()

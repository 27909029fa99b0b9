"""Several receivers on one port: real processes, killed and crowded."""

import os
import signal
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from sqlalchemy import select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, ExamHold, Instance, JobRow, Revision
from qc_daemon.spool.spool import Spool
from tests.support.dicom_objects import ultrasound
from tests.support.peers import association, store
from tests.support.service import Service
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 2
max_associations = 6
max_associations_per_ae = 4
"""
LOCAL_LIMIT = (0x02, 0x03, 0x02)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service_process = Service(tmp_path, SETTINGS, roles=("receive",)).start()
    yield service_process
    assert service_process.stop() == 0


def rows(service: Service, table: type) -> list[Any]:
    with Store(f"sqlite:///{service.folder / 'qc.db'}").read() as session:
        return list(session.scalars(select(table)))


def receivers(service: Service) -> list[int]:
    return [line["pid"] for line in service.events("ready")]


def holders(service: Service) -> set[str]:
    """The processes that exams are held by, as association tokens name them."""
    return {hold.token.rpartition("/")[0] for hold in rows(service, ExamHold)}


class Open:
    """Associations that stay open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._contexts: list[Any] = []

    def one(self, calling: str) -> Any:
        context = association(self.port, calling=calling)
        self._contexts.append(context)
        return context.__enter__()

    def __enter__(self) -> "Open":
        return self

    def __exit__(self, *_: object) -> None:
        for context in self._contexts:
            context.__exit__(None, None, None)


def rejection(assoc: Any) -> tuple[int, int, int]:
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_limits_hold_over_processes(service: Service) -> None:
    with Open(service.port) as peers:
        of_a = [peers.one("A") for _ in range(4)]
        assert all(assoc.is_established for assoc in of_a)
        assert rejection(peers.one("A")) == LOCAL_LIMIT
        assert all(peers.one(title).is_established for title in ("B", "C"))
        assert rejection(peers.one("D")) == LOCAL_LIMIT
        for assoc in of_a:
            assert assoc.send_c_store(ultrasound()).Status == 0x0000
        # They are shared out, not all one process's.
        assert len(holders(service)) == 2
        of_a[0].release()
        eventually(lambda: peers.one("D").is_established)


def test_a_dead_receivers_slots_are_freed_while_the_other_serves(service: Service) -> None:
    with Open(service.port) as peers:
        associations = [peers.one("A") for _ in range(4)]
        for each in associations:
            assert each.send_c_store(ultrasound()).Status == 0x0000
        victim = receivers(service)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: sum(each.is_established for each in associations) == 2)
        for each in associations:
            if each.is_established:
                assert each.send_c_store(ultrasound()).Status == 0x0000
        # The dead one's two places are there again, before or after its successor is.
        eventually(lambda: peers.one("A").is_established)
        eventually(lambda: len(receivers(service)) == 3)
    assert len(rows(service, Revision)) == 6


def test_the_same_object_at_once_is_one_instance(service: Service) -> None:
    datasets = [ultrasound() for _ in range(5)]
    statuses: list[int] = []

    def send() -> None:
        statuses.extend(store(service.port, *datasets))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert statuses == [0x0000] * 20
    uids = sorted(str(dataset.SOPInstanceUID) for dataset in datasets)
    assert sorted(row.sop_instance_uid for row in rows(service, Instance)) == uids
    assert [row.number for row in rows(service, Revision)] == [1] * 5
    assert len(rows(service, Exam)) == 1
    assert [job.kind for job in rows(service, JobRow)] == ["score"] * 5
    assert len(list((service.folder / "spool").rglob("*.dcm"))) == 5


def test_only_partial_files_of_dead_receivers_are_removed(service: Service) -> None:
    spool = Spool(service.folder / "spool")
    with spool.open() as ours:
        ours.write(b"of a living process")
        with Open(service.port) as peers:
            assoc = peers.one("A")
            halfway(assoc)
            eventually(lambda: len(list(spool.incoming.glob("*.part"))) == 2)
            holder = next(
                int(path.name.split("-")[0])
                for path in spool.incoming.glob("*.part")
                if path != ours.path
            )
            os.kill(holder, signal.SIGKILL)
            eventually(lambda: list(spool.incoming.glob("*.part")) == [ours.path])


def halfway(assoc: Any) -> None:
    """Begin a C-STORE and never end it."""
    dataset = ultrasound()
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    request.DataSet = BytesIO(bytes(100))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    (context,) = assoc.accepted_contexts
    command, *_ = message.encode_msg(context.context_id, 16384)
    assoc.dul.send_pdu(command)

"""Spool against database, as a kill between the two leaves them."""

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from detector.errors import QCError
from qc_daemon.observe import counters
from qc_daemon.operations.queue import list_jobs
from qc_daemon.operations.spool import discard_orphans, list_orphans, release_orphans
from qc_daemon.records.tables import Revision
from qc_daemon.retain.reconcile import MARGIN, reconcile
from qc_daemon.service import supervisor as daemon
from qc_daemon.settings import RuleSettings
from qc_daemon.spool import service_lock
from tests.retain.conftest import Yard
from tests.support.dicom_peers import association, eventually, ultrasound

RECEIVER = """
import os, signal, socket, sys, threading
from pathlib import Path
from qc_daemon.receive import Receiver, Spool, listen
from qc_daemon.records.received import receipts
from qc_daemon.records.store import Store
from qc_daemon.settings import ReceiveSettings

def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

receipts.admit = die
listener = listen("127.0.0.1", 0)
receiver = Receiver(ReceiveSettings(), Store(sys.argv[1]), Spool(Path(sys.argv[2])), "test")
receiver.start(listener)
print(listener.getsockname()[1], flush=True)
threading.Event().wait()
"""
"""A receiver that is killed between the file's adoption and its row's transaction."""


def found(yard: Yard, before: datetime | None = None, **options: Any) -> Any:
    return reconcile(yard.store, yard.spool.root, before or datetime.now(UTC), **options)


def test_files_with_rows_are_in_order(yard: Yard) -> None:
    for _ in range(3):
        yard.receive()
    result = found(yard)
    assert (result.files, result.clean) == (3, True)


def test_a_young_file_counts_as_known_or_as_too_young(yard: Yard) -> None:
    known = ultrasound()
    yard.receive(known, yard.file(known, hours_old=0))
    yard.file(hours_old=0)
    yard.file()
    result = found(yard)
    assert (result.files, result.young, result.orphans) == (3, 1, 1)
    result = found(yard, margin=timedelta(0))
    assert (result.files, result.young, result.orphans) == (3, 0, 2)


def test_a_kill_between_file_and_row_leaves_an_orphan_that_a_resend_heals(yard: Yard) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, yard.settings.store.url, str(yard.spool.root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    dataset = ultrasound()
    with association(port) as made:
        # Nobody told the sender success: it keeps the object.
        assert "Status" not in made.send_c_store(dataset)
    assert process.wait(30) == -signal.SIGKILL
    (orphan,) = (path for path in yard.spool.root.rglob("*.dcm"))
    # A start right now takes it for one whose row is on its way.
    assert found(yard).clean
    result = found(yard, datetime.now(UTC) + MARGIN + timedelta(minutes=1))
    assert result.orphan_paths == [orphan.relative_to(yard.spool.root).as_posix()]
    _age(orphan)
    assert [row["sha256"] for row in list_orphans(yard.settings)] == [orphan.stem]
    yard.receive(dataset, orphan)
    assert list_orphans(yard.settings) == []


def _age(path: Path) -> None:
    moment = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    os.utime(path, (moment, moment))


def test_a_released_orphan_is_admitted_with_its_jobs(yard: Yard) -> None:
    orphan = yard.file(ultrasound(SOPInstanceUID="1.2.3.77"))
    assert release_orphans(yard.settings, [orphan.stem]) == 1
    jobs = list_jobs(yard.settings, [])
    assert [(job["kind"], job["destination"]) for job in jobs] == [
        ("score", ""),
        ("deliver", "pacs"),
    ]
    facts = yard.facts(1)
    assert (facts.sop_instance_uid, facts.sha256) == ("1.2.3.77", orphan.stem)
    assert found(yard).clean
    with pytest.raises(QCError, match="no orphan"):
        release_orphans(yard.settings, [orphan.stem])


def test_a_released_orphan_goes_where_a_rule_sends_it(yard: Yard) -> None:
    """Its sender is not known, so that a rule about one does not match."""
    yard.settings.rule = [
        RuleSettings(name="ae", objects=["source"], drop=True, calling_ae="?*"),
        RuleSettings(name="st", objects=["source"], to=["archive"], station="ROOM*"),
    ]
    orphan = yard.file(ultrasound(StationName="ROOM 3"))
    assert release_orphans(yard.settings, [orphan.stem]) == 1
    jobs = list_jobs(yard.settings, [])
    assert [job["destination"] for job in jobs if job["kind"] == "deliver"] == ["archive"]


def test_a_discarded_orphan_is_gone_and_nothing_else_can_be_discarded(yard: Yard) -> None:
    orphan = yard.file()
    known = yard.receive()
    assert discard_orphans(yard.settings, [orphan.stem]) == 1
    assert not orphan.exists()
    for name in (known.sha256, "0" * 64, "../../qc.db"):
        with pytest.raises(QCError):
            discard_orphans(yard.settings, [name])
    fresh = yard.file(hours_old=0)
    with (
        service_lock.running(yard.spool.root),
        pytest.raises(QCError, match="being received"),
    ):
        discard_orphans(yard.settings, [fresh.stem])
    assert fresh.exists()
    # Without a service nothing is being received.
    assert discard_orphans(yard.settings, [fresh.stem]) == 1


def test_a_damaged_orphan_is_not_released(yard: Yard) -> None:
    orphan = yard.file()
    orphan.write_bytes(orphan.read_bytes()[:-1])
    _age(orphan)
    with pytest.raises(QCError, match="damaged"):
        release_orphans(yard.settings, [orphan.stem])


def test_missing_and_damaged_files_are_told(yard: Yard) -> None:
    gone, short = yard.receive(), yard.receive()
    (yard.spool.root / gone.path).unlink()
    (yard.spool.root / short.path).write_bytes(b"short")
    result = found(yard)
    assert (result.missing, result.damaged) == (1, 1)
    assert result.missing_ids == [gone.revision_id, short.revision_id]


def test_a_crash_between_dropping_row_and_file_is_mended(yard: Yard) -> None:
    dropped, kept = yard.receive(), yard.receive()
    with yard.store.begin() as session:
        session.execute(
            update(Revision)
            .where(Revision.id == dropped.revision_id)
            .values(dropped_at=datetime.now(UTC))
        )
    assert found(yard).removed == 0
    assert found(yard, mend=True).removed == 1
    assert not (yard.spool.root / dropped.path).exists()
    assert (yard.spool.root / kept.path).exists()
    assert found(yard).clean


def test_pieces_of_interrupted_fetches_are_removed(yard: Yard) -> None:
    old, new = (yard.spool.incoming / name for name in ("a.fetched", "b.fetched"))
    for path in (old, new):
        path.write_bytes(b"x")
    _age(old)
    found(yard, mend=True)
    assert (old.exists(), new.exists()) == (False, True)


def test_it_goes_page_by_page_and_stops_when_told(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qc_daemon.retain.reconcile._PAGE", 2)
    for _ in range(5):
        yard.receive()
    yard.file()
    result = found(yard)
    assert (result.files, result.orphans, result.missing) == (6, 1, 0)
    stop = threading.Event()
    stop.set()
    assert found(yard, stop=stop).files == 0


def test_a_second_receipt_of_the_same_bytes_is_no_orphan(yard: Yard) -> None:
    dataset = ultrasound()
    yard.receive(dataset)
    yard.receive(dataset)
    assert found(yard).clean


def test_orphans_are_counted_again_while_the_service_runs(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_RECONCILE_SECONDS", 0.05)
    supervisor = daemon.Supervisor(yard.settings, yard.store, yard.spool, {})
    comparing = threading.Thread(target=supervisor._reconcile)
    comparing.start()
    try:
        assert counters.board().most("spool_orphans") == 0
        yard.file()
        eventually(lambda: counters.board().most("spool_orphans") == 1)
    finally:
        supervisor._stop.set()
        comparing.join()

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
from qc_daemon.spool.verification import Condition, move_to_damaged
from tests.support.dicom_objects import ultrasound
from tests.support.peers import association
from tests.support.storage import Storage
from tests.support.waiting import eventually

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


def run_reconcile(storage: Storage, before: datetime | None = None, **options: Any) -> Any:
    return reconcile(storage.store, storage.spool.root, before or datetime.now(UTC), **options)


def test_files_with_rows_are_in_order(storage: Storage) -> None:
    for _ in range(3):
        storage.receive()
    result = run_reconcile(storage)
    assert (result.files, result.is_clean) == (3, True)


def test_a_young_file_has_a_row_or_is_too_young(storage: Storage) -> None:
    original = ultrasound()
    storage.receive(original, storage.file(original, hours_old=0))
    storage.file(hours_old=0)
    storage.file()
    result = run_reconcile(storage)
    assert (result.files, result.young, result.orphans) == (3, 1, 1)
    result = run_reconcile(storage, margin=timedelta(0))
    assert (result.files, result.young, result.orphans) == (3, 0, 2)


def test_a_kill_between_file_and_row_leaves_an_orphan_that_a_resend_heals(storage: Storage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, storage.settings.store.url, str(storage.spool.root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    dataset = ultrasound()
    with association(port) as assoc:
        # Nobody told the sender success: it keeps the object.
        assert "Status" not in assoc.send_c_store(dataset)
    assert process.wait(30) == -signal.SIGKILL
    (orphan,) = (path for path in storage.spool.root.rglob("*.dcm"))
    # A start right now takes it for one whose row is on its way.
    assert run_reconcile(storage).is_clean
    result = run_reconcile(storage, datetime.now(UTC) + MARGIN + timedelta(minutes=1))
    assert result.orphan_paths == [orphan.relative_to(storage.spool.root).as_posix()]
    _age(orphan)
    assert [row["sha256"] for row in list_orphans(storage.settings)] == [orphan.stem]
    storage.receive(dataset, orphan)
    assert list_orphans(storage.settings) == []


def _age(path: Path) -> None:
    moment = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    os.utime(path, (moment, moment))


def test_a_released_orphan_is_admitted_with_its_jobs(storage: Storage) -> None:
    orphan = storage.file(ultrasound(SOPInstanceUID="1.2.3.77"))
    assert release_orphans(storage.settings, [orphan.stem]) == 1
    jobs = list_jobs(storage.settings, [])
    assert [(job["kind"], job["destination"]) for job in jobs] == [
        ("score", ""),
        ("deliver", "pacs"),
    ]
    facts = storage.facts(1)
    assert (facts.sop_instance_uid, facts.sha256) == ("1.2.3.77", orphan.stem)
    assert run_reconcile(storage).is_clean
    with pytest.raises(QCError, match="no orphan"):
        release_orphans(storage.settings, [orphan.stem])


def test_a_released_orphan_goes_where_a_rule_sends_it(storage: Storage) -> None:
    """Its sender is not known, so that a rule about one does not match."""
    storage.settings.rule = [
        RuleSettings(name="ae", objects=["source"], drop=True, calling_ae="?*"),
        RuleSettings(name="st", objects=["source"], to=["archive"], station="ROOM*"),
    ]
    orphan = storage.file(ultrasound(StationName="ROOM 3"))
    assert release_orphans(storage.settings, [orphan.stem]) == 1
    jobs = list_jobs(storage.settings, [])
    assert [job["destination"] for job in jobs if job["kind"] == "deliver"] == ["archive"]


def test_a_discarded_orphan_is_gone_and_nothing_else_can_be_discarded(storage: Storage) -> None:
    orphan = storage.file()
    original = storage.receive()
    assert discard_orphans(storage.settings, [orphan.stem]) == 1
    assert not orphan.exists()
    for name in (original.sha256, "0" * 64, "../../qc.db"):
        with pytest.raises(QCError):
            discard_orphans(storage.settings, [name])
    fresh = storage.file(hours_old=0)
    with (
        service_lock.shared(storage.spool.root),
        pytest.raises(QCError, match="being received"),
    ):
        discard_orphans(storage.settings, [fresh.stem])
    assert fresh.exists()
    # Without a service nothing is being received.
    assert discard_orphans(storage.settings, [fresh.stem]) == 1


def test_a_damaged_orphan_is_not_released(storage: Storage) -> None:
    orphan = storage.file()
    orphan.write_bytes(orphan.read_bytes()[:-1])
    _age(orphan)
    with pytest.raises(QCError, match="damaged"):
        release_orphans(storage.settings, [orphan.stem])


def test_missing_and_damaged_files_are_counted(storage: Storage) -> None:
    missing, short = storage.receive(), storage.receive()
    (storage.spool.root / missing.path).unlink()
    (storage.spool.root / short.path).write_bytes(b"short")
    result = run_reconcile(storage)
    assert (result.missing, result.damaged) == (1, 1)
    assert [(each.revision_id, each.condition) for each in result.faulty_files] == [
        (missing.revision_id, Condition.MISSING),
        (short.revision_id, Condition.DAMAGED),
    ]


def test_a_file_that_was_set_aside_is_damaged_and_not_missing(storage: Storage) -> None:
    flipped = storage.receive()
    path = storage.spool.root / flipped.path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    # By its size alone nothing is wrong.
    assert run_reconcile(storage).is_clean
    (in_place,) = run_reconcile(storage, full=True).faulty_files
    assert (in_place.condition, in_place.set_aside) == (Condition.DAMAGED, None)
    moved = move_to_damaged(storage.spool.root, path, flipped.sha256)
    assert moved is not None
    for full in (False, True):
        result = run_reconcile(storage, full=full)
        assert (result.missing, result.damaged) == (0, 1)
        (aside,) = result.faulty_files
        assert aside.set_aside == moved.relative_to(storage.spool.root).as_posix()


def test_a_file_left_by_a_crash_after_the_drop_is_removed(storage: Storage) -> None:
    dropped, other = storage.receive(), storage.receive()
    with storage.store.begin() as session:
        session.execute(
            update(Revision)
            .where(Revision.id == dropped.revision_id)
            .values(dropped_at=datetime.now(UTC))
        )
    assert run_reconcile(storage).removed == 0
    assert run_reconcile(storage, fix=True).removed == 1
    assert not (storage.spool.root / dropped.path).exists()
    assert (storage.spool.root / other.path).exists()
    assert run_reconcile(storage).is_clean


def test_partial_files_of_interrupted_fetches_are_removed(storage: Storage) -> None:
    old, new = (storage.spool.incoming / name for name in ("a.fetched", "b.fetched"))
    for path in (old, new):
        path.write_bytes(b"x")
    _age(old)
    run_reconcile(storage, fix=True)
    assert (old.exists(), new.exists()) == (False, True)


def test_it_reads_in_pages_and_ends_at_stop(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qc_daemon.retain.reconcile._PAGE", 2)
    for _ in range(5):
        storage.receive()
    storage.file()
    result = run_reconcile(storage)
    assert (result.files, result.orphans, result.missing) == (6, 1, 0)
    stop = threading.Event()
    stop.set()
    assert run_reconcile(storage, stop=stop).files == 0


def test_a_second_receipt_of_the_same_bytes_is_no_orphan(storage: Storage) -> None:
    dataset = ultrasound()
    storage.receive(dataset)
    storage.receive(dataset)
    assert run_reconcile(storage).is_clean


def test_orphans_are_counted_again_while_the_service_runs(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_RECONCILE_SECONDS", 0.05)
    supervisor = daemon.Supervisor(storage.settings, storage.store, storage.spool, {})
    comparing = threading.Thread(target=supervisor._reconcile)
    comparing.start()
    try:
        assert counters.shared().maximum("spool_orphans") == 0
        storage.file()
        eventually(lambda: counters.shared().maximum("spool_orphans") == 1)
    finally:
        supervisor._stop.set()
        comparing.join()

"""The spool for an operator: files that rows lack, and orphans: files that no row names
(`retain.reconcile`).

Senders of orphans never got a success status and have most likely sent them again, so nothing
happens to them automatically. Released, an orphan is admitted as if received now; discarded, it is
deleted.
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind, listed
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import open_store
from qc_daemon.receive import Spool
from qc_daemon.receive.identifiers import HeaderError, data_set_offset, read_identity
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import receipts, retention, revisions
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.retain.reconcile import MARGIN, reconcile
from qc_daemon.routing import SOURCE, Routes, Traits
from qc_daemon.settings import Settings
from qc_daemon.spool import service_lock
from qc_daemon.spool.verification import DAMAGED_FOLDER

_NAME = re.compile(r"[0-9a-f]{64}")


ORPHAN_COLUMNS = ("sha256", "bytes", "written", "reason")
FAULT_COLUMNS = (
    "condition",
    "exam_id",
    "sop_instance_uid",
    "revision",
    "received",
    "file",
    "set_aside",
)
FAULT_TABLE = ("condition", "exam_id", "sop_instance_uid", "file", "set_aside")
FAULT_ADVICE = (
    "damaged: the bytes are not those that were received, and are never used. The nightly scrub,"
    " or the first stage that needs the file, sets it aside in the spool's folder"
    f" {DAMAGED_FOLDER} and fetches the same bytes from a destination that has them.",
    "missing, or damaged and not fetched back: copy the file from a backup to its place (file), or"
    " have the object sent again; what waits for it then goes on by itself.",
)
"""What becomes of faulty files, and what to do; a line each."""
SIZES_ONLY = (
    "only the sizes of the files were compared, which shows no altered bytes;"
    " spool check --full reads their content"
)
"""What a check without `full` leaves open."""
# Rows of one query.
_PAGE = 500


def list_faulty_files(
    settings: Settings, *, full: bool, clock: Clock = utc_now
) -> list[dict[str, Any]]:
    """Received objects whose file is missing, damaged or unreadable; paths are in the spool.

    Files are compared by their size, with `full` by their SHA-256. Raises QCError STORAGE.
    """
    spool, store = settings.store.spool, open_store(settings)
    if not spool.is_dir():
        return []
    faulty = reconcile(
        store, spool, clock(), full=full, margin=orphan_margin(spool), listed=sys.maxsize
    ).faulty_files
    rows: list[dict[str, Any]] = []
    for start in range(0, len(faulty), _PAGE):
        page = faulty[start : start + _PAGE]
        with store.read() as session:
            facts = revisions.facts_of(session, [each.revision_id for each in page])
        rows += [
            {
                "condition": each.condition.value,
                "exam_id": facts[each.revision_id].exam_id,
                "sop_instance_uid": facts[each.revision_id].sop_instance_uid,
                "revision": facts[each.revision_id].number,
                "received": facts[each.revision_id].received_at.isoformat(timespec="seconds"),
                "file": each.path,
                "set_aside": each.set_aside,
            }
            for each in page
        ]
    return rows


def list_orphans(settings: Settings, clock: Clock = utc_now) -> list[dict[str, Any]]:
    """Orphans by SHA-256, those old enough that no row for them can be on its way."""
    spool, store = settings.store.spool, open_store(settings)
    if not spool.is_dir():
        # Nothing was ever received.
        return []
    result = reconcile(store, spool, clock(), margin=orphan_margin(spool))
    return [
        {
            "sha256": Path(path).stem,
            "bytes": (spool / path).stat().st_size,
            "written": _modified_at(spool / path).isoformat(timespec="seconds"),
            "reason": "no row: its receipt was not completed, or a backup without it was restored",
        }
        for path in result.orphan_paths
    ]


def orphan_hashes(settings: Settings, clock: Clock = utc_now) -> list[str]:
    """SHA-256 of all orphans old enough to be judged."""
    names: list[str] = []
    spool, store = settings.store.spool, open_store(settings)
    try:
        if spool.is_dir():
            result = reconcile(
                store, spool, clock(), margin=orphan_margin(spool), listed=sys.maxsize
            )
            names = [Path(path).stem for path in result.orphan_paths]
    finally:
        store.close()
    return names


def release_orphans(settings: Settings, names: Sequence[str], clock: Clock = utc_now) -> int:
    """Admit orphans as if received now; returns how many. Raises QCError at the first that cannot
    be admitted."""
    store = open_store(settings)
    try:
        paths = [_orphan(store, settings, name, clock()) for name in names]
        for path in paths:
            _admit(store, settings, path, clock())
        if paths:
            objects = {"file": listed([path.stem for path in paths])}
            record(settings, AuditKind.RELEASED, objects=objects, clock=clock)
    finally:
        store.close()
    return len(paths)


def _admit(store: Store, settings: Settings, path: Path, now: datetime) -> None:
    receipt, traits = _receipt(settings.store.spool, path)
    with store.begin() as session:
        bundle = bundles.active(session)
        receipts.admit(
            session,
            receipt,
            source_destinations=Routes.of(settings).route(SOURCE, [traits]).to,
            bundle_id=None if bundle is None else bundle.model_id,
            now=now,
        )


def discard_orphans(settings: Settings, names: Sequence[str], clock: Clock = utc_now) -> int:
    """Delete orphans; returns how many. Raises QCError at the first that is none."""
    store = open_store(settings)
    paths = [_orphan(store, settings, name, clock()) for name in names]
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        objects = {"file": listed([path.stem for path in paths])}
        detail = {"what": "received files that belong to no object"}
        record(settings, AuditKind.DELETED, objects=objects, detail=detail, clock=clock)
    return len(paths)


def orphans_of(settings: Settings, patient_id: str, clock: Clock = utc_now) -> list[str]:
    """SHA-256 of the orphans whose header names this patient; what cannot be read names nobody."""
    hashes = []
    for name in orphan_hashes(settings, clock):
        path = Spool(settings.store.spool).path(name)
        try:
            syntax = str(read_file_meta_info(path).TransferSyntaxUID)
            identity = read_identity(path, data_set_offset(path), syntax)
        except Exception:
            # Whatever a file has that was never taken in: it is listed by `spool list`.
            continue
        if identity.patient_id == patient_id:
            hashes.append(name)
    return hashes


def orphan_margin(spool: Path) -> timedelta:
    """How old a file must be to be judged: no row is on its way where no service runs."""
    return MARGIN if service_lock.is_running(spool) else timedelta(0)


def _orphan(store: Store, settings: Settings, name: str, now: datetime) -> Path:
    spool = Spool(settings.store.spool)
    path = spool.path(name)
    if _NAME.fullmatch(name) is None or not path.is_file():
        raise QCError(ErrorCode.STORAGE, f"the spool has no file {name[:80]}; see spool list")
    with store.read() as session:
        rows = retention.referenced_paths(session, [path.relative_to(spool.root).as_posix()])
    if rows:
        raise QCError(ErrorCode.STORAGE, f"{name} is no orphan: the database knows it")
    if _modified_at(path) > now - orphan_margin(spool.root):
        raise QCError(ErrorCode.STORAGE, f"{name} is being received; wait and see spool list")
    return path


def _receipt(spool: Path, path: Path) -> tuple[receipts.Receipt, Traits]:
    """The receipt and traits that the receiver would have recorded, without the sender, whom the
    file does not name."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != path.stem:
        raise QCError(
            ErrorCode.UNREADABLE, f"{path.stem} is damaged: its bytes have another hash; discard it"
        )
    syntax = str(read_file_meta_info(path).TransferSyntaxUID)
    try:
        identity = read_identity(path, data_set_offset(path), syntax, with_description=True)
    except HeaderError as error:
        raise QCError(ErrorCode.UNREADABLE, f"{path.stem} cannot be read: {error}") from error
    receipt = receipts.Receipt(
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        patient_id=identity.patient_id,
        patient_name=identity.patient_name,
        accession_number=identity.accession_number,
        study_date=identity.study_date,
        transfer_syntax_uid=syntax,
        calling_ae="",
        sha256=sha256,
        size=path.stat().st_size,
        path=path.relative_to(spool).as_posix(),
        association="",
    )
    return receipt, Traits("", identity.station_name, identity.study_description)


def _modified_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)

"""Erases all data of a patient, and certifies it.

The rows go in one transaction, with the certificate; then the files. A crash between the two leaves
files without a row, which the same command finds by their headers when it is given again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.backup import contents, series
from qc_daemon.backup.manifest import read_manifest
from qc_daemon.operations.patients import certificate as certificates
from qc_daemon.operations.shared import open_store, parse_person
from qc_daemon.operations.spool import discard_orphans, orphans_of
from qc_daemon.records import schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.patients import erasures, identities
from qc_daemon.records.patients.erasures import PatientContent
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files
from qc_daemon.spool.verification import damaged_files

COLUMNS = ("number", "erased_at", "erased_by", "exams", "images", "sha256")


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """What was erased, or would be; `number` is None where nothing was."""

    number: int | None
    certificate: dict[str, Any]
    sha256: str | None
    patient_id: str
    studies: tuple[str, ...]
    obstacles: tuple[str, ...] = ()
    earlier: tuple[int, ...] = ()

    @property
    def lines(self) -> list[str]:
        """It as text."""
        text = certificates.lines(self.certificate, self.sha256, self.patient_id, self.studies)
        text += [f"It cannot be done yet: {each}" for each in self.obstacles]
        text += [f"Erased before: see erasure show {number}" for number in self.earlier]
        return text

    @property
    def document(self) -> dict[str, Any]:
        """It as a JSON object."""
        more = {"obstacles": list(self.obstacles)} if self.number is None else {}
        return (
            certificates.document(
                self.certificate, self.sha256 or "", self.patient_id, self.studies
            )
            | {"number": self.number, "earlier": list(self.earlier)}
            | more
        )


def preview(settings: Settings, patient_id: str, clock: Clock = utc_now) -> ErasureResult:
    """What `erase` would do now; changes nothing. Raises QCError."""
    store = open_store(settings)
    orphans = _orphans(settings, store, patient_id, clock)
    with store.read() as session:
        content = erasures.patient_content(session, patient_id)
        obstacles = erasures.obstacles(session, patient_id)
    draft = _certificate(settings, content, orphans, "", clock())
    earlier = _earlier(store, patient_id)
    return ErasureResult(
        None, draft, None, patient_id, content.studies, tuple(obstacles), tuple(earlier)
    )


def erase(
    settings: Settings,
    patient_id: str,
    erased_by: str,
    out: Path | None = None,
    clock: Clock = utc_now,
) -> ErasureResult:
    """Erase the patient's data; the certificate is also written to the folder `out`.

    Done again, it finds nothing and changes nothing. Raises QCError where exams are open or jobs
    wait or run, or where the folder cannot be written: then nothing is erased; UsageError.
    """
    by = parse_person(erased_by, "--by")
    if not patient_id:
        raise UsageError("give a Patient ID; images without one are several patients'")
    if out is not None:
        _make(out)
    store, now = open_store(settings), clock()
    orphans = _orphans(settings, store, patient_id, clock)
    with store.begin() as session:
        erasures.lock(session, patient_id)
        content = erasures.patient_content(session, patient_id)
        obstacles = erasures.obstacles(session, patient_id)
        if obstacles:
            raise QCError(ErrorCode.STORAGE, f"not erased: {'; '.join(obstacles)}")
        key = erasures.patient_key(session, patient_id)
        earlier = tuple(each.id for each in erasures.list_erasures(session, key))
        certificate = _certificate(settings, content, orphans, by, now) | {"patient_key": key}
        # A backup of before a merge has her images under these.
        if others := erasures.other_keys(session, patient_id):
            certificate["other_keys"] = others
        sha256 = certificates.digest(certificate)
        number = None
        if not content.is_empty or orphans:
            erasures.erase(session, patient_id)
            number = erasures.store(session, key, by, now, certificate, sha256)
    result = ErasureResult(
        number,
        certificate,
        None if number is None else sha256,
        patient_id,
        content.studies,
        earlier=earlier,
    )
    if number is None:
        return result
    _remove_files(settings, content)
    if orphans:
        discard_orphans(settings, orphans, clock)
    # SQLite's write-ahead log has the pages as they were.
    schema.checkpoint(settings.store.url)
    record(
        settings,
        AuditKind.DELETED,
        patient_id=patient_id,
        objects={"certificate": number},
        detail={"what": "all data of a patient", "sha256": sha256},
        clock=clock,
    )
    if out is not None:
        name = out / f"erasure-{number}"
        document = json.dumps(result.document, indent=1, ensure_ascii=False) + "\n"
        private_files.write(name.with_suffix(".json"), document.encode())
        private_files.write(name.with_suffix(".txt"), ("\n".join(result.lines) + "\n").encode())
    return result


def list_erasures(settings: Settings) -> list[dict[str, Any]]:
    """The erasures, newest first; no patient is named."""
    with open_store(settings).read() as session:
        rows = erasures.list_erasures(session)
    return [
        {
            "number": each.id,
            "erased_at": each.erased_at.isoformat(timespec="seconds"),
            "erased_by": each.erased_by,
            "exams": each.certificate["removed"]["exams"],
            "images": each.certificate["removed"]["images"],
            "sha256": each.sha256,
        }
        for each in rows
    ]


def show_erasure(settings: Settings, number: int) -> tuple[dict[str, Any], list[str]]:
    """A stored certificate as JSON and as lines, with what its hash shows. Raises QCError."""
    with open_store(settings).read() as session:
        stored = next((each for each in erasures.list_erasures(session) if each.id == number), None)
    if stored is None:
        raise QCError(ErrorCode.STORAGE, f"no erasure {number}; see erasure list")
    is_unchanged = certificates.digest(stored.certificate) == stored.sha256
    text = certificates.lines(stored.certificate, stored.sha256)
    if not is_unchanged:
        text.append("The certificate is not what was stored: its hash is another")
    document = {
        "number": number,
        "certificate": stored.certificate,
        "sha256": stored.sha256,
        "is_unchanged": is_unchanged,
    }
    return document, text


def _certificate(
    settings: Settings, content: PatientContent, orphans: list[str], by: str, now: datetime
) -> dict[str, Any]:
    removed: dict[str, Any] = dict(content.counts)
    removed["files in the spool"] = sum(
        (settings.store.spool / path).exists() for path in content.files
    )
    removed["bytes in the spool"] = content.size
    removed["files without a row"] = len(orphans)
    return {
        "format": certificates.FORMAT,
        "erased_at": now.isoformat(timespec="seconds"),
        "erased_by": by,
        "version": contents.own_version(),
        "removed": removed,
        "kept": [
            {"where": where, "what": what} for where, what in _remainder(settings, content, orphans)
        ],
    }


def _remainder(
    settings: Settings, content: PatientContent, orphans: list[str]
) -> Iterator[tuple[str, str]]:
    """Where data of the patient still are, as far as we know."""
    for destination, counts in content.delivered.items():
        what = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        yield f"destination {destination}", f"{what}: ask the archive to delete its study"
    if not content.delivered:
        yield "destinations", "nothing was delivered"
    hashes = {*content.sha256, *orphans}
    for backup, count in _backups(settings, hashes):
        what = "the database" if not count else f"the database and {count} received objects"
        yield f"backup {backup}", f"{what}, until it is removed; erase again after restoring it"
    for path in _copies(settings):
        yield f"copy of the database {path.name}", "as it was before; delete it when not needed"
    yield "other backups", "made by db backup or by others: where they lie is not known here"
    yield "audit log", "Patient ID and UIDs of what was done: a record that is only added to"
    yield "audits", "numbers of all patients together, of which this one is part"
    yield "exports and released images for teaching", "given away: audit-log export says when"
    if schema.file_of(settings.store.url) is None:
        yield "PostgreSQL's files", "until VACUUM, and in archives of its write-ahead log"


def _backups(settings: Settings, hashes: set[str]) -> Iterator[tuple[str, int]]:
    """The backups of the series, and how many of these objects each has."""
    if settings.backup.folder is None:
        return
    try:
        backups = series.list_backups(settings.backup.folder)
    except QCError:
        yield f"in {settings.backup.folder}", 0
        return
    for each in backups:
        try:
            files = read_manifest(each.folder).spool_files
        except QCError:
            continue
        yield each.folder.name, sum(Path(path).stem in hashes for path in files)


def _copies(settings: Settings) -> list[Path]:
    """Databases that a restore or a downgrade put aside."""
    file = schema.file_of(settings.store.url)
    if file is None:
        return sorted(settings.store.spool.glob("before_restore_*"))
    return sorted(
        {*file.parent.glob(f"{file.name}.before_*"), *file.parent.glob("before_restore_*")}
    )


def _orphans(settings: Settings, store: Store, patient_id: str, clock: Clock) -> list[str]:
    """Files without a row whose header has one of the patient's IDs."""
    with store.read() as session:
        numbers = identities.received_ids(session, patient_id)
    return [name for each in numbers for name in orphans_of(settings, each, clock)]


def _earlier(store: Store, patient_id: str) -> list[int]:
    with store.read() as session:
        secret = erasures.stored_key(session)
        if secret is None:
            return []
        key = erasures.key_of(secret, patient_id)
        return [each.id for each in erasures.list_erasures(session, key)]


def _remove_files(settings: Settings, content: PatientContent) -> None:
    """The files in the spool, and damaged ones that were put aside."""
    spool = settings.store.spool
    paths = [spool / path for path in content.files]
    paths += [each for sha256 in content.sha256 for each in damaged_files(spool, sha256)]
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            why = (error.strerror or "error").lower()
            raise QCError(
                ErrorCode.STORAGE,
                f"the rows are erased, but the file {path} cannot be removed: {why};"
                " remove it by hand",
            ) from error


def _make(folder: Path) -> None:
    try:
        private_files.make_folder(folder)
        probe = folder / ".write"
        private_files.write(probe, b"")
        probe.unlink()
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise QCError(ErrorCode.STORAGE, f"no certificate can be written to {folder}: {why}") from (
            error
        )

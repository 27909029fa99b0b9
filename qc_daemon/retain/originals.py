"""Gives the file of an original, fetched back from a destination if it has left the spool."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import retention
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.store import Store
from qc_daemon.retain import wado_rs
from qc_daemon.retain.retrieve import NotOfferedError, ObjectToRetrieve, get, move
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import DestinationSettings, Settings
from qc_daemon.spool.spool import relative_path
from qc_daemon.spool.verification import (
    DAMAGED_FOLDER,
    Condition,
    content_hash,
    damaged_files,
    examine,
    move_to_damaged,
    verify,
)

PixelHash = Callable[[Path], str]
"""SHA-256 of a file's decoded pixels, as at scoring; raises QCError."""


class Originals:
    """Gives stages the file of a revision, from the spool or fetched back from a destination.

    A destination may have coerced the header or changed the transfer syntax. Then the bytes are
    not those received, and the file is accepted only if its pixels are.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        pixel_hash: PixelHash,
        clock: Clock = utc_now,
    ) -> None:
        self.store = store
        self.spool = settings.store.spool
        self.ae_title = settings.receive.ae_title
        possible = Routes.of(settings).possible(SOURCE)
        self.sources = [
            each
            for each in settings.destination
            if each.name in possible and each.kind in ("dicom", "dicomweb")
        ]
        self.pixel_hash = pixel_hash
        self.clock = clock
        self.log = log.get(role="retain")

    def __call__(self, facts: RevisionFacts) -> Path:
        """The revision's file, whose bytes are those that were acknowledged.

        A file with other bytes is moved to `damaged`, and the same bytes fetched from a
        destination. Raises QCError: SPOOL_DAMAGED if no destination has the same bytes,
        SPOOL_MISSING for a file that was lost and that none has; for a file that was dropped
        DELIVERY_UNREACHABLE if a destination that may have it cannot be asked, NOT_AVAILABLE if
        none has it.
        """
        path = self.spool / facts.path
        sha256 = content_hash(path, facts.sha256)
        condition = examine(path, sha256)
        if condition is Condition.DAMAGED and self._move_to_damaged(path, sha256, facts) is None:
            # A receiver has just written the right bytes.
            condition = examine(path, sha256)
        if condition is Condition.INTACT:
            return path
        if condition is Condition.UNREADABLE:
            verify(path, sha256)
        if not self.spool.is_dir():
            # The disk is not mounted: nothing is lost, and there is no folder to fetch into.
            raise QCError(ErrorCode.SPOOL_MISSING, "the spool is away")
        return self._fetch(facts)

    def _move_to_damaged(self, path: Path, sha256: str, facts: RevisionFacts) -> Path | None:
        try:
            damaged_path = move_to_damaged(self.spool, path, sha256)
        except OSError as error:
            raise _storage_error(error) from error
        if damaged_path is not None:
            counters.add("spool_damaged")
            self.log.critical(
                "spool file damaged",
                instance=facts.instance_id,
                revision=facts.number,
                path=damaged_path.relative_to(self.spool),
            )
        return damaged_path

    def _fetch(self, facts: RevisionFacts) -> Path:
        target = ObjectToRetrieve(
            facts.study_instance_uid,
            facts.series_instance_uid,
            facts.sop_instance_uid,
            facts.sop_class_uid,
            facts.transfer_syntax_uid,
        )
        with self.store.read() as session:
            was_dropped = retention.was_dropped(session, facts.revision_id)
        is_damaged = not was_dropped and bool(damaged_files(self.spool, facts.sha256))
        unreachable: QCError | None = None
        for destination in self.sources:
            try:
                path = self._fetch_from(destination, target, facts, only_same_bytes=is_damaged)
            except QCError as error:
                if error.code is not ErrorCode.DELIVERY_UNREACHABLE:
                    raise
                unreachable = error
                continue
            if path is not None:
                return path
        if unreachable is not None and is_damaged:
            raise _damaged_error(unreachable)
        if unreachable is not None and was_dropped:
            raise unreachable
        # A file that we did not drop is reported as missing, whether a destination can be asked or
        # not. It may come back with its disk, so that the job waits, as an alarm.
        with self.store.begin() as session:
            retention.record_unavailable(session, facts.revision_id, self.clock())
        if unreachable is None:
            counters.add("fetched_nowhere")
            self.log.error("original not available", sop_instance=facts.sop_instance_uid)
        if is_damaged:
            raise _damaged_error(None)
        if was_dropped:
            raise QCError(
                ErrorCode.NOT_AVAILABLE,
                "the received file is neither in the spool nor at a destination to fetch it from",
            )
        self.log.critical(
            "spool file missing", instance=facts.instance_id, revision=facts.number, path=facts.path
        )
        raise _missing_error(unreachable)

    def _fetch_from(
        self,
        destination: DestinationSettings,
        target: ObjectToRetrieve,
        facts: RevisionFacts,
        *,
        only_same_bytes: bool,
    ) -> Path | None:
        try:
            if destination.kind == "dicomweb":
                content = wado_rs.get(destination, target)
            else:
                content = get(destination, self.ae_title, target)
        except NotOfferedError:
            return self._fetch_by_move(destination, target, facts)
        if content is None:
            return None
        return self._accept(destination, content, facts, only_same_bytes=only_same_bytes)

    def _fetch_by_move(
        self, destination: DestinationSettings, target: ObjectToRetrieve, facts: RevisionFacts
    ) -> Path | None:
        """The path if our receiver got the same bytes; others it stores as a new revision."""
        move(destination, self.ae_title, target)
        path = self.spool / facts.path
        if examine(path, content_hash(path, facts.sha256)) is not Condition.INTACT:
            return None
        return self._record_fetch(destination, facts, facts.path, facts.size)

    def _accept(
        self,
        destination: DestinationSettings,
        content: bytes,
        facts: RevisionFacts,
        *,
        only_same_bytes: bool,
    ) -> Path | None:
        sha256 = hashlib.sha256(content).hexdigest()
        if only_same_bytes and sha256 != facts.sha256:
            # The file may still have to go to other destinations, as it was received.
            self.log.warning(
                "other bytes came back",
                destination=destination.name,
                sop_instance=facts.sop_instance_uid,
            )
            return None
        with _temporary_file(content, self.spool / "incoming") as part:
            if sha256 != facts.sha256 and not self._same_pixels(part, facts):
                self.log.warning(
                    "other pixels came back",
                    destination=destination.name,
                    sop_instance=facts.sop_instance_uid,
                )
                return None
            path = relative_path(sha256)
            # The same bytes go to the path in the row.
            path = facts.path if sha256 == facts.sha256 else path
            self._move_into_spool(part, self.spool / path)
        return self._record_fetch(destination, facts, path, len(content))

    def _record_fetch(
        self, destination: DestinationSettings, facts: RevisionFacts, path: str, size: int
    ) -> Path:
        with self.store.begin() as session:
            retention.record_fetch(session, facts.revision_id, path, size)
        counters.add("fetched_back")
        self.log.info(
            "original fetched back",
            destination=destination.name,
            sop_instance=facts.sop_instance_uid,
            bytes=size,
        )
        return self.spool / path

    def _same_pixels(self, part: Path, facts: RevisionFacts) -> bool:
        if facts.pixel_sha256 is None:
            return False
        try:
            return self.pixel_hash(part) == facts.pixel_sha256
        except QCError:
            return False

    @staticmethod
    def _move_into_spool(part: Path, target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        except OSError as error:
            raise _storage_error(error) from error


@contextlib.contextmanager
def _temporary_file(content: bytes, folder: Path) -> Iterator[Path]:
    """A durable file of the content, removed at the end unless it was moved."""
    try:
        fd, name = tempfile.mkstemp(suffix=".fetched", dir=folder)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        raise _storage_error(error) from error
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _damaged_error(unreachable: QCError | None) -> QCError:
    """`unreachable` is the error of a destination that may have the object, and cannot be asked."""
    why = "no destination gives the same bytes back" if unreachable is None else unreachable.message
    return QCError(
        ErrorCode.SPOOL_DAMAGED,
        f"the received file was altered in the spool and set aside in its folder {DAMAGED_FOLDER};"
        f" {why}: restore it from a backup, or have it sent again",
    )


def _missing_error(unreachable: QCError | None) -> QCError:
    """`unreachable`: as in `_damaged_error`."""
    why = "no destination gives it back" if unreachable is None else unreachable.message
    return QCError(
        ErrorCode.SPOOL_MISSING,
        f"the received file is gone from the spool; {why}: restore it from a backup, or have it"
        " sent again",
    )


def _storage_error(error: OSError) -> QCError:
    reason = (error.strerror or "error").lower()
    return QCError(ErrorCode.STORAGE, f"the spool cannot be written: {reason}")

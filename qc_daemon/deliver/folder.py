"""Delivers into a folder: a file is there whole, or not at all.

The destination's own folder is never made here: where it is not there, a share may not be mounted,
and what is written in its place would reach nobody.

Layout `flat`: every object as UID.dcm. Layout `study`: a folder for each day, in it one for each
exam that began on it, and beside a summary or an overlay the PDF or the PNG that it holds. No name
says anything of the patient.

    2026-11-02/exam-12_1.2.840.99.7/image_1.2.840.99.7.1.dcm
                                    report-1_2.25.311.dcm
                                    summary-1_2.25.312.dcm   summary-1_2.25.312.pdf
                                    overlay-1_2.25.313.dcm   overlay-1_2.25.313.png
"""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.plain_file import plain_file
from qc_daemon.deliver.transport import Exam, OutgoingObject
from qc_daemon.settings import DestinationSettings
from qc_daemon.spool import private_files
from qc_daemon.spool.verification import blocks

_SAFE = re.compile(r"[0-9][0-9.]{0,63}(-r[0-9]+)?")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 20
_KINDS = {"source": "image", "sr": "report", "pdf": "summary"}


def file_name(name: str) -> str:
    """`name`.dcm if it is a UID (with our suffix), else its SHA-256: no sender names files."""
    return f"{_safe(name)}.dcm"


def folder_problem(folder: Path) -> str | None:
    """Why nothing can be written into a destination's folder, and the fix; None if it is there."""
    try:
        if folder.is_dir():
            return None
        if folder.exists():
            return f"{folder} is not a folder; move it away, or name another folder"
    except OSError as error:
        return f"the folder {folder} cannot be reached: {(error.strerror or 'error').lower()}"
    return f"the folder {folder} is not there; mount its share, or make the folder"


def exam_folder(exam: Exam) -> Path:
    """Where the objects of an exam lie in layout `study`, relative to the destination's folder."""
    return Path(f"{exam.day:%Y-%m-%d}") / f"exam-{exam.id}_{_safe(exam.study_instance_uid)}"


def _safe(name: str) -> str:
    if _SAFE.fullmatch(name) is not None:
        return name
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()


def _stem(outgoing: OutgoingObject) -> str:
    """Without its suffix, the name of an object's file in layout `study`."""
    kind = _KINDS.get(outgoing.kind, outgoing.kind)
    number = f"-{outgoing.revision}" if outgoing.kind != "source" else ""
    return f"{kind}{number}_{_safe(outgoing.name)}"


class FolderTransport:
    """A transport into `destination.folder`; the same object again replaces itself."""

    def __init__(self, destination: DestinationSettings) -> None:
        if destination.folder is None:
            raise ValueError("a folder destination without a folder")
        self.name = destination.name
        self.folder: Path = destination.folder
        self.by_study = destination.layout == "study"

    def send(self, outgoing: OutgoingObject) -> bool:
        """As a transport's. Raises QCError: DELIVERY_UNREACHABLE where there is no such folder."""
        target, beside = self.folder / file_name(outgoing.name), None
        if self.by_study and outgoing.exam is not None:
            target = self.folder / exam_folder(outgoing.exam) / f"{_stem(outgoing)}.dcm"
            beside = plain_file(outgoing)
        problem = folder_problem(self.folder)
        if problem is not None:
            raise QCError(ErrorCode.DELIVERY_UNREACHABLE, f"destination {self.name}: {problem}")
        try:
            if beside is not None:
                suffix, content = beside
                self._write([content], target.with_name(f"{_stem(outgoing)}{suffix}"))
            with outgoing.file() as path:
                self._write(blocks(path, outgoing.sha256, _BLOCK), target)
        except OSError as error:
            is_full = error.errno in _NO_SPACE
            code = ErrorCode.DELIVERY_RESOURCES if is_full else ErrorCode.DELIVERY_UNREACHABLE
            raise QCError(
                code, f"destination {self.name} cannot be written: {error.strerror}"
            ) from error
        return False

    def close(self) -> None:
        """Nothing stays open."""

    def _write(self, content: Iterable[bytes], target: Path) -> None:
        self._make_folder(target.parent)
        fd, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
        part = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                for block in content:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            # Readable for those who may read the folder, and nobody else.
            part.chmod(0o666 & self.folder.stat().st_mode)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the destination's own, with the permissions of that one."""
        if folder != self.folder and not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(mode=private_files.FOLDER_MODE, exist_ok=True)
            folder.chmod(0o7777 & self.folder.stat().st_mode)
            _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk: a new name is durable only then (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Releases images that were prepared for teaching, after a person has looked at them.

Only what she could look at is released: each file has to be, byte for byte, what was prepared. The
database keeps who released which findings, and when, before a file lies in `released`.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.deidentification import teaching_image
from qc_daemon.observe import log
from qc_daemon.operations.shared import open_store, parse_person
from qc_daemon.operations.teaching_folder import (
    RELEASED,
    TEACHING_SECRET,
    TO_LOOK_AT,
    read_list,
    write_list,
    write_sheet,
)
from qc_daemon.records import secrets
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.results import teaching_releases
from qc_daemon.records.results.teaching_releases import TeachingDecision
from qc_daemon.records.tables import TeachingAction
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

RELEASE_COLUMNS = ("at", "by", "action", "preparation", "number", "finding_ids", "sha256")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class TeachingOutcome:
    """How many images were released and rejected now, and how many still wait for a look."""

    released: int
    rejected: int
    waiting: int


def release(
    settings: Settings,
    folder: Path,
    by: str,
    reject: Sequence[int] = (),
    only: Sequence[int] = (),
    clock: Clock = utc_now,
) -> TeachingOutcome:
    """Release the images that still wait, or `only` these, and reject those of `reject`.

    Raises UsageError for no name, a folder that was not prepared, or numbers that do not wait;
    QCError STORAGE for a list or a file that is not as it was prepared, and for what cannot be
    written: then nothing is released. A call that broke off is completed by the next one.
    """
    name = parse_person(by, "--by")
    store = open_store(settings)
    with store.read() as session:
        key = secrets.read(session, TEACHING_SECRET)
        body = read_list(folder, key)
        preparation = str(body["preparation"])
        earlier = teaching_releases.of_preparation(session, preparation)
    assert key is not None
    images = {image["number"]: image for image in body["images"]}
    numbers = _numbers_to_release(images, earlier, reject, only)
    try:
        private_files.make_folder(folder)
        with tempfile.TemporaryDirectory(prefix=".release-", dir=folder) as temporary:
            files = _Files(folder, Path(temporary))
            # What an earlier call recorded and did not get to move is made again.
            for number, decision in earlier.items():
                if decision.action is TeachingAction.RELEASED:
                    files.restore(images[number], decision.sha256)
            decisions = [
                TeachingDecision(number, TeachingAction.RELEASED, _ids(images[number]), sha256)
                for number in numbers
                for sha256 in [files.make(images[number])]
            ]
            decisions += [
                TeachingDecision(number, TeachingAction.REJECTED, _ids(images[number]))
                for number in reject
            ]
            with store.begin() as session:
                if teaching_releases.of_preparation(session, preparation) != earlier:
                    raise QCError(
                        ErrorCode.STORAGE,
                        "somebody else has just released images of it: try again",
                    )
                teaching_releases.add(session, preparation, decisions, name, clock())
            files.move()
        by_number = earlier | {each.number: each for each in decisions}
        for image in body["images"]:
            decided = by_number.get(image["number"])
            image["state"] = TO_LOOK_AT if decided is None else decided.action.value
        released = [image for image in body["images"] if image["state"] == TeachingAction.RELEASED]
        if released:
            write_sheet(folder / RELEASED, released)
        write_list(folder, body, key)
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE, f"{folder} cannot be written: {error.strerror}; try again"
        ) from error
    log.get(role="command").info("teaching images released", count=len(numbers))
    record(
        settings,
        AuditKind.EXPORTED,
        objects={"preparation": preparation},
        detail={"what": "teaching images", "count": len(numbers), "anonymized": "true"},
        clock=clock,
    )
    waiting = sum(image["state"] == TO_LOOK_AT for image in body["images"])
    return TeachingOutcome(len(numbers), len(reject), waiting)


def list_releases(settings: Settings, window: Window = ALL) -> list[dict[str, Any]]:
    """Who released or rejected which findings' images, and when: rows of RELEASE_COLUMNS."""
    with open_store(settings).read() as session:
        return teaching_releases.listing(session, window)


def _numbers_to_release(
    images: Mapping[int, Any],
    earlier: Mapping[int, TeachingDecision],
    reject: Sequence[int],
    only: Sequence[int],
) -> list[int]:
    """The numbers of the images to release. Raises UsageError."""
    for option, numbers in (("--reject", reject), ("--only", only)):
        if len(set(numbers)) < len(numbers):
            raise UsageError(f"{option}: give each number once")
        for number in numbers:
            if number not in images:
                raise UsageError(f"{option} {number}: the list has no image {number}")
            if number in earlier:
                raise UsageError(f"{option} {number}: it is {earlier[number].action} already")
    if both := set(reject) & set(only):
        raise UsageError(f"--only and --reject both name image {min(both)}")
    waiting = [number for number in images if number not in earlier and number not in reject]
    return [number for number in waiting if not only or number in only]


def _ids(image: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(finding["finding_id"] for finding in image["findings"])


class _Files:
    """The files of released images, made in a temporary folder and then moved."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._folder = folder
        self._temporary = temporary
        self._made: list[Path] = []

    def make(self, image: Mapping[str, Any]) -> str:
        """Make the DICOM file and the picture of an image; returns the former's SHA-256.

        Raises QCError STORAGE for a file that is not what was prepared.
        """
        # The previews are what the person looked at.
        for path in image["sha256"]:
            if path not in (image["file"], image["picture"]):
                self._copy(image, path).unlink()
        picture = self._copy(image, image["picture"])
        prepared = self._copy(image, image["file"])
        target = self._temporary / Path(image["file"]).name
        with prepared.open("rb") as source, _create(target) as file:
            teaching_image.release(source, file)
        prepared.unlink()
        self._made += [target, picture.rename(self._temporary / Path(image["picture"]).name)]
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def restore(self, image: Mapping[str, Any], sha256: str | None) -> None:
        """Make the files again if they are not in `released`. Raises QCError STORAGE as `make`."""
        names = (Path(image["file"]).name, Path(image["picture"]).name)
        if all((self._folder / RELEASED / name).is_file() for name in names):
            return
        if self.make(image) != sha256:
            raise _changed(image, image["file"])

    def move(self) -> None:
        """Move what was made into `released`. Raises OSError."""
        if self._made:
            private_files.make_folder(self._folder / RELEASED)
        for path in self._made:
            path.replace(self._folder / RELEASED / path.name)

    def _copy(self, image: Mapping[str, Any], path: str) -> Path:
        """A copy of a prepared file, which nobody changes after its hash was compared."""
        copy = self._temporary / f"{Path(path).name}.prepared"
        digest = hashlib.sha256()
        try:
            source = (self._folder / path).open("rb")
        except OSError:
            raise _changed(image, path) from None
        with source, _create(copy) as file:
            while block := source.read(_BLOCK):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != image["sha256"][path]:
            raise _changed(image, path)
        return copy


def _create(path: Path) -> BinaryIO:
    return os.fdopen(private_files.create(path), "wb")


def _changed(image: Mapping[str, Any], path: str) -> QCError:
    number = image["number"]
    return QCError(
        ErrorCode.STORAGE,
        f"image {number}: {path} is not as it was prepared; nothing is released: reject it"
        f" (--reject {number}) or prepare the images anew",
    )

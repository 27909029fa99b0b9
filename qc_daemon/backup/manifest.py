"""The manifest of a backup: each file's size and SHA-256, and the database's version and rows."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from detector.errors import ErrorCode, QCError
from qc_daemon.spool import private_files

NAME = "manifest.json"
DATABASE, TABLES, SPOOL = "qc.db", "tables", "spool"
FORMAT = 1
# The only file names that a manifest may have: no other path is read or written for it.
_FILE = re.compile(r"qc\.db|tables/[a-z_0-9]{1,63}\.copy|spool/[0-9a-f]{2}/[0-9a-f]{64}\.dcm")
_TABLE_OR_COLUMN = re.compile(r"[a-z_0-9]{1,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    """One file of the backup."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a backup; file names are relative to its folder.

    `counts`: rows of each table. `columns`: of each exported PostgreSQL table, in file order.
    `missing` and `damaged`: files of the spool that rows name, and that were gone or not what was
    received when the backup was made; a damaged one is not in `files`.
    """

    created: str
    version: str
    database: Literal["sqlite", "postgresql"]
    schema_revision: str
    counts: dict[str, int]
    files: dict[str, File]
    columns: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def spool_files(self) -> dict[str, File]:
        """The files of the spool, by their path in it."""
        start = f"{SPOOL}/"
        return {
            name.removeprefix(start): file
            for name, file in self.files.items()
            if name.startswith(start)
        }

    def write(self, folder: Path) -> None:
        """Write the manifest in one step. Raises OSError."""
        part = folder / f".{NAME}.part"
        private_files.write(part, json.dumps({"format": FORMAT} | asdict(self), indent=1).encode())
        part.replace(folder / NAME)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises QCError STORAGE without one of this format."""
    try:
        document = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        raise _no_backup(folder, "it has no manifest.json; it may be unfinished") from None
    except (OSError, ValueError):
        raise _no_backup(folder, "its manifest.json cannot be read") from None
    if isinstance(document, dict) and document.get("format") != FORMAT:
        raise _no_backup(folder, "it was made by a later version of qc-daemon; install that")
    try:
        return _parse(document)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _no_backup(folder, "its manifest.json is not valid") from None


def _parse(document: Mapping[str, Any]) -> Manifest:
    files = {
        name: File(int(each["size"]), each["sha256"]) for name, each in document["files"].items()
    }
    counts = {name: int(count) for name, count in document["counts"].items()}
    columns = {name: [str(column) for column in each] for name, each in document["columns"].items()}
    is_valid = (
        all(map(_FILE.fullmatch, files))
        and all(_SHA256.fullmatch(each.sha256) for each in files.values())
        and all(map(_TABLE_OR_COLUMN.fullmatch, (*counts, *columns)))
        and all(_TABLE_OR_COLUMN.fullmatch(column) for each in columns.values() for column in each)
        and document["database"] in ("sqlite", "postgresql")
    )
    if not is_valid:
        raise ValueError
    return Manifest(
        created=str(document["created"]),
        version=str(document["version"]),
        database=document["database"],
        schema_revision=str(document["schema_revision"]),
        counts=counts,
        files=files,
        columns=columns,
        missing=[str(each) for each in document["missing"]],
        damaged=[str(each) for each in document["damaged"]],
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path, manifest: Manifest) -> None:
    """Raises QCError STORAGE at the first file that is not what the manifest says."""
    for name, file in manifest.files.items():
        path = folder / name
        try:
            is_sound = path.stat().st_size == file.size and sha256_of(path) == file.sha256
        except OSError:
            raise QCError(ErrorCode.STORAGE, f"the backup {folder} lacks its file {name}") from None
        if not is_sound:
            raise QCError(
                ErrorCode.STORAGE, f"the backup {folder} is damaged: {name} is not what was saved"
            )


def _no_backup(folder: Path, why: str) -> QCError:
    return QCError(ErrorCode.STORAGE, f"{folder} is no backup: {why}")

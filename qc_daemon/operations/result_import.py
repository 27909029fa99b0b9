"""`results import`: findings that `results --format jsonl` printed are taken in again.

A file is taken in as a whole or not at all, and may be taken in twice: what is stored stays.
"""

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.finding import Finding
from model.image_features import ImageFeatures
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import open_store
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.results.imports import FindingImport, ImportedFinding, received_uids
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AcquisitionState
from qc_daemon.settings import Settings

Progress = Callable[[int], None]
"""Called with the number of lines since the last call."""

_Line = tuple[int, bytes, ImportedFinding | None]
"""Its number, its text and its finding; None for an object that was not scored."""

_BATCH = 2000
_MAX_UID = 64
_UID = re.compile(r"[0-9.]+")
_ID = re.compile(r"[a-z0-9-]{1,64}", re.IGNORECASE)
_ZONE = re.compile(r"(.*T.*)([+-]\d\d:\d\d)")
_NUMBERS = ("gestational_age_days", "crl_mm", "nt_mm", "patient_age_years", "patient_size_m",
            "patient_weight_kg")  # fmt: skip
_TEXTS = (
    "person_source",
    "device_id",
    "device_source",
    "site",
    "department",
    "acquired",
    "acquired_source",
    "gestational_age_source",
    "software_versions",
    "transducer",
    "transducer_type",
    "study_description",
    "performing_physician",
    "manufacturer",
)


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """How many findings were stored, were there already, and how many lines are no findings but
    objects that could not be scored."""

    stored: int = 0
    duplicates: int = 0
    errors: int = 0

    def __add__(self, other: "ImportOutcome") -> "ImportOutcome":
        return ImportOutcome(
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.errors + other.errors,
        )


_LIST_KEYS = frozenset(
    (
        "exam_id",
        "calling_ae",
        "received",
        "superseded",
        "best_frame",
        "acquisition",
        "finding_id",
        "quarantine",
        "imported",
        "rejected",
        "review",
        "image_features",
        "similarity",
    )
)
"""What the list says beside the finding, made anew by each list."""


_PENDING = "pending"
_STATES = (*AcquisitionState, _PENDING)


class _LineError(ValueError):
    """What is wrong with a line, in words that go on "line 7: "."""


def import_findings(
    settings: Settings,
    paths: Sequence[Path],
    *,
    progress: Progress = lambda _: None,
    clock: Clock = utc_now,
) -> ImportOutcome:
    """Take in the files, one after the other; each in one transaction.

    Raises UsageError for a file that cannot be read or has a wrong line, with its number; nothing
    of that file is stored, nor of those after it.
    """
    store, outcome = open_store(settings), ImportOutcome()
    for path in paths:
        outcome += _import_file(store, path, progress, clock())
        record(settings, AuditKind.IMPORTED, detail={"what": "findings"}, clock=clock)
    return outcome


def count_lines(paths: Sequence[Path]) -> int:
    """How many lines the files have. Raises UsageError for one that cannot be read."""
    total = 0
    for path in paths:
        try:
            with path.open("rb") as file:
                total += sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return total


def _import_file(store: Store, path: Path, progress: Progress, now: datetime) -> ImportOutcome:
    # Every line is checked before the first is stored: a long transaction would be in vain, and
    # others wait for it.
    count, errors = _check_file(store, path)
    with store.begin() as session:
        importer, stored = FindingImport(session, now), 0
        for batch in _batches(_read(path, is_checked=True)):
            # An exam may have been received since.
            _refuse_received(session, path, batch)
            stored += importer.add([each for _, _, each in batch if each is not None])
            progress(len(batch))
    return ImportOutcome(stored, count - errors - stored, errors)


def _check_file(store: Store, path: Path) -> tuple[int, int]:
    """How many lines the file has, and how many of them are objects that were not scored.

    Its memory does not grow with the file. Raises UsageError, QCError."""
    count = errors = 0
    try:
        with closing(_make_digests()) as digests:
            for batch in _batches(_read(path, is_checked=False)):
                count += len(batch)
                errors += sum(finding is None for _, _, finding in batch)
                rows = (
                    (number, _digest(repr(finding.id).encode()), _digest(line))
                    for number, line, finding in batch
                    if finding is not None
                )
                digests.executemany("INSERT INTO line VALUES (?, ?, ?)", rows)
                with store.read() as session:
                    _refuse_received(session, path, batch)
            (number,) = digests.execute(_DIFFERING).fetchone()
    except sqlite3.Error as error:
        raise QCError(
            ErrorCode.STORAGE, f"{path}: cannot be checked in a temporary file ({error})"
        ) from error
    if number is not None:
        raise UsageError(f"{path}: line {number}: an earlier line has the same finding otherwise")
    return count, errors


_DIFFERING = """
SELECT min(number) FROM (
    SELECT number, content,
        first_value(content) OVER (PARTITION BY finding ORDER BY number) AS first
    FROM line
) WHERE content <> first
"""


def _make_digests() -> sqlite3.Connection:
    """A temporary file for the digest of each line's finding and of the line; closing removes it.

    A file may have millions of lines, whose UIDs alone would take gigabytes of memory.
    """
    digests = sqlite3.connect("", isolation_level=None)
    digests.execute("PRAGMA journal_mode = OFF")
    digests.execute("CREATE TABLE line (number INTEGER, finding BLOB, content BLOB)")
    return digests


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


def _refuse_received(session: Session, path: Path, batch: Sequence[_Line]) -> None:
    """Raises UsageError for the first line of the batch whose exam or image was received here."""
    first = dict[str, int]()
    for number, _, finding in reversed(batch):
        if finding is not None:
            first |= {finding.exam[0]: number, finding.id[0]: number}
    every = [finding for _, _, finding in batch if finding is not None]
    studies, instances = {each.exam[0] for each in every}, {each.id[0] for each in every}
    received = received_uids(session, studies - {""}, instances)
    if received:
        raise UsageError(
            f"{path}: line {min(first[uid] for uid in received)}: its exam was received here, and"
            " its findings are those of the images; leave the exam out of the file"
        )


def _batches(lines: Iterator[_Line]) -> Iterator[list[_Line]]:
    while batch := list(islice(lines, _BATCH)):
        yield batch


def _read(path: Path, *, is_checked: bool) -> Iterator[_Line]:
    """Each line that is not empty.

    Lines are checked unless they were before. Raises UsageError."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, line, _parse(line, is_checked=is_checked)
                except _LineError as error:
                    raise UsageError(f"{path}: line {number}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(line: bytes, *, is_checked: bool) -> ImportedFinding | None:
    # Neither database stores NUL in a text.
    if b"\\u0000" in line or b"\0" in line:
        raise _LineError("has a NUL character; remove it")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise _LineError("is no JSON; give what results --format jsonl wrote") from None
    if not isinstance(values, dict):
        raise _LineError("is no JSON object; give what results --format jsonl wrote")
    if "error" in values:
        return None
    facts: dict[str, Any] | None = values.get("acquisition")
    if not is_checked:
        _check(values)
    if facts is not None and facts["state"] == _PENDING:
        facts = None
    acquired, zone = _acquired(facts)
    return ImportedFinding(
        exam=_exam(values),
        body={key: value for key, value in values.items() if key not in _LIST_KEYS},
        facts=facts,
        acquired=acquired,
        zone=zone,
        calling_ae=_text(values.get("calling_ae"), "calling_ae") or "",
        received_at=_moment(values.get("received") or values["created"]),
        features=_features(values.get("image_features")),
    )


def _features(values: Any) -> ImageFeatures | None:
    if values is None:
        return None
    try:
        return ImageFeatures.from_json(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise _LineError(f"has image_features that are none ({_first_words(error)})") from None


def _check(values: dict[str, Any]) -> None:
    """Raises _LineError for what is no finding, or could not be stored or read again."""
    try:
        Finding.from_json(values)
    except KeyError as error:
        raise _LineError(f"lacks the key {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise _LineError(f"is no finding ({_first_words(error)})") from None
    uid, study = values["sop_instance_uid"], values["study_instance_uid"] or ""
    if not isinstance(uid, str) or len(uid) > _MAX_UID or not _UID.fullmatch(uid):
        raise _LineError("has no sop_instance_uid; only findings of DICOM objects are imported")
    for name in ("study_instance_uid", "series_instance_uid"):
        text = values[name] or ""
        if not isinstance(text, str) or len(text) > _MAX_UID:
            raise _LineError(f"has a {name} that is no UID")
    if not study and not isinstance(values.get("exam_id"), int):
        raise _LineError("has neither study_instance_uid nor exam_id")
    frame, revision, region = values["frame"], values["revision"], values["region"]["index"]
    numbers = (("frame", frame, 1), ("revision", revision, 1), ("region", region, 0))
    for name, value, least in numbers:
        if type(value) is not int or not least <= value < 2**31:
            raise _LineError(f"has a {name} that is no number from {least}")
    if not isinstance(values["bundle"]["model_id"], str) or not values["bundle"]["model_id"]:
        raise _LineError("has no bundle.model_id")
    _check_facts(values.get("acquisition"))


def _exam(values: dict[str, Any]) -> tuple[str, str]:
    study = values["study_instance_uid"] or ""
    # Without a study only the number of the other database says what belongs together.
    return study, "" if study else f"imported-{values['exam_id']}"


def _check_facts(values: Any) -> None:
    """Raises _LineError for a key `acquisition` that is none."""
    if values is None:
        return
    if not isinstance(values, dict) or values.get("state") not in _STATES:
        raise _LineError("has an acquisition that is none")
    persons = values.get("person_ids")
    if not isinstance(persons, list) or not all(_is_id(each) for each in persons):
        raise _LineError("has acquisition.person_ids that are no ids")
    if values.get("device_id") is not None and not _is_id(values["device_id"]):
        raise _LineError("has an acquisition.device_id that is no id")
    for name in _TEXTS:
        _text(values.get(name), f"acquisition.{name}")
    for name in _NUMBERS:
        value = values.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):
            raise _LineError(f"has an acquisition.{name} that is no number")
    if values.get("burned_in_annotation") not in (None, True, False):
        raise _LineError("has an acquisition.burned_in_annotation that is not true or false")


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _LineError(f"has a {name} that is no text")
    return value


def _acquired(facts: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """Local time and zone of an acquisition."""
    value = None if facts is None else facts.get("acquired")
    if value is None:
        return None, None
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise _LineError("has an acquisition.acquired that is no time (ISO 8601)") from None
    parts = _ZONE.fullmatch(value)
    return (value, None) if parts is None else (parts[1], parts[2])


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _LineError("has a received that is no time (ISO 8601)") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _first_words(error: Exception) -> str:
    """The error on one line, short: it may quote what the line says."""
    return " ".join(str(error).split())[:80]

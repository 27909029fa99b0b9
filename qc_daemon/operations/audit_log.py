"""The audit log for an operator: is it as it was written, where does it end, what does it say."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.chain import Link, chain_name
from qc_daemon.audit_trail.event import AuditKind, from_body
from qc_daemon.audit_trail.verification import Verification, read_records, verify
from qc_daemon.operations.shared import parse_choices, parse_moment, parse_window
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings

_PLACE = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
CHECK_COLUMNS = ("chain", "result", "records", "first", "last", "digest", "problems")


def parse_place(value: str, option: str) -> Link:
    """A place that `audit-log verify` printed, as 4711:DIGEST. Raises UsageError."""
    match = _PLACE.fullmatch(value.strip().lower())
    if match is None:
        raise UsageError(
            f"{option} {value[:80]}: give NUMBER:DIGEST, as audit-log verify prints it"
        )
    return Link(int(match[1]), match[2])


def list_chains(settings: Settings) -> list[Path]:
    """The chains of all machines that have one in the folder."""
    folder = recorder.log_folder(settings)
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.is_dir())


def _chain(settings: Settings, name: str | None) -> Path:
    """The chain of this name, else this machine's. Raises QCError."""
    chains = {each.name: each for each in list_chains(settings)}
    wanted = chain_name() if name is None else name
    if wanted not in chains:
        there = f"there are: {', '.join(chains)}" if chains else "there is none yet"
        raise QCError(
            ErrorCode.STORAGE,
            f"{recorder.log_folder(settings)} has no chain {wanted[:80]}; {there}",
        )
    return chains[wanted]


def verify_chains(
    settings: Settings,
    name: str | None = None,
    *,
    anchors: Sequence[str] = (),
    after: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A row of CHECK_COLUMNS for each chain, or the one of this name.

    `anchors` and `after` are places of one chain, this machine's unless named. Raises UsageError,
    QCError STORAGE.
    """
    places = [parse_place(each, "--anchor") for each in anchors]
    begin = None if after is None else parse_place(after, "--after")
    if name is not None or places or begin is not None:
        chains = [_chain(settings, name)]
    else:
        chains = list_chains(settings)
    for folder in chains:
        try:
            yield _row(folder.name, verify(folder, places, begin))
        except OSError as error:
            raise QCError(
                ErrorCode.STORAGE, f"{folder} cannot be read: {(error.strerror or '').lower()}"
            ) from error


def _row(name: str, result: Verification) -> dict[str, Any]:
    return {
        "chain": name,
        "result": "sound" if result.is_sound else "NOT SOUND",
        "records": result.records,
        "first": None if result.first is None else result.first.sequence,
        "last": None if result.last is None else result.last.sequence,
        "digest": None if result.last is None else result.last.digest,
        "problems": list(result.problems),
    }


def describe_check(row: Mapping[str, Any]) -> Iterator[str]:
    """Lines that say what was found of a chain."""
    for problem in row["problems"]:
        yield f"{row['chain']}: {problem}"
    if row["problems"]:
        yield f"{row['chain']}: NOT as it was written ({count_of(row['records'], 'record')})"
    elif row["records"]:
        yield f"{row['chain']}: {count_of(row['records'], 'record')}, as written; it ends at"
        yield f"  {row['last']}:{row['digest']}"
    else:
        yield f"{row['chain']}: no record"


def export_records(
    settings: Settings,
    name: str | None = None,
    *,
    since: str | None = None,
    until: str | None = None,
    kinds: Sequence[str] = (),
    clock: Clock = utc_now,
) -> Iterator[dict[str, Any]]:
    """The records of a chain, by default this machine's, in order; that they were read is recorded.

    Raises UsageError, QCError STORAGE.
    """
    window = parse_window(since, until)
    audit_kinds = parse_choices(AuditKind, kinds, "--kind")
    folder = _chain(settings, name)
    recorder.record(
        settings,
        AuditKind.LOG_USED,
        objects={"chain": folder.name},
        detail={"what": "exported", "kinds": ", ".join(audit_kinds) or "all"},
        clock=clock,
    )
    for _, body in read_records(folder):
        at = parse_moment(body["at"], "at")
        if window.since is not None and at < window.since:
            continue
        if window.until is not None and at >= window.until:
            continue
        if not audit_kinds or body["kind"] in audit_kinds:
            yield dict(body)


def record_line(body: Mapping[str, Any]) -> str:
    """A record as a line for people."""
    event = from_body(body)
    words = [f"{body['sequence']:>8}", body["at"][:19] + "Z", str(event.kind)]
    if not event.is_success:
        words.append("FAILED")
    if event.actor is not None:
        words.append(f"by {event.actor.id}")
        if event.actor.address:
            words.append(f"at {event.actor.address}")
    if event.peer is not None:
        words.append(f"peer {event.peer.id}")
    if event.study is not None:
        words.append(f"study {event.study}")
    if event.patient_id is not None:
        words.append(f"patient {event.patient_id}")
    if event.instances:
        words.append(count_of(sum(event.instances.values()), "object"))
    words += [f"{name} {value}" for name, value in event.objects.items()]
    words += [f"{name}: {value}" for name, value in event.detail.items()]
    return " ".join(words)


def record_message(settings: Settings, body: Mapping[str, Any]) -> str:
    """A record as a DICOM audit message (PS3.15 A.5), one line."""
    from qc_daemon.audit_trail.message import make_message

    return make_message(recorder.source_of(settings), body).decode()

"""Persons and devices for the lead of a laboratory: list, merge, split, rename.

Nothing is merged by itself: a list says which may be one, and a person decides.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.audit_trail.event import AuditKind, listed
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import open_store, parse_person
from qc_daemon.operations.similar_identities import (
    DeviceFacts,
    PersonFacts,
    Suggestion,
    similar_devices,
    similar_persons,
)
from qc_daemon.records.acquisition import identities
from qc_daemon.records.acquisition.identities import IdentityError, ImageCount, ListedIdentity
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.tables import IdentityKind
from qc_daemon.settings import Settings

PERSON_COLUMNS = (
    "id",
    "name",
    "received_name",
    "code",
    "scheme",
    "merged_into",
    "images",
    "first",
    "last",
    "similar_to",
    "similar_by",
)
DEVICE_COLUMNS = (
    "id",
    "name",
    "serial_number",
    "manufacturer",
    "model",
    "station_name",
    "calling_ae",
    "merged_into",
    "images",
    "first",
    "last",
    "similar_to",
    "similar_by",
)
HISTORY_COLUMNS = ("at", "action", "id", "other_id", "before", "after", "changed_by")
_MAX_NAME = 64

Counts = Mapping[str, ImageCount]
"""The images of persons or devices that have any, by id."""


def list_persons(settings: Settings, counts: Counts | None = None) -> list[dict[str, Any]]:
    """Persons, each with the images of its own identity and those that it may be the same as;
    `counts` where they were counted already."""
    rows = _every(settings, IdentityKind.PERSON, counts)
    facts = [
        PersonFacts(each.row.id, each.row.received_name, each.row.code, each.row.scheme)
        for each in rows
        if each.row.merged_into is None
    ]
    return _list(rows, PERSON_COLUMNS, similar_persons(facts))


def list_devices(settings: Settings, counts: Counts | None = None) -> list[dict[str, Any]]:
    """Devices, as `list_persons`."""
    rows = _every(settings, IdentityKind.DEVICE, counts)
    facts = [
        DeviceFacts(each.row.id, each.row.serial_number, each.row.model, each.row.station_name)
        for each in rows
        if each.row.merged_into is None
    ]
    return _list(rows, DEVICE_COLUMNS, similar_devices(facts))


def count_images(settings: Settings, kind: IdentityKind, ids: Collection[str]) -> Counts:
    """The images of these."""
    with open_store(settings).read() as session:
        return identities.count_images(session, kind, ids)


def list_history(settings: Settings, kind: IdentityKind) -> list[dict[str, Any]]:
    """Merges, splits and renames, oldest first: of what, by whom and when."""
    with open_store(settings).read() as session:
        changes = identities.history(session, kind)
    return [
        {
            "at": each.changed_at.isoformat(timespec="seconds"),
            "action": each.action,
            "id": each.subject_id,
            "other_id": each.other_id,
            "before": each.before,
            "after": each.after,
            "changed_by": each.changed_by,
        }
        for each in changes
    ]


def merge(
    settings: Settings,
    kind: IdentityKind,
    ids: Sequence[str],
    into: str,
    changed_by: str,
    clock: Clock = utc_now,
) -> str:
    """Count these as aliases of another from now on, all or none; returns a line that says so.

    Raises UsageError without a person's name, QCError for what cannot be merged.
    """
    who = parse_person(changed_by, "--by")
    try:
        with open_store(settings).begin() as session:
            identities.merge(session, kind, ids, into, who, clock())
    except IdentityError as error:
        raise _refused(error) from None
    merged = list(dict.fromkeys(ids))
    _record(settings, kind, "merged", merged, clock, into=into)
    are = "counts" if len(merged) == 1 else "count"
    undo = " and ".join(f"{kind} split {each}" for each in merged)
    take = "takes" if len(merged) == 1 else "take"
    return f"{kind} {', '.join(merged)} now {are} as {into}; {undo} {take} that back"


def split(
    settings: Settings, kind: IdentityKind, id: str, changed_by: str, clock: Clock = utc_now
) -> str:
    """Undo a merge; returns a line that says so. Raises UsageError, QCError as `merge`."""
    who = parse_person(changed_by, "--by")
    try:
        with open_store(settings).begin() as session:
            into = identities.split(session, kind, id, who, clock())
    except IdentityError as error:
        raise _refused(error) from None
    _record(settings, kind, "split", [id], clock)
    return f"{kind} {id} no longer counts as {into}"


def rename(
    settings: Settings,
    kind: IdentityKind,
    id: str,
    name: str,
    changed_by: str,
    clock: Clock = utc_now,
) -> str:
    """Give it a name; returns a line that says so. Raises UsageError, QCError as `merge`."""
    who = parse_person(changed_by, "--by")
    clean = " ".join(name.split())
    if not clean or len(clean) > _MAX_NAME or not clean.isprintable():
        raise UsageError(f"give a name of 1 to {_MAX_NAME} letters on one line")
    try:
        with open_store(settings).begin() as session:
            identities.rename(session, kind, id, clean, who, clock())
    except IdentityError as error:
        raise _refused(error) from None
    _record(settings, kind, "named", [id], clock)
    return f"{kind} {id} is called {clean}"


def _record(
    settings: Settings,
    kind: IdentityKind,
    what: str,
    ids: Sequence[str],
    clock: Clock,
    into: str | None = None,
) -> None:
    """Write the decision to the audit log, by ids and without names."""
    objects = {str(kind): listed(list(ids)), "into": into}
    record(
        settings, AuditKind.IDENTITY_CHANGED, objects=objects, detail={"what": what}, clock=clock
    )


def describe_suggestions(kind: IdentityKind, rows: Sequence[dict[str, Any]]) -> str | None:
    """A line on how many of the rows may be the same as another; None if none may."""
    count = sum(bool(row["similar_to"]) for row in rows)
    if not count:
        return None
    may = f"{count_of(count, kind)} may be the same as another one (similar to)"
    return f"{may}; {kind} merge ID --into ID --by NAME makes them one"


def _every(settings: Settings, kind: IdentityKind, counts: Counts | None) -> list[ListedIdentity]:
    with open_store(settings).read() as session:
        return identities.every(session, kind, counts)


def _list(
    rows: Sequence[ListedIdentity], columns: Sequence[str], suggestions: Sequence[Suggestion]
) -> list[dict[str, Any]]:
    return [_row(each, columns, suggestions) for each in rows]


def _row(
    listed: ListedIdentity, columns: Sequence[str], suggestions: Sequence[Suggestion]
) -> dict[str, Any]:
    id = listed.row.id
    of_row = [each for each in suggestions if id in (each.one, each.other)]
    own = {
        "images": listed.images,
        "first": None if listed.first_at is None else listed.first_at.isoformat(timespec="seconds"),
        "last": None if listed.last_at is None else listed.last_at.isoformat(timespec="seconds"),
        "similar_to": [each.other if each.one == id else each.one for each in of_row],
        "similar_by": list(dict.fromkeys(each.reason for each in of_row)),
    }
    return {name: own[name] if name in own else getattr(listed.row, name) for name in columns}


def _refused(error: IdentityError) -> QCError:
    return QCError(ErrorCode.STORAGE, str(error))

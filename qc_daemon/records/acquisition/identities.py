"""Persons and devices: a new identity makes a new row; people merge, split and rename them.

A merge sets `merged_into` and moves nothing, so that a split gives back exactly what it took,
whatever came between. Whoever an image is counted for is found by following `merged_into` to its
end (`roots`). Every decision is recorded.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, func, select, update
from sqlalchemy.orm import Session

from qc_daemon.dicom.acquisition import Acquisition, DeviceIdentity, Operator
from qc_daemon.records.tables import (
    AcquisitionOperator,
    AcquisitionRow,
    Device,
    IdentityAction,
    IdentityChange,
    IdentityKind,
    Person,
    Revision,
)
from qc_daemon.records.upsert import insert_once, table_of

Identity = Person | Device
_TABLES: dict[IdentityKind, type[Identity]] = {
    IdentityKind.PERSON: Person,
    IdentityKind.DEVICE: Device,
}
# Letters and digits that are not mistaken for one another (Crockford's base 32), so that an id can
# be read out; eight of them are 40 random bits.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_LENGTH = 8
_PREFIX = {IdentityKind.PERSON: "p", IdentityKind.DEVICE: "d"}


class IdentityError(ValueError):
    """A merge, split or rename that cannot be; the message says why, in one line."""


def identify_persons(session: Session, operators: Sequence[Operator], now: datetime) -> list[str]:
    """The ids of the operators' own rows, new for new identities; merges are not followed.

    In the order of identities: two workers that make the same ones never wait for each other.
    """
    if not operators:
        return []
    ordered = sorted(operators, key=lambda operator: operator.identity)
    rows = _read_rows(session, _PERSONS, [operator.identity for operator in ordered])
    for operator in ordered:
        person = rows.get(operator.identity)
        if person is None:
            received = {
                "received_name": operator.name,
                "code": operator.code,
                "scheme": operator.scheme,
            }
            _insert(session, IdentityKind.PERSON, operator.identity, received, now)
        elif person.received is None and operator.name is not None:
            # The code came without a name before.
            session.execute(_NAME_PERSON, {"person": person.id, "received": operator.name})
    if any(operator.identity not in rows for operator in ordered):
        rows = _read_rows(session, _PERSONS, [operator.identity for operator in ordered])
    return [rows[operator.identity].id for operator in ordered]


def identify_device(
    session: Session,
    identity: DeviceIdentity,
    acquisition: Acquisition,
    calling_ae: str,
    now: datetime,
) -> str:
    """The id of the device's own row, new for a new identity; merges are not followed."""
    rows = _read_rows(session, _DEVICES, [identity.identity])
    if not rows:
        received = {
            "serial_number": acquisition.serial_number,
            "manufacturer": acquisition.manufacturer,
            "model": acquisition.model,
            "station_name": acquisition.station_name,
            "calling_ae": calling_ae,
        }
        _insert(session, IdentityKind.DEVICE, identity.identity, received, now)
        rows = _read_rows(session, _DEVICES, [identity.identity])
    id: str = rows[identity.identity].id
    return id


# On the tables and built once, for the reason that `upsert.py` gives.
_persons, _devices = table_of(Person).c, table_of(Device).c
_IDENTITIES: BindParameter[Any] = bindparam("identities", expanding=True)
_PERSONS = select(_persons.identity, _persons.id, _persons.received_name.label("received")).where(
    _persons.identity.in_(_IDENTITIES)
)
_DEVICES = select(_devices.identity, _devices.id).where(_devices.identity.in_(_IDENTITIES))
_NAME_PERSON = (
    update(table_of(Person))
    .where(_persons.id == bindparam("person"), _persons.received_name.is_(None))
    .values(received_name=bindparam("received"))
)


def _read_rows(
    session: Session, statement: Select[Any], identities: Sequence[str]
) -> dict[str, Any]:
    """The rows of those identities that there are, by identity."""
    return {row.identity: row for row in session.execute(statement, {"identities": identities})}


def _insert(
    session: Session,
    kind: IdentityKind,
    identity: str,
    received: Mapping[str, str | None],
    now: datetime,
) -> None:
    """Insert a row; where another worker is making the same one, that one counts."""
    values = {"id": _new_id(kind), "identity": identity, "created_at": now, **received}
    insert_once(session, _TABLES[kind], values, ("identity",))


def _new_id(kind: IdentityKind) -> str:
    """An id that says nothing: neither a name nor how many came before."""
    return _PREFIX[kind] + "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def roots(session: Session, kind: IdentityKind) -> dict[str, str]:
    """For each id that is merged into another the one that it counts for; others are absent."""
    table = _TABLES[kind]
    rows = session.execute(
        select(table.id, table.merged_into).where(table.merged_into.is_not(None))
    )
    merged = {row.id: row.merged_into or row.id for row in rows}
    return {id: _root(id, merged) for id in merged}


def _root(id: str, merged: Mapping[str, str]) -> str:
    while id in merged:
        id = merged[id]
    return id


def persons_with_code(session: Session) -> frozenset[str]:
    """The ids of persons that a code identifies."""
    return frozenset(session.scalars(select(Person.id).where(Person.code.is_not(None))))


def manufacturers(session: Session) -> dict[str, str]:
    """The manufacturer of each device whose images name one, as received."""
    rows = session.execute(
        select(Device.id, Device.manufacturer).where(Device.manufacturer.is_not(None))
    )
    return {row.id: row.manufacturer for row in rows}


def members(session: Session, kind: IdentityKind, id: str) -> set[str] | None:
    """The ids that count for the same one as this id, itself included; None if it is unknown."""
    if session.get(_TABLES[kind], id) is None:
        return None
    resolved = roots(session, kind)
    root = resolved.get(id, id)
    return {root, *(each for each, of in resolved.items() if of == root)}


def merge(
    session: Session,
    kind: IdentityKind,
    ids: Sequence[str],
    into: str,
    changed_by: str,
    now: datetime,
) -> None:
    """Make these aliases of `into`, all or none. Raises IdentityError."""
    rows = _lock(session, kind, (*ids, into))
    _require_root(kind, rows[into], "merge into that one")
    for id in dict.fromkeys(ids):
        if id == into:
            raise IdentityError(f"{kind} {id} cannot be merged into itself")
        _require_root(kind, rows[id], "split it first")
        rows[id].merged_into = into
        _record(session, kind, IdentityAction.MERGE, id, changed_by, now, other_id=into)


def split(session: Session, kind: IdentityKind, id: str, changed_by: str, now: datetime) -> str:
    """Undo a merge: all that counted for this one before does again; returns what it was merged
    into. Raises IdentityError."""
    row = _lock(session, kind, (id,))[id]
    into = row.merged_into
    if into is None:
        table = _TABLES[kind]
        aliases = session.scalars(select(table.id).where(table.merged_into == id).order_by("id"))
        names = ", ".join(aliases)
        advice = f"; merged into it: {names}, split one of those" if names else ""
        raise IdentityError(f"{kind} {id} is not merged into another{advice}")
    row.merged_into = None
    _record(session, kind, IdentityAction.SPLIT, id, changed_by, now, other_id=into)
    return into


def rename(
    session: Session, kind: IdentityKind, id: str, name: str, changed_by: str, now: datetime
) -> None:
    """Give it a name, in place of what headers call it. Raises IdentityError."""
    row = _lock(session, kind, (id,))[id]
    _require_root(kind, row, "rename that one, or split it first")
    if row.name == name:
        raise IdentityError(f"{kind} {id} has that name already")
    _record(session, kind, IdentityAction.RENAME, id, changed_by, now, before=row.name, after=name)
    row.name = name


def _lock(session: Session, kind: IdentityKind, ids: Sequence[str]) -> dict[str, Identity]:
    """The rows by id, locked in the order of their ids: two at once wait, and never for each
    other. Raises IdentityError for an unknown id."""
    table = _TABLES[kind]
    unique_ids = sorted(set(ids))
    rows = session.scalars(
        select(table)
        .where(table.id.in_(unique_ids))
        .order_by(table.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    by_id: dict[str, Any] = {row.id: row for row in rows}
    for id in ids:
        if id not in by_id:
            raise IdentityError(f"there is no {kind} {id}; see {kind} list")
    return by_id


def _require_root(kind: IdentityKind, row: Identity, advice: str) -> None:
    if row.merged_into is not None:
        raise IdentityError(f"{kind} {row.id} is merged into {row.merged_into} already; {advice}")


def _record(
    session: Session,
    kind: IdentityKind,
    action: IdentityAction,
    subject_id: str,
    changed_by: str,
    now: datetime,
    **values: str | None,
) -> None:
    session.add(
        IdentityChange(
            kind=kind,
            action=action,
            subject_id=subject_id,
            changed_by=changed_by,
            changed_at=now,
            **values,
        )
    )


@dataclass(frozen=True, slots=True)
class ListedIdentity:
    """The row of a person or device with the images of its own identity, and when the first and
    the last of them were received (None: no image)."""

    row: Any
    images: int
    first_at: datetime | None
    last_at: datetime | None


def rows(session: Session, kind: IdentityKind) -> list[Identity]:
    """All persons or devices, by id."""
    return list(session.scalars(select(_TABLES[kind]).order_by("id")))


@dataclass(frozen=True, slots=True)
class ImageCount:
    """How many images, and when the first and the last of them were received."""

    images: int
    first_at: datetime
    last_at: datetime


def count_images(
    session: Session, kind: IdentityKind, ids: Collection[str] | None = None
) -> dict[str, ImageCount]:
    """The images of each person or device that has any, or of these, by id. It reads a row for
    every image."""
    return {each: ImageCount(*numbers) for each, *numbers in session.execute(_counts(kind, ids))}


def every(
    session: Session, kind: IdentityKind, counts: Mapping[str, ImageCount] | None = None
) -> list[ListedIdentity]:
    """All persons or devices, by id, with these counts of their images, or counted now."""
    if counts is None:
        counts = count_images(session, kind)
    return [
        ListedIdentity(row, 0, None, None)
        if (count := counts.get(row.id)) is None
        else ListedIdentity(row, count.images, count.first_at, count.last_at)
        for row in rows(session, kind)
    ]


def _counts(kind: IdentityKind, ids: Collection[str] | None) -> Any:
    """Ids with the number of their images: an image that came again counts once."""
    numbers = (
        func.count(Revision.instance_id.distinct()),
        func.min(Revision.received_at),
        func.max(Revision.received_at),
    )
    of_person = AcquisitionOperator.__table__.c
    of_device = AcquisitionRow.__table__.c
    is_person = kind is IdentityKind.PERSON
    id: ColumnElement[Any] = of_person.person_id if is_person else of_device.device_id
    revision = of_person.revision_id if is_person else of_device.revision_id
    joined = select(id, *numbers).join(Revision, Revision.id == revision)
    return joined.where(id.is_not(None) if ids is None else id.in_(ids)).group_by(id)


def history(session: Session, kind: IdentityKind) -> list[IdentityChange]:
    """All decisions, oldest first."""
    return list(
        session.scalars(
            select(IdentityChange).where(IdentityChange.kind == kind).order_by(IdentityChange.id)
        )
    )

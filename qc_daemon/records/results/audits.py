"""Audits: one row by name and local date, which one process at a time works at.

The nightly audit's name is `nightly`. One of a period that somebody chose is `from-` and its first
day, one that tries another bundle in shadow `shadow-` and the first digits of its model id: neither
takes the place of what people were told of by the nightly one.

| state | next |
|---|---|
| waiting | running (claimed), paused, cancelled |
| running | done, failed, waiting (lease expired), paused, cancelled |
| paused | waiting (resumed), cancelled |
| done, failed, cancelled | waiting (run again) |
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, and_, case, insert, or_, select, update
from sqlalchemy.orm import Session

from detector.errors import ErrorCode
from qc_daemon.records.tables import AuditLimits, AuditRow, AuditState
from qc_daemon.records.upsert import execute_update, insert_once, table_of

NIGHTLY = "nightly"
_PERIOD, _SHADOW = "from-", "shadow-"
_ID_DIGITS = 12
LEASE_SECONDS = 300.0
"""After which a silent process's audit is another's."""
_FREE = {"owner": None, "lease_token": None, "lease_until": None}
OPEN_STATES = (AuditState.WAITING, AuditState.RUNNING, AuditState.PAUSED)


@dataclass(frozen=True, slots=True)
class ShadowBundle:
    """The bundle that an audit tries in shadow, and where it lies."""

    model_id: str
    path: str


def period_name(first_day: str) -> str:
    """The name of an audit of a period that begins on this day (ISO 8601)."""
    return f"{_PERIOD}{first_day}"


def shadow_name(model_id: str) -> str:
    """The name of audits that try the bundle with this model id."""
    return f"{_SHADOW}{model_id[:_ID_DIGITS]}"


@dataclass(frozen=True, slots=True)
class ClaimedAudit:
    """An audit that this process works at, for as long as its lease lasts."""

    id: int
    name: str
    local_date: str
    first_day: str | None
    token: str
    bundle: ShadowBundle | None = None


def queue(session: Session, name: str, local_date: str, now: datetime) -> bool:
    """Add an audit that waits; False if there is one of that name and date, whoever added it."""
    values = {
        "name": name,
        "local_date": local_date,
        "first_day": None,
        "last_day": None,
        "state": AuditState.WAITING,
        "progress": 0.0,
        "attempts": 0,
        "created_at": now,
        "updated_at": now,
    }
    return insert_once(session, AuditRow, values, ("name", "local_date")) is not None


def restart(
    session: Session,
    name: str,
    local_date: str,
    first_day: str | None,
    now: datetime,
    bundle: ShadowBundle | None = None,
) -> bool:
    """Have an audit run again, or for the first time, from `first_day` on (None: what the settings
    say); False while another process works at it. What it found before stays until it is done.
    `bundle`: what it tries in shadow."""
    queue(session, name, local_date, now)
    changed = execute_update(
        session,
        update(AuditRow)
        .where(
            AuditRow.name == name,
            AuditRow.local_date == local_date,
            or_(AuditRow.state != AuditState.RUNNING, AuditRow.lease_until < now),
        )
        .values(
            state=AuditState.WAITING,
            first_day=first_day,
            last_day=local_date,
            progress=0.0,
            attempts=0,
            error_code=None,
            error_message=None,
            updated_at=now,
            model_id=None if bundle is None else bundle.model_id,
            bundle_path=None if bundle is None else bundle.path,
            **_FREE,
        ),
    )
    return changed > 0


def claim(
    session: Session,
    owner: str,
    now: datetime,
    lease_seconds: float,
    *,
    only: tuple[str, str] | None = None,
) -> ClaimedAudit | None:
    """Take the oldest audit that waits, or whose worker is gone, nightly ones first; `only` one of
    that name and date. None if there is none, or another process was faster."""
    is_free = _is_free(now)
    statement = select(
        AuditRow.id,
        AuditRow.name,
        AuditRow.local_date,
        AuditRow.first_day,
        AuditRow.model_id,
        AuditRow.bundle_path,
    )
    order = (_NIGHTLY_FIRST, AuditRow.local_date, AuditRow.id)
    statement = statement.where(is_free).order_by(*order).limit(1)
    if only is not None:
        statement = statement.where(AuditRow.name == only[0], AuditRow.local_date == only[1])
    row = session.execute(statement).one_or_none()
    if row is None:
        return None
    token = uuid4().hex
    taken = execute_update(
        session,
        update(AuditRow)
        .where(AuditRow.id == row.id, is_free)
        .values(
            state=AuditState.RUNNING,
            owner=owner,
            lease_token=token,
            lease_until=now + timedelta(seconds=lease_seconds),
            attempts=AuditRow.attempts + 1,
            progress=0.0,
            updated_at=now,
        ),
    )
    if not taken:
        return None
    bundle = None if row.model_id is None else ShadowBundle(row.model_id, row.bundle_path or "")
    return ClaimedAudit(row.id, row.name, row.local_date, row.first_day, token, bundle)


def renew(
    session: Session,
    audit: ClaimedAudit,
    progress: float,
    now: datetime,
    lease_seconds: float,
    *,
    has_stored: bool = False,
) -> bool:
    """Say how far it is, and keep it; False where it was paused, cancelled or taken over.

    `has_stored`: what was done so far is not done again, so that the next death is the first.
    """
    values: dict[str, Any] = {
        "progress": progress,
        "lease_until": now + timedelta(seconds=lease_seconds),
        "updated_at": now,
    }
    if has_stored:
        values["attempts"] = 1
    return _change(session, audit, values)


def release(session: Session, audit: ClaimedAudit, state: AuditState, now: datetime) -> bool:
    """Leave it to wait or paused, for whoever goes on with it; False where it is another's."""
    return _change(session, audit, {"state": state, "updated_at": now, **_FREE})


def finish(
    session: Session, audit: ClaimedAudit, content: Mapping[str, Any], now: datetime
) -> bool:
    """Store what it found; False where it is no longer this process's."""
    values = {
        "state": AuditState.DONE,
        "progress": 1.0,
        "content": encode(content),
        "data_sha256": content["data_sha256"],
        "error_code": None,
        "error_message": None,
        "updated_at": now,
        **_FREE,
    }
    return _change(session, audit, values)


def fail(session: Session, audit: ClaimedAudit, code: str, message: str, now: datetime) -> bool:
    """Store why it ended without an answer."""
    values = {
        "state": AuditState.FAILED,
        "error_code": code,
        "error_message": message,
        "updated_at": now,
        **_FREE,
    }
    return _change(session, audit, values)


def _change(session: Session, audit: ClaimedAudit, values: dict[str, Any]) -> bool:
    changed = execute_update(
        session,
        update(AuditRow)
        .where(AuditRow.id == audit.id, AuditRow.lease_token == audit.token)
        .values(**values),
    )
    return changed > 0


_FROM = {
    AuditState.PAUSED: (AuditState.WAITING, AuditState.RUNNING),
    AuditState.WAITING: (AuditState.PAUSED,),
    AuditState.CANCELLED: OPEN_STATES,
}


def change_state(
    session: Session, name: str, local_date: str, state: AuditState, now: datetime
) -> str | None:
    """Pause, resume (to `waiting`) or cancel; None where done, else the state it stays in, which is
    empty where there is no such audit."""
    changed = execute_update(
        session,
        update(AuditRow)
        .where(
            AuditRow.name == name,
            AuditRow.local_date == local_date,
            AuditRow.state.in_(_FROM[state]),
        )
        .values(state=state, updated_at=now, **_FREE),
    )
    if changed:
        return None
    return (
        session.scalar(
            select(AuditRow.state).where(AuditRow.name == name, AuditRow.local_date == local_date)
        )
        or ""
    )


def dates(session: Session, name: str) -> set[str]:
    """The local dates that there is an audit of, whatever its state."""
    return set(session.scalars(select(AuditRow.local_date).where(AuditRow.name == name)))


def has_waiting(session: Session, now: datetime) -> bool:
    """Whether `claim` would find one."""
    return session.scalar(select(AuditRow.id).where(_is_free(now)).limit(1)) is not None


def has_nightly_waiting(session: Session, now: datetime) -> bool:
    """Whether a nightly audit waits for a process."""
    statement = select(AuditRow.id).where(_is_free(now), AuditRow.name == NIGHTLY)
    return session.scalar(statement.limit(1)) is not None


def give_up(session: Session, max_attempts: int, now: datetime) -> list[str]:
    """Fail those whose workers died too often; returns their dates."""
    rows = session.execute(
        select(AuditRow.id, AuditRow.local_date).where(
            AuditRow.state == AuditState.RUNNING,
            AuditRow.lease_until < now,
            AuditRow.attempts >= max_attempts,
        )
    ).all()
    for row in rows:
        session.execute(
            update(AuditRow)
            .where(AuditRow.id == row.id, AuditRow.lease_until < now)
            .values(
                state=AuditState.FAILED,
                error_code=ErrorCode.WORKER_DEATHS.value,
                error_message=f"{max_attempts} processes ended while they worked at it",
                updated_at=now,
                **_FREE,
            )
        )
    return [row.local_date for row in rows]


_NIGHTLY_FIRST = case((AuditRow.name == NIGHTLY, 0), else_=1)


def _is_free(now: datetime) -> ColumnElement[bool]:
    return or_(
        AuditRow.state == AuditState.WAITING,
        and_(AuditRow.state == AuditState.RUNNING, AuditRow.lease_until < now),
    )


@dataclass(frozen=True, slots=True)
class ListedAudit:
    """An audit as it is listed; `progress` is 0 to 1."""

    name: str
    local_date: str
    state: str
    progress: float
    first_day: str | None
    data_sha256: str | None
    error_code: str | None
    error_message: str | None
    updated_at: datetime


def every(session: Session) -> list[ListedAudit]:
    """All audits, the newest date first."""
    names = ListedAudit.__dataclass_fields__
    rows = session.execute(
        select(*(getattr(AuditRow, name) for name in names)).order_by(
            AuditRow.local_date.desc(), AuditRow.name
        )
    )
    return [ListedAudit(*row) for row in rows]


def names_of(session: Session, local_date: str) -> list[str]:
    """The names of the audits of that date, the nightly one first."""
    statement = select(AuditRow.name).where(AuditRow.local_date == local_date)
    return list(session.scalars(statement.order_by(_NIGHTLY_FIRST, AuditRow.name)))


def read(
    session: Session,
    name: str | None,
    *,
    local_date: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> dict[str, Any] | None:
    """What the audit of that date found, or the newest one of a period (both days included); None
    where none is done.

    Without a name it is one of persons and devices: the nightly one, where there is one of the
    date, else that of the period that was run last. Where `since` and `until` are the very days of
    such a period, it is that one.
    """
    statement = select(AuditRow.content).where(AuditRow.content.is_not(None))
    order = [AuditRow.local_date.desc(), _NIGHTLY_FIRST, AuditRow.updated_at.desc()]
    if name is not None:
        statement = statement.where(AuditRow.name == name)
    else:
        statement = statement.where(AuditRow.model_id.is_(None))
        if since is not None and until is not None:
            is_period = and_(AuditRow.name == period_name(since), AuditRow.local_date == until)
            order.insert(0, case((is_period, 0), else_=1))
    if local_date is not None:
        statement = statement.where(AuditRow.local_date == local_date)
    if since is not None:
        statement = statement.where(AuditRow.local_date >= since)
    if until is not None:
        statement = statement.where(AuditRow.local_date <= until)
    content = session.scalar(statement.order_by(*order).limit(1))
    return None if content is None else json.loads(content)


def encode(content: Mapping[str, Any]) -> bytes:
    """The content as it is stored and printed; the same content gives the same bytes."""
    return json.dumps(content, allow_nan=False, separators=(", ", ": ")).encode()


@dataclass(frozen=True, slots=True)
class StoredLimits:
    """The limits that a week was first judged by."""

    kind: str
    subject_id: str
    measure: str
    starts_on: str
    centre: float
    low: float
    high: float


def stored_limits(session: Session, name: str, until: str) -> list[StoredLimits]:
    """The limits that audits up to that date judged by."""
    names = StoredLimits.__dataclass_fields__
    rows = session.execute(
        select(*(getattr(AuditLimits, each) for each in names)).where(
            AuditLimits.name == name, AuditLimits.local_date <= until
        )
    )
    return [StoredLimits(*row) for row in rows]


def add_limits(session: Session, name: str, local_date: str, limits: list[StoredLimits]) -> None:
    """Store limits of weeks that have none."""
    if not limits:
        return
    limit_keys = {
        (row.kind, row.subject_id, row.measure, row.starts_on)
        for row in session.execute(
            select(
                AuditLimits.kind,
                AuditLimits.subject_id,
                AuditLimits.measure,
                AuditLimits.starts_on,
            ).where(AuditLimits.name == name)
        )
    }
    rows = [
        {
            "name": name,
            "local_date": local_date,
            "kind": each.kind,
            "subject_id": each.subject_id,
            "measure": each.measure,
            "starts_on": each.starts_on,
            "centre": each.centre,
            "low": each.low,
            "high": each.high,
        }
        for each in limits
        if (each.kind, each.subject_id, each.measure, each.starts_on) not in limit_keys
    ]
    if rows:
        session.execute(insert(table_of(AuditLimits)), rows)

"""Stored audits for reports: what each says, as JSON (`audit show --format json`)."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import AuditRow, AuditState

NIGHTLY = "nightly"


def newest_in(
    session: Session, start: date | None, end: date | None, name: str = NIGHTLY
) -> dict[str, Any] | None:
    """The newest audit that is done, of a local date within these days (None: any); None where
    there is none."""
    statement = _select(start, end, name).order_by(AuditRow.local_date.desc()).limit(1)
    content = session.scalars(statement).first()
    return None if content is None else _body(content)


def every_in(
    session: Session, start: date | None, end: date | None, name: str = NIGHTLY
) -> Iterator[dict[str, Any]]:
    """All audits that are done, of local dates within these days, oldest first, one in memory at a
    time."""
    statement = _select(start, end, name).order_by(AuditRow.local_date)
    for content in session.scalars(statement.execution_options(yield_per=1)):
        if content is not None:
            yield _body(content)


def data_sha256(session: Session, name: str, local_date: str) -> str | None:
    """The hash of the data that the audit read; None while it is not known."""
    return session.execute(
        select(AuditRow.data_sha256).where(AuditRow.name == name, AuditRow.local_date == local_date)
    ).scalar_one_or_none()


def _select(start: date | None, end: date | None, name: str) -> Select[bytes | None]:
    statement = select(AuditRow.content).where(
        AuditRow.name == name,
        AuditRow.state == AuditState.DONE,
        AuditRow.content.is_not(None),
    )
    if start is not None:
        statement = statement.where(AuditRow.local_date >= start.isoformat())
    if end is not None:
        statement = statement.where(AuditRow.local_date <= end.isoformat())
    return statement


def _body(content: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(content)
    return body

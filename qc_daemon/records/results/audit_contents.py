"""Stored audits for reports: what each says, as JSON (`audit show --format json`)."""

import json
from datetime import date
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import AuditRow, AuditState

NIGHTLY = "nightly"


def newest_in(
    session: Session, start: date | None, end: date | None, name: str = NIGHTLY
) -> dict[str, Any] | None:
    """The newest audit that is done, of a local date within these days (None: any); None where
    there is none."""
    statement = select(AuditRow.content).where(
        AuditRow.name == name,
        AuditRow.state == AuditState.DONE,
        AuditRow.content.is_not(None),
    )
    if start is not None:
        statement = statement.where(AuditRow.local_date >= start.isoformat())
    if end is not None:
        statement = statement.where(AuditRow.local_date <= end.isoformat())
    content = session.scalars(statement.order_by(AuditRow.local_date.desc()).limit(1)).first()
    if content is None:
        return None
    body: dict[str, Any] = json.loads(content)
    return body

"""Stored audits one after the other, for exports and digests; one alone: `audits.read`."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import AuditRow


def every_in(session: Session, start: date | None, end: date | None) -> Iterator[dict[str, Any]]:
    """What the audits of local dates within these days (None: any) found, oldest first, one in
    memory at a time; also those of chosen periods, but none that tried another bundle."""
    statement = select(AuditRow.content).where(
        AuditRow.model_id.is_(None), AuditRow.content.is_not(None)
    )
    if start is not None:
        statement = statement.where(AuditRow.local_date >= start.isoformat())
    if end is not None:
        statement = statement.where(AuditRow.local_date <= end.isoformat())
    statement = statement.order_by(AuditRow.local_date, AuditRow.name).execution_options(
        yield_per=1
    )
    for content in session.scalars(statement):
        if content is not None:
            yield json.loads(content)


def data_sha256(session: Session, name: str, local_date: str) -> str | None:
    """The hash of the data that the audit read; None while it is not known."""
    return session.execute(
        select(AuditRow.data_sha256).where(AuditRow.name == name, AuditRow.local_date == local_date)
    ).scalar_one_or_none()

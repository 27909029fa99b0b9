"""Who released which findings' images for teaching, and when; only added to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.tables import TeachingAction, TeachingRelease


@dataclass(frozen=True, slots=True)
class TeachingDecision:
    """A person's decision on one image of a preparation."""

    number: int
    action: TeachingAction
    finding_ids: tuple[int, ...]
    sha256: str | None = None


def add(
    session: Session,
    preparation: str,
    decisions: Sequence[TeachingDecision],
    decided_by: str,
    now: datetime,
) -> None:
    """Add the decisions; none of these images has one yet."""
    session.add_all(
        TeachingRelease(
            preparation=preparation,
            number=each.number,
            action=each.action,
            finding_ids=list(each.finding_ids),
            sha256=each.sha256,
            decided_by=decided_by,
            decided_at=now,
        )
        for each in decisions
    )
    session.flush()


def of_preparation(session: Session, preparation: str) -> dict[int, TeachingDecision]:
    """The decisions on images of this preparation, by the image's number."""
    rows = session.scalars(
        select(TeachingRelease).where(TeachingRelease.preparation == preparation)
    )
    return {
        row.number: TeachingDecision(
            row.number, TeachingAction(row.action), tuple(row.finding_ids), row.sha256
        )
        for row in rows
    }


def listing(session: Session, window: Window = ALL) -> list[dict[str, Any]]:
    """The decisions within the window, oldest first."""
    statement = window.where(select(TeachingRelease), TeachingRelease.decided_at)
    rows = session.scalars(statement.order_by(TeachingRelease.decided_at, TeachingRelease.id))
    return [
        {
            "at": row.decided_at.isoformat(timespec="seconds"),
            "by": row.decided_by,
            "action": row.action,
            "preparation": row.preparation,
            "number": row.number,
            "finding_ids": list(row.finding_ids),
            "sha256": row.sha256,
        }
        for row in rows
    ]

"""What a person lists: filtered, counted and cut off by the database, so that a page costs a page.

Each function returns the rows of one page and how many rows match in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from qc_daemon.records.revisions import select_facts
from qc_daemon.records.tables import (
    Commitment,
    CommitmentState,
    Exam,
    Instance,
    JobKind,
    JobRow,
    JobState,
    ReportObjectRow,
    Revision,
    RevisionState,
)

Rows = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows: from `since` until before `until` (UTC; None: no bound), at most `limit`."""

    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None

    def where(self, chosen: Select[Any], moment: InstrumentedAttribute[Any]) -> Select[Any]:
        """The statement, its `moment` within the window."""
        if self.since is not None:
            chosen = chosen.where(moment >= self.since)
        if self.until is not None:
            chosen = chosen.where(moment < self.until)
        return chosen


ALL = Window()


def jobs(
    session: Session,
    states: Sequence[JobState],
    kinds: Sequence[JobKind] = (),
    destinations: Sequence[str] = (),
    window: Window = ALL,
) -> tuple[Rows, int]:
    """Jobs in these states, oldest first, each with the UIDs of its study and object.

    The window is about when a job was made. Without kinds or destinations, of any.
    """
    chosen = window.where(select(JobRow.id).where(JobRow.state.in_(states)), JobRow.created_at)
    if kinds:
        chosen = chosen.where(JobRow.kind.in_(kinds))
    if destinations:
        chosen = chosen.where(JobRow.destination.in_(destinations))
    page = chosen.order_by(JobRow.id).limit(window.limit).subquery()
    rows = session.execute(
        select(
            JobRow.id,
            JobRow.kind,
            JobRow.subject,
            JobRow.revision,
            JobRow.destination,
            JobRow.state,
            JobRow.attempts,
            JobRow.not_before,
            JobRow.created_at,
            JobRow.error_code,
            JobRow.error_message,
            JobRow.exam_id,
            Exam.study_instance_uid,
            func.coalesce(ReportObjectRow.sop_instance_uid, Instance.sop_instance_uid).label(
                "sop_instance_uid"
            ),
        )
        .join(page, page.c.id == JobRow.id)
        .join(Exam, Exam.id == JobRow.exam_id)
        .join(ReportObjectRow, ReportObjectRow.id == JobRow.object_id, isouter=True)
        .join(Revision, Revision.id == JobRow.revision_id, isouter=True)
        .join(Instance, Instance.id == Revision.instance_id, isouter=True)
        .order_by(JobRow.id)
    ).all()
    return rows, _total(session, chosen, rows, window)


def commitments(
    session: Session, states: Sequence[CommitmentState], window: Window = ALL
) -> tuple[Rows, int]:
    """Storage commitment requests in these states, oldest first; the window: when requested."""
    chosen = window.where(
        select(*Commitment.__table__.c).where(Commitment.state.in_(states)),
        Commitment.requested_at,
    )
    rows = session.execute(chosen.order_by(Commitment.id).limit(window.limit)).all()
    return rows, _total(session, chosen, rows, window)


def quarantined(
    session: Session, codes: Sequence[str] = (), window: Window = ALL
) -> tuple[Rows, int]:
    """Facts and reason of quarantined objects in order of arrival; the window: since when."""
    chosen = select_facts().add_columns(
        Revision.reason_code, Revision.reason_message, Revision.reason_at
    )
    chosen = window.where(
        chosen.where(Revision.state == RevisionState.QUARANTINED), Revision.reason_at
    )
    if codes:
        chosen = chosen.where(Revision.reason_code.in_(codes))
    ordered = chosen.order_by(Revision.received_at, Revision.id)
    rows = session.execute(ordered.limit(window.limit)).all()
    return rows, _total(session, chosen, rows, window)


def _total(session: Session, chosen: Select[Any], rows: Rows, window: Window) -> int:
    if window.limit is None or len(rows) < window.limit:
        return len(rows)
    return session.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()

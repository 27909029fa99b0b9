"""Gauges that the metrics read from the tables, beside those of the queue."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from qc_daemon.records.received import exams
from qc_daemon.records.tables import Commitment, CommitmentState, Revision, RevisionState


@dataclass(frozen=True, slots=True)
class Gauges:
    """Counts; `quarantined` without what a person dismissed, `commitments` by state, without those
    reported."""

    open_exams: int
    quarantined: int
    commitments: dict[str, int]


def read(session: Session) -> Gauges:
    """The gauges now."""
    quarantined = (
        select(func.count())
        .select_from(Revision)
        .where(Revision.state == RevisionState.QUARANTINED, Revision.dismissed_at.is_(None))
    )
    commitments = session.execute(
        select(Commitment.state, func.count().label("number"))
        .where(Commitment.state != CommitmentState.REPORTED)
        .group_by(Commitment.state)
    )
    return Gauges(
        open_exams=exams.count_open(session),
        quarantined=session.execute(quarantined).scalar_one(),
        commitments={row.state: row.number for row in commitments},
    )

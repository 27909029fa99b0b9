"""Gauges that the metrics read from the tables, beside those of the queue."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from qc_daemon.records.received import exams
from qc_daemon.records.results import bundles
from qc_daemon.records.results.audits import NIGHTLY
from qc_daemon.records.results.bundles import ActiveBundle
from qc_daemon.records.tables import (
    AuditRow,
    AuditState,
    Commitment,
    CommitmentState,
    DestinationState,
    DigestRow,
    DigestState,
    Exam,
    Revision,
    RevisionState,
)

_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class NightlyAudit:
    """The newest nightly audit that ended: its row and when; `has_failed` where it has no answer.

    `finished_at` is when the last one that has an answer was stored; None: never.
    """

    has_failed: bool = False
    finished_at: datetime | None = None
    finished_id: int | None = None


@dataclass(frozen=True, slots=True)
class Gauges:
    """Counts; `quarantined` without what a person dismissed, `commitments` by state, without those
    reported. `failing_since` is of destinations that are not reached, `digests` by state without
    those sent, `bundle` the active one."""

    open_exams: int
    quarantined: int
    commitments: dict[str, int]
    failing_since: dict[str, datetime] = field(default_factory=dict)
    digests: dict[str, int] = field(default_factory=dict)
    bundle: ActiveBundle | None = None
    audit: NightlyAudit = NightlyAudit()


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
    failing = session.execute(
        select(DestinationState.destination, DestinationState.failing_since).where(
            DestinationState.failing_since.is_not(None)
        )
    )
    digests = session.execute(
        select(DigestRow.state, func.count().label("number"))
        .where(DigestRow.state != DigestState.SENT)
        .group_by(DigestRow.state)
    )
    return Gauges(
        open_exams=exams.count_open(session),
        quarantined=session.execute(quarantined).scalar_one(),
        commitments={row.state: row.number for row in commitments},
        failing_since={row.destination: row.failing_since for row in failing},
        digests={row.state: row.number for row in digests},
        bundle=bundles.active(session),
        audit=_nightly_audit(session),
    )


def _nightly_audit(session: Session) -> NightlyAudit:
    ended = (
        select(AuditRow.id, AuditRow.state, AuditRow.updated_at)
        .where(AuditRow.name == NIGHTLY, AuditRow.state.in_((AuditState.DONE, AuditState.FAILED)))
        .order_by(AuditRow.local_date.desc())
    )
    newest = session.execute(ended.limit(1)).one_or_none()
    done = session.execute(ended.where(AuditRow.state == AuditState.DONE).limit(1)).one_or_none()
    return NightlyAudit(
        newest is not None and newest.state == AuditState.FAILED,
        None if done is None else done.updated_at,
        None if done is None else done.id,
    )


def drifts(session: Session, audit_id: int) -> dict[str, int]:
    """How many subjects of each kind (device, site) an audit calls drifting.

    It reads the whole audit: ask once for each.
    """
    content = session.scalar(select(AuditRow.content).where(AuditRow.id == audit_id))
    drifting = {
        (each["kind"], each["id"])
        for each in (json.loads(content) if content else {}).get("drift", ())
        if each["flag"] == "alarm"
    }
    return {kind: sum(each == kind for each, _ in drifting) for kind in ("device", "site")}


def arrivals(
    session: Session, calling_aes: Collection[str], since: datetime, until: datetime
) -> Iterator[tuple[str, datetime]]:
    """The AE title and moment of each object that these callers sent from `since` to `until`.

    What was imported came from no machine.
    """
    if not calling_aes:
        return
    rows = session.execute(
        select(Revision.calling_ae, Revision.received_at)
        .where(
            Revision.received_at >= since,
            Revision.received_at <= until,
            Revision.calling_ae.in_(calling_aes),
            Revision.transfer_syntax_uid != "",
        )
        .execution_options(yield_per=_CHUNK)
    )
    for row in rows:
        yield row.calling_ae, row.received_at


def has_exams(session: Session) -> bool:
    """Whether anything was ever received."""
    return session.scalar(select(Exam.id).limit(1)) is not None

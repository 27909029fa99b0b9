"""Revisions of an instance: what their pixels are, and why one could not be scored."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Row, Select, select, update
from sqlalchemy.orm import Session

from detector.errors import ErrorCode
from qc_daemon.records.queue import jobs
from qc_daemon.records.tables import (
    Content,
    Exam,
    Instance,
    JobKind,
    JobRow,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import execute_update
from qc_daemon.spool import verification


@dataclass(frozen=True, slots=True)
class RevisionFacts:
    """What a stage needs to know of a revision; `path` is relative to the spool.

    `number` counts from 1 and is the finding's `revision`; `bundle_id` is the model id the exam is
    fixed to; `received_at` is UTC.
    """

    revision_id: int
    instance_id: int
    exam_id: int
    number: int
    state: RevisionState
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    pixel_sha256: str | None
    size: int
    path: str
    bundle_id: str | None
    calling_ae: str
    received_at: datetime


Originals = Callable[[RevisionFacts], Path]
"""Gives the file with a revision's received object; raises QCError if it cannot be had."""


def in_spool(spool: Path) -> Originals:
    """Originals that are in the spool or nowhere; raises QCError SPOOL_MISSING, SPOOL_DAMAGED."""

    def find(facts: RevisionFacts) -> Path:
        path = spool / facts.path
        verification.verify(path, verification.content_hash(path, facts.sha256))
        return path

    return find


@dataclass(frozen=True, slots=True)
class QuarantinedRevision:
    """A revision that could not be scored, and the recorded reason."""

    facts: RevisionFacts
    code: str
    message: str
    since: datetime


def facts(session: Session, revision_id: int) -> RevisionFacts:
    """The revision's facts; raises LookupError if there is none of that id."""
    row = session.execute(select_facts().where(Revision.id == revision_id)).one_or_none()
    if row is None:
        raise LookupError(f"no revision {revision_id}")
    return as_facts(row)


def facts_of(session: Session, revision_ids: Collection[int]) -> dict[int, RevisionFacts]:
    """The facts of those of the revisions that there are, by id."""
    rows = session.execute(select_facts().where(Revision.id.in_(revision_ids)))
    return {row.revision_id: as_facts(row) for row in rows}


def record_pixels(
    session: Session, revision_id: int, pixel_sha256: str, now: datetime
) -> Literal["score", "header", "other"]:
    """Record the SHA-256 of the decoded pixels; returns what there is to do.

    'score': the first content under this UID. 'header': the pixels of another revision of the
    instance, whose findings stand for this one too: nothing to score. 'other': other pixels under
    the same UID: to be scored and flagged same-uid-other-content. Asked again, the answer for the
    same pixels stays the same.
    """
    instance_id = session.execute(
        select(Revision.instance_id).where(Revision.id == revision_id)
    ).scalar_one()
    # One at a time by instance, so that two revisions are never both the first.
    session.execute(
        select(Instance.id).where(Instance.id == instance_id).with_for_update(key_share=True)
    )
    own = session.execute(
        select(Revision.content, Revision.pixel_sha256).where(Revision.id == revision_id)
    ).one()
    if own.content is not None and own.pixel_sha256 == pixel_sha256:
        if own.content == Content.HEADER:
            # One that was released from quarantine shares the earlier findings again.
            execute_update(
                session,
                update(Revision)
                .where(Revision.id == revision_id)
                .values(state=RevisionState.HEADER),
            )
        return _ANSWERS[Content(own.content)]
    others = session.execute(
        select(Revision.id, Revision.pixel_sha256, Revision.state)
        .where(
            Revision.instance_id == instance_id,
            Revision.id != revision_id,
            Revision.pixel_sha256.is_not(None),
            Revision.source_revision_id.is_(None),
        )
        .order_by(Revision.number)
    ).all()
    twin = next(
        (
            other.id
            for other in others
            if other.pixel_sha256 == pixel_sha256 and other.state != RevisionState.QUARANTINED
        ),
        None,
    )
    if twin is not None:
        content, state = Content.HEADER, RevisionState.HEADER
    else:
        differs = any(other.pixel_sha256 != pixel_sha256 for other in others)
        content = Content.OTHER if differs else Content.SCORE
        state = RevisionState.RECEIVED
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == revision_id)
        .values(pixel_sha256=pixel_sha256, content=content, state=state, source_revision_id=twin),
    )
    return _ANSWERS[content]


_ANSWERS: dict[Content, Literal["score", "header", "other"]] = {
    Content.SCORE: "score",
    Content.HEADER: "header",
    Content.OTHER: "other",
}


def quarantine(
    session: Session, revision_id: int, code: ErrorCode, message: str, now: datetime
) -> None:
    """Quarantine the revision, unscored, with its reason; `jobs.fail` does this by itself."""
    jobs.record_reason(session, revision_id, code, message, now)


def quarantine_scored(
    session: Session, revision_id: int, code: ErrorCode, message: str, now: datetime
) -> None:
    """Quarantine a scored revision that no report can include; `release` scores it again."""
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == revision_id)
        .values(
            state=RevisionState.QUARANTINED,
            reason_code=code,
            reason_message=message,
            reason_at=now,
        ),
    )


def record_missing_overlay(
    session: Session, revision_id: int, code: ErrorCode, message: str, now: datetime
) -> None:
    """Record why a scored revision has no overlay; its findings stay as they are."""
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == revision_id, Revision.state != RevisionState.QUARANTINED)
        .values(reason_code=code, reason_message=message, reason_at=now),
    )


@dataclass(frozen=True, slots=True)
class ContentOfImage:
    """A content that came for an image; `content` says how its pixels relate to those before, None
    while they are not read."""

    number: int
    state: RevisionState
    content: Content | None
    received_at: datetime
    calling_ae: str


def contents_of_image(session: Session, instance_id: int, exam_id: int) -> list[ContentOfImage]:
    """The contents of the instance that belong to this exam, the first one first."""
    rows = session.execute(
        select(
            Revision.number,
            Revision.state,
            Revision.content,
            Revision.received_at,
            Revision.calling_ae,
        )
        .where(Revision.instance_id == instance_id, Revision.exam_id == exam_id)
        .order_by(Revision.number)
    )
    return [
        ContentOfImage(
            row.number,
            RevisionState(row.state),
            None if row.content is None else Content(row.content),
            row.received_at,
            row.calling_ae,
        )
        for row in rows
    ]


def quarantined_revisions(session: Session) -> list[QuarantinedRevision]:
    """All revisions in quarantine, in order of arrival."""
    rows = session.execute(
        select_facts()
        .add_columns(Revision.reason_code, Revision.reason_message, Revision.reason_at)
        .where(Revision.state == RevisionState.QUARANTINED)
        .order_by(Revision.received_at, Revision.id)
    )
    return [
        QuarantinedRevision(as_facts(row), row.reason_code, row.reason_message, row.reason_at)
        for row in rows
    ]


def release(session: Session, revision_id: int, now: datetime) -> bool:
    """Let a quarantined revision be scored again, now; False if it is not in quarantine.

    Its score job is ready with its counts reset, and its exam open again.
    """
    job = session.execute(
        select(JobRow)
        .join(Revision, Revision.id == JobRow.revision_id)
        .where(
            JobRow.kind == JobKind.SCORE,
            JobRow.revision_id == revision_id,
            Revision.state == RevisionState.QUARANTINED,
        )
        .with_for_update(of=JobRow)
        .execution_options(populate_existing=True)
    ).scalar_one_or_none()
    if job is None:
        return False
    jobs.make_ready(session, job, now)
    return True


def dismiss(
    session: Session, revision_id: int, *, reason: str, dismissed_by: str, now: datetime
) -> bool:
    """Record that a person wants nothing more done about a quarantined revision.

    It stays in quarantine, and `release` scores it again. False if it is not in quarantine or
    dismissed already.
    """
    return bool(
        execute_update(
            session,
            update(Revision)
            .where(
                Revision.id == revision_id,
                Revision.state == RevisionState.QUARANTINED,
                Revision.dismissed_at.is_(None),
            )
            .values(dismissed_at=now, dismissed_by=dismissed_by, dismissal_reason=reason),
        )
    )


def select_facts() -> Select[*tuple[object, ...]]:
    """The columns `as_facts` reads, from revision, instance and exam."""
    return (
        select(
            Revision.id.label("revision_id"),
            Revision.instance_id,
            Revision.exam_id,
            Revision.number,
            Revision.state,
            Exam.study_instance_uid,
            Revision.series_instance_uid,
            Instance.sop_instance_uid,
            Revision.sop_class_uid,
            Revision.transfer_syntax_uid,
            Revision.sha256,
            Revision.pixel_sha256,
            Revision.size,
            Revision.path,
            Exam.bundle_id,
            Revision.calling_ae,
            Revision.received_at,
        )
        .join(Instance, Instance.id == Revision.instance_id)
        .join(Exam, Exam.id == Revision.exam_id)
    )


def as_facts(row: Row[*tuple[object, ...]]) -> RevisionFacts:
    """The facts in a row of `select_facts`."""
    values = {name: getattr(row, name) for name in RevisionFacts.__slots__}
    return RevisionFacts(**values | {"state": RevisionState(values["state"])})

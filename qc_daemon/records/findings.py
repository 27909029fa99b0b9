"""Findings: stored once per revision and model, asked for by study, time or exam."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from detector.codes import Flag
from qc_daemon.records.revisions import as_facts, select_facts
from qc_daemon.records.rows import changed
from qc_daemon.records.tables import Exam, Finding, Revision, RevisionState


def store(
    session: Session, revision_id: int, findings: Sequence[dict[str, Any]], now: datetime
) -> int:
    """Store the findings (JSON objects of the design's section 5) and mark the revision scored.

    The first set of a revision and model stands: a second run, whatever it found, inserts nothing
    and changes nothing. Returns how many findings were stored.
    """
    session.execute(
        select(Revision.id).where(Revision.id == revision_id).with_for_update(key_share=True)
    ).one()
    known = set(session.scalars(select(Finding.model_id).where(Finding.revision_id == revision_id)))
    new = [finding for finding in findings if finding["bundle"]["model_id"] not in known]
    session.add_all(_row(revision_id, finding, now) for finding in new)
    session.flush()
    changed(
        session,
        update(Revision)
        .where(Revision.id == revision_id)
        .values(state=RevisionState.SCORED, reason_code=None, reason_message=None, reason_at=None),
    )
    return len(new)


def query(
    session: Session,
    study: str | None = None,
    since: datetime | None = None,
    exam_id: int | None = None,
) -> list[dict[str, Any]]:
    """Finding JSON objects and, for what could not be scored, objects with `error` instead.

    `since`: received at that moment or later. Ordered by arrival, then frame and region. A header
    revision brings the findings of the revision whose pixels it has, each finding once. Findings of
    a study that several patients share are flagged.
    """
    chosen = select_facts()
    if study is not None:
        chosen = chosen.where(Exam.study_instance_uid == study)
    if since is not None:
        chosen = chosen.where(Revision.received_at >= since)
    if exam_id is not None:
        chosen = chosen.where(Revision.exam_id == exam_id)
    wanted = chosen.with_only_columns(func.coalesce(Revision.source_revision_id, Revision.id))
    rows = session.execute(
        select(Revision.received_at, Revision.id, Finding.body, Exam.study_instance_uid)
        .join(Finding, Finding.revision_id == Revision.id)
        .join(Exam, Exam.id == Revision.exam_id)
        .where(Revision.id.in_(wanted))
        .order_by(Finding.frame, Finding.region, Finding.id)
    ).all()
    shared = _shared_studies(session, {row.study_instance_uid for row in rows})
    answers = [
        (row.received_at, row.id, _flagged(row.body, row.study_instance_uid in shared))
        for row in rows
    ]
    refused = session.execute(
        chosen.add_columns(Revision.reason_code, Revision.reason_message).where(
            Revision.state == RevisionState.QUARANTINED
        )
    )
    for row in refused:
        known = as_facts(row)
        answers.append(
            (
                known.received_at,
                known.revision_id,
                {
                    "source": None,
                    "study_instance_uid": known.study_instance_uid,
                    "series_instance_uid": known.series_instance_uid,
                    "sop_instance_uid": known.sop_instance_uid,
                    "revision": known.number,
                    "error": {"code": row.reason_code, "message": row.reason_message},
                },
            )
        )
    answers.sort(key=lambda answer: answer[:2])
    return [body for _, _, body in answers]


def _shared_studies(session: Session, studies: set[str]) -> set[str]:
    """Those of the studies that several patients share."""
    if not studies - {""}:
        return set()
    several = (
        select(Exam.study_instance_uid)
        .where(Exam.study_instance_uid != "")
        .group_by(Exam.study_instance_uid)
        .having(func.count() > 1)
    )
    if len(studies) == 1:
        several = several.where(Exam.study_instance_uid.in_(studies))
    return studies & set(session.scalars(several))


def _flagged(body: dict[str, Any], is_shared: bool) -> dict[str, Any]:
    return body | {"flags": [*body["flags"], Flag.OTHER_PATIENT_IN_STUDY]} if is_shared else body


def _row(revision_id: int, finding: dict[str, Any], now: datetime) -> Finding:
    return Finding(
        revision_id=revision_id,
        frame=finding["frame"],
        region=finding["region"]["index"],
        model_id=finding["bundle"]["model_id"],
        view=finding["view"]["code"],
        view_probability=finding["view"]["probability"],
        quality=finding["quality"]["label"],
        probability=finding["quality"]["probability"],
        body=finding,
        created_at=now,
    )

"""A page of findings, the last received first: read by the database alone, however many there are.

A page goes on from a `Cursor`, the moment and id of the last row before it, so that what arrives
meanwhile neither repeats nor hides a row.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, aliased

from qc_daemon.records.acquisition.acquisitions import (
    ANY_ACQUISITION,
    AcquisitionFilter,
    AcquisitionReader,
)
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.received.revisions import as_facts
from qc_daemon.records.results.findings import (
    StoredFinding,
    best_of,
    reason_of,
    scored_statement,
    shared_studies,
    with_flag,
)
from qc_daemon.records.tables import Finding, Revision


@dataclass(frozen=True, slots=True)
class Cursor:
    """The moment and the id of the last row of a page."""

    at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class FindingChoice:
    """Which findings; empty or None: any."""

    views: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    ids: Collection[int] | None = None


ANY_FINDING = FindingChoice()


def read(
    session: Session,
    limit: int,
    *,
    after: Cursor | None = None,
    exam_filter: ExamFilter | None = None,
    window: Window = ALL,
    acquisition_filter: AcquisitionFilter = ANY_ACQUISITION,
    choice: FindingChoice = ANY_FINDING,
) -> list[StoredFinding]:
    """At most so many of the findings that stand, the last received first."""
    statement = scored_statement(exam_filter or ExamFilter(), window, acquisition_filter)
    if choice.views:
        statement = statement.where(Finding.view.in_(choice.views))
    if choice.verdicts:
        statement = statement.where(Finding.quality.in_(choice.verdicts))
    if choice.ids is not None:
        statement = statement.where(Finding.id.in_(choice.ids))
    if after is not None:
        # The first condition is one that the index on the moment answers.
        statement = statement.where(
            Revision.received_at <= after.at,
            or_(Revision.received_at < after.at, Finding.id < after.id),
        )
    ordered = statement.order_by(Revision.received_at.desc(), Finding.id.desc()).limit(limit)
    rows = session.execute(ordered).all()
    if not rows:
        return []
    facts = [as_facts(row) for row in rows]
    shared = shared_studies(session, {each.study_instance_uid for each in facts})
    acquisitions = AcquisitionReader(session, {each.exam_id for each in facts})
    best, frames = _best(session, [row.finding_id for row in rows])
    return [
        StoredFinding(
            body=with_flag(row.body, each.study_instance_uid in shared),
            exam_id=each.exam_id,
            patient_id=row.patient_id,
            accession_number=row.accession_number,
            revision=each,
            is_superseded=row.is_superseded,
            frames=frames[row.finding_id],
            is_best=row.finding_id in best,
            acquisition=acquisitions.of_row(row),
            quarantine=reason_of(row),
            finding_id=row.finding_id,
            is_imported=row.imported_at is not None,
        )
        for row, each in zip(rows, facts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class ScoredFrame:
    """A frame of a cine as the models judged it; `probability` of a standard view is None for a
    view that is not assessed."""

    finding_id: int
    frame: int
    view: str
    quality: str
    probability: float | None


def frames_of(session: Session, finding_id: int) -> list[ScoredFrame]:
    """The findings of the same content, region and models, by frame."""
    one = aliased(Finding)
    rows = session.execute(
        select(Finding.id, Finding.frame, Finding.view, Finding.quality, Finding.probability)
        .join(
            one,
            and_(
                one.revision_id == Finding.revision_id,
                one.region == Finding.region,
                one.model_id == Finding.model_id,
            ),
        )
        .where(one.id == finding_id)
        .order_by(Finding.frame)
    )
    return [ScoredFrame(*row) for row in rows]


def _best(session: Session, ids: Sequence[int]) -> tuple[set[int], dict[int, int]]:
    """Which of these findings are shown for their object, and how many frames of it are scored."""
    siblings = (
        select(
            Finding.id,
            Finding.revision_id,
            Finding.model_id,
            Finding.frame,
            Finding.view,
            Finding.view_probability,
            Finding.probability,
        )
        .where(Finding.revision_id.in_(select(Finding.revision_id).where(Finding.id.in_(ids))))
        .order_by(Finding.frame, Finding.region, Finding.id)
    )
    by_object: defaultdict[int, list[Any]] = defaultdict(list)
    for row in session.execute(siblings):
        by_object[row.revision_id].append(row)
    best: set[int] = set()
    frames: dict[int, int] = {}
    for rows in by_object.values():
        positions = best_of(
            [
                {
                    "frame": row.frame,
                    "view": {"code": row.view, "probability": row.view_probability},
                    "quality": {"probability": row.probability},
                }
                for row in rows
            ]
        )
        best |= {rows[position].id for position in positions}
        count = len({row.frame for row in rows})
        frames |= {row.id: count for row in rows}
    return best, frames

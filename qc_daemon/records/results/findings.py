"""Findings: stored once per revision and model, queried by study, time or exam."""

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, null, or_, select, update
from sqlalchemy.orm import Session, aliased

from detector.anatomy import View
from detector.errors import Flag
from model.finding import quality_rank
from model.image_features import ImageFeatures
from qc_daemon.records.acquisition.acquisitions import (
    ACQUISITION_COLUMNS,
    ANY_ACQUISITION,
    OPERATOR_IDS,
    AcquisitionFilter,
    AcquisitionReader,
)
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.revisions import RevisionFacts, as_facts, select_facts
from qc_daemon.records.results import image_features, opinions
from qc_daemon.records.tables import (
    AcquisitionRow,
    Exam,
    Finding,
    ImageFeaturesRow,
    OpinionRow,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import execute_update


def store(
    session: Session,
    revision_id: int,
    findings: Sequence[dict[str, Any]],
    now: datetime,
    features: Sequence[ImageFeatures | None] | None = None,
) -> int:
    """Store the findings (JSON objects of `Finding.to_json`) and mark the revision scored;
    `features`, of each finding, are what its picture was like.

    The first set of a revision and model stands: a second run, whatever its result, inserts nothing
    and changes nothing. Returns how many findings were stored.
    """
    exam_id = session.execute(
        select(Revision.exam_id).where(Revision.id == revision_id).with_for_update(key_share=True)
    ).scalar_one()
    model_ids = set(
        session.scalars(select(Finding.model_id).where(Finding.revision_id == revision_id))
    )
    new = {
        place: _row(revision_id, finding, now)
        for place, finding in enumerate(findings)
        if finding["bundle"]["model_id"] not in model_ids
    }
    session.add_all(new.values())
    session.flush()
    for place, row in new.items():
        own = None if features is None else features[place]
        if own is not None:
            session.add(ImageFeaturesRow(**image_features.values_of(row.id, own)))
        session.add_all(OpinionRow(**each) for each in opinions.rows_of(row.id, findings[place]))
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == revision_id)
        .values(state=RevisionState.SCORED, reason_code=None, reason_message=None, reason_at=None),
    )
    if new:
        # Where the exam was closed without it, for its file was gone, its report is amended.
        jobs.reopen(session, exam_id, now)
    return len(new)


def query(
    session: Session,
    study: str | None = None,
    since: datetime | None = None,
    exam_id: int | None = None,
) -> list[dict[str, Any]]:
    """Return finding JSON objects and, for what could not be scored, objects with `error` instead.

    `since`: received at that moment or later. Ordered by arrival, then frame and region. A header
    revision brings the findings of the revision whose pixels it has, each finding once. Findings of
    a study that several patients share are flagged; those of what was scored and then quarantined
    have a key `quarantine` with the reason.
    """
    statement = select_facts()
    if study is not None:
        statement = statement.where(Exam.study_instance_uid == study)
    if since is not None:
        statement = statement.where(Revision.received_at >= since)
    if exam_id is not None:
        statement = statement.where(Revision.exam_id == exam_id)
    revision_ids = statement.with_only_columns(
        func.coalesce(Revision.source_revision_id, Revision.id)
    )
    rows = session.execute(
        select(
            Revision.received_at,
            Revision.id,
            Finding.body,
            Exam.study_instance_uid,
            *_REASON_COLUMNS,
        )
        .join(Finding, Finding.revision_id == Revision.id)
        .join(Exam, Exam.id == Revision.exam_id)
        .where(Revision.id.in_(revision_ids))
        .order_by(Finding.frame, Finding.region, Finding.id)
    ).all()
    shared = shared_studies(session, {row.study_instance_uid for row in rows})
    answers = [
        (
            row.received_at,
            row.id,
            with_flag(row.body, row.study_instance_uid in shared) | _quarantine_key(reason_of(row)),
        )
        for row in rows
    ]
    quarantined = session.execute(
        statement.add_columns(*_REASON_COLUMNS).where(
            Revision.state == RevisionState.QUARANTINED,
            ~exists().where(Finding.revision_id == Revision.id),
        )
    )
    for row in quarantined:
        facts = as_facts(row)
        answers.append((facts.received_at, facts.revision_id, _error_object(facts, row)))
    answers.sort(key=lambda answer: answer[:2])
    return [body for _, _, body in answers]


def shared_studies(session: Session, studies: set[str] | None) -> set[str]:
    """Those of the studies (None: of all) that several patients share."""
    if studies is not None and not studies - {""}:
        return set()
    several = (
        select(Exam.study_instance_uid)
        # An imported exam has no patient: it says nothing of whose the study is.
        .where(Exam.study_instance_uid != "", Exam.imported_at.is_(None))
        .group_by(Exam.study_instance_uid)
        .having(func.count() > 1)
    )
    if studies is not None and len(studies) <= _BATCH:
        several = several.where(Exam.study_instance_uid.in_(studies))
    shared = set(session.scalars(several))
    return shared if studies is None else studies & shared


def with_flag(body: dict[str, Any], is_shared: bool) -> dict[str, Any]:
    return body | {"flags": [*body["flags"], Flag.OTHER_PATIENT_IN_STUDY]} if is_shared else body


_REASON_COLUMNS = (
    Revision.state.label("revision_state"),
    Revision.reason_code,
    Revision.reason_message,
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a revision is in quarantine: an error code and a line for people."""

    code: str
    message: str


def reason_of(row: Any) -> Reason | None:
    """The reason of a row with `_REASON_COLUMNS`; None if its revision is not in quarantine."""
    if row.revision_state != RevisionState.QUARANTINED:
        return None
    return Reason(row.reason_code, row.reason_message)


def _quarantine_key(reason: Reason | None) -> dict[str, Any]:
    return {} if reason is None else {"quarantine": asdict(reason)}


@dataclass(frozen=True, slots=True)
class StoredFinding:
    """A finding or error object of a revision in an exam.

    `is_superseded`: a later content of the instance replaces it. `frames` counts the frames
    scored of the revision (0: an error), `is_best` says whether this one is shown for them all.
    `quarantine` is the reason of a revision that was scored, and quarantined by a later stage: no
    report has it. `finding_id` is None for an error. `is_imported`: it came from a file.
    """

    body: dict[str, Any]
    exam_id: int
    patient_id: str
    accession_number: str | None
    revision: RevisionFacts
    is_superseded: bool
    frames: int
    is_best: bool
    acquisition: dict[str, Any]
    quarantine: Reason | None = None
    finding_id: int | None = None
    is_imported: bool = False


def iter_findings(
    session: Session,
    exam_filter: ExamFilter,
    window: Window,
    *,
    all_revisions: bool,
    best_first: bool = False,
    acquisition_filter: AcquisitionFilter = ANY_ACQUISITION,
    revision_ids: Collection[int] | None = None,
) -> Iterator[StoredFinding]:
    """Yield what is stored of these exams, as it is read.

    In order of arrival, then frame and region; with `best_first` an object's best finding first.
    The window is about when a revision was received. Each finding comes once, with the newest
    header that has its pixels. Without `all_revisions` only what stands for an instance now. Of a
    cine the best frame of each view is best, as the reports have it; every region of a still is.
    An error object comes only for a revision without a finding. `revision_ids`: only findings of
    these revisions, and no errors.
    """
    rows: Iterator[Any] = _scored_rows(
        session, exam_filter, window, all_revisions, acquisition_filter, revision_ids
    )
    if revision_ids is None:
        rows = heapq.merge(
            rows,
            _quarantined_rows(session, exam_filter, window, all_revisions, acquisition_filter),
            key=lambda row: (row.received_at, row.revision_id),
        )
    shared = shared_studies(session, None)
    acquisitions = AcquisitionReader(session)
    for _, group in groupby(rows, key=lambda row: row.revision_id):
        stored = list(group)
        scored = [row for row in stored if row.body is not None]
        if best_first:
            scored.sort(key=lambda row: rank(row.body), reverse=True)
        numbers = {row.body["frame"] for row in scored}
        best = best_of([row.body for row in scored])
        for index, row in enumerate([*scored, *(row for row in stored if row.body is None)]):
            facts = as_facts(row)
            yield StoredFinding(
                body=_error_object(facts, row)
                if row.body is None
                else with_flag(row.body, facts.study_instance_uid in shared),
                exam_id=facts.exam_id,
                patient_id=row.patient_id,
                accession_number=row.accession_number,
                revision=facts,
                is_superseded=row.is_superseded,
                frames=len(numbers),
                is_best=row.body is None or index in best,
                acquisition=acquisitions.of_row(row),
                quarantine=None if row.body is None else reason_of(row),
                finding_id=row.finding_id,
                is_imported=row.imported_at is not None,
            )


def rank(finding: dict[str, Any]) -> tuple[float, float]:
    """`quality_rank` of a finding's JSON object."""
    return quality_rank(finding["quality"]["probability"], finding["view"]["probability"])


def best_of(bodies: Sequence[dict[str, Any]]) -> set[int]:
    """Which of an object's findings are shown for it: of a cine the best frame of each view, as the
    reports have it, and no frame of OTHER where there is another; of a still all."""
    if len({body["frame"] for body in bodies}) < 2:
        return set(range(len(bodies)))
    best: dict[str, int] = {}
    for index, body in enumerate(bodies):
        view = body["view"]["code"]
        if view not in best or rank(body) > rank(bodies[best[view]]):
            best[view] = index
    assessed = {index for view, index in best.items() if view != View.OTHER}
    return assessed or set(best.values())


_READABLE = (RevisionState.SCORED, RevisionState.HEADER)
# Rows fetched at once: a year's findings are too many to hold.
_BATCH = 200


def _scored_rows(
    session: Session,
    exam_filter: ExamFilter,
    window: Window,
    all_revisions: bool,
    acquisition_filter: AcquisitionFilter,
    revision_ids: Collection[int] | None,
) -> Iterator[Any]:
    statement = scored_statement(exam_filter, window, acquisition_filter, all_revisions)
    if revision_ids is not None:
        statement = statement.where(Finding.revision_id.in_(revision_ids))
    ordered = statement.order_by(
        Revision.received_at, Revision.id, Finding.frame, Finding.region, Finding.id
    )
    yield from session.execute(ordered.execution_options(yield_per=_BATCH))


def scored_statement(
    exam_filter: ExamFilter,
    window: Window,
    acquisition_filter: AcquisitionFilter,
    all_revisions: bool = False,
) -> Select[Any]:
    """Selects what is scored of these exams, each finding once, with the newest header that has its
    pixels; without `all_revisions` only what stands for an instance now. Not ordered."""
    newer = aliased(Revision)
    finding_revision = _finding_revision()
    later = and_(newer.instance_id == Revision.instance_id, newer.number > Revision.number)
    is_readable = newer.state.in_(_READABLE)
    # One that is quarantined is also superseded by a later one that is.
    both_quarantined = and_(
        Revision.state == RevisionState.QUARANTINED, newer.state == RevisionState.QUARANTINED
    )
    is_superseded = exists().where(
        later, or_(is_readable, both_quarantined), newer.exam_id == Revision.exam_id
    )
    repeats = [
        later,
        is_readable,
        func.coalesce(newer.source_revision_id, newer.id) == finding_revision,
    ]
    if window.until is not None:
        repeats.append(newer.received_at < window.until)
    if replace(exam_filter, study=None) != ExamFilter():
        # Of one exam, what a corrected header took to another exam is still listed.
        repeats.append(newer.exam_id == Revision.exam_id)
    is_repeated = exists().where(*repeats)
    statement = (
        _select_filtered(exam_filter, window, acquisition_filter)
        .add_columns(
            is_superseded.label("is_superseded"),
            Finding.body,
            Finding.id.label("finding_id"),
            *_REASON_COLUMNS,
        )
        .join(Finding, Finding.revision_id == finding_revision)
        .where(~is_repeated)
    )
    return statement if all_revisions else statement.where(~is_superseded)


def _quarantined_rows(
    session: Session,
    exam_filter: ExamFilter,
    window: Window,
    all_revisions: bool,
    acquisition_filter: AcquisitionFilter,
) -> Iterator[Any]:
    newer = aliased(Revision)
    is_superseded = exists().where(
        newer.instance_id == Revision.instance_id,
        newer.exam_id == Revision.exam_id,
        newer.number > Revision.number,
        newer.state != RevisionState.RECEIVED,
    )
    statement = (
        _select_filtered(exam_filter, window, acquisition_filter)
        .add_columns(
            is_superseded.label("is_superseded"),
            null().label("body"),
            null().label("finding_id"),
            *_REASON_COLUMNS,
        )
        .where(
            Revision.state == RevisionState.QUARANTINED,
            ~exists().where(Finding.revision_id == _finding_revision()),
        )
        .order_by(Revision.received_at, Revision.id)
    )
    if not all_revisions:
        statement = statement.where(~is_superseded)
    yield from session.execute(statement.execution_options(yield_per=_BATCH))


def _finding_revision() -> ColumnElement[int]:
    """The revision whose findings a revision has: its own, or the one whose pixels it shares."""
    return func.coalesce(Revision.source_revision_id, Revision.id)


def _select_filtered(
    exam_filter: ExamFilter, window: Window, acquisition_filter: AcquisitionFilter
) -> Select[Any]:
    facts = (
        select_facts()
        .add_columns(
            Exam.patient_id,
            Exam.accession_number,
            Exam.imported_at,
            *ACQUISITION_COLUMNS,
            OPERATOR_IDS,
        )
        .join(AcquisitionRow, AcquisitionRow.revision_id == Revision.id, isouter=True)
    )
    filtered = acquisition_filter.where(exam_filter.where(facts))
    return window.where(filtered, Revision.received_at)


def _error_object(facts: RevisionFacts, row: Any) -> dict[str, Any]:
    return {
        "source": None,
        "study_instance_uid": facts.study_instance_uid,
        "series_instance_uid": facts.series_instance_uid,
        "sop_instance_uid": facts.sop_instance_uid,
        "revision": facts.number,
        "error": {"code": row.reason_code, "message": row.reason_message},
    }


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

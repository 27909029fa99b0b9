"""What audits read: every finding that stands, with its facts of acquisition, as it is read."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from qc_daemon.dicom.acquisition import body_mass_index
from qc_daemon.records.acquisition import identities
from qc_daemon.records.acquisition.acquisitions import OPERATOR_IDS
from qc_daemon.records.results.findings import best_of
from qc_daemon.records.results.image_features import STATISTICS_COLUMNS
from qc_daemon.records.results.reviews import histories
from qc_daemon.records.tables import (
    AcquisitionRow,
    Exam,
    Finding,
    IdentityKind,
    ImageFeaturesRow,
    Instance,
    Measurement,
    ReviewEvent,
    Revision,
    RevisionState,
)
from qc_daemon.review.state import ReviewState, current_state

_READABLE = (RevisionState.SCORED, RevisionState.HEADER)
# Rows fetched at once: a year's findings are too many to hold.
_BATCH = 1000
_PAGE = 5000


@dataclass(frozen=True, slots=True)
class AuditedFinding:
    """A finding that stands for its image now, with the state of its review (None: no event).

    `acquired` is local time of the machine (ISO 8601), None where it is not known; persons and
    devices are those that they count for now. `revision_id` is the newest with the pixels;
    `institution` as its header writes it.
    """

    finding_id: int
    exam_id: int
    body: dict[str, Any]
    persons: tuple[str, ...]
    device: str | None
    site: str | None
    acquired: str | None
    received_at: datetime
    gestation: float | None
    bmi: float | None
    crl: float | None
    nt: float | None
    review: ReviewState | None
    revision_id: int = 0
    institution: str | None = None
    is_imported: bool = False
    # In the order of `model.image_features.STATISTICS`; None where they were not stored.
    statistics: tuple[float | None, ...] | None = None
    embedding: bytes | None = None


def count_findings(session: Session, first: str, last: str) -> int:
    """About how many findings `iter_audited` has, to show progress by."""
    statement = select(func.count()).select_from(_statement(first, last).subquery())
    return session.execute(statement).scalar_one()


def last_day(session: Session, before: str) -> str | None:
    """The last day (ISO 8601) before this one on which an image was made; None for none."""
    day = session.scalar(
        select(func.max(AcquisitionRow.acquired)).where(AcquisitionRow.acquired < before)
    )
    return None if day is None else day[:10]


def iter_audited(session: Session, first: str, last: str) -> Iterator[AuditedFinding]:
    """Findings of images made from the day `first` to before the day `last` (ISO 8601), as they are
    read; of a cine the best of each view. An image whose time is not known counts by its receipt.
    """
    roots = {kind: identities.roots(session, kind) for kind in IdentityKind}
    reviews = _review_states(session)
    measured = _measurements(session)
    rows = session.execute(
        _statement(first, last)
        .order_by(Revision.id, Finding.frame, Finding.region, Finding.id)
        .execution_options(yield_per=_BATCH)
    )
    for _, group in groupby(rows, key=lambda row: row.revision_id):
        stored = _of_one_model(list(group))
        best = best_of([row.body for row in stored])
        for index, row in enumerate(stored):
            if index not in best:
                continue
            crl, nt, age = measured.get(row.exam_id, (None, None, None))
            ids = (row.acquisition_person_ids or "").split()
            yield AuditedFinding(
                row.finding_id,
                row.exam_id,
                row.body,
                tuple(sorted({roots[IdentityKind.PERSON].get(id, id) for id in ids})),
                roots[IdentityKind.DEVICE].get(row.device_id, row.device_id),
                row.site,
                row.acquired,
                row.received_at,
                row.gestational_age_days if age is None else age,
                body_mass_index(row.patient_size_m, row.patient_weight_kg),
                crl,
                nt,
                reviews.get(row.finding_id),
                row.revision_id,
                row.institution,
                row.imported_at is not None,
                *_features(row),
            )


_FEATURES = (*STATISTICS_COLUMNS, ImageFeaturesRow.embedding)


def _features(row: Any) -> tuple[tuple[float | None, ...] | None, bytes | None]:
    """Statistics and embedding, which are the last columns of a row."""
    *statistics, embedding = row[-len(_FEATURES) :]
    # Every picture has a mean grey level.
    return (None if statistics[0] is None else tuple(statistics)), embedding


def _statement(first: str, last: str) -> Any:
    newer = aliased(Revision)
    is_superseded = exists().where(
        newer.instance_id == Revision.instance_id,
        newer.number > Revision.number,
        newer.state.in_(_READABLE),
    )
    start, end = (datetime.fromisoformat(f"{day}T00:00:00+00:00") for day in (first, last))
    by_receipt = and_(
        AcquisitionRow.acquired.is_(None), Revision.received_at >= start, Revision.received_at < end
    )
    return (
        select(
            Revision.id.label("revision_id"),
            Revision.exam_id,
            Revision.received_at,
            Exam.bundle_id,
            Exam.imported_at,
            Finding.id.label("finding_id"),
            Finding.model_id,
            Finding.body,
            AcquisitionRow.device_id,
            AcquisitionRow.site,
            AcquisitionRow.institution,
            AcquisitionRow.acquired,
            AcquisitionRow.gestational_age_days,
            AcquisitionRow.patient_size_m,
            AcquisitionRow.patient_weight_kg,
            OPERATOR_IDS,
            *_FEATURES,
        )
        .join(Exam, Exam.id == Revision.exam_id)
        .join(
            Finding, Finding.revision_id == func.coalesce(Revision.source_revision_id, Revision.id)
        )
        .join(ImageFeaturesRow, ImageFeaturesRow.finding_id == Finding.id, isouter=True)
        .join(AcquisitionRow, AcquisitionRow.revision_id == Revision.id, isouter=True)
        .where(Revision.state.in_(_READABLE), ~is_superseded)
        .where(
            or_(and_(AcquisitionRow.acquired >= first, AcquisitionRow.acquired < last), by_receipt)
        )
    )


def _of_one_model(rows: list[Any]) -> list[Any]:
    """Those of the exam's bundle where it has any, else those of the newest models."""
    models = {row.model_id for row in rows}
    if len(models) < 2:
        return rows
    newest = max(rows, key=lambda row: row.finding_id).model_id
    model_id = rows[0].bundle_id if rows[0].bundle_id in models else newest
    return [row for row in rows if row.model_id == model_id]


def _review_states(session: Session) -> dict[int, ReviewState]:
    ids = session.scalars(select(ReviewEvent.finding_id).distinct()).all()
    return {id: current_state(events) for id, events in histories(session, ids).items()}


def _measurements(
    session: Session,
) -> dict[int, tuple[float | None, float | None, float | None]]:
    """CRL and NT in mm and age in days of each exam whose machine reported one; None where those
    of several fetuses differ."""
    rows = session.execute(
        select(Measurement.exam_id, Measurement.concept, Measurement.fetus, Measurement.value)
        .join(Revision, Revision.id == Measurement.revision_id)
        .where(Revision.state != RevisionState.QUARANTINED)
        .order_by(Measurement.exam_id, Revision.received_at.desc(), Measurement.id)
        .execution_options(yield_per=_BATCH)
    )
    measured: dict[int, tuple[float | None, float | None, float | None]] = {}
    for exam_id, group in groupby(rows, key=lambda row: row.exam_id):
        by_concept: dict[str, dict[str | None, float]] = {}
        for row in group:
            by_concept.setdefault(row.concept, {}).setdefault(row.fetus, row.value)
        values = {
            concept: next(iter(each.values())) if len(set(each.values())) == 1 else None
            for concept, each in by_concept.items()
        }
        age = values.get("GA")
        measured[exam_id] = (
            values.get("CRL"),
            values.get("NT"),
            values.get("GA-CRL") if age is None else age,
        )
    return measured


def site_names(session: Session) -> dict[str, str]:
    """How institutions write their names, by the folded name."""
    rows = session.execute(
        select(AcquisitionRow.site, func.min(AcquisitionRow.institution))
        .where(AcquisitionRow.site.is_not(None))
        .group_by(AcquisitionRow.site)
    )
    return {row[0]: row[1] for row in rows if row[0] is not None and row[1] is not None}


@dataclass(frozen=True, slots=True)
class FindingAddress:
    """What names a finding's picture, and why it is not called standard."""

    finding_id: int
    study_instance_uid: str
    sop_instance_uid: str
    frame: int
    region: int
    view: str
    probability: float | None
    reasons: tuple[str, ...]


def addresses(session: Session, finding_ids: Collection[int]) -> dict[int, FindingAddress]:
    """Where to find the pictures of these findings."""
    ids, addresses_by_id = sorted(finding_ids), dict[int, FindingAddress]()
    for start in range(0, len(ids), _PAGE):
        rows = session.execute(
            select(
                Finding.id,
                Finding.body,
                Finding.frame,
                Finding.region,
                Finding.view,
                Finding.probability,
                Exam.study_instance_uid,
                Instance.sop_instance_uid,
            )
            .join(Revision, Revision.id == Finding.revision_id)
            .join(Exam, Exam.id == Revision.exam_id)
            .join(Instance, Instance.id == Revision.instance_id)
            .where(Finding.id.in_(ids[start : start + _PAGE]))
        )
        for row in rows:
            reasons = tuple(each["code"] for each in row.body.get("reasons", ()))
            addresses_by_id[row.id] = FindingAddress(
                row.id,
                row.study_instance_uid,
                row.sop_instance_uid,
                row.frame,
                row.region,
                row.view,
                row.probability,
                reasons,
            )
    return addresses_by_id

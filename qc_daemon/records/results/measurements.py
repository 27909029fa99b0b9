"""Measurements that machines report themselves, stored for their exam."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from qc_daemon.records.received.revisions import RevisionFacts, as_facts, select_facts
from qc_daemon.records.tables import Measurement, Revision, RevisionState
from qc_daemon.records.upsert import execute_update


@dataclass(frozen=True, slots=True)
class MeasuredValue:
    """One measurement; `unit` is UCUM: mm for lengths, d for ages."""

    fetus: str | None
    concept: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class MeasuredReport:
    """A machine's report as its newest read content has it, and what that measured."""

    revision: RevisionFacts
    values: tuple[MeasuredValue, ...]


def store(session: Session, revision_id: int, values: Sequence[MeasuredValue]) -> int:
    """Store what a report's revision says and mark it scored: it is read, no image is in it.

    The first set of a revision stands: a second run stores nothing. Returns how many were stored.
    """
    exam_id = session.execute(
        select(Revision.exam_id).where(Revision.id == revision_id).with_for_update(key_share=True)
    ).scalar_one()
    first_id = session.scalars(
        select(Measurement.id).where(Measurement.revision_id == revision_id).limit(1)
    ).first()
    new = values if first_id is None else ()
    session.add_all(
        Measurement(
            revision_id=revision_id,
            exam_id=exam_id,
            fetus=each.fetus,
            concept=each.concept,
            value=each.value,
            unit=each.unit,
        )
        for each in new
    )
    session.flush()
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == revision_id)
        .values(state=RevisionState.SCORED, reason_code=None, reason_message=None, reason_at=None),
    )
    return len(new)


def of_exam(session: Session, exam_id: int) -> list[MeasuredReport]:
    """The machines' reports of the exam in order of arrival, their values in the reports' order.

    A report that came again, corrected, replaces what it said before.
    """
    rows = session.execute(
        select_facts()
        .add_columns(Measurement.fetus, Measurement.concept, Measurement.value, Measurement.unit)
        .join(Measurement, Measurement.revision_id == Revision.id)
        .where(Measurement.exam_id == exam_id, Revision.state != RevisionState.QUARANTINED)
        .order_by(Measurement.id)
    ).all()
    newest: dict[int, int] = {}
    for row in rows:
        newest[row.instance_id] = max(row.number, newest.get(row.instance_id, 0))
    by_revision: dict[RevisionFacts, list[MeasuredValue]] = {}
    for row in rows:
        if row.number == newest[row.instance_id]:
            value = MeasuredValue(row.fetus, row.concept, row.value, row.unit)
            by_revision.setdefault(as_facts(row), []).append(value)
    return [MeasuredReport(revision, tuple(values)) for revision, values in by_revision.items()]

"""Modality performed procedure steps (PS3.4 F.7), as far as they say when an exam is whole."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from qc_daemon.records.tables import (
    Exam,
    Instance,
    PerformedStep,
    Revision,
    RevisionState,
    StepStatus,
)
from qc_daemon.records.upsert import execute_update, insert_once

FINAL = (StepStatus.COMPLETED, StepStatus.DISCONTINUED)


class Change(Enum):
    """What became of a request to change a step."""

    DONE = "done"
    UNKNOWN = "unknown"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Step:
    """A step as its modality begins it; `instances` are SOP Instance UIDs."""

    sop_instance_uid: str
    study_instance_uid: str
    instances: tuple[str, ...]
    calling_ae: str


def begin(session: Session, step: Step, now: datetime) -> bool:
    """Record a step in progress; False if there is one of its UID."""
    values: dict[str, Any] = {
        "sop_instance_uid": step.sop_instance_uid,
        "study_instance_uid": step.study_instance_uid,
        "status": StepStatus.IN_PROGRESS,
        "instances": list(step.instances),
        "calling_ae": step.calling_ae,
        "created_at": now,
        "updated_at": now,
    }
    return insert_once(session, PerformedStep, values, ("sop_instance_uid",)) is not None


def change(
    session: Session,
    sop_instance_uid: str,
    status: StepStatus | None,
    instances: tuple[str, ...] | None,
    now: datetime,
) -> Change:
    """Give a step another status and other instances; None leaves as it is. What is final stays."""
    step = session.execute(
        select(PerformedStep.id, PerformedStep.status)
        .where(PerformedStep.sop_instance_uid == sop_instance_uid)
        .with_for_update()
    ).one_or_none()
    if step is None:
        return Change.UNKNOWN
    if step.status in FINAL:
        return Change.FINAL
    values: dict[str, Any] = {"updated_at": now}
    if status is not None:
        values["status"] = status
    if instances is not None:
        values["instances"] = list(instances)
    execute_update(
        session, update(PerformedStep).where(PerformedStep.id == step.id).values(**values)
    )
    return Change.DONE


def has_completed_step() -> ColumnElement[bool]:
    """Condition on exams: a step of the study is completed."""
    return (
        select(PerformedStep.id)
        .where(
            PerformedStep.study_instance_uid == Exam.study_instance_uid,
            PerformedStep.status == StepStatus.COMPLETED,
        )
        .exists()
    )


def is_exam_whole(session: Session, exam_id: int) -> bool:
    """Whether the modality has said that the exam is over, and its objects are here and settled.

    Over: of the study's steps none is in progress, and those completed name objects. Settled: each
    of these is scored or quarantined. An object that none of them names and that came after the
    last word of the steps shows that there is more than they tell: then only quiet time counts.
    """
    study = session.execute(select(Exam.study_instance_uid).where(Exam.id == exam_id)).scalar_one()
    steps = session.execute(
        select(PerformedStep.status, PerformedStep.instances, PerformedStep.updated_at).where(
            PerformedStep.study_instance_uid == study
        )
    ).all()
    if any(step.status == StepStatus.IN_PROGRESS for step in steps):
        return False
    named = {uid for step in steps if step.status == StepStatus.COMPLETED for uid in step.instances}
    if not named:
        return False
    rows = session.execute(
        select(
            Instance.sop_instance_uid,
            func.min(Revision.received_at).label("first"),
        )
        .join(Revision, Revision.instance_id == Instance.id)
        .join(Exam, Exam.id == Revision.exam_id)
        .where(Exam.study_instance_uid == study, Revision.state != RevisionState.RECEIVED)
        .group_by(Instance.sop_instance_uid)
    ).all()
    last_word = max(step.updated_at for step in steps)
    settled = {row.sop_instance_uid: row.first for row in rows}
    more = any(first > last_word for uid, first in settled.items() if uid not in named)
    return not more and named <= settled.keys()

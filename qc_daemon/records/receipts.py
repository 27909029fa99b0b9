"""Admitting a received object: its rows and its jobs in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from qc_daemon.records import jobs
from qc_daemon.records.rows import changed, insert_once
from qc_daemon.records.tables import Exam, Instance, JobKind, Revision


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was received: the header's identifiers, the bytes' SHA-256 and size in bytes.

    `path` is relative to the spool; `association` is the token of the association it came over.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    transfer_syntax_uid: str
    calling_ae: str
    sha256: str
    size: int
    path: str
    association: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What the object is to us; `path` is where its bytes are kept (`same`: the first copy's)."""

    kind: Literal["new", "same", "revision"]
    instance_id: int
    revision_id: int
    exam_id: int
    path: str


def admit(
    session: Session,
    receipt: Receipt,
    *,
    source_destinations: Sequence[str],
    bundle_id: str | None,
    now: datetime,
) -> Admission:
    """Record the object and insert its score job and one deliver job per source destination.

    The same bytes under the same UID change nothing at all. Anything else is a new revision; it
    opens its exam, again if that was closed. `bundle_id` is the model id that a new exam is fixed
    to. Safe against another association that stores the same object at the same moment.
    """
    receipt = _storable(receipt)
    instance_id = _instance(session, receipt.sop_instance_uid, now)
    known = session.execute(
        select(Revision.id, Revision.exam_id, Revision.path).where(
            Revision.instance_id == instance_id, Revision.sha256 == receipt.sha256
        )
    ).one_or_none()
    if known is not None:
        return Admission("same", instance_id, known.id, known.exam_id, known.path)
    exam_id = _exam(session, receipt, bundle_id, now)
    last = session.scalar(
        select(func.max(Revision.number)).where(Revision.instance_id == instance_id)
    )
    number = (last or 0) + 1
    revision = Revision(
        instance_id=instance_id,
        exam_id=exam_id,
        number=number,
        sha256=receipt.sha256,
        size=receipt.size,
        path=receipt.path,
        sop_class_uid=receipt.sop_class_uid,
        series_instance_uid=receipt.series_instance_uid,
        transfer_syntax_uid=receipt.transfer_syntax_uid,
        calling_ae=receipt.calling_ae,
        received_at=now,
    )
    session.add(revision)
    session.flush()
    subject = f"instance:{instance_id}"
    jobs.insert(
        session, JobKind.SCORE, subject, number, exam_id=exam_id, revision_id=revision.id, now=now
    )
    for destination in source_destinations:
        jobs.insert(
            session,
            JobKind.DELIVER,
            subject,
            number,
            destination=destination,
            exam_id=exam_id,
            revision_id=revision.id,
            now=now,
        )
    return Admission(
        "new" if number == 1 else "revision", instance_id, revision.id, exam_id, receipt.path
    )


def _instance(session: Session, sop_instance_uid: str, now: datetime) -> int:
    """The instance's row, made if need be and locked: its revisions are numbered one by one."""
    insert_once(
        session,
        Instance,
        {"sop_instance_uid": sop_instance_uid, "created_at": now},
        ("sop_instance_uid",),
    )
    instance_id: int = session.execute(
        select(Instance.id)
        .where(Instance.sop_instance_uid == sop_instance_uid)
        .with_for_update(key_share=True)
    ).scalar_one()
    return instance_id


def _exam(session: Session, receipt: Receipt, bundle_id: str | None, now: datetime) -> int:
    """The exam's row, open, its last object being this one."""
    insert_once(
        session,
        Exam,
        {
            "study_instance_uid": receipt.study_instance_uid,
            "patient_id": receipt.patient_id,
            "bundle_id": bundle_id,
            "opened_at": now,
            "last_object_at": now,
        },
        ("study_instance_uid", "patient_id"),
    )
    exam = session.execute(
        select(Exam.id, Exam.bundle_id)
        .where(
            Exam.study_instance_uid == receipt.study_instance_uid,
            Exam.patient_id == receipt.patient_id,
        )
        .with_for_update(key_share=True)
    ).one()
    changed(
        session,
        update(Exam).where(Exam.id == exam.id).values(last_object_at=now),
    )
    if exam.bundle_id is None and bundle_id is not None:
        changed(session, update(Exam).where(Exam.id == exam.id).values(bundle_id=bundle_id))
    jobs.reopen(session, exam.id, now)
    exam_id: int = exam.id
    return exam_id


def _storable(receipt: Receipt) -> Receipt:
    """Text that both databases take: PostgreSQL has no NUL and neither has lone surrogates."""
    texts = {
        name: value.replace("\0", "").encode("utf-8", "replace").decode()
        for name, value in asdict(receipt).items()
        if isinstance(value, str)
    }
    return Receipt(**texts, size=receipt.size)

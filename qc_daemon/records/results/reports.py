"""Report objects: built once, stored with their deliver jobs, sent as stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.received import revisions
from qc_daemon.records.tables import JobKind, JobRow, ObjectKind, ReportObjectRow
from qc_daemon.records.upsert import insert_once

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class ReportObject:
    """A DICOM object made for an exam; `payload` is the complete file (PS3.10, with meta group).

    `finding_id` (of `exams.ScoredFinding`) where it shows one finding, as an overlay does.
    """

    kind: ObjectKind
    sop_instance_uid: str
    sop_class_uid: str
    payload: bytes
    transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN
    finding_id: int | None = None


@dataclass(frozen=True, slots=True)
class StoredReport:
    """An SR as stored; `payload` is the complete PS3.10 file."""

    exam_id: int
    report_revision: int
    sop_instance_uid: str
    sop_class_uid: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Deliverable:
    """What a deliver job sends: either `payload` (a PS3.10 file) or `path` relative to the spool.

    `kind` is "source" or a report object's kind.
    """

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    payload: bytes | None
    path: str | None


def publish(
    session: Session,
    job: Job,
    objects: Sequence[ReportObject],
    destinations: Mapping[str, Sequence[str]],
    now: datetime,
) -> list[int]:
    """Store the report job's objects and insert a deliver job per object and destination.

    `destinations` names, for each object kind, who wants it. An object whose SOP Instance UID is
    stored already keeps its first bytes. The caller finishes `job` in the same transaction.
    Returns the objects' row ids in order.
    """
    return [
        store_object(
            session,
            report_object,
            destinations.get(report_object.kind, ()),
            now,
            exam_id=job.exam_id,
            report_revision=job.revision,
        )
        for report_object in objects
    ]


def store_object(
    session: Session,
    report_object: ReportObject,
    destinations: Sequence[str],
    now: datetime,
    *,
    exam_id: int,
    report_revision: int,
) -> int:
    """Store one object with a deliver job per destination; returns its row id."""
    insert_once(
        session,
        ReportObjectRow,
        {
            "exam_id": exam_id,
            "report_revision": report_revision,
            "kind": report_object.kind,
            "sop_instance_uid": report_object.sop_instance_uid,
            "sop_class_uid": report_object.sop_class_uid,
            "transfer_syntax_uid": report_object.transfer_syntax_uid,
            "finding_id": report_object.finding_id,
            "payload": report_object.payload,
            "created_at": now,
        },
        ("sop_instance_uid",),
    )
    object_id = session.execute(
        select(ReportObjectRow.id).where(
            ReportObjectRow.sop_instance_uid == report_object.sop_instance_uid
        )
    ).scalar_one()
    for destination in destinations:
        jobs.insert(
            session,
            JobKind.DELIVER,
            f"object:{object_id}",
            report_revision,
            destination=destination,
            exam_id=exam_id,
            object_id=object_id,
            now=now,
        )
    return object_id


def deliverable(session: Session, job: Job) -> Deliverable:
    """What the deliver job sends: a received object or one of ours.

    Raises LookupError for a job that is not a deliver job, QCError NOT_AVAILABLE.
    """
    if job.kind is not JobKind.DELIVER:
        raise LookupError(f"job {job.id} delivers nothing")
    if job.revision_id is not None:
        source = revisions.facts(session, job.revision_id)
        return Deliverable(
            "source",
            source.sop_class_uid,
            source.sop_instance_uid,
            source.transfer_syntax_uid,
            payload=None,
            path=source.path,
        )
    row = session.execute(
        select(
            ReportObjectRow.kind,
            ReportObjectRow.sop_class_uid,
            ReportObjectRow.sop_instance_uid,
            ReportObjectRow.transfer_syntax_uid,
            ReportObjectRow.payload,
        ).where(ReportObjectRow.id == job.object_id)
    ).one()
    if row.payload is None:
        raise QCError(ErrorCode.NOT_AVAILABLE, "the overlay was delivered and is no longer kept")
    return Deliverable(*row, path=None)


def latest_sr(session: Session, exam_id: int, before: int) -> StoredReport | None:
    """The exam's last SR of a revision before this one, which names it as its predecessor."""
    row = session.execute(
        select(
            ReportObjectRow.exam_id,
            ReportObjectRow.report_revision,
            ReportObjectRow.sop_instance_uid,
            ReportObjectRow.sop_class_uid,
            ReportObjectRow.payload,
        )
        .where(
            ReportObjectRow.exam_id == exam_id,
            ReportObjectRow.kind == ObjectKind.SR,
            ReportObjectRow.report_revision < before,
        )
        .order_by(ReportObjectRow.report_revision.desc(), ReportObjectRow.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    # Retention takes overlays only.
    assert row.payload is not None
    return StoredReport(
        row.exam_id, row.report_revision, row.sop_instance_uid, row.sop_class_uid, row.payload
    )


def has_sr(session: Session, job: Job) -> bool:
    """Whether the report job's SR is stored already, by an earlier try."""
    rows = session.execute(
        select(ReportObjectRow.id)
        .where(
            ReportObjectRow.exam_id == job.exam_id,
            ReportObjectRow.kind == ObjectKind.SR,
            ReportObjectRow.report_revision == job.revision,
        )
        .limit(1)
    )
    return rows.first() is not None


def sr_destinations(session: Session, exam_id: int) -> list[str]:
    """Destinations of earlier SRs of the exam: an amended one has to reach them too."""
    return list(
        session.scalars(
            select(JobRow.destination)
            .join(ReportObjectRow, ReportObjectRow.id == JobRow.object_id)
            .where(
                # There is an index on the exam.
                JobRow.exam_id == exam_id,
                JobRow.kind == JobKind.DELIVER,
                ReportObjectRow.kind == ObjectKind.SR,
            )
            .distinct()
            .order_by(JobRow.destination)
        )
    )


@dataclass(frozen=True, slots=True)
class ReportRevision:
    """A report of an exam: its number from 1, and when it was made."""

    number: int
    created_at: datetime


def revisions_of_exam(session: Session, exam_id: int) -> list[ReportRevision]:
    """The reports of the exam, the first one first."""
    rows = session.execute(
        select(ReportObjectRow.report_revision, ReportObjectRow.created_at)
        .where(ReportObjectRow.exam_id == exam_id, ReportObjectRow.kind == ObjectKind.SR)
        .order_by(ReportObjectRow.report_revision)
    )
    return [ReportRevision(*row) for row in rows]

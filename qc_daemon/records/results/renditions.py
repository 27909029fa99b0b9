"""Renditions: an object of ours in another form, for a destination that does not take its class.

Like the object itself a rendition is rendered and stored once; a resend sends the same bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.tables import (
    DeliveredRendition,
    JobKind,
    JobRow,
    RenditionRow,
    ReportObjectRow,
)
from qc_daemon.records.upsert import insert_once, insert_or_update


@dataclass(frozen=True, slots=True)
class RenditionReference:
    """A rendition by its UIDs, which a destination has in the place of an object of ours."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class Rendition:
    """A rendition as a complete PS3.10 file, Explicit VR Little Endian."""

    reference: RenditionReference
    payload: bytes


Render = Callable[[bytes, str, Mapping[str, RenditionReference]], Rendition]
"""The object of a payload in the form of a SOP class, referring to what the destination has in
the place of earlier objects, by their SOP Instance UIDs. Raises QCError REPORT_INVALID."""


@dataclass(frozen=True, slots=True)
class StoredRendition:
    """A stored rendition."""

    id: int
    sop_class_uid: str
    sop_instance_uid: str
    payload: bytes


def store_rendition(
    session: Session, object_id: int, rendition: Rendition, now: datetime
) -> StoredRendition:
    """Store the rendition of an object; one that is stored already keeps its first bytes."""
    reference = rendition.reference
    insert_once(
        session,
        RenditionRow,
        {
            "object_id": object_id,
            "sop_class_uid": reference.sop_class_uid,
            "sop_instance_uid": reference.sop_instance_uid,
            "series_instance_uid": reference.series_instance_uid,
            "payload": rendition.payload,
            "created_at": now,
        },
        ("sop_instance_uid",),
    )
    row = session.scalars(
        select(RenditionRow).where(RenditionRow.sop_instance_uid == reference.sop_instance_uid)
    ).one()
    return _stored_rendition(row)


def record_rendition(session: Session, job: Job, rendition_id: int | None) -> None:
    """Record what the job's destination was sent in the object's place; None: the object itself."""
    if rendition_id is not None:
        insert_or_update(
            session,
            DeliveredRendition,
            {"job_id": job.id, "rendition_id": rendition_id},
            ("job_id",),
        )
    else:
        session.execute(delete(DeliveredRendition).where(DeliveredRendition.job_id == job.id))


def rendition_of(session: Session, job: Job) -> StoredRendition | None:
    """The rendition that the job's destination was sent before, or None."""
    row = session.scalars(
        select(RenditionRow)
        .join(DeliveredRendition, DeliveredRendition.rendition_id == RenditionRow.id)
        .where(DeliveredRendition.job_id == job.id)
    ).one_or_none()
    return None if row is None else _stored_rendition(row)


def earlier_renditions(session: Session, job: Job) -> dict[str, RenditionReference]:
    """Renditions that the job's destination has in the place of the exam's earlier objects.

    By the SOP Instance UID of the object that each replaces.
    """
    rows = session.execute(
        select(
            ReportObjectRow.sop_instance_uid.label("instead_of"),
            RenditionRow.sop_class_uid,
            RenditionRow.sop_instance_uid,
            RenditionRow.series_instance_uid,
        )
        .join(JobRow, JobRow.object_id == ReportObjectRow.id)
        .join(DeliveredRendition, DeliveredRendition.job_id == JobRow.id)
        .join(RenditionRow, RenditionRow.id == DeliveredRendition.rendition_id)
        .where(
            # There is an index on the exam.
            JobRow.exam_id == job.exam_id,
            JobRow.kind == JobKind.DELIVER,
            JobRow.destination == job.destination,
            JobRow.revision < job.revision,
        )
    )
    return {
        row.instead_of: RenditionReference(
            row.sop_class_uid, row.sop_instance_uid, row.series_instance_uid
        )
        for row in rows
    }


def _stored_rendition(row: RenditionRow) -> StoredRendition:
    return StoredRendition(row.id, row.sop_class_uid, row.sop_instance_uid, row.payload)

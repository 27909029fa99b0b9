"""Exams, their objects as they were received, what the machine says of them, and who may store."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class ExamState(StrEnum):
    """Open while objects may still come; closed once there is a report, or nothing to report."""

    OPEN = "open"
    CLOSED = "closed"


class ClosedBy(StrEnum):
    """Why an exam was closed."""

    PROCEDURE_STEP = "procedure-step"
    QUIET = "quiet"
    MAX_OPEN = "max-open"
    PERSON = "person"


class ExamOutcome(StrEnum):
    """What the last closing led to."""

    REPORT = "report"
    UNCHANGED = "unchanged"
    NOTHING_TO_TELL = "nothing-to-tell"


class RevisionState(StrEnum):
    """Where one content of an instance stands; `header` shares an earlier revision's findings."""

    RECEIVED = "received"
    SCORED = "scored"
    HEADER = "header"
    QUARANTINED = "quarantined"


class Content(StrEnum):
    """How a revision's pixels relate to the instance's other revisions, decided once."""

    SCORE = "score"
    HEADER = "header"
    OTHER = "other"


class StepStatus(StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


def _own_patient_id(context: Any) -> str:
    """Unless said otherwise, the exam is of the patient whom its headers name."""
    patient_id: str = context.get_current_parameters()["patient_id"]
    return patient_id


class Exam(Base):
    """Study Instance UID + Patient ID of the headers; `bundle_id` (model id) is fixed when it first
    opens.

    `report_revision` counts the reports queued; `reported_content` fingerprints the last.
    `patient_id` and `patient_name` are whose it is, after merges and corrections;
    `received_patient_name` is set where the name was corrected, empty where it was not known.
    `patient_words` is the name folded for searching; it and the three beside it are NULL while
    unknown: an older version did not store them.
    """

    __tablename__ = "exam"
    __table_args__ = (
        # It has its name from when that column was `patient_id`.
        UniqueConstraint(
            "study_instance_uid",
            "received_patient_id",
            name="uq_exam_study_instance_uid_patient_id",
        ),
        one_of("state", ExamState),
        one_of("outcome", ExamOutcome),
        Index(None, "state"),
        Index(None, "patient_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_instance_uid: Mapped[str]
    patient_id: Mapped[str]
    state: Mapped[str] = mapped_column(default=ExamState.OPEN)
    outcome: Mapped[str | None]
    bundle_id: Mapped[str | None]
    opened_at: Mapped[datetime]
    last_object_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]
    report_revision: Mapped[int] = mapped_column(default=0)
    reported_content: Mapped[str | None]
    patient_name: Mapped[str | None]
    patient_words: Mapped[str | None]
    accession_number: Mapped[str | None]
    study_date: Mapped[str | None]
    # When its findings were imported; NULL where its objects were received.
    imported_at: Mapped[datetime | None]
    received_patient_id: Mapped[str] = mapped_column(default=_own_patient_id)
    received_patient_name: Mapped[str | None]


class Instance(Base):
    """One SOP Instance UID, whatever contents came under it."""

    __tablename__ = "instance"
    __table_args__ = (UniqueConstraint("sop_instance_uid"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sop_instance_uid: Mapped[str]
    created_at: Mapped[datetime]


class Revision(Base):
    """One content (SHA-256 of the received bytes) of an instance, numbered from 1.

    A revision belongs to the exam its own header names: a corrected Patient ID makes a revision in
    another exam and takes nothing from the first. `source_revision_id` is set for state `header`.
    """

    __tablename__ = "revision"
    __table_args__ = (
        UniqueConstraint("instance_id", "number"),
        UniqueConstraint("instance_id", "sha256"),
        one_of("state", RevisionState),
        one_of("content", Content),
        Index(None, "exam_id"),
        Index(None, "path"),
        Index(None, "received_at"),
        Index(None, "state"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(default=RevisionState.RECEIVED)
    content: Mapped[str | None]
    source_revision_id: Mapped[int | None] = mapped_column(ForeignKey("revision.id"))
    sha256: Mapped[str]
    pixel_sha256: Mapped[str | None]
    size: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    sop_class_uid: Mapped[str]
    series_instance_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    calling_ae: Mapped[str]
    received_at: Mapped[datetime]
    reason_code: Mapped[str | None]
    reason_message: Mapped[str | None]
    reason_at: Mapped[datetime | None]
    # When retention took the file away, and when an attempt to fetch it back found it nowhere.
    dropped_at: Mapped[datetime | None]
    unavailable_at: Mapped[datetime | None]
    # Who decided that a quarantined content needs nothing more; set in that state only.
    dismissed_at: Mapped[datetime | None]
    dismissed_by: Mapped[str | None]
    dismissal_reason: Mapped[str | None]


class ExamHold(Base):
    """An association that stored to an exam holds it open until it ends or this expires."""

    __tablename__ = "association_lease"
    __table_args__ = (Index(None, "exam_id"),)

    token: Mapped[str] = mapped_column(primary_key=True)
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"), primary_key=True)
    expires_at: Mapped[datetime]


class Peer(Base):
    """A sender approved by command, beside those of the settings; `certificate` is the SHA-256 of
    the one it must show, where it speaks TLS."""

    __tablename__ = "peer"
    __table_args__ = (UniqueConstraint("ae_title", "address"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    ae_title: Mapped[str]
    address: Mapped[str]
    certificate: Mapped[str | None]
    approved_at: Mapped[datetime]


class CallerRow(Base):
    """A caller that was refused, whom it called the last time, and why it was refused then."""

    __tablename__ = "caller"
    __table_args__ = (UniqueConstraint("ae_title", "address"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    ae_title: Mapped[str]
    address: Mapped[str]
    certificate: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=1)
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    called_ae: Mapped[str | None]
    reason: Mapped[str | None]


class PerformedStep(Base):
    """A modality performed procedure step (PS3.4 F.7); `instances` lists the SOP Instance UIDs of
    its performed series."""

    __tablename__ = "performed_step"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid"),
        one_of("status", StepStatus),
        Index(None, "study_instance_uid"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sop_instance_uid: Mapped[str]
    study_instance_uid: Mapped[str]
    status: Mapped[str]
    instances: Mapped[list[str]] = mapped_column(JSON)
    calling_ae: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Measurement(Base):
    """A measurement that a machine's OB-GYN report (TID 5000) carries, for its exam."""

    __tablename__ = "measurement"
    __table_args__ = (Index(None, "exam_id"), Index(None, "revision_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id"))
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    fetus: Mapped[str | None]
    concept: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str]

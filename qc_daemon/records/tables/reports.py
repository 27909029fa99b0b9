"""The objects that we make of an exam, and what destinations take."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Deflated, Key, one_of


class ObjectKind(StrEnum):
    """What we make of an exam."""

    SR = "sr"
    OVERLAY = "overlay"
    KEY_OBJECTS = "key-objects"
    PDF = "pdf"


class CommitmentSupport(StrEnum):
    """What a destination last did about storage commitment.

    Offered: it accepts the presentation context. Taken: it took a request. Refused: it accepts the
    context, and has never taken a request. Not offered: it accepts no context. Lost: it took
    requests before, and takes none now.
    """

    OFFERED = "offered"
    TAKEN = "taken"
    REFUSED = "refused"
    NOT_OFFERED = "not-offered"
    LOST = "lost"


class ReportObjectRow(Base):
    """A DICOM object we made: built once, its bytes kept, a resend sends these bytes."""

    __tablename__ = "report_object"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid"),
        one_of("kind", ObjectKind),
        Index(None, "exam_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    report_revision: Mapped[int]
    kind: Mapped[str]
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("finding.id"))
    # None once retention took an overlay's bytes: every destination holds it.
    payload: Mapped[bytes | None] = mapped_column(Deflated)
    created_at: Mapped[datetime]


class RenditionRow(Base):
    """Another form of an object that we made, for destinations that do not take its SOP class."""

    __tablename__ = "rendition"
    __table_args__ = (UniqueConstraint("sop_instance_uid"), Index(None, "object_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    object_id: Mapped[int] = mapped_column(ForeignKey("report_object.id"))
    sop_class_uid: Mapped[str]
    sop_instance_uid: Mapped[str]
    series_instance_uid: Mapped[str]
    payload: Mapped[bytes] = mapped_column(Deflated)
    created_at: Mapped[datetime]


class DeliveredRendition(Base):
    """The rendition that a deliver job's destination was given in the object's place."""

    __tablename__ = "given_rendition"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    rendition_id: Mapped[int] = mapped_column(ForeignKey("rendition.id"))


class RefusedClass(Base):
    """A SOP class that a destination does not take, as it last said."""

    __tablename__ = "refused_class"

    destination: Mapped[str] = mapped_column(primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(primary_key=True)
    refused_at: Mapped[datetime]


class DestinationState(Base):
    """What a destination was last like; `failing_since` is NULL where the last try reached it.

    `error_code` and `error_message` say why the last failed try did not, also once it is reached
    again. `commitment` is what it last did about storage commitment.
    """

    __tablename__ = "destination_state"
    __table_args__ = (one_of("commitment", CommitmentSupport),)

    destination: Mapped[str] = mapped_column(primary_key=True)
    failing_since: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    commitment: Mapped[str | None]
    commitment_since: Mapped[datetime | None]
    commitment_message: Mapped[str | None]

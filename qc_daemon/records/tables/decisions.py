"""What persons decide of pictures: reviews, rejections, what is released for teaching."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of
from qc_daemon.review.events import EventKind


class TeachingAction(StrEnum):
    """What a person decided of an image that was prepared for teaching."""

    RELEASED = "released"
    REJECTED = "rejected"


class Rejection(Base):
    """An image that a person rejected: why (code value, of CID 7011 or 99QCD), who confirmed it,
    and the note (key objects) that tells it.

    A retraction is kept beside it, with the note of its own; the image may then be rejected again,
    which is the next number.
    """

    __tablename__ = "rejection"
    __table_args__ = (UniqueConstraint("instance_id", "number"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    number: Mapped[int] = mapped_column(default=1, server_default="1")
    object_id: Mapped[int] = mapped_column(ForeignKey("report_object.id"))
    reason: Mapped[str]
    confirmed_by: Mapped[str]
    confirmed_at: Mapped[datetime]
    retraction_object_id: Mapped[int | None] = mapped_column(ForeignKey("report_object.id"))
    retraction_reason: Mapped[str | None]
    retracted_by: Mapped[str | None]
    retracted_at: Mapped[datetime | None]


class TeachingRelease(Base):
    """A person's decision on an image prepared for teaching; rows are only added.

    `preparation` is the random id of the folder that was prepared, `number` the image's in it;
    `finding_ids` what it shows, `sha256` the hash of the file that was released.
    """

    __tablename__ = "teaching_release"
    __table_args__ = (
        UniqueConstraint("preparation", "number"),
        one_of("action", TeachingAction),
        Index(None, "decided_at"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    preparation: Mapped[str]
    number: Mapped[int]
    action: Mapped[str]
    finding_ids: Mapped[list[int]] = mapped_column(JSON)
    sha256: Mapped[str | None]
    decided_by: Mapped[str]
    decided_at: Mapped[datetime]


class ReviewEvent(Base):
    """One event of a finding's review, numbered from 1 (`qc_daemon/review/events.py`).

    Rows are only added: triggers refuse an UPDATE or DELETE. `drawn_by` and `second_by` are rules
    of `qc_daemon/review/drawing.py`, joined by commas: how the finding came to this reading, and
    why a second one is to follow.
    """

    __tablename__ = "review"
    __table_args__ = (
        UniqueConstraint("finding_id", "number"),
        one_of("kind", EventKind),
        Index(None, "at"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("finding.id"))
    number: Mapped[int]
    kind: Mapped[str]
    reader: Mapped[str]
    at: Mapped[datetime]
    revision: Mapped[int]
    model_id: Mapped[str]
    view: Mapped[str | None]
    verdict: Mapped[str | None]
    criteria: Mapped[dict[str, Any]]
    reason: Mapped[str | None]
    remark: Mapped[str | None]
    reader_number: Mapped[int | None]
    is_blinded: Mapped[bool]
    seconds: Mapped[float | None]
    drawn_by: Mapped[str | None]
    drawn_probability: Mapped[float | None]
    second_by: Mapped[str | None]
    second_probability: Mapped[float | None]

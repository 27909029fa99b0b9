"""The jobs."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class JobKind(StrEnum):
    """Which stage does the job."""

    SCORE = "score"
    REPORT = "report"
    DELIVER = "deliver"


class JobState(StrEnum):
    """Where a job stands; the transitions are written down in `jobs`.

    Sent: the destination has the object and is yet to commit to it.
    """

    READY = "ready"
    LEASED = "leased"
    SENT = "sent"
    DONE = "done"
    DEAD = "dead"
    QUARANTINED = "quarantined"


class JobRow(Base):
    """One piece of work; see `jobs` for states, transitions and what `subject` names."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("kind", "subject", "revision", "destination"),
        one_of("kind", JobKind),
        one_of("state", JobState),
        # Leased, and only then, it has a token, an owner and an end.
        CheckConstraint(
            "(state = 'leased') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)"
            " AND (lease_token IS NULL) = (owner IS NULL)",
            name="lease",
        ),
        # A claim reads the first due job of each destination and no more.
        Index(None, "state", "kind", "destination", "not_before", "id"),
        Index(
            None,
            "lease_until",
            sqlite_where=text("lease_until IS NOT NULL"),
            postgresql_where=text("lease_until IS NOT NULL"),
        ),
        # Jobs that a clock set back left in the future.
        Index(None, "state", "updated_at"),
        Index(None, "exam_id", "kind", "state"),
        Index(None, "revision_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    revision: Mapped[int]
    destination: Mapped[str] = mapped_column(default="")
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    revision_id: Mapped[int | None] = mapped_column(ForeignKey("revision.id"))
    object_id: Mapped[int | None] = mapped_column(ForeignKey("report_object.id"))
    state: Mapped[str] = mapped_column(default=JobState.READY)
    attempts: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    alarms: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    owner: Mapped[str | None]
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

"""Audits, their limits, and the digests that tell of them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Deflated, Key, one_of


class AuditState(StrEnum):
    """How far an audit is; paused and cancelled by a person, failed with a reason."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DigestState(StrEnum):
    """A digest is ready until it is sent, or given up (dead)."""

    READY = "ready"
    SENT = "sent"
    DEAD = "dead"


class DigestChannel(StrEnum):
    """How a digest goes."""

    MAIL = "mail"
    WEBHOOK = "webhook"


class AuditRow(Base):
    """An audit of a local date (ISO 8601), one by its name: how far it is, and what it found.

    `first_day` and `last_day` are the days that are judged, both included; NULL for what the
    settings say. Running, and only then, it has an owner, a token and the end of its lease; what
    is left of an expired lease may be claimed by another process. `progress` is 0 to 1. `model_id`
    and `bundle_path` are of the bundle that it tries in shadow; NULL where it tries none.
    """

    __tablename__ = "audit"
    __table_args__ = (
        UniqueConstraint("name", "local_date"),
        one_of("state", AuditState),
        CheckConstraint(
            "(state = 'running') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)"
            " AND (lease_token IS NULL) = (owner IS NULL)",
            name="lease",
        ),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str]
    local_date: Mapped[str]
    first_day: Mapped[str | None]
    last_day: Mapped[str | None]
    state: Mapped[str] = mapped_column(default=AuditState.WAITING)
    progress: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None]
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    data_sha256: Mapped[str | None]
    content: Mapped[bytes | None] = mapped_column(Deflated)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    model_id: Mapped[str | None]
    bundle_path: Mapped[str | None]


class AuditLimits(Base):
    """The limits that a week of a measure was first judged by: what is set later changes none.

    `starts_on` is the week's first day (ISO 8601), `local_date` that of the audit.
    """

    __tablename__ = "audit_limits"

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject_id: Mapped[str] = mapped_column(primary_key=True)
    measure: Mapped[str] = mapped_column(primary_key=True)
    starts_on: Mapped[str] = mapped_column(primary_key=True)
    local_date: Mapped[str]
    centre: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]


class DigestRow(Base):
    """A digest of an audit for a recipient: an address, or a webhook's name. `subject_id` is the
    person it is about, empty for the lab. Whoever sends it moves `next_at` ahead first."""

    __tablename__ = "digest"
    __table_args__ = (
        UniqueConstraint("channel", "recipient", "subject_id", "audit", "local_date"),
        one_of("channel", DigestChannel),
        one_of("state", DigestState),
        Index(None, "state", "next_at"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    channel: Mapped[str]
    recipient: Mapped[str]
    subject_id: Mapped[str] = mapped_column(default="")
    audit: Mapped[str]
    local_date: Mapped[str]
    state: Mapped[str] = mapped_column(default=DigestState.READY)
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]

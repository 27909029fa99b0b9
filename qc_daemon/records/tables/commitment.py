"""Storage commitment (PS3.4 J): requested of us, and requested by us."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class CommitmentState(StrEnum):
    """Waiting until destinations have every object; ready to report; reported; or given up."""

    WAITING = "waiting"
    READY = "ready"
    REPORTED = "reported"
    DEAD = "dead"


class Commitment(Base):
    """A storage commitment request (PS3.4 J): its requester, and how far its report is.

    `association` is the token of the association it came over, for a report on the same one.
    """

    __tablename__ = "commitment"
    __table_args__ = (
        UniqueConstraint("transaction_uid", "requested_by"),
        one_of("state", CommitmentState),
        Index(None, "state", "not_before"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    transaction_uid: Mapped[str]
    requested_by: Mapped[str]
    address: Mapped[str]
    association: Mapped[str]
    state: Mapped[str] = mapped_column(default=CommitmentState.WAITING)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_message: Mapped[str | None]
    requested_at: Mapped[datetime]
    reported_at: Mapped[datetime | None]


class CommitmentItem(Base):
    """One referenced object; `failure` is NULL while waiting, 0 when committed, else the Failure
    Reason (PS3.3 C.14-1)."""

    __tablename__ = "commitment_item"
    __table_args__ = (Index(None, "sop_instance_uid"),)

    commitment_id: Mapped[int] = mapped_column(ForeignKey("commitment.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sop_class_uid: Mapped[str]
    sop_instance_uid: Mapped[str]
    failure: Mapped[int | None]


class OutgoingCommitment(Base):
    """A storage commitment that we request of a destination (PS3.4 J): one transaction.

    `asked_at` is when we requested it, `taken_at` when the destination answered with success.
    """

    __tablename__ = "pledge"
    __table_args__ = (UniqueConstraint("transaction_uid"), Index(None, "destination", "taken_at"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    transaction_uid: Mapped[str]
    destination: Mapped[str]
    asked_at: Mapped[datetime]
    taken_at: Mapped[datetime | None]


class OutgoingCommitmentItem(Base):
    """One object of a commitment we request, by its deliver job; `failure` is NULL until a report
    answers, 0 when committed, else the Failure Reason (PS3.3 C.14-1)."""

    __tablename__ = "pledge_item"
    __table_args__ = (Index(None, "job_id"),)

    pledge_id: Mapped[int] = mapped_column(ForeignKey("pledge.id"), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    sop_instance_uid: Mapped[str]
    failure: Mapped[int | None]

"""Patients as a whole: erasures, of which is left that they were done; merges and corrections."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class Erasure(Base):
    """One erasure of a patient, with its certificate; `patient_key` is a keyed hash of the Patient
    ID, and nothing here names the patient."""

    __tablename__ = "erasure"
    __table_args__ = (Index(None, "patient_key"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    patient_key: Mapped[str]
    erased_by: Mapped[str]
    erased_at: Mapped[datetime]
    certificate: Mapped[dict[str, Any]] = mapped_column(JSON)
    sha256: Mapped[str]


class ExamInErasure(Base):
    """An exam that this transaction erases: its reviews may be deleted, which a trigger refuses
    otherwise. No row outlives its transaction."""

    __tablename__ = "exam_in_erasure"

    exam_id: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=False)


class PatientAction(StrEnum):
    """What was decided of a patient."""

    MERGED = "merged"
    SPLIT = "split"
    CORRECTED = "corrected"
    AS_RECEIVED = "as-received"


class PatientIdentityRow(Base):
    """Whose images with this Patient ID in their header are, where that was corrected.

    `current_id` is its own `patient_id` unless it was merged into another one or numbered anew.
    Name, birth date (YYYYMMDD) and issuer are those of the patient of the row whose `patient_id` is
    `current_id`; NULL: as headers say.
    """

    __tablename__ = "patient_identity"
    __table_args__ = (Index(None, "current_id"),)

    patient_id: Mapped[str] = mapped_column(primary_key=True)
    current_id: Mapped[str]
    name: Mapped[str | None]
    birth_date: Mapped[str | None]
    issuer: Mapped[str | None]


class PatientChange(Base):
    """A merge or correction that was ordered; `into_id` is the ID merged into, or the new one."""

    __tablename__ = "patient_change"
    __table_args__ = (one_of("action", PatientAction),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    action: Mapped[str]
    patient_id: Mapped[str]
    into_id: Mapped[str | None]
    name: Mapped[str | None]
    birth_date: Mapped[str | None]
    issuer: Mapped[str | None]
    made_by: Mapped[str]
    made_at: Mapped[datetime]


class HL7Message(Base):
    """A message that was done and acknowledged; it names no patient.

    `sender` is MSH-3 and MSH-4, `changes` how many rows of `PatientChange` it led to.
    """

    __tablename__ = "hl7_message"
    __table_args__ = (UniqueConstraint("sender", "control_id"), Index(None, "received_at"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sender: Mapped[str]
    control_id: Mapped[str]
    event: Mapped[str]
    sha256: Mapped[str]
    changes: Mapped[int]
    received_at: Mapped[datetime]

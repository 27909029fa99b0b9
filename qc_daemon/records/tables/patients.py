"""Patients whose data were erased: what is left is that it was done."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key


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

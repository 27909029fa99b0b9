"""Who made an image, where, when and with what; which persons and devices are one."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class AcquisitionState(StrEnum):
    """Whether the facts of an image were read; unknown: its file was gone, or cannot be read."""

    READ = "read"
    UNKNOWN = "unknown"


class IdentityKind(StrEnum):
    """What an identity is of."""

    PERSON = "person"
    DEVICE = "device"


class IdentityAction(StrEnum):
    """What a person did with an identity."""

    MERGE = "merge"
    SPLIT = "split"
    RENAME = "rename"


class IdentityRow(Base):
    """What persons and devices have in common; `id` is opaque and stays.

    `identity` is what a header identified it by: a new one makes a new row, always. `merged_into`
    names the one that it is an alias of, by a person's decision; the row keeps its own images, so
    that a split gives back exactly what a merge took. `name` is what a person called it.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    identity: Mapped[str]
    name: Mapped[str | None]
    created_at: Mapped[datetime]


class Person(IdentityRow):
    """An operator, by a code with its scheme, else by a name; `received_name` is a header's."""

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("identity"), Index(None, "merged_into"))

    merged_into: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    code: Mapped[str | None]
    scheme: Mapped[str | None]
    received_name: Mapped[str | None]


class Device(IdentityRow):
    """An ultrasound machine, by its serial number, else by station name, model and calling AE."""

    __tablename__ = "device"
    __table_args__ = (UniqueConstraint("identity"), Index(None, "merged_into"))

    merged_into: Mapped[str | None] = mapped_column(ForeignKey("device.id"))
    serial_number: Mapped[str | None]
    manufacturer: Mapped[str | None]
    model: Mapped[str | None]
    station_name: Mapped[str | None]
    calling_ae: Mapped[str | None]


class AcquisitionRow(Base):
    """Who made an image, where, when and with what, as its header says (`dicom.acquisition`).

    A scored revision without a row is one that an older version scored: it is still to be read.
    `site` is the institution folded, to compare by. `acquired` is local time without a zone.
    """

    __tablename__ = "acquisition"
    __table_args__ = (
        one_of("state", AcquisitionState),
        Index(None, "device_id"),
        Index(None, "site"),
    )

    revision_id: Mapped[int] = mapped_column(
        ForeignKey("revision.id"), primary_key=True, autoincrement=False
    )
    state: Mapped[str]
    device_id: Mapped[str | None] = mapped_column(ForeignKey("device.id"))
    device_source: Mapped[str | None]
    software_versions: Mapped[str | None]
    transducer: Mapped[str | None]
    transducer_type: Mapped[str | None]
    institution: Mapped[str | None]
    department: Mapped[str | None]
    site: Mapped[str | None]
    performing_physician: Mapped[str | None]
    acquired: Mapped[str | None]
    acquired_zone: Mapped[str | None]
    acquired_source: Mapped[str | None]
    patient_age_years: Mapped[float | None]
    patient_size_m: Mapped[float | None]
    patient_weight_kg: Mapped[float | None]
    gestational_age_days: Mapped[int | None]
    gestational_age_source: Mapped[str | None]
    study_description: Mapped[str | None]
    burned_in_annotation: Mapped[bool | None]
    read_at: Mapped[datetime]
    # Which of its facts the worklist gave: operators, age, separated by a space; NULL for none.
    from_worklist: Mapped[str | None]


class AcquisitionOperator(Base):
    """An operator of an image; one with several is shared."""

    __tablename__ = "acquisition_operator"
    __table_args__ = (Index(None, "person_id"),)

    revision_id: Mapped[int] = mapped_column(
        ForeignKey("acquisition.revision_id"), primary_key=True, autoincrement=False
    )
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)


class WorklistState(StrEnum):
    """Whether a worklist knew an exam; ambiguous: several entries could be it."""

    FOUND = "found"
    NONE = "none"
    AMBIGUOUS = "ambiguous"


class WorklistAnswer(Base):
    """What the modality worklist said of an exam that lacked something; asked once."""

    __tablename__ = "worklist_answer"
    __table_args__ = (one_of("state", WorklistState), Index(None, "asked_at"))

    exam_id: Mapped[int] = mapped_column(
        ForeignKey("exam.id"), primary_key=True, autoincrement=False
    )
    state: Mapped[str]
    accession_number: Mapped[str | None]
    operator: Mapped[str | None]
    patient_age_years: Mapped[float | None]
    asked_at: Mapped[datetime]


class IdentityChange(Base):
    """A person's decision on a person or device: append-only. `other_id` is what it was merged
    into or split from; `before` and `after` are the names of a rename."""

    __tablename__ = "identity_change"
    __table_args__ = (
        one_of("kind", IdentityKind),
        one_of("action", IdentityAction),
        Index(None, "subject_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str]
    action: Mapped[str]
    subject_id: Mapped[str]
    other_id: Mapped[str | None]
    before: Mapped[str | None]
    after: Mapped[str | None]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime]

"""Whose exams are: what was merged or corrected, beside what headers say.

Headers stay as they were received, and so does the Patient ID that an exam is found by when more of
it comes. Whose it is now follows from the rows of `PatientIdentityRow`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from detector.plain_text import fold
from qc_daemon.records.tables import Exam, PatientIdentityRow
from qc_daemon.records.upsert import table_of


@dataclass(frozen=True, slots=True)
class PatientCorrection:
    """What our objects say of the patient instead of the header; None: what the header says.

    `name` as PN, `birth_date` as DA (PS3.5 6.2).
    """

    patient_id: str | None = None
    name: str | None = None
    birth_date: str | None = None
    issuer: str | None = None


def lock(session: Session) -> None:
    """Keep others from changing who is whose until the transaction ends; before anything is read.

    SQLite has one writer at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE patient_identity IN SHARE ROW EXCLUSIVE MODE"))


def current_id(session: Session, patient_id: str) -> str:
    """The Patient ID that images with this one in their header have now."""
    row = session.get(PatientIdentityRow, patient_id)
    return patient_id if row is None else row.current_id


def is_known(session: Session, patient_id: str) -> bool:
    """Whether there are, or were by a correction, images of this Patient ID."""
    exam = select(Exam.id).where(
        or_(Exam.patient_id == patient_id, Exam.received_patient_id == patient_id)
    )
    return (
        session.get(PatientIdentityRow, patient_id) is not None
        or session.scalar(exam.limit(1)) is not None
    )


def received_ids(session: Session, patient_id: str) -> list[str]:
    """The Patient IDs in headers that are this patient's, its own among them."""
    others = session.scalars(
        select(PatientIdentityRow.patient_id)
        .where(PatientIdentityRow.current_id == patient_id)
        .order_by(PatientIdentityRow.patient_id)
    )
    return list(dict.fromkeys((patient_id, *others)))


def exam_ids(session: Session, patient_id: str) -> list[int]:
    """The patient's exams, oldest first."""
    return list(
        session.scalars(select(Exam.id).where(Exam.patient_id == patient_id).order_by(Exam.id))
    )


def names(session: Session, patient_id: str) -> set[str]:
    """The names that the patient's exams have; empty where an exam has none."""
    column = func.coalesce(Exam.patient_name, "")
    return set(session.scalars(select(column).where(Exam.patient_id == patient_id)))


def newest_name(session: Session, patient_id: str, *, is_received: bool) -> str | None:
    """The name in the newest header of the patient's exams; with `is_received` of those whose
    headers have this Patient ID. None if there is none."""
    column = Exam.received_patient_id if is_received else Exam.patient_id
    name = func.coalesce(Exam.received_patient_name, Exam.patient_name)
    return session.scalar(
        select(name)
        .where(column == patient_id, func.coalesce(name, "") != "")
        .order_by(Exam.last_object_at.desc(), Exam.id.desc())
        .limit(1)
    )


def correction_of(session: Session, exam_id: int) -> PatientCorrection | None:
    """What the exam's reports say instead of its headers; None if nothing."""
    exam = session.execute(
        select(
            Exam.patient_id,
            Exam.received_patient_id,
            Exam.patient_name,
            Exam.received_patient_name,
            PatientIdentityRow.birth_date,
            PatientIdentityRow.issuer,
        )
        .outerjoin(PatientIdentityRow, PatientIdentityRow.patient_id == Exam.patient_id)
        .where(Exam.id == exam_id)
    ).one()
    correction = PatientCorrection(
        exam.patient_id if exam.patient_id != exam.received_patient_id else None,
        exam.patient_name if exam.received_patient_name is not None else None,
        exam.birth_date,
        exam.issuer,
    )
    return None if correction == PatientCorrection() else correction


def identity_of(session: Session, received_id: str) -> tuple[str, str | None]:
    """Patient ID and name of a new exam with this Patient ID in its header; None: its own name."""
    current = current_id(session, received_id)
    row = session.get(PatientIdentityRow, current)
    if row is not None and row.name is not None:
        return current, row.name
    if current == received_id:
        return current, None
    return current, newest_name(session, current, is_received=True)


def apply(session: Session, exams: Iterable[int]) -> None:
    """Give these exams the Patient ID and name that the rows of identities say; done again it
    changes nothing."""
    for exam_id in exams:
        exam = session.execute(
            select(
                Exam.patient_id,
                Exam.received_patient_id,
                Exam.patient_name,
                Exam.received_patient_name,
            ).where(Exam.id == exam_id)
        ).one()
        # Most patients are never corrected.
        if exam.received_patient_id == "":
            continue
        patient_id, name = identity_of(session, exam.received_patient_id)
        received = exam.received_patient_name
        own_name = exam.patient_name if received is None else received or None
        values: dict[str, str | None] = {
            "patient_id": patient_id,
            "patient_name": own_name,
            "received_patient_name": None,
        }
        if name is not None and name != own_name:
            values |= {"patient_name": name, "received_patient_name": own_name or ""}
        before = {key: getattr(exam, key) for key in values}
        if values == before:
            continue
        words = values["patient_name"]
        values["patient_words"] = None if words is None else fold(words)
        session.execute(update(table_of(Exam)).where(Exam.id == exam_id).values(values))

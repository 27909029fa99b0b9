"""Admitting a received object: its rows and its jobs in the caller's transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal
from uuid import NAMESPACE_OID, uuid5

from sqlalchemy import BindParameter, String, bindparam, case, func, null, select, update
from sqlalchemy.orm import Session

from detector.plain_text import fold
from qc_daemon.records.patients import identities
from qc_daemon.records.queue import jobs
from qc_daemon.records.tables import Exam, ExamState, Instance, JobKind, Revision
from qc_daemon.records.upsert import insert_once, table_of


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was received: the header's identifiers, the bytes' SHA-256 and size in bytes.

    `path` is relative to the spool; `association` is the token of the association it came over. The
    last three are what a person finds the exam by; an absent one is empty.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    transfer_syntax_uid: str
    calling_ae: str
    sha256: str
    size: int
    path: str
    association: str
    patient_name: str = ""
    accession_number: str = ""
    study_date: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the object is to us; `path` is where its bytes lie (`same`: the first copy's)."""

    kind: Literal["new", "same", "revision"]
    instance_id: int
    revision_id: int
    exam_id: int
    path: str


def admit(
    session: Session,
    receipt: Receipt,
    *,
    source_destinations: Sequence[str],
    bundle_id: str | Callable[[], str | None] | None,
    now: datetime,
) -> Admission:
    """Record the object and insert its score job and one deliver job per source destination.

    The same bytes under the same UID change nothing at all. Anything else is a new revision; it
    opens its exam, again if that was closed. `bundle_id` is the model id that a new exam is fixed
    to, or a function that returns it: most objects belong to an exam that has one. An object that
    names neither its study nor its patient is an exam of its own, for nothing says whose it is.

    Safe against another association that stores the same object at the same moment.
    """
    receipt = _sanitise_text(receipt)
    if not receipt.study_instance_uid and not receipt.patient_id:
        receipt = replace(receipt, study_instance_uid=_own_study(receipt.sop_instance_uid))
    instance_id, number = _insert_instance(session, receipt.sop_instance_uid, now), 1
    if instance_id is None:
        instance_id = session.execute(
            _LOCK_INSTANCE, {"uid": receipt.sop_instance_uid}
        ).scalar_one()
        for revision in session.execute(_REVISIONS, {"instance": instance_id}):
            if revision.sha256 == receipt.sha256:
                return Admission("same", instance_id, revision.id, revision.exam_id, revision.path)
            number = max(number, revision.number + 1)
    exam_id = _open_exam(session, receipt, bundle_id, now)
    revision_id = insert_once(
        session,
        Revision,
        {
            "instance_id": instance_id,
            "exam_id": exam_id,
            "number": number,
            "sha256": receipt.sha256,
            "size": receipt.size,
            "path": receipt.path,
            "sop_class_uid": receipt.sop_class_uid,
            "series_instance_uid": receipt.series_instance_uid,
            "transfer_syntax_uid": receipt.transfer_syntax_uid,
            "calling_ae": receipt.calling_ae,
            "received_at": now,
        },
        ("instance_id", "number"),
    )
    # The instance is locked: nobody else numbers its revisions.
    assert revision_id is not None
    subject = f"instance:{instance_id}"
    jobs.insert(
        session, JobKind.SCORE, subject, number, exam_id=exam_id, revision_id=revision_id, now=now
    )
    for destination in source_destinations:
        jobs.insert(
            session,
            JobKind.DELIVER,
            subject,
            number,
            destination=destination,
            exam_id=exam_id,
            revision_id=revision_id,
            now=now,
        )
    return Admission(
        "new" if number == 1 else "revision", instance_id, revision_id, exam_id, receipt.path
    )


NAME = ("patient_name", "patient_words")
DESCRIPTION = (*NAME, "accession_number", "study_date")


def exam_description(patient_name: str, accession_number: str, study_date: str) -> dict[str, str]:
    """The exam's columns that a person finds it by."""
    return {
        "patient_name": patient_name,
        "patient_words": fold(patient_name),
        "accession_number": accession_number,
        "study_date": study_date,
    }


# On the tables and built once, for the reason that `upsert.py` gives.
_instances, _exams, _revisions = (table_of(row).c for row in (Instance, Exam, Revision))
_LOCK_INSTANCE = (
    select(_instances.id)
    .where(_instances.sop_instance_uid == bindparam("uid"))
    .with_for_update(key_share=True)
)
_REVISIONS = select(
    _revisions.id, _revisions.exam_id, _revisions.path, _revisions.sha256, _revisions.number
).where(_revisions.instance_id == bindparam("instance"))
_is_name_as_received = _exams.received_patient_name.is_(None)


def _said(name: str) -> BindParameter[str]:
    return bindparam(name, type_=String())


_TOUCH_EXAM = (
    update(table_of(Exam))
    .where(
        _exams.study_instance_uid == bindparam("study"),
        _exams.received_patient_id == bindparam("patient"),
    )
    .values(
        last_object_at=bindparam("now"),
        # What the newest object says, unless it says nothing, or the name was corrected.
        **{
            name: case(
                (_is_name_as_received, func.coalesce(_said(name), _exams[name])),
                else_=_exams[name],
            )
            for name in NAME
        },
        **{name: func.coalesce(_said(name), _exams[name]) for name in DESCRIPTION[len(NAME) :]},
        received_patient_name=case(
            (_is_name_as_received, null()),
            else_=func.coalesce(_said("patient_name"), _exams.received_patient_name),
        ),
    )
    .returning(_exams.id, _exams.bundle_id, _exams.state)
)
_FIX_BUNDLE = (
    update(table_of(Exam))
    .where(_exams.id == bindparam("exam"))
    .values(bundle_id=bindparam("bundle"))
)


def _insert_instance(session: Session, sop_instance_uid: str, now: datetime) -> int | None:
    """The new instance's row; None if there is one. Locked: its revisions are numbered in turn."""
    return insert_once(
        session,
        Instance,
        {"sop_instance_uid": sop_instance_uid, "created_at": now},
        ("sop_instance_uid",),
    )


def _open_exam(
    session: Session,
    receipt: Receipt,
    bundle_id: str | Callable[[], str | None] | None,
    now: datetime,
) -> int:
    """The exam's row, locked and open, its last object being this one."""
    description = exam_description(
        receipt.patient_name, receipt.accession_number, receipt.study_date
    )
    key = {"study": receipt.study_instance_uid, "patient": receipt.patient_id, "now": now} | {
        name: value or None for name, value in description.items()
    }
    exam = session.execute(_TOUCH_EXAM, key).one_or_none()
    if exam is not None and exam.bundle_id is not None and exam.state == ExamState.OPEN:
        open_id: int = exam.id
        return open_id
    bundle_id = bundle_id() if callable(bundle_id) else bundle_id
    if exam is None:
        new_id = insert_once(
            session,
            Exam,
            {
                "study_instance_uid": receipt.study_instance_uid,
                "received_patient_id": receipt.patient_id,
                "bundle_id": bundle_id,
                "opened_at": now,
                "last_object_at": now,
                **description,
                **_identity(session, receipt),
            },
            ("study_instance_uid", "received_patient_id"),
        )
        if new_id is not None:
            return new_id
        # Another association has just inserted it.
        exam = session.execute(_TOUCH_EXAM, key).one()
    exam_id: int = exam.id
    if exam.bundle_id is None and bundle_id is not None:
        session.execute(_FIX_BUNDLE, {"exam": exam_id, "bundle": bundle_id})
    if exam.state == ExamState.CLOSED:
        jobs.reopen(session, exam_id, now)
    return exam_id


def _identity(session: Session, receipt: Receipt) -> dict[str, str | None]:
    """Whose a new exam is: the header's patient, or whom that one was merged into or is named."""
    if not receipt.patient_id:
        return {"patient_id": "", "received_patient_name": None}
    patient_id, name = identities.identity_of(session, receipt.patient_id)
    values: dict[str, str | None] = {"patient_id": patient_id, "received_patient_name": None}
    if name is not None and name != receipt.patient_name:
        received = receipt.patient_name
        values |= {"patient_name": name, "patient_words": fold(name)}
        values["received_patient_name"] = received
    return values


def _own_study(sop_instance_uid: str) -> str:
    """A Study Instance UID for the exam of one object alone (PS3.5 B.2)."""
    return f"2.25.{uuid5(NAMESPACE_OID, f'study of {sop_instance_uid}').int}"


def _sanitise_text(receipt: Receipt) -> Receipt:
    """Change text to what both databases store: neither lone surrogates nor, in PostgreSQL, NUL."""
    values = {field.name: getattr(receipt, field.name) for field in fields(receipt)}
    changed: dict[str, Any] = {
        name: value.replace("\0", "").encode("utf-8", "replace").decode()
        for name, value in values.items()
        if isinstance(value, str) and not value.isprintable()
    }
    return replace(receipt, **changed) if changed else receipt

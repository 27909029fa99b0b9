"""Merges and corrections of patients: the rows of identities, and the reports that they amend.

Everything happens in the caller's transaction. What is there already changes nothing, so that an
order that is repeated, by a person or by a sender, does no harm.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.records import secrets
from qc_daemon.records.patients import erasures, identities
from qc_daemon.records.received import exams
from qc_daemon.records.results import reports
from qc_daemon.records.tables import (
    Exam,
    ExamState,
    PatientAction,
    PatientChange,
    PatientIdentityRow,
)
from qc_daemon.records.upsert import table_of

DEMOGRAPHICS = ("name", "birth_date", "issuer")


@dataclass(frozen=True, slots=True)
class ExamEffect:
    """What a change does to an exam: `is_amended` if its report is made anew, for `destinations`.

    `patient_ids` are its Patient ID before and after.
    """

    exam_id: int
    study_instance_uid: str
    state: ExamState
    patient_ids: tuple[str, str]
    is_amended: bool
    is_reported: bool
    destinations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChangeEffect:
    """What a change did: its number in the list of changes, None if all was so already.

    `companions` are Patient IDs that came with one that was split, and stay.
    """

    number: int | None
    exams: tuple[ExamEffect, ...] = ()
    companions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Demographics:
    """What is said of a patient; None: nothing. `name` as PN, `birth_date` as DA."""

    name: str | None = None
    birth_date: str | None = None
    issuer: str | None = None

    @property
    def values(self) -> dict[str, str]:
        """What is said, by column."""
        pairs = {name: getattr(self, name) for name in DEMOGRAPHICS}
        return {name: value for name, value in pairs.items() if value is not None}


NO_DEMOGRAPHICS = Demographics()


def merge(
    session: Session,
    patient_id: str,
    into_id: str,
    by: str,
    now: datetime,
    demographics: Demographics = NO_DEMOGRAPHICS,
    *,
    is_new_id_allowed: bool = False,
) -> ChangeEffect:
    """Make one patient part of another one; `demographics` is of the latter.

    `is_new_id_allowed`: there need be no images of the one or the other; a sender of ADT messages
    knows more patients than we do. Raises QCError for a patient who is not there, or the same one.
    """
    identities.lock(session)
    if patient_id == into_id:
        raise _refusal("a patient cannot be merged into itself")
    source = identities.current_id(session, patient_id)
    if source != patient_id and source == identities.current_id(session, into_id):
        return _apply_change(
            session, patient_id, into_id, {}, demographics, (PatientAction.MERGED, by, now)
        )
    _check_current(session, patient_id, is_new_id_allowed=is_new_id_allowed)
    if not is_new_id_allowed:
        _check_current(session, into_id)
    into_id = identities.current_id(session, into_id)
    if into_id == patient_id:
        raise _refusal("the one was merged into the other already; patient split takes it out")
    name = None
    if identities.newest_name(session, into_id, is_received=True) is None:
        # One that was numbered anew: none of its headers has its number.
        name = identities.newest_name(session, into_id, is_received=False)
    row = session.get(PatientIdentityRow, into_id)
    defaults = {} if name is None or (row is not None and row.name is not None) else {"name": name}
    return _apply_change(
        session,
        patient_id,
        into_id,
        defaults,
        demographics,
        (PatientAction.MERGED, by, now),
        is_moved=True,
    )


def split(session: Session, patient_id: str, by: str, now: datetime) -> ChangeEffect:
    """Take the images whose headers have this Patient ID out of the patient it was merged into.

    Raises QCError if it was not merged.
    """
    identities.lock(session)
    row = session.get(PatientIdentityRow, patient_id)
    if row is None or row.current_id == patient_id:
        if not identities.is_known(session, patient_id):
            raise _unknown(session, patient_id)
        raise _refusal(f"Patient ID {patient_id} is not merged into another patient")
    former = row.current_id
    before = _exam_ids(session, (former,))
    row.current_id = patient_id
    session.flush()
    number = _store(session, PatientAction.SPLIT, patient_id, former, NO_DEMOGRAPHICS, by, now)
    companions = tuple(_companions(session, patient_id, former))
    return ChangeEffect(number, _apply(session, before, now), companions)


def correct(
    session: Session,
    patient_id: str,
    by: str,
    now: datetime,
    demographics: Demographics,
    new_id: str | None = None,
) -> ChangeEffect:
    """Say otherwise than headers who a patient is; `new_id` takes the place of its Patient ID.

    Raises QCError for a patient who is not there, or a new ID that is another patient's.
    """
    identities.lock(session)
    _check_current(session, patient_id)
    order = (PatientAction.CORRECTED, by, now)
    if new_id is None or new_id == patient_id:
        return _apply_change(session, patient_id, patient_id, {}, demographics, order)
    holder = identities.current_id(session, new_id)
    if holder not in (new_id, patient_id):
        raise _refusal(f"Patient ID {new_id} was merged into {holder}")
    if holder == new_id and identities.is_known(session, new_id):
        raise _refusal(
            f"Patient ID {new_id} is another patient's here: use patient merge --from {patient_id}"
            f" --into {new_id}"
        )
    row = session.get(PatientIdentityRow, patient_id)
    defaults = {} if row is None else {name: getattr(row, name) for name in DEMOGRAPHICS}
    return _apply_change(session, patient_id, new_id, defaults, demographics, order, is_moved=True)


def reset(session: Session, patient_id: str, by: str, now: datetime) -> ChangeEffect:
    """Say again of the patient what headers say: name, birth date and issuer. Raises QCError."""
    identities.lock(session)
    _check_current(session, patient_id)
    row = session.get(PatientIdentityRow, patient_id)
    if row is None or not any(getattr(row, name) for name in DEMOGRAPHICS):
        return ChangeEffect(None, _apply(session, _exam_ids(session, (patient_id,)), now))
    for name in DEMOGRAPHICS:
        setattr(row, name, None)
    session.flush()
    number = _store(session, PatientAction.AS_RECEIVED, patient_id, None, NO_DEMOGRAPHICS, by, now)
    return ChangeEffect(number, _apply(session, _exam_ids(session, (patient_id,)), now))


def _companions(session: Session, patient_id: str, holder: str) -> list[str]:
    """Patient IDs whose last merge was into this one, or into one of those, and whose images are
    `holder`'s now."""
    rows = session.execute(
        select(PatientChange.patient_id, PatientChange.into_id)
        .where(PatientChange.action == PatientAction.MERGED)
        .order_by(PatientChange.id)
    )
    targets = {row.patient_id: row.into_id for row in rows}
    result, queue = list[str](), [patient_id]
    while queue:
        target = queue.pop()
        sources = [source for source, into in targets.items() if into == target]
        queue += [each for each in sources if each not in (patient_id, *result)]
        result += [
            each
            for each in sources
            if each not in result and identities.current_id(session, each) == holder
        ]
    return sorted(result)


def _apply_change(
    session: Session,
    patient_id: str,
    into_id: str,
    defaults: Mapping[str, str | None],
    demographics: Demographics,
    order: tuple[PatientAction, str, datetime],
    *,
    is_moved: bool = False,
) -> ChangeEffect:
    """Give `patient_id`'s images to `into_id`, of whom `defaults` holds and then `demographics`."""
    action, by, now = order
    exam_ids = _exam_ids(session, (patient_id, into_id))
    target = identities.current_id(session, into_id)
    values = {**defaults, **demographics.values}
    is_changed = is_moved
    if is_moved:
        session.execute(
            update(table_of(PatientIdentityRow))
            .where(PatientIdentityRow.current_id == patient_id)
            .values(current_id=into_id)
        )
        _row(session, patient_id).current_id = into_id
        _row(session, into_id).current_id = target = into_id
    if values:
        row = _row(session, target)
        for name, value in values.items():
            if getattr(row, name) != value:
                setattr(row, name, value)
                is_changed = True
    session.flush()
    session.expire_all()
    if not is_changed:
        return ChangeEffect(None, _apply(session, exam_ids, now))
    into = into_id if is_moved else None
    number = _store(session, action, patient_id, into, demographics, by, now)
    return ChangeEffect(number, _apply(session, exam_ids, now))


def _row(session: Session, patient_id: str) -> PatientIdentityRow:
    row = session.get(PatientIdentityRow, patient_id)
    if row is None:
        row = PatientIdentityRow(patient_id=patient_id, current_id=patient_id)
        session.add(row)
        session.flush()
    return row


def _apply(session: Session, before: Mapping[int, str], now: datetime) -> tuple[ExamEffect, ...]:
    """Bring the exams to what the rows of identities say, and have their reports amended, and
    those of others of the same studies: whether they share one with another patient may change."""
    identities.apply(session, before)
    studies = select(Exam.study_instance_uid).where(Exam.id.in_(list(before)))
    others = session.scalars(
        select(Exam.id)
        .where(Exam.study_instance_uid.in_(studies), Exam.study_instance_uid != "")
        .order_by(Exam.id)
    )
    effects = []
    for exam_id in dict.fromkeys((*before, *others)):
        is_amended = exams.queue_report_revision(session, exam_id, now)
        if exam_id not in before and not is_amended:
            continue
        exam = session.execute(
            select(
                Exam.study_instance_uid, Exam.state, Exam.patient_id, Exam.reported_content
            ).where(Exam.id == exam_id)
        ).one()
        effects.append(
            ExamEffect(
                exam_id,
                exam.study_instance_uid,
                ExamState(exam.state),
                (before.get(exam_id, exam.patient_id), exam.patient_id),
                is_amended,
                exam.reported_content is not None,
                tuple(reports.sr_destinations(session, exam_id)),
            )
        )
    return tuple(effects)


def _exam_ids(session: Session, patient_ids: Iterable[str]) -> dict[int, str]:
    """The patients' exams with their Patient ID now; locked until the transaction ends."""
    rows = session.execute(
        select(Exam.id, Exam.patient_id)
        .where(Exam.patient_id.in_(list(patient_ids)))
        .order_by(Exam.id)
        .with_for_update()
    )
    return {row.id: row.patient_id for row in rows}


def _store(
    session: Session,
    action: PatientAction,
    patient_id: str,
    into_id: str | None,
    demographics: Demographics,
    by: str,
    now: datetime,
) -> int:
    row = PatientChange(
        action=action,
        patient_id=patient_id,
        into_id=into_id,
        name=demographics.name,
        birth_date=demographics.birth_date,
        issuer=demographics.issuer,
        made_by=by,
        made_at=now,
    )
    session.add(row)
    session.flush()
    return row.id


def _check_current(session: Session, patient_id: str, *, is_new_id_allowed: bool = False) -> None:
    """Raises QCError for a patient who is not there, or who is another one by now."""
    current = identities.current_id(session, patient_id)
    if current != patient_id:
        raise _refusal(
            f"Patient ID {patient_id} is {current} by now: give that one, or take it out by"
            f" patient split {patient_id}"
        )
    if not is_new_id_allowed and not identities.is_known(session, patient_id):
        raise _unknown(session, patient_id)


def _unknown(session: Session, patient_id: str) -> QCError:
    secret = secrets.read(session, erasures.SECRET)
    if secret is not None:
        key = erasures.key_of(secret, patient_id)
        for each in erasures.list_erasures(session, key):
            return _refusal(
                f"the data of Patient ID {patient_id} were erased: see erasure show {each.id}"
            )
    return _refusal(f"no exam of Patient ID {patient_id}; see exam list")


def _refusal(message: str) -> QCError:
    return QCError(ErrorCode.STORAGE, message)

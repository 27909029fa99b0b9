"""Exams: open while objects may come, closed when all is quiet and scored, then reported."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, func, not_, or_, select, update
from sqlalchemy.orm import Session

from detector.errors import ErrorCode
from qc_daemon.records.acquisition import worklist_answers
from qc_daemon.records.patients import identities
from qc_daemon.records.patients.identities import PatientCorrection
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import mpps
from qc_daemon.records.received.revisions import (
    QuarantinedRevision,
    RevisionFacts,
    as_facts,
    select_facts,
)
from qc_daemon.records.results import measurements, reviews
from qc_daemon.records.results.measurements import MeasuredReport
from qc_daemon.records.tables import (
    ClosedBy,
    Exam,
    ExamHold,
    ExamOutcome,
    ExamState,
    Finding,
    JobKind,
    JobRow,
    JobState,
    ObjectKind,
    ReportObjectRow,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import execute_update, insert_or_update
from qc_daemon.review.events import Event
from qc_daemon.review.state import ReviewState


@dataclass(frozen=True, slots=True)
class ScoredFinding:
    """A finding with the revision it is reported of, the newest header with its pixels."""

    finding_id: int
    finding: dict[str, Any]
    revision: RevisionFacts


@dataclass(frozen=True, slots=True)
class ExamContent:
    """Everything that the report stage needs of an exam.

    `findings` are those of each instance's newest scored content, ordered by SOP Instance UID,
    frame and region. `previous_sr_uids` are the SRs of earlier reports, oldest first; `measured` is
    what machines' own reports say; `other_patients` counts the exams of other patients under the
    same Study Instance UID; `reviews` are persons' verdicts that stand, by finding id;
    `worklist_accession` is for images without an accession number; `correction` is what is said of
    the patient instead of what headers say.
    """

    exam_id: int
    study_instance_uid: str
    patient_id: str
    bundle_id: str | None
    report_revision: int
    findings: tuple[ScoredFinding, ...]
    previous_sr_uids: tuple[str, ...]
    measured: tuple[MeasuredReport, ...] = ()
    other_patients: int = 0
    reviews: Mapping[int, ReviewState] = field(default_factory=dict)
    worklist_accession: str | None = None
    correction: PatientCorrection | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of which findings are reported, of machines' measurements if there are any,
        of persons' verdicts that are not the models', with their coded reasons, and of the patient
        where it is not the headers'.

        Findings never change once stored; a machine's report that comes again with the same values
        is no news, nor is a person who agrees with the models, or a remark.
        """
        content = ",".join(str(i) for i in sorted(f.finding_id for f in self.findings))
        if self.measured:
            content += repr(sorted((m.revision.sop_instance_uid, m.values) for m in self.measured))
        if self.other_patients:
            content += "other patients"
        overridden = [self._overriding(each) for each in self.findings]
        if any(overridden):
            content += repr(sorted(each for each in overridden if each))
        if self.correction is not None:
            content += repr(self.correction)
        return hashlib.sha256(content.encode()).hexdigest()

    def _overriding(self, scored: ScoredFinding) -> tuple[str, ...]:
        """What a person says of the finding in the models' place; empty if nobody does."""
        state = self.reviews.get(scored.finding_id)
        if state is None or state.outcome is None or not overrides(state.outcome, scored.finding):
            return ()
        outcome = state.outcome
        reason = () if outcome.reason is None else (outcome.reason,)
        return tuple(map(repr, (scored.finding_id, outcome.answer, outcome.criteria, *reason)))


def hold_open(
    session: Session, association: str, exam_id: int, now: datetime, expires: datetime
) -> None:
    """Hold the exam open until the association, which has stored to it, ends or `expires`."""
    insert_or_update(
        session,
        ExamHold,
        {"token": association, "exam_id": exam_id, "expires_at": max(now, expires)},
        ("token", "exam_id"),
    )


def end_association(session: Session, association: str) -> None:
    """Hold no exam open any more for an association that was released, aborted or lost."""
    session.execute(delete(ExamHold).where(ExamHold.token == association))


def count_open(session: Session) -> int:
    """How many exams are open."""
    return session.execute(
        select(func.count()).select_from(Exam).where(Exam.state == ExamState.OPEN)
    ).scalar_one()


def close_due(
    session: Session, now: datetime, quiet_seconds: float, max_open_minutes: float
) -> list[int]:
    """Close the exams whose time has come; inserts their report jobs; returns their ids.

    An exam closes at once when its procedure steps say that it is over and all they name is here
    (`mpps.is_exam_whole`), else `quiet_seconds` after its last object with no association open for
    it, else `max_open_minutes` after it opened; never while a score job of it is ready or leased,
    but for one that then waits for a file that is gone: its findings open the exam again. A report
    job is inserted if there are findings and they differ from the last report's.
    """
    session.execute(delete(ExamHold).where(ExamHold.expires_at <= now))
    _reset_future_objects(session, now)
    quiet = now - timedelta(seconds=quiet_seconds)
    oldest = now - timedelta(minutes=max_open_minutes)
    candidates = session.scalars(
        select(Exam.id)
        .where(
            Exam.state == ExamState.OPEN,
            or_(
                Exam.last_object_at <= quiet,
                Exam.opened_at <= oldest,
                mpps.has_completed_step(),
            ),
        )
        .order_by(Exam.id)
    ).all()
    return [
        exam_id for exam_id in candidates if _close_if_due(session, exam_id, now, quiet, oldest)
    ]


def _reset_future_objects(session: Session, now: datetime) -> None:
    """Count the quiet time from now for objects that came before the clock was set back."""
    execute_update(
        session,
        update(Exam)
        .where(Exam.state == ExamState.OPEN, Exam.last_object_at > now + jobs.CLOCK_SKEW)
        .values(last_object_at=now),
    )


def _close_if_due(
    session: Session, exam_id: int, now: datetime, quiet: datetime, oldest: datetime
) -> bool:
    # Lock first and read afterwards: what is read has every object admitted until then, and one
    # admitted later waits for us and opens the exam again.
    exam = session.execute(
        select(Exam.state, Exam.last_object_at, Exam.opened_at)
        .where(Exam.id == exam_id)
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()
    if exam is None or exam.state != ExamState.OPEN:
        return False
    if _has_score_jobs(session, exam_id):
        # An object whose file is gone waits for somebody; the exam's others do not wait with it.
        if exam.opened_at > oldest or _has_score_jobs(session, exam_id, without_lost=True):
            return False
        _close(session, exam_id, ClosedBy.MAX_OPEN, now)
        return True
    holds = select(ExamHold.token).where(ExamHold.exam_id == exam_id)
    has_hold = _any(session, holds)
    if exam.last_object_at <= quiet and not has_hold:
        cause = ClosedBy.QUIET
    elif exam.opened_at <= oldest:
        cause = ClosedBy.MAX_OPEN
    elif mpps.is_exam_whole(session, exam_id):
        cause = ClosedBy.PROCEDURE_STEP
    else:
        return False
    _close(session, exam_id, cause, now)
    return True


def close_now(session: Session, exam_id: int, now: datetime) -> bool:
    """Close an open exam because a person says so, whatever else may come of it.

    False if it is closed already or if something of it is still to be scored.
    """
    state = session.scalars(
        select(Exam.state).where(Exam.id == exam_id).with_for_update(key_share=True)
    ).one_or_none()
    if state != ExamState.OPEN or _has_score_jobs(session, exam_id):
        return False
    _close(session, exam_id, ClosedBy.PERSON, now)
    return True


_FILE_ERRORS = (ErrorCode.SPOOL_MISSING, ErrorCode.SPOOL_DAMAGED)


def _has_score_jobs(session: Session, exam_id: int, *, without_lost: bool = False) -> bool:
    """Whether a score job of the exam is ready or leased; `without_lost` leaves out those that wait
    for a file that is gone or damaged."""
    pending = select(JobRow.id).where(
        JobRow.exam_id == exam_id, JobRow.kind == JobKind.SCORE, JobRow.state.in_(jobs.PENDING)
    )
    if without_lost:
        is_lost = and_(
            JobRow.state == JobState.READY, func.coalesce(JobRow.error_code, "").in_(_FILE_ERRORS)
        )
        pending = pending.where(not_(is_lost))
    return _any(session, pending)


def _close(session: Session, exam_id: int, cause: ClosedBy, now: datetime) -> None:
    # A patient who was corrected while the exam's first object came.
    identities.apply(session, [exam_id])
    content = exam_content(session, exam_id)
    last_reported = session.execute(
        select(Exam.reported_content).where(Exam.id == exam_id)
    ).scalar_one()
    values: dict[str, Any] = {
        "state": ExamState.CLOSED,
        "closed_at": now,
        "closed_by": cause,
    }
    if not content.findings:
        values["outcome"] = ExamOutcome.NOTHING_TO_TELL
    elif content.fingerprint == last_reported:
        values["outcome"] = ExamOutcome.UNCHANGED
    else:
        values |= _insert_report_job(session, content, now)
    execute_update(session, update(Exam).where(Exam.id == exam_id).values(**values))
    if content.other_patients:
        _amend_other_patients(session, content, now)


def _insert_report_job(session: Session, content: ExamContent, now: datetime) -> dict[str, Any]:
    """Insert the job of the exam's next report; returns the exam's new values."""
    exam_id, revision = content.exam_id, content.report_revision + 1
    jobs.insert(session, JobKind.REPORT, f"exam:{exam_id}", revision, exam_id=exam_id, now=now)
    return {
        "outcome": ExamOutcome.REPORT,
        "report_revision": revision,
        "reported_content": content.fingerprint,
    }


def _amend_other_patients(session: Session, content: ExamContent, now: datetime) -> None:
    """Amend earlier reports of the study's other patients: they must say that they share its UID.

    Somebody may have been selected wrongly at the machine.
    """
    others = session.scalars(
        select(Exam.id)
        .where(
            Exam.study_instance_uid == content.study_instance_uid,
            Exam.id != content.exam_id,
            Exam.state == ExamState.CLOSED,
            Exam.reported_content.is_not(None),
        )
        .order_by(Exam.id)
        # One that is being changed opens again and is reported when it closes.
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for other in others:
        earlier = exam_content(session, other)
        reported = select(Exam.reported_content).where(Exam.id == other)
        if earlier.findings and session.execute(reported).scalar_one() != earlier.fingerprint:
            values = _insert_report_job(session, earlier, now)
            execute_update(session, update(Exam).where(Exam.id == other).values(**values))


def queue_report_revision(session: Session, exam_id: int, now: datetime) -> bool:
    """Have the report of a closed exam amended if a person's verdict or a correction of the patient
    changes it; False if not.

    An open exam is reported with it when it closes. A report that is queued and not yet begun will
    have it. The caller holds the review, or the correction, in the same transaction.
    """
    exam = session.execute(
        select(Exam.state, Exam.reported_content, Exam.report_revision)
        .where(Exam.id == exam_id)
        .with_for_update(key_share=True)
    ).one()
    if exam.state != ExamState.CLOSED or exam.reported_content is None:
        return False
    content = exam_content(session, exam_id)
    if not content.findings or content.fingerprint == exam.reported_content:
        return False
    if _is_report_to_begin(session, exam_id, exam.report_revision):
        values: dict[str, Any] = {"reported_content": content.fingerprint}
    else:
        values = _insert_report_job(session, content, now)
    execute_update(session, update(Exam).where(Exam.id == exam_id).values(**values))
    return True


def _is_report_to_begin(session: Session, exam_id: int, report_revision: int) -> bool:
    """Whether the exam's last report is queued and its SR, which stands once made, is not made."""
    job = session.execute(
        select(JobRow.id)
        .where(
            JobRow.exam_id == exam_id,
            JobRow.kind == JobKind.REPORT,
            JobRow.revision == report_revision,
            JobRow.state == JobState.READY,
        )
        # One that is claimed just now is leased afterwards, and does not match any more.
        .with_for_update(key_share=True)
    ).first()
    report_object = select(ReportObjectRow.id).where(
        ReportObjectRow.exam_id == exam_id,
        ReportObjectRow.kind == ObjectKind.SR,
        ReportObjectRow.report_revision == report_revision,
    )
    return job is not None and not _any(session, report_object)


def of_study(session: Session, study_instance_uid: str) -> list[int]:
    """The exams under this Study Instance UID, oldest first; several if patients share it."""
    return list(
        session.scalars(
            select(Exam.id).where(Exam.study_instance_uid == study_instance_uid).order_by(Exam.id)
        )
    )


def describe(session: Session, exam_id: int, description: dict[str, str]) -> bool:
    """Store what a header says of the exam (`receipts.exam_description`); False if it is there."""
    statement = update(Exam).where(Exam.id == exam_id, Exam.patient_name.is_(None))
    return execute_update(session, statement.values(**description)) == 1


def identifiers(session: Session, exam_id: int) -> tuple[str, str]:
    """Study Instance UID and Patient ID of the exam. Raises NoResultFound."""
    row = session.execute(
        select(Exam.study_instance_uid, Exam.patient_id).where(Exam.id == exam_id)
    ).one()
    return row.study_instance_uid, row.patient_id


def exam_content(session: Session, exam_id: int) -> ExamContent:
    """What there is to report of the exam now; raises LookupError if there is no such exam."""
    exam = session.execute(
        select(
            Exam.id,
            Exam.study_instance_uid,
            Exam.patient_id,
            Exam.bundle_id,
            Exam.report_revision,
        ).where(Exam.id == exam_id)
    ).one_or_none()
    if exam is None:
        raise LookupError(f"no exam {exam_id}")
    findings = tuple(_select_findings(session, exam_id))
    return ExamContent(
        exam_id=exam.id,
        study_instance_uid=exam.study_instance_uid,
        patient_id=exam.patient_id,
        bundle_id=exam.bundle_id,
        report_revision=exam.report_revision,
        findings=findings,
        previous_sr_uids=tuple(
            session.scalars(
                select(ReportObjectRow.sop_instance_uid)
                .where(ReportObjectRow.exam_id == exam_id, ReportObjectRow.kind == ObjectKind.SR)
                .order_by(ReportObjectRow.report_revision, ReportObjectRow.id)
            )
        ),
        measured=tuple(measurements.of_exam(session, exam_id)),
        other_patients=_count_other_patients(session, exam.study_instance_uid, exam.patient_id),
        reviews=reviews.reported_outcomes(session, [each.finding_id for each in findings]),
        worklist_accession=worklist_answers.accession_of(session, exam_id),
        correction=identities.correction_of(session, exam_id),
    )


def overrides(outcome: Event, finding: Mapping[str, Any]) -> bool:
    """Whether a person's outcome says anything else than the finding (its JSON object)."""
    met = {each["code"]: each["met"] for each in finding["criteria"]}
    return outcome.differs(reviews.model_answer(finding), met)


def _count_other_patients(session: Session, study_instance_uid: str, patient_id: str) -> int:
    """An object without Study Instance UID shares none."""
    if not study_instance_uid:
        return 0
    return session.execute(
        select(func.count()).where(
            Exam.study_instance_uid == study_instance_uid, Exam.patient_id != patient_id
        )
    ).scalar_one()


def omissions(session: Session, exam_id: int) -> list[QuarantinedRevision]:
    """What reports of the exam leave out, and why: instances without a readable content.

    In order of arrival, each instance once, with the reason of its newest content.
    """
    rows = session.execute(
        select_facts()
        .add_columns(Revision.reason_code, Revision.reason_message, Revision.reason_at)
        .where(Revision.exam_id == exam_id)
        .order_by(Revision.received_at, Revision.id)
    ).all()
    readable = {row.instance_id for row in rows if row.state != RevisionState.QUARANTINED}
    newest = {row.instance_id: row for row in rows if row.instance_id not in readable}
    return [
        QuarantinedRevision(as_facts(row), row.reason_code, row.reason_message, row.reason_at)
        for row in newest.values()
    ]


def without_overlay(session: Session, exam_id: int) -> list[QuarantinedRevision]:
    """The exam's contents that are reported without an overlay, and why."""
    rows = session.execute(
        select_facts()
        .add_columns(Revision.reason_code, Revision.reason_message, Revision.reason_at)
        .where(
            Revision.exam_id == exam_id,
            Revision.state != RevisionState.QUARANTINED,
            Revision.reason_code.is_not(None),
        )
        .order_by(Revision.received_at, Revision.id)
    )
    return [
        QuarantinedRevision(as_facts(row), row.reason_code, row.reason_message, row.reason_at)
        for row in rows
    ]


def record_content(session: Session, exam_id: int, report_revision: int, fingerprint: str) -> None:
    """Record the content of a report that has less than the exam had when it closed.

    What comes later is compared with it. A later report's content stands.
    """
    execute_update(
        session,
        update(Exam)
        .where(Exam.id == exam_id, Exam.report_revision == report_revision)
        .values(reported_content=fingerprint),
    )


def record_no_report(session: Session, exam_id: int, report_revision: int) -> None:
    """Record that nothing of the exam could be reported."""
    execute_update(
        session,
        update(Exam)
        .where(
            Exam.id == exam_id,
            Exam.report_revision == report_revision,
            Exam.state == ExamState.CLOSED,
        )
        .values(outcome=ExamOutcome.NOTHING_TO_TELL),
    )


def _select_findings(session: Session, exam_id: int) -> list[ScoredFinding]:
    """Findings of the newest readable content of each instance in the exam."""
    rows = session.execute(
        select_facts()
        .add_columns(Revision.source_revision_id)
        .where(
            Revision.exam_id == exam_id,
            Revision.state.in_((RevisionState.SCORED, RevisionState.HEADER)),
        )
        .order_by(Revision.number)
    )
    # Later numbers overwrite earlier ones: the newest content of each instance is left.
    newest = {row.instance_id: row for row in rows}
    revision_of = {
        row.source_revision_id or row.revision_id: as_facts(row) for row in newest.values()
    }
    findings = session.execute(
        select(Finding.id, Finding.revision_id, Finding.frame, Finding.region, Finding.body)
        .where(Finding.revision_id.in_(revision_of))
        .order_by(Finding.frame, Finding.region, Finding.id)
    )
    scored = [ScoredFinding(row.id, row.body, revision_of[row.revision_id]) for row in findings]
    return sorted(scored, key=lambda each: each.revision.sop_instance_uid)


def _any(session: Session, statement: Select[Any]) -> bool:
    return session.execute(statement.limit(1)).first() is not None


def exam_start(session: Session, exam_id: int) -> tuple[str, datetime]:
    """The exam's Study Instance UID, and when its first object came; the same at any time."""
    row = session.execute(
        select(Exam.study_instance_uid, func.min(Revision.received_at))
        .join(Revision, Revision.exam_id == Exam.id)
        .where(Exam.id == exam_id)
        .group_by(Exam.id, Exam.study_instance_uid)
    ).one()
    return row[0], row[1]

"""All rows of a patient: counted, looked at for what keeps them from being erased, and deleted.

A patient is a Patient ID. An image whose header was corrected to another patient's stays with that
one: its findings, which are of the same pixels, go to the corrected revision.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, or_, select, text, update
from sqlalchemy.orm import Session, aliased

from qc_daemon.records import secrets
from qc_daemon.records.patients import identities
from qc_daemon.records.tables import (
    AccessRow,
    AcquisitionOperator,
    AcquisitionRow,
    Base,
    DeliveredRendition,
    Erasure,
    Exam,
    ExamHold,
    ExamInErasure,
    ExamState,
    Finding,
    ImageFeaturesRow,
    Instance,
    JobKind,
    JobRow,
    JobState,
    Measurement,
    OpinionRow,
    OutgoingCommitment,
    OutgoingCommitmentItem,
    PatientChange,
    PatientIdentityRow,
    PerformedStep,
    Rejection,
    RenditionRow,
    ReportObjectRow,
    ReviewEvent,
    Revision,
    RevisionState,
    ShadowFinding,
    WorklistAnswer,
)
from qc_daemon.records.upsert import table_of

SECRET = "erasures"
_UNDER_WAY = (JobState.READY, JobState.LEASED)

Ids = Select[int]


@dataclass(frozen=True, slots=True)
class PatientContent:
    """What there is of a patient: rows by what they are, and what is needed to remove the files.

    `studies` are Study Instance UIDs; `files` are paths in the spool that no other patient's row
    has, `sha256` the hashes of all that was received. `delivered` counts objects by destination and
    kind: those are not ours to remove.
    """

    exam_ids: tuple[int, ...]
    studies: tuple[str, ...]
    counts: dict[str, int]
    files: tuple[str, ...]
    size: int
    sha256: tuple[str, ...]
    delivered: dict[str, dict[str, int]]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        return not self.exam_ids and not self.counts["corrections of the patient"]


@dataclass(frozen=True, slots=True)
class StoredErasure:
    """An erasure as it is stored."""

    id: int
    patient_key: str
    erased_by: str
    erased_at: datetime
    certificate: dict[str, Any]
    sha256: str


def patient_key(session: Session, patient_id: str) -> str:
    """The keyed hash of a Patient ID; the session must write where there is no key yet."""
    return key_of(secrets.get(session, SECRET), patient_id)


def stored_key(session: Session) -> bytes | None:
    """The key of the hashes, None where nobody was erased yet."""
    return secrets.read(session, SECRET)


def other_keys(session: Session, patient_id: str) -> list[str]:
    """The keyed hashes of the other Patient IDs that were the patient's; as `patient_key`."""
    received = session.scalars(
        select(Exam.received_patient_id).where(Exam.patient_id == patient_id).distinct()
    )
    numbers = {*identities.received_ids(session, patient_id), *received} - {patient_id, ""}
    return sorted(patient_key(session, each) for each in numbers)


def key_of(secret: bytes, patient_id: str) -> str:
    """HMAC-SHA256 of the Patient ID, in hexadecimal."""
    return hmac.digest(secret, patient_id.encode(), "sha256").hex()


def patient_content(session: Session, patient_id: str) -> PatientContent:
    """What there is of the patient."""
    exams, revisions, findings, objects = _ids(patient_id)
    of_findings = {
        "findings": Finding.id.in_(findings),
        "descriptions": Finding.id.in_(findings)
        & (func.coalesce(Finding.body["description"].as_string(), "") != ""),
    }
    counts = {
        "exams": _count(session, Exam, Exam.patient_id == patient_id),
        "images": session.scalar(
            select(func.count(Revision.instance_id.distinct())).where(Revision.id.in_(revisions))
        )
        or 0,
        "revisions": _count(session, Revision, Revision.id.in_(revisions)),
        **{name: _count(session, Finding, where) for name, where in of_findings.items()},
        "embeddings": _count(
            session,
            ImageFeaturesRow,
            ImageFeaturesRow.finding_id.in_(findings) & ImageFeaturesRow.embedding.is_not(None),
        ),
        "opinions": _count(session, OpinionRow, OpinionRow.finding_id.in_(findings)),
        "shadow findings": _count(session, ShadowFinding, ShadowFinding.revision_id.in_(revisions)),
        "review events": _count(session, ReviewEvent, ReviewEvent.finding_id.in_(findings)),
        "measurements": _count(session, Measurement, Measurement.exam_id.in_(exams)),
        "report objects": _count(session, ReportObjectRow, ReportObjectRow.id.in_(objects)),
        "rejections": _count(session, Rejection, Rejection.object_id.in_(objects)),
        "jobs": _count(session, JobRow, JobRow.exam_id.in_(exams)),
        # A merge is stored before images of either number come.
        "corrections of the patient": _count(session, PatientIdentityRow, _is_of(patient_id)),
    }
    twin = aliased(Revision)
    is_shared = (
        select(twin.id).where(twin.path == Revision.path, twin.id.not_in(revisions)).exists()
    )
    rows = session.execute(
        select(Revision.path, Revision.size, Revision.sha256, is_shared, Revision.dropped_at)
        .where(Revision.id.in_(revisions))
        .order_by(Revision.id)
    ).all()
    files = {path: size for path, size, _, shared, _ in rows if not shared and path}
    return PatientContent(
        exam_ids=tuple(session.scalars(exams.order_by(Exam.id))),
        studies=tuple(
            session.scalars(
                select(Exam.study_instance_uid)
                .where(Exam.patient_id == patient_id)
                .order_by(Exam.id)
            )
        ),
        counts=counts,
        files=tuple(files),
        size=sum(size for path, size, _, _, dropped in rows if path in files and not dropped),
        sha256=tuple(dict.fromkeys(row.sha256 for row in rows if row.sha256)),
        delivered=_delivered(session, exams),
    )


def obstacles(session: Session, patient_id: str) -> list[str]:
    """Why the patient cannot be erased now: exams still open, and jobs that wait or run."""
    exams = _ids(patient_id)[0]
    reasons = []
    current = identities.current_id(session, patient_id)
    if current != patient_id:
        reasons.append(
            f"Patient ID {patient_id} is {current} by now: erase that one, or take it out by"
            f" patient split {patient_id}"
        )
    still_open = _count(
        session, Exam, (Exam.patient_id == patient_id) & (Exam.state == ExamState.OPEN)
    )
    if still_open:
        reasons.append(f"exams that are still open: {still_open} (exam close)")
    rows = session.execute(
        select(JobRow.kind, func.count())
        .where(JobRow.exam_id.in_(exams), JobRow.state.in_(_UNDER_WAY))
        .group_by(JobRow.kind)
        .order_by(JobRow.kind)
    )
    reasons += [f"{kind} jobs that wait or run: {count} (queue list)" for kind, count in rows]
    return reasons


def erase(session: Session, patient_id: str) -> None:
    """Delete every row of the patient; who looked at what stays in the access log, without it.

    In SQLite the bytes are overwritten too. The caller has locked out others (`lock`) and asked for
    `obstacles` in the same transaction.
    """
    exams, revisions, findings, objects = _ids(patient_id)
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("PRAGMA secure_delete = ON"))
    _hand_over(session, revisions)
    exam_ids = list(session.scalars(exams))
    numbers = identities.received_ids(session, patient_id)
    for exam_id in exam_ids:
        session.add(ExamInErasure(exam_id=exam_id))
    session.flush()
    jobs: Ids = select(JobRow.id).where(JobRow.exam_id.in_(exams))
    renditions: Ids = select(RenditionRow.id).where(RenditionRow.object_id.in_(objects))
    instances = list(
        session.scalars(select(Revision.instance_id).where(Revision.id.in_(revisions)).distinct())
    )
    pledges = set(
        session.scalars(
            select(OutgoingCommitmentItem.pledge_id).where(OutgoingCommitmentItem.job_id.in_(jobs))
        )
    )
    studies = set(
        session.scalars(select(Exam.study_instance_uid).where(Exam.patient_id == patient_id))
    )
    session.execute(
        update(table_of(AccessRow))
        .where(or_(AccessRow.finding_id.in_(findings), AccessRow.exam_id.in_(exams)))
        .values(exam_id=None, finding_id=None)
    )
    for table, where in (
        (ReviewEvent, ReviewEvent.finding_id.in_(findings)),
        (OutgoingCommitmentItem, OutgoingCommitmentItem.job_id.in_(jobs)),
        (
            DeliveredRendition,
            or_(
                DeliveredRendition.job_id.in_(jobs),
                DeliveredRendition.rendition_id.in_(renditions),
            ),
        ),
        (JobRow, JobRow.exam_id.in_(exams)),
        (
            Rejection,
            or_(Rejection.object_id.in_(objects), Rejection.retraction_object_id.in_(objects)),
        ),
        (RenditionRow, RenditionRow.object_id.in_(objects)),
        (ReportObjectRow, ReportObjectRow.exam_id.in_(exams)),
        (ImageFeaturesRow, ImageFeaturesRow.finding_id.in_(findings)),
        (OpinionRow, OpinionRow.finding_id.in_(findings)),
        (ShadowFinding, ShadowFinding.revision_id.in_(revisions)),
        (Finding, Finding.revision_id.in_(revisions)),
        (AcquisitionOperator, AcquisitionOperator.revision_id.in_(revisions)),
        (AcquisitionRow, AcquisitionRow.revision_id.in_(revisions)),
        (
            Measurement,
            or_(Measurement.exam_id.in_(exams), Measurement.revision_id.in_(revisions)),
        ),
        (WorklistAnswer, WorklistAnswer.exam_id.in_(exams)),
        (ExamHold, ExamHold.exam_id.in_(exams)),
        (Revision, Revision.exam_id.in_(exams)),
        (Exam, Exam.patient_id == patient_id),
        (ExamInErasure, ExamInErasure.exam_id.in_(exam_ids)),
        (
            PatientChange,
            or_(PatientChange.patient_id.in_(numbers), PatientChange.into_id.in_(numbers)),
        ),
        (PatientIdentityRow, PatientIdentityRow.patient_id.in_(numbers)),
    ):
        session.execute(delete(table_of(table)).where(where))
    _delete_orphaned(session, instances, studies, pledges)


def lock(session: Session, patient_id: str) -> None:
    """Keep others from adding to the patient's exams until the transaction ends."""
    # In the order of merges, or the two could wait for each other.
    identities.lock(session)
    session.execute(select(Exam.id).where(Exam.patient_id == patient_id).with_for_update())


def store(
    session: Session, key: str, by: str, now: datetime, certificate: dict[str, Any], sha256: str
) -> int:
    """Store that it was done; returns its number."""
    row = Erasure(
        patient_key=key, erased_by=by, erased_at=now, certificate=certificate, sha256=sha256
    )
    session.add(row)
    session.flush()
    return row.id


def list_erasures(session: Session, key: str | None = None) -> list[StoredErasure]:
    """The erasures, newest first; of one patient, by the hash of any of her numbers, or all."""
    statement = select(Erasure).order_by(Erasure.id.desc())
    return [
        StoredErasure(
            each.id,
            each.patient_key,
            each.erased_by,
            each.erased_at,
            each.certificate,
            each.sha256,
        )
        for each in session.scalars(statement)
        if key is None or key in (each.patient_key, *each.certificate.get("other_keys", ()))
    ]


def _ids(patient_id: str) -> tuple[Ids, Ids, Ids, Ids]:
    """Queries of the patient's exams, revisions, findings and report objects."""
    exams: Ids = select(Exam.id).where(Exam.patient_id == patient_id)
    revisions: Ids = select(Revision.id).where(Revision.exam_id.in_(exams))
    findings: Ids = select(Finding.id).where(Finding.revision_id.in_(revisions))
    objects: Ids = select(ReportObjectRow.id).where(ReportObjectRow.exam_id.in_(exams))
    return exams, revisions, findings, objects


def _is_of(patient_id: str) -> ColumnElement[bool]:
    return or_(
        PatientIdentityRow.patient_id == patient_id, PatientIdentityRow.current_id == patient_id
    )


def _count(session: Session, table: type[Base], where: Any) -> int:
    return session.execute(
        select(func.count()).select_from(table_of(table)).where(where)
    ).scalar_one()


def _delivered(session: Session, exams: Ids) -> dict[str, dict[str, int]]:
    rows = session.execute(
        select(JobRow.destination, ReportObjectRow.kind, func.count())
        .outerjoin(ReportObjectRow, ReportObjectRow.id == JobRow.object_id)
        .where(
            JobRow.exam_id.in_(exams),
            JobRow.kind == JobKind.DELIVER,
            JobRow.state == JobState.DONE,
        )
        .group_by(JobRow.destination, ReportObjectRow.kind)
        .order_by(JobRow.destination, ReportObjectRow.kind)
    )
    delivered: dict[str, dict[str, int]] = {}
    for destination, kind, count in rows:
        delivered.setdefault(destination, {})[kind or "source"] = count
    return delivered


def _hand_over(session: Session, revisions: Ids) -> None:
    """Give the findings of images that were corrected to another patient to the corrected ones."""
    dependents = session.execute(
        select(Revision.source_revision_id, Revision.id)
        .where(Revision.source_revision_id.in_(revisions), Revision.id.not_in(revisions))
        .order_by(Revision.id)
    ).all()
    heirs: dict[int, int] = {}
    for source, dependent in dependents:
        assert source is not None
        heir = heirs.setdefault(source, dependent)
        values: dict[str, Any] = {"source_revision_id": heir}
        if heir == dependent:
            values = {"source_revision_id": None, "state": RevisionState.SCORED}
        session.execute(update(table_of(Revision)).where(Revision.id == dependent).values(values))
    for source, heir in heirs.items():
        for table, column in (
            (Finding, Finding.revision_id),
            (ShadowFinding, ShadowFinding.revision_id),
        ):
            session.execute(
                update(table_of(table)).where(column == source).values(revision_id=heir)
            )


def _delete_orphaned(
    session: Session, instances: Iterable[int], studies: Iterable[str], pledges: Iterable[int]
) -> None:
    """What nothing names any more: instances, procedure steps, commitments that we asked for."""
    for instance_id in instances:
        others = select(Revision.id).where(Revision.instance_id == instance_id)
        if session.scalar(others.limit(1)) is None:
            session.execute(delete(table_of(Rejection)).where(Rejection.instance_id == instance_id))
            session.execute(delete(table_of(Instance)).where(Instance.id == instance_id))
    for study in studies:
        others = select(Exam.id).where(Exam.study_instance_uid == study)
        if session.scalar(others.limit(1)) is None:
            session.execute(
                delete(table_of(PerformedStep)).where(PerformedStep.study_instance_uid == study)
            )
    session.execute(
        delete(table_of(OutgoingCommitment)).where(
            OutgoingCommitment.id.in_(list(pledges)),
            ~select(OutgoingCommitmentItem.pledge_id)
            .where(OutgoingCommitmentItem.pledge_id == OutgoingCommitment.id)
            .exists(),
        )
    )

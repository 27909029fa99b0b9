"""Every row of a patient goes, whatever table it is in; other patients' rows stay."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from qc_daemon.records.patients import erasures
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    AccessRow,
    AccountRow,
    AcquisitionOperator,
    AcquisitionRow,
    Base,
    DeliveredRendition,
    ExamHold,
    ImageFeaturesRow,
    JobRow,
    Measurement,
    OpinionRow,
    OutgoingCommitment,
    OutgoingCommitmentItem,
    PatientChange,
    PatientIdentityRow,
    PerformedStep,
    Person,
    Rejection,
    RenditionRow,
    ReviewEvent,
    ShadowFinding,
    WorklistAnswer,
)
from tests.support.databases import migrate
from tests.support.records import START, Records

HERS, OTHER = "CANARY-4711", "4712"
# Tables of a patient's rows, by what they refer to; a new one has to be thought of.
OF_A_PATIENT = {
    "exam", "association_lease", "revision", "acquisition", "finding", "measurement",
    "shadow_finding", "acquisition_operator", "image_features", "opinion", "report_object",
    "review", "job", "rejection", "rendition", "given_rendition", "pledge_item", "instance",
    "worklist_answer", "patient_identity", "patient_change",
}  # fmt: skip


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    migrate(url)
    store = Store(url)
    with store.begin() as session:
        session.add(
            AccountRow(
                name="lee",
                full_name="Dr Lee",
                role="lead",
                password_hash="",
                password_at=START,
                created_at=START,
            )
        )
        session.add(Person(id="p1", identity="x", created_at=START))
    yield Records(store)
    store.close()


def fill(records: Records, patient: str) -> None:
    """A row of the patient in every table that can have one."""
    study = f"1.2.{patient.removeprefix('CANARY-')}"
    admission = records.image(patient_id=patient, study_instance_uid=study, patient_name=patient)
    exam, revision = admission.exam_id, admission.revision_id
    with records.store.begin() as session:
        [instance] = session.execute(
            text("SELECT instance_id FROM revision WHERE id = :id"), {"id": revision}
        ).one()
    finding, report = findings_and_report(records, revision, exam, patient)
    now = records.now
    with records.store.begin() as session:
        job = session.scalars(select(JobRow.id).where(JobRow.exam_id == exam).limit(1)).one()
        rendition = RenditionRow(
            object_id=report,
            sop_class_uid="1.2",
            sop_instance_uid=f"{study}.9",
            series_instance_uid="1.3",
            payload=b"\1" + patient.encode(),
            created_at=now,
        )
        pledge = OutgoingCommitment(transaction_uid=f"{study}.8", destination="pacs", asked_at=now)
        session.add_all([rendition, pledge])
        session.flush()
        session.add_all(
            [
                ExamHold(token=study, exam_id=exam, expires_at=now + timedelta(days=1)),
                AcquisitionRow(
                    revision_id=revision, state="read", read_at=now, institution=patient
                ),
                Measurement(
                    revision_id=revision, exam_id=exam, concept="CRL", value=60.0, unit="mm"
                ),
                PatientIdentityRow(patient_id=patient, current_id=patient, name=patient),
                PatientChange(
                    action="corrected", patient_id=patient, made_by="Dr Lee", made_at=now
                ),
                WorklistAnswer(exam_id=exam, state="found", operator=patient, asked_at=now),
                ShadowFinding(
                    model_id="m2",
                    revision_id=revision,
                    frame=1,
                    region=0,
                    conditions="",
                    body={"description": patient},
                    created_at=now,
                ),
                ImageFeaturesRow(finding_id=finding, embedding=b"\1\2"),
                OpinionRow(
                    finding_id=finding,
                    role="second_opinion",
                    family="fetalclip",
                    name="n",
                    version="1",
                    model_id="m",
                    label="NT",
                    probability=0.5,
                ),
                ReviewEvent(
                    finding_id=finding,
                    number=1,
                    kind="remark",
                    reader="Dr Lee",
                    at=now,
                    revision=1,
                    model_id="m",
                    criteria={},
                    remark=f"about {patient}",
                    is_blinded=False,
                ),
                Rejection(
                    instance_id=instance,
                    object_id=report,
                    reason="111207",
                    confirmed_by="Dr Lee",
                    confirmed_at=now,
                ),
                DeliveredRendition(job_id=job, rendition_id=rendition.id),
                OutgoingCommitmentItem(pledge_id=pledge.id, job_id=job, sop_instance_uid="1.9"),
                PerformedStep(
                    sop_instance_uid=f"{study}.7",
                    study_instance_uid=study,
                    status="COMPLETED",
                    instances=[],
                    calling_ae="US1",
                    created_at=now,
                    updated_at=now,
                ),
                AccessRow(
                    at=now,
                    action="exam",
                    account_id=1,
                    exam_id=exam,
                    finding_id=finding,
                    address="10.0.0.1",
                ),
            ]
        )
        session.flush()
        session.add(AcquisitionOperator(revision_id=revision, person_id="p1"))
        session.execute(text("UPDATE exam SET state = 'closed'"))
        session.execute(text("UPDATE job SET state = 'done'"))


def findings_and_report(
    records: Records, revision: int, exam: int, patient: str
) -> tuple[int, int]:
    from qc_daemon.records.results import findings

    with records.store.begin() as session:
        body = records.finding(description=f"seen of {patient}")
        findings.store(session, revision, [body], records.now)
        finding = session.execute(text("SELECT max(id) FROM finding")).scalar_one()
        session.execute(
            text(
                "INSERT INTO report_object (exam_id, report_revision, kind, sop_instance_uid,"
                " sop_class_uid, transfer_syntax_uid, finding_id, created_at)"
                " VALUES (:exam, 1, 'overlay', :uid, '1.2', '1.2', :finding, :now)"
            ),
            {"exam": exam, "uid": f"9.{exam}", "finding": finding, "now": "2026-01-01 00:00:00"},
        )
        report = session.execute(text("SELECT max(id) FROM report_object")).scalar_one()
    return int(finding), int(report)


def counts(store: Store) -> dict[str, int]:
    with store.read() as session:
        return {
            table.name: session.execute(text(f'SELECT count(*) FROM "{table.name}"')).scalar_one()
            for table in Base.metadata.sorted_tables
        }


def dump(session: Session) -> str:
    rows: list[Any] = []
    for table in Base.metadata.sorted_tables:
        rows += [tuple(map(str, row)) for row in session.execute(select(table)).all()]
    return str(rows)


def erase(store: Store, patient: str) -> None:
    with store.begin() as session:
        erasures.lock(session, patient)
        assert erasures.obstacles(session, patient) == []
        erasures.erase(session, patient)


def test_each_row_of_the_patient_goes_and_each_of_another_stays(records: Records) -> None:
    fill(records, HERS)
    before = counts(records.store)
    fill(records, OTHER)
    both = counts(records.store)
    # The test has a row of each table that refers to one of a patient.
    assert {name for name in OF_A_PATIENT if both[name] == before[name]} == set()
    with records.store.read() as session:
        content = erasures.patient_content(session, HERS)
    assert content.counts["findings"] == content.counts["descriptions"] == 1
    assert content.counts["embeddings"] == content.counts["review events"] == 1
    assert content.studies == ("1.2.4711",)
    erase(records.store, HERS)
    left = counts(records.store)
    assert {name: left[name] for name in OF_A_PATIENT} == {
        name: both[name] - before[name] for name in OF_A_PATIENT
    }
    assert left["performed_step"] == left["pledge"] == 1
    # Who looked at what is still there, without the exam.
    assert left["access_log"] == 2
    with records.store.read() as session:
        rows = dump(session)
        assert erasures.patient_content(session, HERS).is_empty
    assert "CANARY" not in rows
    assert OTHER in rows


def test_no_table_that_refers_to_a_patient_s_rows_is_forgotten() -> None:
    refers = set()
    for table in Base.metadata.sorted_tables:
        for key in table.foreign_keys:
            if key.column.table.name in OF_A_PATIENT:
                refers.add(table.name)
    assert refers - {"access_log"} <= OF_A_PATIENT


def test_reviews_are_still_only_added_to(records: Records) -> None:
    fill(records, HERS)
    for statement in ("DELETE FROM review", "UPDATE review SET reader = 'x'"):
        with pytest.raises(Exception, match="only added to"), records.store.begin() as session:
            session.execute(text(statement))
    for statement in ("DELETE FROM access_log", "UPDATE access_log SET exam_id = NULL"):
        with pytest.raises(Exception, match="only added to"), records.store.begin() as session:
            session.execute(text(statement))
    # Not those of another exam either, while one is erased.
    fill(records, OTHER)
    with pytest.raises(Exception, match="only added to"):
        erase_all_reviews(records.store, exam_id=1)
    assert counts(records.store)["review"] == 2


def erase_all_reviews(store: Store, exam_id: int) -> None:
    with store.begin() as session:
        session.execute(text("INSERT INTO exam_in_erasure VALUES (:id)"), {"id": exam_id})
        session.execute(text("DELETE FROM review"))


def test_what_waits_or_runs_keeps_the_patient(records: Records) -> None:
    fill(records, HERS)
    with records.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'ready'"))
        session.execute(text("UPDATE exam SET state = 'open'"))
    with records.store.read() as session:
        first, second = erasures.obstacles(session, HERS)
        assert erasures.obstacles(session, OTHER) == []
    assert first == "exams that are still open: 1 (exam close)"
    assert second.startswith("score jobs that wait or run: 1")


def test_findings_of_a_corrected_image_go_to_the_patient_it_was_corrected_to(
    records: Records,
) -> None:
    first = records.image(patient_id=HERS)
    findings_and_report(records, first.revision_id, first.exam_id, OTHER)
    second = records.image(
        patient_id=OTHER, sop_instance_uid="1.2.3.4.1", sha256="ab" * 32, path="ab/x.dcm"
    )
    with records.store.begin() as session:
        session.execute(text("UPDATE exam SET state = 'closed'"))
        session.execute(text("UPDATE job SET state = 'done'"))
        session.execute(
            text("UPDATE revision SET state = 'header', source_revision_id = :a WHERE id = :b"),
            {"a": first.revision_id, "b": second.revision_id},
        )
    erase(records.store, HERS)
    with records.store.read() as session:
        assert session.execute(
            text("SELECT id, state, source_revision_id FROM revision")
        ).all() == [(second.revision_id, "scored", None)]
        assert session.scalars(text("SELECT revision_id FROM finding")).all() == [
            second.revision_id
        ]
        assert session.scalars(text("SELECT count(*) FROM report_object")).one() == 0


def test_a_key_is_the_same_for_the_same_patient_only(records: Records) -> None:
    with records.store.begin() as session:
        keys = [erasures.patient_key(session, each) for each in (HERS, OTHER, HERS)]
    assert keys[0] == keys[2] != keys[1]
    assert HERS not in "".join(keys)

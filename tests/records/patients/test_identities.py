"""Whose exams are, on both databases; and the migration keeps what headers said."""

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.records import schema
from qc_daemon.records.patients import changes, identities
from qc_daemon.records.patients.changes import Demographics
from qc_daemon.records.patients.identities import PatientCorrection
from qc_daemon.records.store import Store
from tests.support.databases import migrate
from tests.support.records import START, Records

BY = "Dr Lee"


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    migrate(url)
    store = Store(url)
    records = Records(store)
    for number, patient in enumerate(("A", "B", "C"), 1):
        records.image(
            patient_id=patient,
            patient_name=f"Name^{patient}",
            study_instance_uid="1.2.9",
            sop_instance_uid=f"1.2.9.{number}",
            sha256=f"{number}" * 64,
        )
    yield records
    store.close()


def whose(store: Store) -> list[tuple[str, str]]:
    with store.read() as session:
        rows = session.execute(text("SELECT patient_id, patient_name FROM exam ORDER BY id"))
        return [(row[0], row[1]) for row in rows]


def test_a_chain_of_merges_is_flat_and_each_is_taken_out_alone(records: Records) -> None:
    with records.store.begin() as session:
        changes.merge(session, "A", "B", BY, START)
        changes.merge(session, "B", "C", BY, START)
        assert identities.current_id(session, "A") == "C"
        assert identities.received_ids(session, "C") == ["C", "A", "B"]
    assert whose(records.store) == [("C", "Name^C")] * 3
    with records.store.begin() as session:
        changes.split(session, "B", BY, START)
    assert whose(records.store) == [("C", "Name^C"), ("B", "Name^B"), ("C", "Name^C")]
    with records.store.begin() as session:
        changes.split(session, "A", BY, START)
        assert [identities.correction_of(session, number) for number in (1, 2, 3)] == [None] * 3
    assert whose(records.store) == [(each, f"Name^{each}") for each in "ABC"]


def test_one_that_was_numbered_anew_keeps_its_name_when_others_are_merged(records: Records) -> None:
    with records.store.begin() as session:
        changes.correct(session, "A", BY, START, Demographics(issuer="WARD"), "A2")
        changes.merge(session, "B", "A2", BY, START)
        assert identities.correction_of(session, 2) == PatientCorrection(
            "A2", "Name^A", None, "WARD"
        )
    assert whose(records.store)[:2] == [("A2", "Name^A")] * 2


def test_changes_of_other_patients_wait_too(postgres_url: str) -> None:
    """Each reads who is whose before it writes it."""
    migrate(postgres_url)
    store = Store(postgres_url)
    records = Records(store)
    for number in (1, 2):
        records.image(
            patient_id=f"{number}",
            study_instance_uid=f"1.2.{number}",
            sop_instance_uid=f"1.2.9.{number}",
            sha256=f"{number}" * 64,
        )

    def merge(session: Session, number: int) -> None:
        session.execute(text("SET LOCAL lock_timeout = '100ms'"))
        changes.merge(session, f"new {number}", f"{number}", BY, START, is_new_id_allowed=True)

    with store.begin() as one:
        merge(one, 1)
        with pytest.raises(QCError), store.begin() as other:
            merge(other, 2)
    with store.begin() as other:
        merge(other, 2)
        assert identities.current_id(other, "new 1") == "1"
    store.close()


def test_a_sender_may_merge_into_one_who_is_not_here_yet(records: Records) -> None:
    with records.store.begin() as session:
        demographics = Demographics("Name^New", "19900531")
        changes.merge(session, "A", "N", BY, START, demographics, is_new_id_allowed=True)
        assert identities.correction_of(session, 1) == PatientCorrection(
            "N", "Name^New", "19900531"
        )


def test_an_exam_of_one_study_and_number_is_one_exam_still(records: Records) -> None:
    with pytest.raises(IntegrityError), records.store.begin() as session:
        session.execute(
            text("UPDATE exam SET received_patient_id = 'A' WHERE received_patient_id = 'B'")
        )


def test_the_migration_down_gives_back_what_headers_say(records: Records, url: str) -> None:
    with records.store.begin() as session:
        changes.merge(session, "A", "B", BY, START)
        changes.correct(session, "C", BY, START, Demographics("Other^C"), "C2")
    records.store.close()
    schema.downgrade(url, "0028")
    engine = create_engine(url)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT patient_id, patient_name FROM exam ORDER BY id"))
        assert [tuple(row) for row in rows] == [(each, f"Name^{each}") for each in "ABC"]
        assert connection.execute(text("SELECT count(*) FROM revision")).scalar_one() == 3
        with pytest.raises(IntegrityError):
            connection.execute(text("UPDATE exam SET patient_id = 'A'"))
    with engine.connect() as connection, pytest.raises(IntegrityError):
        # The other constraints of the table are still there.
        connection.execute(text("UPDATE exam SET state = 'nonsense'"))
    engine.dispose()
    schema.upgrade(url)
    assert whose(records.store) == [(each, f"Name^{each}") for each in "ABC"]
    with pytest.raises(IntegrityError), records.store.begin() as session:
        session.execute(text("UPDATE exam SET outcome = 'nonsense'"))

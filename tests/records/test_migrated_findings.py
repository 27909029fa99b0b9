"""Migrations up and down with findings in the database, on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.records import schema
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.clock import utc_now
from qc_daemon.records.results import sites
from qc_daemon.records.results.image_features import values_of
from qc_daemon.records.store import Store
from qc_daemon.records.tables import ImageFeaturesRow, SiteAction
from tests.support.image_features import FEATURES

COUNT = 10_000
BEFORE = "0014"
"""The last version without facts of acquisition."""


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A database of that version with as many findings, an image each."""
    schema.upgrade(url, BEFORE)
    engine = create_engine(url)
    moment, numbers = "2026-11-29 01:02:03", range(1, COUNT + 1)
    instances = [{"id": n, "uid": f"1.2.{n}", "now": moment} for n in numbers]
    revisions = [{"id": n, "sha": f"{n:064x}", "now": moment} for n in numbers]
    findings = [{"id": n, "now": moment} for n in numbers]
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO exam (id, study_instance_uid, patient_id, state, opened_at,"
                " last_object_at, report_revision) VALUES (1, '1.2', 'P', 'open', :now, :now, 0)"
            ),
            {"now": moment},
        )
        connection.execute(
            text(
                "INSERT INTO instance (id, sop_instance_uid, created_at) VALUES (:id, :uid, :now)"
            ),
            instances,
        )
        connection.execute(
            text(
                "INSERT INTO revision (id, instance_id, exam_id, number, state, content, sha256,"
                " pixel_sha256, size, path, sop_class_uid, series_instance_uid,"
                " transfer_syntax_uid, calling_ae, received_at) VALUES (:id, :id, 1, 1, 'scored',"
                " 'score', :sha, :sha, 1, :sha, 'c', 's', 't', 'US1', :now)"
            ),
            revisions,
        )
        connection.execute(
            text(
                "INSERT INTO finding (id, revision_id, frame, region, model_id, view,"
                " view_probability, quality, probability, body, created_at) VALUES (:id, :id, 1, 0,"
                " 'm', 'NT', 0.9, 'standard', 0.8, '{}', :now)"
            ),
            findings,
        )
    yield engine
    engine.dispose()


def count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_findings_outlive_up_down_and_up_again(url: str, engine: Engine) -> None:
    schema.upgrade(url)
    store = Store(url)
    with store.read() as session:
        assert acquisitions.count_states(session) == {"read": 0, "unknown": 0, "pending": COUNT}
        assert len(acquisitions.unread(session, COUNT - 5, 10)) == 5
    with store.begin() as session:
        facts = Acquisition(operators=(Operator("Doe^Jane"),), institution="St. Mary's")
        for revision_id in range(1, 101):
            acquisitions.store(session, revision_id, facts, "US1", utc_now())
        sites.append(session, "St. Mary's", "m", SiteAction.WAIVED, utc_now(), decided_by="Lee")
        session.add_all(
            ImageFeaturesRow(**values_of(finding_id, FEATURES)) for finding_id in range(1, 51)
        )
    store.close()
    schema.downgrade(url, "0019")
    assert count(engine, "finding") == COUNT
    schema.upgrade(url)
    assert count(engine, "image_features") == 0
    schema.downgrade(url, "0015")
    assert count(engine, "acquisition") == 100
    schema.upgrade(url)
    assert (count(engine, "acquisition"), count(engine, "site_calibration")) == (100, 0)
    schema.downgrade(url, BEFORE)
    assert count(engine, "finding") == COUNT
    schema.upgrade(url)
    assert count(engine, "finding") == COUNT
    assert count(engine, "acquisition") == count(engine, "person") == 0
    assert schema.check(url) is None

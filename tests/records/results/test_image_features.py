"""Image features are stored with a finding, and go with it."""

from sqlalchemy import text

from qc_daemon.records.results import findings, image_features
from tests.support.image_features import FEATURES


def test_features_are_stored_with_the_finding_and_deleted_with_it(records) -> None:
    admission = records.image()
    bodies = [records.finding(frame=number, revision=1) for number in (1, 2)]
    with records.store.begin() as session:
        findings.store(session, admission.revision_id, bodies, records.now, [FEATURES, None])
    with records.store.read() as session:
        assert image_features.of_findings(session, {1, 2, 3}) == {1: FEATURES}
        model_id = bodies[0]["bundle"]["model_id"]
        assert list(image_features.embeddings(session, model_id)) == [(1, FEATURES.embedding)]
        assert list(image_features.embeddings(session, "another")) == []
    with records.store.begin() as session:
        session.execute(text("DELETE FROM finding WHERE id = 1"))
    with records.store.read() as session:
        assert image_features.of_findings(session, {1, 2}) == {}


def test_a_second_run_changes_nothing(records) -> None:
    admission, body = records.image(), records.finding(frame=1, revision=1)
    with records.store.begin() as session:
        findings.store(session, admission.revision_id, [body], records.now)
        findings.store(session, admission.revision_id, [body], records.now, [FEATURES])
    with records.store.read() as session:
        assert image_features.of_findings(session, {1, 2}) == {}

"""Findings are stored once and come back as they went in."""

from datetime import timedelta

from detector.errors import ErrorCode
from qc_daemon.records.queue.jobs import cancel, listing
from qc_daemon.records.received.revisions import quarantine
from qc_daemon.records.results.findings import query, store


def query_findings(records, **filters) -> list[dict]:
    with records.store.read() as session:
        return query(session, **filters)


def test_a_finding_comes_back_digit_for_digit(records) -> None:
    admission = records.image()
    stored = records.finding(
        description='α "quoted" \\ \x01',
        quality={
            "label": "review",
            "probability": None,
            "raw_probability": 1e-300,
        },
    )
    with records.store.begin() as session:
        assert store(session, admission.revision_id, [stored], records.now) == 1
    assert query_findings(records) == [stored]
    assert list(query_findings(records)[0]) == list(stored)


def test_a_second_run_inserts_and_changes_nothing(records) -> None:
    admission = records.image()
    first = [records.finding(frame=1), records.finding(frame=2)]
    second = [records.finding(frame=1, description="otherwise"), records.finding(frame=3)]
    with records.store.begin() as session:
        store(session, admission.revision_id, first, records.now)
    with records.store.begin() as session:
        assert store(session, admission.revision_id, second, records.now) == 0
    assert query_findings(records) == first


def test_another_model_adds_its_own(records) -> None:
    admission = records.image()
    both = [records.finding(), records.finding(model_id="model-2")]
    with records.store.begin() as session:
        assert store(session, admission.revision_id, both[:1], records.now) == 1
        assert store(session, admission.revision_id, both[1:], records.now) == 1
    assert query_findings(records) == both


def test_query_by_study_time_and_exam(records) -> None:
    first = records.image()
    records.score_all()
    later = records.wait(10)
    second = records.image(study_instance_uid="7.7")
    records.score_all()
    assert len(query_findings(records)) == 2
    assert (
        len(query_findings(records, study="7.7"))
        == len(query_findings(records, study="1.2.3"))
        == 1
    )
    assert query_findings(records, study="0.0") == []
    assert len(query_findings(records, since=later)) == 1
    assert query_findings(records, since=later + timedelta(microseconds=1)) == []
    assert (
        len(query_findings(records, exam_id=first.exam_id))
        == len(query_findings(records, exam_id=second.exam_id))
        == 1
    )
    assert query_findings(records, study="7.7", exam_id=first.exam_id) == []


def test_a_header_revision_does_not_double_a_finding(records) -> None:
    records.receive()
    records.score_all(pixels="p")
    later = records.wait(10)
    records.receive(sha256="b" * 64)
    records.score_all(pixels="p")
    assert len(query_findings(records)) == 1
    assert query_findings(records, since=later) == query_findings(records)


def test_quarantined_revisions_are_error_objects_in_order_of_arrival(records) -> None:
    bad = records.receive(sop_instance_uid="1.5")
    records.wait(1)
    with records.store.begin() as session:
        cancel(session, [job.id for job in listing(session)], records.now)
        quarantine(session, bad.revision_id, ErrorCode.NO_FRAMES, "no frames", records.now)
    records.image()
    records.score_all()
    quarantined, scored = query_findings(records)
    assert quarantined == {
        "source": None,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.1",
        "sop_instance_uid": "1.5",
        "revision": 1,
        "error": {"code": "zero-frames", "message": "no frames"},
    }
    assert scored["quality"]["label"] == "standard"

"""Findings are stored once and come back as they went in."""

from datetime import timedelta

from detector.errors import ErrorCode
from qc_daemon.records.queue.jobs import cancel, listing
from qc_daemon.records.received.revisions import quarantine
from qc_daemon.records.results.findings import query, store


def ask(lab, **filters) -> list[dict]:
    with lab.store.read() as session:
        return query(session, **filters)


def test_a_finding_comes_back_digit_for_digit(lab) -> None:
    admission = lab.image()
    stored = lab.finding(
        description='α "quoted" \\ \x01',
        quality={
            "label": "review",
            "probability": None,
            "raw_probability": 1e-300,
        },
    )
    with lab.store.begin() as session:
        assert store(session, admission.revision_id, [stored], lab.now) == 1
    assert ask(lab) == [stored]
    assert list(ask(lab)[0]) == list(stored)


def test_a_second_run_inserts_and_changes_nothing(lab) -> None:
    admission = lab.image()
    first = [lab.finding(frame=1), lab.finding(frame=2)]
    second = [lab.finding(frame=1, description="otherwise"), lab.finding(frame=3)]
    with lab.store.begin() as session:
        store(session, admission.revision_id, first, lab.now)
    with lab.store.begin() as session:
        assert store(session, admission.revision_id, second, lab.now) == 0
    assert ask(lab) == first


def test_another_model_adds_its_own(lab) -> None:
    admission = lab.image()
    both = [lab.finding(), lab.finding(model_id="model-2")]
    with lab.store.begin() as session:
        assert store(session, admission.revision_id, both[:1], lab.now) == 1
        assert store(session, admission.revision_id, both[1:], lab.now) == 1
    assert ask(lab) == both


def test_asking_by_study_time_and_exam(lab) -> None:
    first = lab.image()
    lab.score_all()
    later = lab.wait(10)
    second = lab.image(study_instance_uid="7.7")
    lab.score_all()
    assert len(ask(lab)) == 2
    assert len(ask(lab, study="7.7")) == len(ask(lab, study="1.2.3")) == 1
    assert ask(lab, study="0.0") == []
    assert len(ask(lab, since=later)) == 1
    assert ask(lab, since=later + timedelta(microseconds=1)) == []
    assert len(ask(lab, exam_id=first.exam_id)) == len(ask(lab, exam_id=second.exam_id)) == 1
    assert ask(lab, study="7.7", exam_id=first.exam_id) == []


def test_a_header_revision_does_not_double_a_finding(lab) -> None:
    lab.receive()
    lab.score_all(pixels="p")
    later = lab.wait(10)
    lab.receive(sha256="b" * 64)
    lab.score_all(pixels="p")
    assert len(ask(lab)) == 1
    assert ask(lab, since=later) == ask(lab)


def test_what_could_not_be_scored_is_there_with_its_reason_in_order_of_arrival(lab) -> None:
    bad = lab.receive(sop_instance_uid="1.5")
    lab.wait(1)
    with lab.store.begin() as session:
        cancel(session, [job.id for job in listing(session)], lab.now)
        quarantine(session, bad.revision_id, ErrorCode.NO_FRAMES, "no frames", lab.now)
    lab.image()
    lab.score_all()
    refused, found = ask(lab)
    assert refused == {
        "source": None,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.1",
        "sop_instance_uid": "1.5",
        "revision": 1,
        "error": {"code": "zero-frames", "message": "no frames"},
    }
    assert found["quality"]["label"] == "standard"

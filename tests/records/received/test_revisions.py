"""What a revision's pixels are to its instance, and quarantine."""

import pytest

from detector.errors import ErrorCode
from qc_daemon.records.queue.jobs import finish
from qc_daemon.records.received.exams import exam_content
from qc_daemon.records.received.revisions import (
    facts,
    pixels_known,
    quarantine,
    quarantined,
    release,
)
from qc_daemon.records.tables import JobKind, JobState, RevisionState


def known(lab, admission, pixels: str) -> str:
    with lab.store.begin() as session:
        return pixels_known(session, admission.revision_id, pixels, lab.now)


def state(lab, admission) -> RevisionState:
    with lab.store.read() as session:
        return facts(session, admission.revision_id).state


def test_the_same_pixels_under_another_header_are_not_scored_again(lab) -> None:
    first = lab.receive()
    assert lab.score_all(pixels="p") == ["score"]
    second = lab.receive(sha256="b" * 64)
    assert lab.score_all(pixels="p") == ["header"]
    assert state(lab, first) is RevisionState.SCORED
    assert state(lab, second) is RevisionState.HEADER


def test_other_pixels_under_the_same_uid_are_scored(lab) -> None:
    lab.receive()
    lab.score_all(pixels="p")
    second = lab.receive(sha256="b" * 64)
    assert lab.score_all(pixels="q") == ["other"]
    assert state(lab, second) is RevisionState.SCORED


def test_the_answer_stays_when_asked_again(lab) -> None:
    first, second, third = (lab.receive(sha256=c * 64) for c in "abc")
    for _ in range(2):
        assert known(lab, first, "p") == "score"
        assert known(lab, second, "q") == "other"
        assert known(lab, third, "q") == "header"


def test_pixels_back_to_the_first_content_are_a_header_revision_of_it(lab) -> None:
    for sha, pixels, answer in (("a", "p", "score"), ("b", "q", "other"), ("c", "p", "header")):
        admission = lab.receive(sha256=sha * 64)
        assert lab.score_all(pixels=pixels) == [answer]
    with lab.store.read() as session:
        (told,) = exam_content(session, admission.exam_id).findings
    assert told.finding["revision"] == 1
    assert told.revision.revision_id == admission.revision_id


def test_other_instances_do_not_matter(lab) -> None:
    assert known(lab, lab.image(), "p") == "score"
    assert known(lab, lab.image(), "p") == "score"


def test_pixels_that_were_quarantined_are_tried_again_under_a_new_header(lab) -> None:
    first = lab.receive()
    assert known(lab, first, "p") == "score"
    with lab.store.begin() as session:
        quarantine(session, first.revision_id, ErrorCode.TOO_SMALL, "1 x 1 pixels", lab.now)
    second = lab.receive(sha256="b" * 64)
    assert known(lab, second, "p") == "score"


def test_quarantine_says_what_and_why_and_release_scores_again(lab) -> None:
    admission = lab.image()
    job = lab.claim(JobKind.SCORE)
    with lab.store.begin() as session:
        quarantine(session, admission.revision_id, ErrorCode.TRUNCATED, "5 of 9 bytes", lab.now)
        assert finish(session, job, lab.now)
    with lab.store.read() as session:
        (kept,) = quarantined(session)
    assert kept.facts.revision_id == admission.revision_id
    assert (kept.code, kept.message, kept.since) == (
        ErrorCode.TRUNCATED,
        "5 of 9 bytes",
        lab.now,
    )
    assert lab.claim(JobKind.SCORE) is None
    lab.wait(61)
    assert lab.close_due() == [admission.exam_id]
    with lab.store.begin() as session:
        assert release(session, admission.revision_id, lab.now)
        assert not release(session, admission.revision_id, lab.now)
    assert state(lab, admission) is RevisionState.RECEIVED
    assert lab.score_all() == ["score"]
    # The exam is open again: what the release found is told.
    assert lab.close_due() == [admission.exam_id]
    assert [job.state for job in lab.jobs(JobKind.REPORT)] == [JobState.READY]
    with lab.store.read() as session:
        assert quarantined(session) == []


def test_a_scored_revision_cannot_be_quarantined(lab) -> None:
    admission = lab.image()
    lab.score_all()
    with lab.store.begin() as session:
        quarantine(session, admission.revision_id, ErrorCode.INTERNAL, "late", lab.now)
    assert state(lab, admission) is RevisionState.SCORED


def test_no_such_revision(lab) -> None:
    with lab.store.read() as session, pytest.raises(LookupError):
        facts(session, 99)

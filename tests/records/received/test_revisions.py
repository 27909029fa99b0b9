"""What a revision's pixels are to its instance, and quarantine."""

import pytest

from detector.errors import ErrorCode
from qc_daemon.records.queue.jobs import finish
from qc_daemon.records.received.exams import exam_content
from qc_daemon.records.received.revisions import (
    facts,
    quarantine,
    quarantined_revisions,
    record_pixels,
    release,
)
from qc_daemon.records.tables import JobKind, JobState, RevisionState


def content_of(records, admission, pixels: str) -> str:
    with records.store.begin() as session:
        return record_pixels(session, admission.revision_id, pixels, records.now)


def state(records, admission) -> RevisionState:
    with records.store.read() as session:
        return facts(session, admission.revision_id).state


def test_the_same_pixels_under_another_header_are_not_scored_again(records) -> None:
    first = records.receive()
    assert records.score_all(pixels="p") == ["score"]
    second = records.receive(sha256="b" * 64)
    assert records.score_all(pixels="p") == ["header"]
    assert state(records, first) is RevisionState.SCORED
    assert state(records, second) is RevisionState.HEADER


def test_other_pixels_under_the_same_uid_are_scored(records) -> None:
    records.receive()
    records.score_all(pixels="p")
    second = records.receive(sha256="b" * 64)
    assert records.score_all(pixels="q") == ["other"]
    assert state(records, second) is RevisionState.SCORED


def test_recording_the_same_pixels_again_returns_the_same(records) -> None:
    first, second, third = (records.receive(sha256=c * 64) for c in "abc")
    for _ in range(2):
        assert content_of(records, first, "p") == "score"
        assert content_of(records, second, "q") == "other"
        assert content_of(records, third, "q") == "header"


def test_pixels_back_to_the_first_content_are_a_header_revision_of_it(records) -> None:
    for sha, pixels, answer in (("a", "p", "score"), ("b", "q", "other"), ("c", "p", "header")):
        admission = records.receive(sha256=sha * 64)
        assert records.score_all(pixels=pixels) == [answer]
    with records.store.read() as session:
        (finding,) = exam_content(session, admission.exam_id).findings
    assert finding.finding["revision"] == 1
    assert finding.revision.revision_id == admission.revision_id


def test_pixels_of_other_instances_are_not_compared(records) -> None:
    assert content_of(records, records.image(), "p") == "score"
    assert content_of(records, records.image(), "p") == "score"


def test_pixels_that_were_quarantined_are_tried_again_under_a_new_header(records) -> None:
    first = records.receive()
    assert content_of(records, first, "p") == "score"
    with records.store.begin() as session:
        quarantine(session, first.revision_id, ErrorCode.TOO_SMALL, "1 x 1 pixels", records.now)
    second = records.receive(sha256="b" * 64)
    assert content_of(records, second, "p") == "score"


def test_quarantine_says_what_and_why_and_release_scores_again(records) -> None:
    admission = records.image()
    job = records.claim(JobKind.SCORE)
    with records.store.begin() as session:
        quarantine(session, admission.revision_id, ErrorCode.TRUNCATED, "5 of 9 bytes", records.now)
        assert finish(session, job, records.now)
    with records.store.read() as session:
        (quarantined,) = quarantined_revisions(session)
    assert quarantined.facts.revision_id == admission.revision_id
    assert (quarantined.code, quarantined.message, quarantined.since) == (
        ErrorCode.TRUNCATED,
        "5 of 9 bytes",
        records.now,
    )
    assert records.claim(JobKind.SCORE) is None
    records.wait(61)
    assert records.close_due() == [admission.exam_id]
    with records.store.begin() as session:
        assert release(session, admission.revision_id, records.now)
        assert not release(session, admission.revision_id, records.now)
    assert state(records, admission) is RevisionState.RECEIVED
    assert records.score_all() == ["score"]
    # The exam is open again: what the release found is told.
    assert records.close_due() == [admission.exam_id]
    assert [job.state for job in records.jobs(JobKind.REPORT)] == [JobState.READY]
    with records.store.read() as session:
        assert quarantined_revisions(session) == []


def test_a_scored_revision_cannot_be_quarantined(records) -> None:
    admission = records.image()
    records.score_all()
    with records.store.begin() as session:
        quarantine(session, admission.revision_id, ErrorCode.INTERNAL, "late", records.now)
    assert state(records, admission) is RevisionState.SCORED


def test_no_such_revision(records) -> None:
    with records.store.read() as session, pytest.raises(LookupError):
        facts(session, 99)

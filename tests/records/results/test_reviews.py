"""Review events in the database: only added to, one of each number, read back as they were."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from detector.anatomy import View
from detector.errors import QCError
from qc_daemon.records import schema, secrets
from qc_daemon.records.received import exams
from qc_daemon.records.results import findings, reviews
from qc_daemon.records.results.reviews import FindingKey
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.review.events import Draw, Event, EventKind
from qc_daemon.review.state import ReviewStatus
from tests.support.records import Records
from tests.support.report_objects import nuchal_finding, source_instance

NOW = datetime(2026, 3, 5, 7, 8, 9, tzinfo=UTC)


def event(number: int = 1, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "number": number,
        "kind": EventKind.OVERRIDE,
        "reader": "Dr Lee",
        "at": NOW,
        "revision": 1,
        "model_id": "model-1",
        "view": View.NT,
        "verdict": "standard",
        "criteria": (("CRIT-NT", True), ("CRIT-GAIN", None)),
        "reason": "criterion",
        "reader_number": 1,
    }
    return Event(**values | changes)


def scored(records: Records, **changes: Any) -> int:
    """An image with one finding, whose id is returned."""
    admission = records.image(**changes)
    body = nuchal_finding(source_instance()).to_json()
    with records.store.begin() as session:
        findings.store(session, admission.revision_id, [body], records.now)
    return int(last_finding(records.store))


def last_finding(store: Store) -> int:
    with store.read() as session:
        return int(session.execute(text("SELECT max(id) FROM finding")).scalar_one())


def add(store: Store, finding_id: int, *events: Event) -> list[bool]:
    with store.begin() as session:
        return [reviews.append(session, finding_id, each) for each in events]


def test_events_come_back_as_they_were(records: Records) -> None:
    finding_id = scored(records)
    events = (
        event(draw=Draw(("random",), 0.05), second=Draw(("flag", "disagreement"), 0.25)),
        event(2, kind=EventKind.REMARK, view=None, verdict=None, criteria=(), remark="Größe"),
        event(3, reader="Ng", is_blinded=True, reader_number=2, seconds=12.5, reason=None),
    )
    assert add(records.store, finding_id, *events) == [True, True, True]
    with records.store.read() as session:
        assert reviews.histories(session, [finding_id, 99]) == {finding_id: events}
        ((found, key, history),) = reviews.iter_events(session)
        assert (found, history) == (finding_id, events)
        assert reviews.find(session, key) == finding_id
        assert reviews.find(session, FindingKey("1.2.3.9", 1, 1, 0, "m")) is None


def test_of_two_events_of_one_number_the_first_stands(records: Records) -> None:
    finding_id = scored(records)
    assert add(records.store, finding_id, event()) == [True]
    assert add(records.store, finding_id, event(reader="Ng")) == [False]
    with records.store.read() as session:
        (stored,) = reviews.histories(session, [finding_id])[finding_id]
    assert stored.reader == "Dr Lee"


@pytest.mark.parametrize(
    "change", ["UPDATE review SET verdict = 'non-standard'", "DELETE FROM review"]
)
def test_the_database_itself_changes_and_removes_no_event(records: Records, change: str) -> None:
    finding_id = scored(records)
    add(records.store, finding_id, event())
    with (
        pytest.raises((DatabaseError, QCError), match="reviews are only added to"),
        records.store.begin() as session,
    ):
        session.execute(text(change))
    with records.store.read() as session:
        assert reviews.histories(session, [finding_id])[finding_id] == (event(),)


def test_the_migration_goes_down_and_up_with_reviews(url: str) -> None:
    schema.upgrade(url)
    store = Store(url)
    records = Records(store)
    finding_id = scored(records)
    add(store, finding_id, event())
    before = schema.revision_of(url)
    store.close()
    schema.downgrade(url, "0013")
    schema.upgrade(url)
    assert schema.revision_of(url) == before
    # An older version knows no reviews; the finding is as it was.
    with store.read() as session:
        assert reviews.histories(session, [finding_id]) == {}
    assert add(store, finding_id, event()) == [True]
    store.close()


def test_a_secret_is_made_once(store: Store) -> None:
    with store.read() as session:
        assert secrets.read(session, "draw") is None
    with store.begin() as session:
        first = secrets.get(session, "draw")
    with store.begin() as session:
        assert secrets.get(session, "draw") == first
        assert secrets.get(session, "other") != first
    assert len(first) == 32


def test_reviewed_findings_have_the_weight_of_their_draw(records: Records) -> None:
    drawn, chosen, open_one = scored(records), scored(records), scored(records)
    add(records.store, drawn, event(draw=Draw(("random",), 0.05)))
    add(records.store, chosen, event(at=NOW + timedelta(days=1)))
    add(records.store, open_one, event(second=Draw(("random",), 0.05)))
    with records.store.read() as session:
        listed = list(reviews.reviewed_findings(session))
        every = list(reviews.reviewed_findings(session, settled_only=False))
    assert [(each.finding_id, each.weight) for each in listed] == [(drawn, 20.0), (chosen, None)]
    assert [each.state.status for each in listed] == [ReviewStatus.OVERRIDDEN] * 2
    assert [each.finding_id for each in every] == [drawn, chosen, open_one]
    assert listed[0].key.sop_instance_uid == listed[0].file.sop_instance_uid


def test_a_replaced_finding_names_those_that_stand(records: Records) -> None:
    old = scored(records, sop_instance_uid="1.2.3.4.900")
    with records.store.read() as session:
        reviewable = reviews.reviewable(session, old)
    assert reviewable is not None
    assert len(reviewable.reported) == 1
    new = scored(records, sop_instance_uid="1.2.3.4.900", sha256="ff" * 32)
    with records.store.read() as session:
        reviewable = reviews.reviewable(session, old)
    assert reviewable is not None
    assert (reviewable.reported, reviewable.replaced_by) == ({}, (new,))
    with records.store.read() as session:
        assert reviews.reviewable(session, 99) is None


def test_only_what_is_not_the_models_answer_amends_a_report(records: Records) -> None:
    finding_id = scored(records)
    with records.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'done'"))
    records.wait(300)
    with records.store.begin() as session:
        (exam_id,) = exams.close_due(session, records.now, 60, 240)
    agreeing = event(kind=EventKind.ACCEPT, verdict="non-standard", criteria=(), reason=None)
    add(records.store, finding_id, agreeing)
    with records.store.begin() as session:
        assert not exams.queue_report_revision(session, exam_id, records.now)
        session.execute(text("UPDATE job SET state = 'done'"))
    add(records.store, finding_id, event(2))
    with records.store.begin() as session:
        assert exams.queue_report_revision(session, exam_id, records.now)
        assert not exams.queue_report_revision(session, exam_id, records.now)
    add(records.store, finding_id, event(3, criteria=()))
    with records.store.begin() as session:
        # The queued report will have this one too.
        assert exams.queue_report_revision(session, exam_id, records.now)
    with records.store.read() as session:
        report_jobs = session.execute(
            text("SELECT revision, state FROM job WHERE kind = :kind ORDER BY revision"),
            {"kind": JobKind.REPORT},
        ).all()
    assert [tuple(row) for row in report_jobs] == [(1, "done"), (2, "ready")]


def test_two_reviewers_at_once_are_one_event_on_both_databases(records: Records) -> None:
    """The second one waits for the first one's transaction, and finds its number taken."""
    finding_id = scored(records)
    first_has_added, results = threading.Event(), dict[str, bool]()

    def review(reader: str, *, is_first: bool) -> None:
        if not is_first:
            first_has_added.wait(10)
        with records.store.begin() as session:
            results[reader] = reviews.append(session, finding_id, event(reader=reader))
            if is_first:
                first_has_added.set()
                # The other one is at its insert now, or will be.
                threading.Event().wait(0.2)

    threads = [
        threading.Thread(target=review, args=(reader,), kwargs={"is_first": reader == "Lee"})
        for reader in ("Lee", "Ng")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"Lee": True, "Ng": False}
    with records.store.read() as session:
        assert [each.reader for each in reviews.histories(session, [finding_id])[finding_id]] == [
            "Lee"
        ]


def test_a_report_that_a_worker_began_is_followed_by_another(records: Records) -> None:
    finding_id = scored(records)
    with records.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'done'"))
    records.wait(300)
    with records.store.begin() as session:
        (exam_id,) = exams.close_due(session, records.now, 60, 240)
    job = records.claim(JobKind.REPORT)
    assert job is not None
    add(records.store, finding_id, event())
    with records.store.begin() as session:
        assert exams.queue_report_revision(session, exam_id, records.now)
    with records.store.read() as session:
        rows = session.execute(text("SELECT revision FROM job WHERE kind = 'report'")).all()
    assert sorted(row.revision for row in rows) == [1, 2]


def test_an_open_exam_is_reported_with_the_verdict_when_it_closes(records: Records) -> None:
    finding_id = scored(records)
    with records.store.read() as session:
        reviewable = reviews.reviewable(session, finding_id)
        assert reviewable is not None
        (exam_id,) = reviewable.reported
        before = exams.exam_content(session, exam_id).fingerprint
    add(records.store, finding_id, event())
    with records.store.begin() as session:
        assert not exams.queue_report_revision(session, exam_id, records.now)
        content = exams.exam_content(session, exam_id)
    assert content.fingerprint != before
    assert list(content.reviews) == [finding_id]

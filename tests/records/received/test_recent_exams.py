"""Which exams the live board looks at, and that a mark changes with all that it shows, on both
databases."""

from datetime import timedelta
from typing import Any

from sqlalchemy import select

from detector.errors import ErrorCode
from qc_daemon.records.received import revisions
from qc_daemon.records.received.recent_exams import (
    MAX_EXAMS,
    RecentExam,
    exam_contents,
    recent_exams,
)
from qc_daemon.records.results import reviews
from qc_daemon.records.tables import Finding, JobKind
from qc_daemon.review.events import Event, EventKind
from tests.support.records import Records


def read(records: Records, hours: float = 12) -> list[RecentExam]:
    with records.store.read() as session:
        return recent_exams(session, records.now - timedelta(hours=hours))


def mark(records: Records) -> tuple[Any, ...]:
    (exam,) = read(records)
    return exam.mark


def accept(records: Records, finding_id: int) -> None:
    event = Event(1, EventKind.ACCEPT, "Dr Lee", records.now, 1, "model-1")
    with records.store.begin() as session:
        assert reviews.append(session, finding_id, event)


def test_a_mark_changes_with_what_comes_is_judged_and_said(records: Records) -> None:
    marks = []
    first = records.image()
    marks.append(mark(records))
    assert mark(records) == marks[-1]
    records.score_all()
    marks.append(mark(records))
    with records.store.read() as session:
        finding_id = session.scalars(select(Finding.id)).one()
    accept(records, finding_id)
    marks.append(mark(records))
    second = records.image()
    job = records.claim(JobKind.SCORE)
    assert job is not None
    marks.append(mark(records))
    with records.store.begin() as session:
        revisions.quarantine(session, second.revision_id, ErrorCode.TRUNCATED, "short", records.now)
    marks.append(mark(records))
    # Another patient under the same study: the images may be of the wrong one.
    records.image(patient_id="other")
    marks.append(next(e.mark for e in read(records) if e.exam_id == first.exam_id))
    assert len(set(marks)) == len(marks)
    with records.store.read() as session:
        contents = exam_contents(session, first.exam_id)
    assert contents.quarantined == (ErrorCode.TRUNCATED,)
    assert len(contents.machines) == 1


def test_old_exams_are_left_out_and_open_ones_are_found_behind_many(records: Records) -> None:
    opened = records.image(study_instance_uid="1.2.100").exam_id
    for number in range(MAX_EXAMS + 1):
        records.image(study_instance_uid=f"1.2.200.{number}")
    exams = read(records)
    assert len(exams) == MAX_EXAMS
    records.score_all()
    records.wait(5)
    records.close_due(quiet=0)
    records.wait(1)
    # A late image: its exam is open again, and the only one.
    late = records.image(study_instance_uid="1.2.100").exam_id
    assert late == opened
    assert read(records)[0].exam_id == opened
    records.wait(13 * 3600)
    assert read(records) == []

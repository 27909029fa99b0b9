"""Lists are filtered, counted and cut off by either database in the same way."""

from datetime import date, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update

from detector.errors import ErrorCode
from detector.plain_text import fold
from qc_daemon.records import listings
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.received import exams, receipts
from qc_daemon.records.received.revisions import quarantine_scored
from qc_daemon.records.results import rejections
from qc_daemon.records.results.findings import Reason, iter_findings
from qc_daemon.records.tables import Exam, JobKind, JobState

DOE = {"patient_name": "Doe^Jane", "accession_number": "A1", "study_date": "20260301"}
MULLER = {"patient_name": "MÜLLER^Änne", "accession_number": "B_2", "study_date": ""}


def two_exams(records) -> None:
    """One of two images, one of the day after."""
    records.image(**DOE)
    records.image(**DOE)
    records.wait(86_400)
    records.image(study_instance_uid="7.7", patient_id="P2", **MULLER)


def test_exams_are_filtered(records) -> None:
    two_exams(records)
    day = records.now.date()
    cases: list[tuple[ExamFilter, list[int]]] = [
        (ExamFilter(), [2, 1]),
        (ExamFilter(patient="P1"), [1]),
        (ExamFilter(patient="anne muller"), [2]),
        (ExamFilter(patient="müller"), [2]),
        (ExamFilter(patient="%"), []),
        (ExamFilter(accession="B_2"), [2]),
        (ExamFilter(text="b_"), [2]),
        (ExamFilter(text="a1"), [1]),
        (ExamFilter(text="P"), [2, 1]),
        (ExamFilter(text="_"), [2]),
        (ExamFilter(day=date(2026, 3, 1)), [1]),
        (ExamFilter(day=day), [2]),
        (ExamFilter(states=["closed"]), []),
        (ExamFilter(study="7.7"), [2]),
        (ExamFilter(exam_id=1), [1]),
    ]
    with records.store.read() as session:
        for exam_filter, ids in cases:
            rows, total = listings.exams(session, exam_filter)
            assert ([row.id for row in rows], total) == (ids, len(ids)), exam_filter
        rows, total = listings.exams(session, ExamFilter(), Window(limit=1))
        assert ([(row.id, row.objects) for row in rows], total) == ([(2, 1)], 2)
        rows, _ = listings.exams(session, ExamFilter(), Window(until=records.now))
        assert [(row.id, row.objects) for row in rows] == [(1, 2)]


# Of few letters, so that words often begin, end or contain one another; with case, accents, a
# letter that folds to two, both wildcards of SQL and the delimiters of a name.
NAME_LETTERS = st.text(st.sampled_from("abAÄäß山%_^= '"), max_size=8)


@given(names=st.lists(NAME_LETTERS, min_size=1, max_size=6), text=NAME_LETTERS)
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_patient_name_matches_by_word_prefix(records, names: list[str], text: str) -> None:
    with records.store.begin() as session:
        session.execute(delete(Exam))
        for number, name in enumerate(names):
            session.add(
                Exam(
                    id=number + 1,
                    study_instance_uid=str(number),
                    patient_id=f"id {number}",
                    opened_at=records.now,
                    last_object_at=records.now,
                    **receipts.exam_description(name, "", ""),
                )
            )
    words = fold(text).split()
    expected = [
        number + 1
        for number, name in enumerate(names)
        if words and all(any(w.startswith(word) for w in fold(name).split()) for word in words)
    ]
    with records.store.read() as session:
        rows, _ = listings.exams(session, ExamFilter(patient=text))
    assert sorted(row.id for row in rows) == expected


def test_jobs_are_filtered_and_counted(records) -> None:
    two_exams(records)
    with records.store.read() as session:
        rows, total = listings.jobs(session, [JobState.READY], window=Window(limit=2))
        assert ([row.subject for row in rows], total) == (["instance:1", "instance:2"], 3)
        assert (rows[0].study_instance_uid, rows[0].sop_instance_uid) == ("1.2.3", "1.2.3.4.1")
        since = Window(since=records.now)
        rows, total = listings.jobs(session, [JobState.READY], [JobKind.SCORE], window=since)
        assert ([row.exam_id for row in rows], total) == ([2], 1)
        assert listings.jobs(session, [JobState.READY], [JobKind.REPORT]) == ([], 0)
        assert listings.job_states(session, [1, 99]) == {1: "ready"}
        assert listings.commitments(session, []) == ([], 0)
        assert rejections.page(session) == ([], 0)


def test_findings_are_yielded_as_they_are_read(records) -> None:
    first = records.image()
    records.score_all(count=3)
    second = records.image()
    records.score_all()
    with records.store.begin() as session:
        quarantine_scored(
            session, second.revision_id, ErrorCode.REPORT_INVALID, "no series", records.now
        )
    with records.store.read() as session:
        every = list(iter_findings(session, ExamFilter(), Window(), all_revisions=True))
        assert [each.body.get("frame") for each in every] == [1, 2, 3, 1]
        assert [each.frames for each in every] == [3, 3, 3, 1]
        refused = Reason(ErrorCode.REPORT_INVALID, "no series")
        assert [each.quarantine for each in every] == [None, None, None, refused]
        assert sum(each.is_best for each in every[:3]) == 1
        assert {each.exam_id for each in every} == {first.exam_id}
        none = Window(until=records.now - timedelta(days=1))
        assert list(iter_findings(session, ExamFilter(), none, all_revisions=True)) == []


def test_exams_of_an_older_version_are_described_once(records) -> None:
    two_exams(records)
    nothing = dict.fromkeys(receipts.DESCRIPTION)
    with records.store.begin() as session:
        session.execute(update(Exam).values(**nothing))
    with records.store.begin() as session:
        rows, total = listings.exams_without_description(session, 1)
        assert ([row.id for row in rows], total) == ([2], 2)
        described = receipts.exam_description("Doe^Jane", "A1", "20260301")
        assert exams.describe(session, 2, described)
        assert not exams.describe(session, 2, described)
        assert [row.id for row in listings.exams_without_description(session, 9)[0]] == [1]

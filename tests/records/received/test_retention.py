"""An original leaves the spool when every rule lets it, and never before."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from qc_daemon.records.received import retention
from qc_daemon.records.received.receipts import Admission
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    Commitment,
    CommitmentItem,
    CommitmentState,
    Exam,
    ExamState,
    Instance,
    JobKind,
    JobRow,
    JobState,
    Revision,
    RevisionState,
)
from tests.support.records import START, Records

KEEP = timedelta(days=400)
SOURCES = ("archive", "pacs")
_serial = itertools.count(1)


def delivered(records: Records, *destinations: str) -> Admission:
    """An image that was scored, told, and taken by everyone, just now."""
    admission = records.image(study_instance_uid="1.2.3.9")
    with records.store.begin() as session:
        for name in destinations or SOURCES:
            session.add(_job(JobKind.DELIVER, name, admission.exam_id, admission.revision_id))
    records.score_all()
    records.wait(100)
    assert records.close_due() == [admission.exam_id]
    records.publish()
    while (job := records.claim(JobKind.DELIVER)) is not None:
        _change(
            records.store, JobRow, job.id, state=JobState.DONE, **NO_LEASE, updated_at=records.now
        )
    return admission


NO_LEASE: dict[str, Any] = {"owner": None, "lease_token": None, "lease_until": None}


def _job(kind: JobKind, destination: str, exam_id: int, revision_id: int | None) -> JobRow:
    return JobRow(
        kind=kind,
        subject=f"test:{next(_serial)}",
        revision=1,
        destination=destination,
        exam_id=exam_id,
        revision_id=revision_id,
        not_before=START,
        created_at=START,
        updated_at=START,
    )


def _change(store: Store, table: type, id: int, **values: Any) -> None:
    with store.begin() as session:
        session.execute(update(table).where(table.id == id).values(**values))  # type: ignore[attr-defined]


def due(
    records: Records,
    now: datetime | None = None,
    sources: tuple[str, ...] = SOURCES,
    fetchable: tuple[str, ...] = (),
) -> list[int]:
    moment = now or records.now + KEEP
    with records.store.read() as session:
        originals = retention.droppable(session, moment, KEEP, sources, fetchable, limit=100)
    return [each.revision_id for each in originals]


def dropped(
    records: Records, id: int, sources: tuple[str, ...] = SOURCES, fetchable: tuple[str, ...] = ()
) -> bool:
    with records.store.begin() as session:
        return retention.drop(session, id, records.now + KEEP, KEEP, sources, fetchable)


def test_a_delivered_original_leaves_when_its_days_have_passed(records: Records) -> None:
    id = delivered(records).revision_id
    assert due(records) == [id]
    assert due(records, records.now + KEEP - timedelta(seconds=1)) == []
    assert dropped(records, id)
    assert due(records) == []
    assert not dropped(records, id)


def test_days_count_from_the_last_delivery_not_from_receipt(records: Records) -> None:
    id = delivered(records).revision_id
    last = records.now
    records.wait(3600)
    with records.store.read() as session:
        job = session.scalars(select(JobRow.id).where(JobRow.destination == "pacs")).one()
    _change(records.store, JobRow, job, updated_at=records.now)
    assert due(records, last + KEEP) == []
    assert due(records) == [id]


def test_without_a_source_destination_it_is_the_only_copy_and_stays(records: Records) -> None:
    id = delivered(records).revision_id
    assert due(records, sources=()) == []
    assert not dropped(records, id, sources=())


def test_routed_it_leaves_when_one_that_gives_it_back_holds_it(records: Records) -> None:
    """A rule sent it to the archive only; nothing waits for the PACS."""
    id = delivered(records, "archive").revision_id
    assert due(records, sources=(), fetchable=("pacs",)) == []
    assert not dropped(records, id, sources=(), fetchable=("pacs",))
    assert due(records, sources=(), fetchable=SOURCES) == [id]
    assert dropped(records, id, sources=(), fetchable=SOURCES)


def test_routed_to_nobody_it_is_the_only_copy_and_stays(records: Records) -> None:
    admission = records.image(study_instance_uid="1.2.3.9")
    records.score_all()
    records.wait(100)
    assert records.close_due() == [admission.exam_id]
    records.publish()
    while (job := records.claim(JobKind.DELIVER)) is not None:
        _change(
            records.store, JobRow, job.id, state=JobState.DONE, **NO_LEASE, updated_at=records.now
        )
    assert due(records, sources=(), fetchable=SOURCES) == []
    assert not dropped(records, admission.revision_id, sources=(), fetchable=SOURCES)


def test_a_destination_that_never_got_it_keeps_it(records: Records) -> None:
    """One that came into the settings after the object did."""
    delivered(records, "pacs")
    assert due(records) == []
    assert due(records, sources=("pacs", "new")) == []
    assert len(due(records, sources=("pacs",))) == 1


@pytest.mark.parametrize("state", [s for s in JobState if s is not JobState.DONE])
@pytest.mark.parametrize("kind", [JobKind.REPORT, JobKind.DELIVER])
def test_a_result_that_is_not_delivered_keeps_the_exams_originals(
    records: Records, kind: JobKind, state: JobState
) -> None:
    admission = delivered(records)
    job = _job(kind, "mail", admission.exam_id, None)
    job.state = state
    if state is JobState.LEASED:
        job.owner, job.lease_token, job.lease_until = "w", "t", records.now
    with records.store.begin() as session:
        session.add(job)
    assert due(records) == []
    assert not dropped(records, admission.revision_id)


def test_an_open_exam_keeps_its_originals(records: Records) -> None:
    admission = delivered(records)
    _change(records.store, Exam, admission.exam_id, state=ExamState.OPEN)
    assert due(records) == []


@pytest.mark.parametrize("state", [RevisionState.RECEIVED, RevisionState.QUARANTINED])
def test_what_is_not_scored_stays(records: Records, state: RevisionState) -> None:
    admission = delivered(records)
    _change(records.store, Revision, admission.revision_id, state=state)
    assert due(records) == []


@pytest.mark.parametrize(
    ("state", "stays"),
    [
        (CommitmentState.WAITING, True),
        (CommitmentState.READY, True),
        (CommitmentState.REPORTED, False),
        (CommitmentState.DEAD, False),
    ],
)
def test_a_commitment_that_waits_keeps_it(
    records: Records, state: CommitmentState, stays: bool
) -> None:
    admission = delivered(records)
    _promise(records.store, admission.instance_id, state)
    assert (due(records) == []) is stays


def test_a_file_that_another_row_needs_stays(records: Records) -> None:
    id = delivered(records).revision_id
    assert due(records) == [id]
    # Every receipt of the test names the same file.
    records.image(study_instance_uid="1.2.3.8")
    assert due(records) == []
    assert not dropped(records, id)


def test_fetched_back_it_stays_until_its_days_have_passed_again(records: Records) -> None:
    id = delivered(records).revision_id
    assert dropped(records, id)
    with records.store.begin() as session:
        retention.record_unavailable(session, id, records.now)
        retention.record_fetch(session, id, "ab/cd/other.dcm", 7)
    with records.store.read() as session:
        (original,) = retention.originals(session, 0, limit=10)
        row = session.get_one(Revision, id)
        assert (row.dropped_at, row.unavailable_at) == (None, None)
    assert original == retention.Original(id, "ab/cd/other.dcm", 7)
    assert due(records) == [id]


def test_referenced_paths_lists_files_that_rows_name(records: Records) -> None:
    id = delivered(records).revision_id
    with records.store.read() as session:
        assert retention.referenced_paths(session, [Records.receipt.path, "no/ne.dcm"]) == {
            Records.receipt.path: True
        }
    assert dropped(records, id)
    with records.store.read() as session:
        assert retention.referenced_paths(session, [Records.receipt.path]) == {
            Records.receipt.path: False
        }
        assert retention.originals(session, 0, limit=10) == []


def _promise(store: Store, instance_id: int, state: CommitmentState) -> None:
    with store.begin() as session:
        uid = session.get_one(Instance, instance_id).sop_instance_uid
        commitment = Commitment(
            transaction_uid=f"1.9.{next(_serial)}",
            requested_by="VOLUSON1",
            address="127.0.0.1",
            association="a",
            state=state,
            not_before=START,
            requested_at=START,
        )
        session.add(commitment)
        session.flush()
        session.add(
            CommitmentItem(
                commitment_id=commitment.id, position=0, sop_class_uid="1", sop_instance_uid=uid
            )
        )


@dataclass(frozen=True)
class Case:
    """A made-up past of one original; days are before the moment asked about."""

    received: int
    state: RevisionState
    exam: ExamState
    score: JobState
    deliveries: dict[str, tuple[JobState, int]]
    others: list[tuple[JobKind, JobState, int]]
    commitment: CommitmentState | None
    dropped: bool
    sources: tuple[str, ...]
    fetchable: tuple[str, ...]
    keep: int

    def may_leave(self) -> bool:
        every = [(state, days) for state, days in self.deliveries.values()]
        every += [(state, days) for _, state, days in self.others]
        return (
            not self.dropped
            and bool(self.sources or self.fetchable)
            and (not self.fetchable or any(map(self.has_received, self.fetchable)))
            and all(map(self.has_received, self.sources))
            and all(state is JobState.DONE and days >= self.keep for state, days in every)
            and self.received >= self.keep
            and self.state in (RevisionState.SCORED, RevisionState.HEADER)
            and self.exam is ExamState.CLOSED
            and self.score is JobState.DONE
            and self.commitment not in (CommitmentState.WAITING, CommitmentState.READY)
        )

    def has_received(self, destination: str) -> bool:
        return self.deliveries.get(destination, (None, 0))[0] is JobState.DONE


def mostly(good: Any, *bad: Any) -> st.SearchStrategy[Any]:
    """One that often lets the original leave, so that both answers come up."""
    return st.one_of(*[st.just(good)] * 8, st.sampled_from(bad))


DONE = mostly(JobState.DONE, *(s for s in JobState if s is not JobState.DONE))
DAYS = st.one_of(st.integers(8, 20), st.integers(0, 20))
CASES = st.builds(
    Case,
    received=DAYS,
    state=mostly(RevisionState.SCORED, *RevisionState),
    exam=mostly(ExamState.CLOSED, ExamState.OPEN),
    score=DONE,
    deliveries=st.dictionaries(st.sampled_from(SOURCES), st.tuples(DONE, DAYS)),
    others=st.lists(st.tuples(st.sampled_from([JobKind.REPORT, JobKind.DELIVER]), DONE, DAYS)),
    commitment=mostly(None, *CommitmentState),
    dropped=mostly(False, True),
    sources=st.sampled_from([(), ("pacs",), ("archive",), SOURCES]),
    fetchable=st.sampled_from([(), ("pacs",), SOURCES]),
    keep=st.integers(0, 10),
)


@given(case=CASES)
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
def test_retention_drops_originals_neither_early_nor_never(records: Records, case: Case) -> None:
    now = START + timedelta(days=1000)
    id = _live(records, case, lambda days: now - timedelta(days=days))
    keep = timedelta(days=case.keep)
    with records.store.read() as session:
        originals = retention.droppable(
            session, now, keep, case.sources, case.fetchable, limit=10_000
        )
    assert (id in [each.revision_id for each in originals]) == case.may_leave()
    with records.store.begin() as session:
        assert (
            retention.drop(session, id, now, keep, case.sources, case.fetchable) == case.may_leave()
        )


def _live(records: Records, case: Case, ago: Callable[[int], datetime]) -> int:
    number = next(_serial)
    admission = records.image(
        study_instance_uid=f"1.5.{number}",
        sop_instance_uid=f"1.6.{number}",
        path=f"{number}.dcm",
        sha256=f"{number:064x}",
    )
    rows = [
        (JobKind.DELIVER, name, admission.revision_id, state, days)
        for name, (state, days) in case.deliveries.items()
    ]
    rows += [(kind, "mail", None, state, days) for kind, state, days in case.others]
    with records.store.begin() as session:
        session.execute(
            update(Revision)
            .where(Revision.id == admission.revision_id)
            .values(
                received_at=ago(case.received),
                state=case.state,
                dropped_at=START if case.dropped else None,
            )
        )
        session.execute(update(Exam).where(Exam.id == admission.exam_id).values(state=case.exam))
        session.execute(
            update(JobRow)
            .where(JobRow.revision_id == admission.revision_id)
            .values(state=case.score, **_lease(case.score))
        )
        for kind, name, revision_id, state, days in rows:
            job = _job(kind, name, admission.exam_id, revision_id)
            job.state, job.updated_at = state, ago(days)
            for column, value in _lease(state).items():
                setattr(job, column, value)
            session.add(job)
    if case.commitment is not None:
        _promise(records.store, admission.instance_id, case.commitment)
    return admission.revision_id


def _lease(state: JobState) -> dict[str, Any]:
    if state is not JobState.LEASED:
        return NO_LEASE
    return {"owner": "w", "lease_token": "t", "lease_until": START}

"""No question asked for every job or object reads the whole queue (query plans of SQLite)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from qc_daemon.records.commitment import scu
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState


@contextmanager
def statements(session: Session) -> Iterator[list[tuple[str, object]]]:
    """What the block asks the database."""
    queries: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, sql: str, values: object, *_: object) -> None:
        queries.append((sql, values))

    engine = session.get_bind().engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield queries
    finally:
        event.remove(engine, "before_cursor_execute", note)


def scans(connection: Connection, sql: str, values: object) -> list[str]:
    """Steps of the statement's plan that read a table or index of jobs from end to end."""
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
    return [step.detail for step in plan if step.detail.startswith("SCAN job")]


QUESTIONS: dict[str, Callable[[Session, object], object]] = {
    "claim deliver": lambda session, now: jobs.claim(
        session, [JobKind.DELIVER], "w", now, 60, destinations=["pacs", "archive"]
    ),
    "claim for any": lambda session, now: jobs.claim(session, list(JobKind), "w", now, 60),
    "oldest due": lambda session, now: jobs.oldest_due(session),
    "destinations to ask": scu.destinations_due,
}


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_query_reads_an_index_and_few_rows(
    records, store: Store, name: str, analysed: bool
) -> None:
    for _ in range(30):
        records.image()
        records.receive(
            "pacs", sop_instance_uid=f"1.9.{records.now.timestamp()}", sha256=f"{_:064d}"
        )
    with store.begin() as session:
        job = jobs.claim(session, [JobKind.DELIVER], "w", records.now, 60)
        assert job is not None
        jobs.mark_sent(session, job, records.now, records.now + timedelta(seconds=5))
        if analysed:
            session.execute(text("ANALYZE"))
    with store.begin() as session:
        with statements(session) as queries:
            QUESTIONS[name](session, records.now)
        connection = session.connection()
        assert queries
        for sql, values in queries:
            assert scans(connection, sql, values) == [], sql


def test_destinations_with_jobs_in_a_state(records) -> None:
    records.receive("pacs", "archive")
    with records.store.begin() as session:
        assert jobs.destinations_with(session) == ["archive", "pacs"]
        assert jobs.destinations_with(session, JobState.SENT) == []

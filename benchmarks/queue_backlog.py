"""What one question to the queue costs by how much waits in it: milliseconds, median and p95.

    make bench-queue        or    .venv/bin/python benchmarks/queue_backlog.py [--backlog 0 2000 …]

A database of each kind is filled with exams whose objects wait for a destination that is away (50
deliver jobs an exam: 20 originals and 30 objects made of them), each original with two findings.
Then each question is asked as the service asks it, in a transaction that is rolled back.
"""

import argparse
import contextlib
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

# The tests' throwaway PostgreSQL.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qc_daemon.records import gauges, schema
from qc_daemon.records.commitment import scp, scu
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import exams
from qc_daemon.records.received.receipts import Receipt, admit
from qc_daemon.records.results import destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    CommitmentState,
    Exam,
    Finding,
    Instance,
    JobKind,
    JobRow,
    JobState,
    ReportObjectRow,
    Revision,
)
from tests.support.postgres import PostgresServer, program

ORIGINALS, OBJECTS, FINDINGS = 20, 30, 2
START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NOW = START + timedelta(days=30)
CHUNK = 200

Question = Callable[[Session], Any]


def fill(store: Store, backlog: int, state: JobState) -> None:
    """Exams with `backlog` deliver jobs in all, in this state, for the destination `pacs`."""
    count = math.ceil(backlog / (ORIGINALS + OBJECTS))
    for first in range(1, count + 1, CHUNK):
        numbers = range(first, min(first + CHUNK, count + 1))
        with store.begin() as session:
            for table, rows in _rows(numbers, state):
                session.execute(insert(table), rows)
    with store.begin() as session:
        session.execute(text("ANALYZE"))
        if backlog and session.get_bind().dialect.name == "postgresql":
            # Rows came with their ids; the sequences must go on behind them.
            for name in ("exam", "instance", "revision", "job", "report_object", "finding"):
                session.execute(
                    text(
                        f"SELECT setval(pg_get_serial_sequence('{name}', 'id'),"
                        f" (SELECT max(id) FROM {name}))"
                    )
                )


def _rows(numbers: range, state: JobState) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    exam_rows, instance_rows, revision_rows = [], [], []
    finding_rows, object_rows, job_rows = [], [], []
    per_exam = ORIGINALS + OBJECTS
    for exam in numbers:
        at = START + timedelta(seconds=exam)
        exam_rows.append(
            {
                "id": exam,
                "study_instance_uid": f"1.2.{exam}",
                "patient_id": f"P{exam}",
                "state": "closed",
                "opened_at": at,
                "last_object_at": at,
                "report_revision": 1,
            }
        )
        for n in range(ORIGINALS):
            key = (exam - 1) * ORIGINALS + n + 1
            instance_rows.append(
                {"id": key, "sop_instance_uid": f"1.2.{exam}.{n}", "created_at": at}
            )
            revision_rows.append(
                {
                    "id": key,
                    "instance_id": key,
                    "exam_id": exam,
                    "number": 1,
                    "state": "scored",
                    "sha256": f"{key:064x}",
                    "size": 500_000,
                    "path": f"{key:08x}.dcm",
                    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1",
                    "series_instance_uid": f"1.2.{exam}.0",
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "calling_ae": "VOLUSON1",
                    "received_at": at,
                }
            )
            finding_rows += [
                {
                    "revision_id": key,
                    "frame": frame + 1,
                    "region": 0,
                    "model_id": "m",
                    "view": "NT",
                    "view_probability": 0.9,
                    "quality": "standard",
                    "probability": 0.9,
                    "body": {"description": "x" * 400},
                    "created_at": at,
                }
                for frame in range(FINDINGS)
            ]
            job_rows.append(_job(exam, (exam - 1) * per_exam + n + 1, at, state, revision_id=key))
        for n in range(OBJECTS):
            key = (exam - 1) * OBJECTS + n + 1
            object_rows.append(
                {
                    "id": key,
                    "exam_id": exam,
                    "report_revision": 1,
                    "kind": "sr" if n == 0 else "overlay",
                    "sop_instance_uid": f"2.25.{key}",
                    "sop_class_uid": "1.2",
                    "transfer_syntax_uid": "1.2",
                    "payload": b"\0",
                    "created_at": at,
                }
            )
            number = (exam - 1) * per_exam + ORIGINALS + n + 1
            job_rows.append(_job(exam, number, at + timedelta(minutes=2), state, object_id=key))
    yield Exam, exam_rows
    yield Instance, instance_rows
    yield Revision, revision_rows
    yield Finding, finding_rows
    yield ReportObjectRow, object_rows
    yield JobRow, job_rows


def _job(
    exam: int,
    number: int,
    at: datetime,
    state: JobState,
    revision_id: int | None = None,
    object_id: int | None = None,
) -> dict[str, Any]:
    return {
        "id": number,
        "kind": JobKind.DELIVER,
        "subject": f"instance:{revision_id}" if revision_id else f"object:{object_id}",
        "revision": 1,
        "destination": "pacs",
        "exam_id": exam,
        "revision_id": revision_id,
        "object_id": object_id,
        "state": state,
        "not_before": at,
        "created_at": at,
        "updated_at": at,
    }


def questions() -> dict[str, Question]:
    """What receivers, workers, the exam clock and the metrics ask, by name."""
    serial = iter(range(10**9))

    def receive(session: Session) -> object:
        number = next(serial)
        receipt = Receipt(
            sop_instance_uid=f"1.3.{number}",
            sop_class_uid="1.2",
            study_instance_uid=f"1.3.{number // 20}",
            series_instance_uid="1.3",
            patient_id="Q",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae="VOLUSON1",
            sha256=f"{10**12 + number:064x}",
            size=1,
            path=f"n{number}.dcm",
            association="a",
        )
        return admit(session, receipt, source_destinations=["pacs"], bundle_id=None, now=NOW)

    def claim(*kinds: JobKind, to: tuple[str, ...] = ("pacs",)) -> Question:
        return lambda session: jobs.claim(session, kinds, "w", NOW, 300, destinations=to)

    policy, rng = RetryPolicy(), random.Random(1)
    return {
        "receive an object": receive,
        "claim a score job": claim(JobKind.SCORE),
        "claim a report job": claim(JobKind.REPORT),
        "claim a deliver job": claim(JobKind.DELIVER),
        "claim, destination away": claim(JobKind.DELIVER, to=()),
        "close exams": lambda session: exams.close_due(session, NOW, 60, 240),
        "destinations to ask for commitment": lambda session: scu.destinations_due(session, NOW),
        "request commitment": lambda session: scu.create_request(
            session, "pacs", "1.9", NOW, timedelta(minutes=5), policy, rng
        ),
        "claim a commitment request": lambda session: scp.claim(
            session, CommitmentState.WAITING, "w", NOW, 60
        ),
        "oldest due (receiver)": jobs.oldest_due,
        "list 200 jobs": lambda session: jobs.listing(session, limit=200),
        "count jobs (metrics)": lambda session: jobs.counts(session, jobs.PENDING),
        "other figures (metrics)": gauges.read,
        "destination list": destinations.count_deliveries,
    }


def time_question(store: Store, question: Question, repeat: int) -> list[float]:
    """Milliseconds of each of `repeat` transactions, after one that warms up."""
    milliseconds = []
    for _ in range(repeat + 1):
        with contextlib.suppress(_UndoError), store.begin() as session:
            began = time.perf_counter()
            question(session)
            session.flush()
            milliseconds.append(1000 * (time.perf_counter() - began))
            raise _UndoError
    return sorted(milliseconds[1:])


class _UndoError(Exception):
    """Rolls the transaction back."""


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[dict[str, Callable[[str], Store]]]:
    """Makers of empty stores by kind of database; PostgreSQL where it is installed."""

    def sqlite(name: str) -> Store:
        url = f"sqlite:///{folder / name}.db"
        schema.upgrade(url)
        return Store(url)

    makers: dict[str, Callable[[str], Store]] = {"SQLite": sqlite}
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        yield makers
        return
    cluster = PostgresServer(initdb, server, fsync=True)

    def postgresql(name: str) -> Store:
        with cluster.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        schema.upgrade(f"{cluster.url}/{name}")
        return Store(f"{cluster.url}/{name}")

    cluster.start()
    try:
        yield makers | {"PostgreSQL": postgresql}
    finally:
        cluster.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, nargs="+", default=[0, 2_000, 202_000])
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--state", choices=["ready", "sent", "done"], default="ready")
    arguments = parser.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="bench-queue-") as folder,
        stores(Path(folder)) as makers,
    ):
        for kind, make in makers.items():
            table = Table(title=f"{kind}, jobs {arguments.state}: milliseconds, median (p95)")
            table.add_column("question")
            columns: list[dict[str, str]] = []
            for backlog in arguments.backlog:
                table.add_column(f"{backlog:,} jobs", justify="right")
                store = make(f"backlog{backlog}")
                fill(store, backlog, JobState(arguments.state))
                columns.append(
                    {
                        name: format_times(time_question(store, question, arguments.repeat))
                        for name, question in questions().items()
                    }
                )
                store.close()
            for name in questions():
                table.add_row(name, *(column[name] for column in columns))
            console.print(table)


def format_times(milliseconds: list[float]) -> str:
    percentile_95 = milliseconds[int(0.95 * (len(milliseconds) - 1))]
    return f"{statistics.median(milliseconds):.2f} ({percentile_95:.2f})"


if __name__ == "__main__":
    main()

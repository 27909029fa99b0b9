"""Page data with many findings: how long each list takes, and how many queries it asks.

    .venv/bin/python benchmarks/page_data.py [--findings 1000000] [--repeat 20]

A history of 100,000 findings is imported as `results import` does it, into SQLite and, where it is
installed, PostgreSQL, and copied there under other ids and UIDs until there are so many. Then each
page and list is asked as a person and a program ask it, in this process. A time is that of the
whole answer (question, rows, template) in milliseconds: median (p95); CPU is what this process and
PostgreSQL's used for one answer, which other programs on the machine do not change much. Queries
are the statements of one answer. The last lines are of a browser (Chromium, where it is installed):
the first contentful paint of pages, by its own clock, with an empty cache, and that of a page of
one word that needs no server: the difference is ours, the rest is browser and machine.
"""

import argparse
import contextlib
import gc
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, event, text
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.queue_backlog import stores
from qc_daemon.operations import accounts
from qc_daemon.operations.result_import import import_findings
from qc_daemon.operations.shared import shared_store
from qc_daemon.records import schema
from qc_daemon.records.store import Store, parse
from qc_daemon.records.tables import Base
from qc_daemon.settings import Settings, StoreSettings
from qc_daemon.settings.observe import AuditLogSettings
from qc_daemon.settings.web import AccountRoleSettings
from qc_daemon.verbs import Verb
from qc_daemon.web.app import create_app
from qc_daemon.web.server import run
from tests.support.accounts import add_account
from tests.support.browser import chromium, person
from training.phantom.history import write_history

ORIGIN = "https://qc.example.org"
_EVERYTHING = "everything"
DATABASE = "pages"
_IMPORTED = 100_000


def questions() -> dict[str, str]:
    """The pages and lists, by name."""
    return {
        "worklist": "/worklist",
        "worklist, every state, one view": "/worklist?state=automatic&state=waiting&view=NT",
        "worklist, non-standard only": "/worklist?state=automatic&verdict=non-standard",
        "exams": "/exams",
        "an exam": "/exams/1",
        "live board": "/board",
        "persons": "/people",
        "devices": "/devices",
        "audits": "/audits",
        "operations": "/operations",
        "queue": "/operations/queue",
        "who looked at whom": "/access",
        "API, findings": "/api/v1/findings?limit=50",
        "API, findings of a view and verdict": "/api/v1/findings?view=CRL&verdict=standard",
        "API, exams": "/api/v1/exams?limit=50",
    }


@dataclass
class QueryCount:
    """The statements that a store was asked since it was set to nothing."""

    statements: list[str] = field(default_factory=list)


@contextmanager
def counted(store: Store) -> Iterator[QueryCount]:
    """Count the statements of the store within."""
    count, engine = QueryCount(), store._engine()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA", "SAVEPOINT")):
            count.statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield count
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def asked(settings: Settings) -> Iterator[tuple[TestClient, Store]]:
    """A program that may see everything, and the store that is asked."""
    settings.web.role.append(AccountRoleSettings(name=_EVERYTHING, verbs=list(Verb)))
    add_account(settings, _EVERYTHING, _EVERYTHING)
    token = accounts.add_token(settings, _EVERYTHING, "benchmark", sorted(Verb), 1)
    with shared_store(settings) as store:
        app = create_app(settings, store)
        client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
        client.headers["authorization"] = f"Bearer {token}"
        # As the role does.
        gc.collect()
        gc.freeze()
        try:
            yield client, store
        finally:
            app.state.context.board.close()
            app.state.context.pictures.close()


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of each answer, sorted; those of processors for one, and its queries."""

    times: list[float]
    cpu: float
    queries: int


def measure(client: TestClient, store: Store, path: str, repeat: int) -> Measured:
    """Ask so often. Raises RuntimeError for another answer than the page."""
    milliseconds = []
    with counted(store) as count:
        for number in range(repeat + 1):
            if number == 1:
                # The first one compiles templates and statements.
                cpu = cpu_seconds()
            count.statements.clear()
            began = time.perf_counter()
            answer = client.get(path)
            milliseconds.append(1000 * (time.perf_counter() - began))
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.status_code}")
    used = 1000 * (cpu_seconds() - cpu) / repeat
    return Measured(sorted(milliseconds[1:]), used, len(count.statements))


_IDS = {
    "exam": ("id",),
    "instance": ("id",),
    "revision": ("id", "instance_id", "exam_id"),
    "acquisition": ("revision_id",),
    "acquisition_operator": ("revision_id",),
    "finding": ("id", "revision_id"),
    "image_features": ("finding_id",),
    "measurement": ("id", "revision_id", "exam_id"),
}
"""Tables that are copied, those first that others refer to, and their columns with ids."""
_UIDS = ("study_instance_uid", "sop_instance_uid", "path")
_STEP = 10_000_000
"""Ids of a copy are so far from those before."""


def copy_findings(url: str, times: int) -> None:
    """Make so many of each exam, with all that belongs to it, under other ids and UIDs. Persons and
    devices stay, and have so many times the images."""
    engine = create_engine(parse(url), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for table, ids in _IDS.items():
                columns = [column.name for column in Base.metadata.tables[table].columns]
                for copy in range(1, times):
                    values = [
                        f"{name} + {copy * _STEP}"
                        if name in ids
                        else f"{name} || '.{copy}'"
                        if name in _UIDS
                        else f'"{name}"'
                        for name in columns
                    ]
                    names = ", ".join(f'"{name}"' for name in columns)
                    connection.execute(
                        text(
                            f'INSERT INTO "{table}" ({names}) SELECT {", ".join(values)}'
                            f' FROM "{table}" WHERE {ids[0]} < {_STEP}'
                        )
                    )
            if schema.file_of(url) is None:
                # As autovacuum does in time; in SQLite nothing does.
                connection.execute(text("VACUUM ANALYZE"))
    finally:
        engine.dispose()


def cpu_seconds() -> float:
    """What this process and PostgreSQL's for our database have used so far."""
    servers = 0.0
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if words.startswith("postgres:") and f" {DATABASE} " in words:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                servers += times.user + times.system
    return time.process_time() + servers


_BARE = "a page of one word, from nowhere"
PAINTED = ("worklist", "exams", "an exam", "live board", "persons")


def paints(app: FastAPI, settings: Settings, repeat: int) -> dict[str, list[float]]:
    """Milliseconds to the first contentful paint of pages, sorted, each in a browser of its own."""
    with chromium() as browser, serving(app, settings) as port:
        origin = f"http://localhost:{port}"
        times: dict[str, list[float]] = {}
        for name in PAINTED:
            for _ in range(repeat):
                with person(browser, origin) as reader:
                    # What the browser itself takes on this machine, with nothing to fetch.
                    reader.page.goto("data:text/html,<!doctype html><title>page</title><p>page")
                    bare = reader.page.evaluate(_FIRST_PAINT)
                    times.setdefault(_BARE, []).append(bare)
                    # What was imported has no picture.
                    reader.expected = ("404",)
                    page = reader.log_in(_EVERYTHING, questions()[name])
                    page.wait_for_url(f"**{questions()[name]}")
                    times.setdefault(name, []).append(page.evaluate(_FIRST_PAINT))
        return {name: sorted(values) for name, values in times.items()}


_FIRST_PAINT = """() => new Promise(resolve => new PerformanceObserver(list => {
    for (const entry of list.getEntriesByName("first-contentful-paint")) resolve(entry.startTime);
}).observe({type: "paint", buffered: true}))"""


@contextmanager
def serving(app: FastAPI, settings: Settings) -> Iterator[int]:
    """The port at which the pages are served."""
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()
    thread = threading.Thread(target=run, args=(app, settings.web, listener, stop))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(30)


def main() -> None:
    """Print a table for each database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--findings", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    imported = min(arguments.findings, _IMPORTED)
    with (
        tempfile.TemporaryDirectory(prefix="bench-pages-") as name,
        stores(Path(name)) as makers,
    ):
        folder = Path(name)
        history = write_history(folder / "history", arguments.seed, imported)
        # Filled before anything is measured, so that the disk has had time to write it all.
        every: dict[str, Settings] = {}
        for kind, make in makers.items():
            store = make(DATABASE)
            every[kind] = Settings(
                store=StoreSettings(url=store.url, spool=folder / "spool"),
                audit_log=AuditLogSettings(folder=folder / kind),
            )
            store.close()
            import_findings(every[kind], [history])
            copy_findings(every[kind].store.url, round(arguments.findings / imported))
            print(f"{kind}: {arguments.findings:,} findings", file=sys.stderr)
        for kind, settings in every.items():
            print_tables(kind, settings, arguments.findings, arguments.repeat)


def print_tables(kind: str, settings: Settings, findings: int, repeat: int) -> None:
    """Ask, and print what was measured."""
    table = Table(title=f"{kind}, {findings:,} findings: median (p95)")
    table.add_column("page or list")
    for column in ("ms", "CPU ms", "queries"):
        table.add_column(column, justify="right")
    with asked(settings) as (client, store):
        for question, path in questions().items():
            measured = measure(client, store, path, repeat)
            table.add_row(
                question, _words(measured.times), f"{measured.cpu:.1f}", str(measured.queries)
            )
        Console().print(table)
        if shutil.which("chromium") is not None:
            table = Table("page", "first contentful paint, ms", title=f"{kind}, in Chromium")
            app = client.app
            assert isinstance(app, FastAPI)
            for question, times in paints(app, settings, max(3, repeat // 4)).items():
                table.add_row(question, _words(times))
            Console().print(table)


def _words(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ({times[int(0.95 * (len(times) - 1))]:.1f})"


if __name__ == "__main__":
    main()

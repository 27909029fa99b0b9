"""Page data with many findings: how long each list takes, and how many queries it asks.

    .venv/bin/python benchmarks/page_data.py [--findings 1000000] [--repeat 20]

A history of exams is imported as `results import` does it, into SQLite and, where it is installed,
PostgreSQL; then each page and list is asked as a person and a program ask it, in this process. A
time is that of the whole answer (question, rows, template) in milliseconds: median (p95). Queries
are the statements of one answer. The import takes most of the time.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import event
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.queue_backlog import stores
from qc_daemon.operations import accounts
from qc_daemon.operations.result_import import import_findings
from qc_daemon.operations.shared import shared_store
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings, StoreSettings
from qc_daemon.settings.observe import AuditLogSettings
from qc_daemon.settings.web import AccountRoleSettings
from qc_daemon.verbs import Verb
from qc_daemon.web.app import create_app
from tests.support.accounts import add_account
from training.phantom.history import write_history

ORIGIN = "https://qc.example.org"
_EVERYTHING = "everything"


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
        try:
            yield client, store
        finally:
            app.state.context.board.close()
            app.state.context.pictures.close()


def measure(client: TestClient, store: Store, path: str, repeat: int) -> tuple[list[float], int]:
    """Milliseconds of each answer, sorted, and the queries of one."""
    milliseconds = []
    with counted(store) as count:
        for _ in range(repeat + 1):
            count.statements.clear()
            began = time.perf_counter()
            answer = client.get(path)
            milliseconds.append(1000 * (time.perf_counter() - began))
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.status_code}")
    # The first one compiles templates and statements.
    return sorted(milliseconds[1:]), len(count.statements)


def main() -> None:
    """Print a table for each database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--findings", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="bench-pages-") as name,
        stores(Path(name)) as makers,
    ):
        folder = Path(name)
        history = write_history(folder / "history", arguments.seed, arguments.findings)
        for kind, make in makers.items():
            store = make("pages")
            settings = Settings(
                store=StoreSettings(url=store.url, spool=folder / "spool"),
                audit_log=AuditLogSettings(folder=folder / kind),
            )
            store.close()
            import_findings(settings, [history])
            title = f"{kind}, {arguments.findings:,} findings: milliseconds, median (p95); queries"
            table = Table(title=title)
            for column in ("page or list", "ms", "queries"):
                table.add_column(column, justify="left" if column != "ms" else "right")
            with asked(settings) as (client, asked_store):
                for question, path in questions().items():
                    times, queries = measure(client, asked_store, path, arguments.repeat)
                    percentile_95 = times[int(0.95 * (len(times) - 1))]
                    words = f"{statistics.median(times):.1f} ({percentile_95:.1f})"
                    table.add_row(question, words, str(queries))
            console.print(table)


if __name__ == "__main__":
    main()

"""Group commit: several writers, one transaction; one that fails does not take others along."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from qc_daemon.receive.group_commit import GroupCommit
from qc_daemon.records.store import Store


class Counting(Store):
    """Counts transactions; the first waits until it is let go."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.count = 0
        self.has_begun, self.go = threading.Event(), threading.Event()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        self.count += 1
        if self.count == 1:
            self.has_begun.set()
            assert self.go.wait(60)
        with super().begin() as session:
            yield session


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    counting_store = Counting(f"sqlite:///{tmp_path / 'qc.db'}")
    with Store(counting_store.url).begin() as session:
        session.execute(text("CREATE TABLE t (a INTEGER NOT NULL)"))
    return counting_store


def write(commits: GroupCommit, value: int | None, outcomes: list[Any]) -> threading.Thread:
    def work(session: Session) -> int | None:
        session.execute(text("INSERT INTO t VALUES (:a)"), {"a": value})
        return value

    def run() -> None:
        try:
            outcomes.append(commits.write(str(value), work))
        except Exception as error:
            outcomes.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def written(store: Store) -> list[int]:
    with store.read() as session:
        return list(session.scalars(text("SELECT a FROM t ORDER BY a")))


def crowd(store: Counting, values: list[int | None]) -> list[Any]:
    """The first alone, the others while it is being committed; what each was told."""
    commits, outcomes = GroupCommit(store), []  # type: ignore[var-annotated]
    threads = [write(commits, values[0], outcomes)]
    assert store.has_begun.wait(60)
    threads += [write(commits, value, outcomes) for value in values[1:]]
    while len(commits._waiting) < len(values) - 1:
        assert threads[0].is_alive()
    store.go.set()
    for thread in threads:
        thread.join(60)
    return outcomes


def test_those_who_wait_share_one_transaction(store: Counting) -> None:
    assert sorted(crowd(store, [0, 1, 2, 3, 4])) == [0, 1, 2, 3, 4]
    assert store.count == 2
    assert written(store) == [0, 1, 2, 3, 4]


def test_a_failing_write_does_not_fail_the_others(store: Counting) -> None:
    outcomes = crowd(store, [0, 1, None, 3])
    assert sorted(map(str, outcomes)) == ["0", "1", "3", "IntegrityError"]
    assert written(store) == [0, 1, 3]

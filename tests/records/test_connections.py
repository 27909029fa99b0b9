"""Several processes share the few connections of one PostgreSQL."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from qc_daemon.records.store import Store

LIMIT = 4


@pytest.fixture
def small(postgres_server: str) -> Iterator[str]:
    """A database that takes four connections, as one who is no superuser sees it."""
    server = postgres_server.replace("+psycopg", "") + "/postgres"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE ROLE modest LOGIN")
        connection.execute(f"CREATE DATABASE small OWNER modest CONNECTION LIMIT {LIMIT}")
        yield f"{postgres_server}/small".replace("qc@", "modest@")
        connection.execute("DROP DATABASE small WITH (FORCE)")
        connection.execute("DROP ROLE modest")


def connect_at_once(store: Store, count: int) -> int:
    """How many of so many threads had a connection; all are held until the last has its own."""
    together = threading.Barrier(count)
    ended: list[bool] = []

    def use() -> None:
        with store.read() as session:
            together.wait(60)
            ended.append(session.execute(text("SELECT true")).scalar_one())

    threads = [threading.Thread(target=use) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(ended)


def test_busy_process_closes_connections_others_need(small: str) -> None:
    receiver, deliverer = Store(small), Store(small)
    assert connect_at_once(receiver, LIMIT) == LIMIT
    assert connect_at_once(deliverer, LIMIT // 2) == LIMIT // 2
    receiver.close()
    deliverer.close()


def test_connection_is_waited_for_while_the_server_is_full(small: str) -> None:
    receiver, deliverer = Store(small), Store(small)
    busy, ended = threading.Event(), threading.Event()
    all_busy = threading.Barrier(LIMIT + 1)

    def hold() -> None:
        with receiver.read():
            all_busy.wait(60)
            busy.wait(60)

    def deliver() -> None:
        with deliverer.read() as session:
            session.execute(text("SELECT true"))
        ended.set()

    holders = [threading.Thread(target=hold) for _ in range(LIMIT)]
    waiting = threading.Thread(target=deliver)
    for thread in holders:
        thread.start()
    all_busy.wait(60)
    waiting.start()
    assert not ended.wait(0.3)
    busy.set()
    assert ended.wait(60)
    for thread in [*holders, waiting]:
        thread.join()
    receiver.close()
    deliverer.close()


def test_connection_is_reused_while_half_are_free(postgres_url: str) -> None:
    store = Store(postgres_url)
    pids = set()
    for _ in range(3):
        with store.read() as session:
            pids.add(session.execute(text("SELECT pg_backend_pid()")).scalar_one())
    store.close()
    assert len(pids) == 1

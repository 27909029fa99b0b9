"""A receiver on a free loopback port with a database and a spool of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom import _config, dimse_messages
from sqlalchemy import select

from qc_daemon.receive import Receiver, Spool, listen
from qc_daemon.records import schema
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AssociationLease, Exam, Instance, JobRow, Revision
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import DestinationSettings, ReceiveSettings


@dataclass
class Site:
    """A running receiver and what it wrote."""

    receiver: Receiver
    store: Store
    spool: Spool
    port: int
    database: Path

    def rows(self, table: type) -> list:  # type: ignore[type-arg]
        with self.store.read() as session:
            return list(session.scalars(select(table)))

    def files(self) -> list[Path]:
        return sorted(path for path in self.spool.root.rglob("*") if path.is_file())

    def nothing_recorded(self) -> bool:
        tables = (Exam, Instance, Revision, JobRow, AssociationLease)
        return not any(self.rows(table) for table in tables)


@pytest.fixture
def open_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    opened: list[Site] = []
    # A receiver bends pynetdicom for its whole process; other tests' peers want it straight again.
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", False)
    for name in ("NamedTemporaryFile", "create_file_meta"):
        monkeypatch.setattr(dimse_messages, name, getattr(dimse_messages, name))

    def open_(
        spool: Path | None = None,
        destinations: Sequence[DestinationSettings] = (),
        routes: Routes | None = None,
        **settings: object,
    ) -> Site:
        database = tmp_path / "qc.db"
        url = f"sqlite:///{database}"
        schema.upgrade(url)
        made = Spool(spool or tmp_path / "spool")
        made.prepare()
        store = Store(url)
        receiver = Receiver(
            ReceiveSettings(**settings),
            store,
            made,
            "test",
            destinations=destinations,
            routes=routes or Routes(own={SOURCE: ("pacs",)}),
        )
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        receiver.start(listener)
        opened.append(Site(receiver, store, made, port, database))
        return opened[-1]

    yield open_
    for site in opened:
        site.receiver.drain(10)
        site.store.close()


@pytest.fixture
def site(open_site: Callable[..., Site]) -> Site:
    return open_site()

"""A receiver on a free loopback port with a database and a spool of its own."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pynetdicom import _config, dimse_messages

from qc_daemon.receive import Receiver, Spool, listen
from qc_daemon.records.store import Store
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import DestinationSettings, ReceiveSettings
from tests.support.databases import migrate
from tests.support.running_receiver import RunningReceiver


@pytest.fixture
def start_receiver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RunningReceiver]]:
    opened: list[RunningReceiver] = []
    # A receiver bends pynetdicom for its whole process; other tests' peers want it straight again.
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", False)
    for name in ("NamedTemporaryFile", "create_file_meta"):
        monkeypatch.setattr(dimse_messages, name, getattr(dimse_messages, name))

    def open_(
        spool: Path | None = None,
        destinations: Sequence[DestinationSettings] = (),
        routes: Routes | None = None,
        **settings: object,
    ) -> RunningReceiver:
        database = tmp_path / "qc.db"
        url = f"sqlite:///{database}"
        migrate(url)
        spool_folder = Spool(spool or tmp_path / "spool")
        spool_folder.prepare()
        store = Store(url)
        scp = Receiver(
            ReceiveSettings(**settings),
            store,
            spool_folder,
            "test",
            destinations=destinations,
            routes=routes or Routes(own={SOURCE: ("pacs",)}),
        )
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        scp.start(listener)
        opened.append(RunningReceiver(scp, store, spool_folder, port, database))
        return opened[-1]

    yield open_
    for receiver in opened:
        receiver.scp.drain(10)
        receiver.store.close()


@pytest.fixture
def receiver(start_receiver: Callable[..., RunningReceiver]) -> RunningReceiver:
    return start_receiver()

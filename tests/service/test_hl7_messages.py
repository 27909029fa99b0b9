"""The running service takes ADT messages, and knows those that it has done after it was killed."""

from pathlib import Path

from tests.support.databases import migrate
from tests.support.hl7_sender import adt, connect
from tests.support.service import Service
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
[hl7]
port = 0
"""


def port_of(service: Service, start: int = 0) -> int:
    return int(eventually(lambda: service.events("hl7 listening")[start:])[0]["port"])


def test_messages_come_in_and_are_known_after_a_kill(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path / 'qc.db'}")
    service = Service(tmp_path, SETTINGS, roles=("schedule",)).spawn()
    try:
        with connect(port_of(service)) as sender:
            assert sender.send(adt()) == "AA"
            # The role is started again; who calls meanwhile waits.
            service.kill_role("schedule")
        with connect(port_of(service)) as sender:
            assert sender.send(adt()) == "AA"
            assert sender.send(adt(name="Canary^Zoe")) == "AE"
        assert service.stop() == 0
    finally:
        service.end()
    assert "CANARY" not in service.log_file.read_text().upper()

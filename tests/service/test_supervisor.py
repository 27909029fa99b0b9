"""The supervisor and its processes, killed, stopped and refused."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from detector.console import UsageError
from detector.errors import QCError
from detector.process_id import has_exited, lease_owner
from qc_daemon.observe import log
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, Instance, JobKind, JobRow
from qc_daemon.service import supervisor
from qc_daemon.settings import Settings
from tests.support.dicom_objects import CANARY_NUMBERS, WHO_AND_WHERE, ultrasound
from tests.support.pacs import Pacs
from tests.support.peers import association, store
from tests.support.service import Service, running
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = {port}
processes = 1
quiet_seconds = 0
[jobs]
poll_seconds = 0.1
backoff_seconds = 0.2
backoff_cap_seconds = 1.0
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
objects = ["source"]
timeout = 20
"""


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    running = Pacs()
    yield running
    running.stop()


@pytest.fixture
def make(tmp_path: Path, pacs: Pacs) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def make_(port: int = 0, **options: object) -> Service:
        services.append(Service(tmp_path, SETTINGS.format(port=port, pacs=pacs.port), **options))
        return services[-1]

    yield make_
    for service in services:
        service.end()


def database(service: Service) -> Store:
    return Store(f"sqlite:///{service.folder / 'qc.db'}")


def rows(service: Service, column: object) -> list:  # type: ignore[type-arg]
    with database(service).read() as session:
        return list(session.scalars(select(column)))


def test_from_modality_to_pacs(make: Callable[..., Service], pacs: Pacs) -> None:
    service = make().start()
    dataset = ultrasound(**WHO_AND_WHERE)
    assert store(service.port, dataset) == [0x0000]
    # The PACS is down at first: the object waits and goes out when it returns, once.
    eventually(lambda: service.events("not delivered"))
    pacs.start()
    eventually(lambda: service.events("delivered"))
    assert pacs.uids() == [dataset.SOPInstanceUID]
    assert service.stop() == 0
    log_text = service.log_file.read_text()
    assert "Traceback" not in log_text
    # The patient's name, identifier and accession number, operators and site all hold the word.
    assert "CANARY" not in log_text
    assert not any(number in log_text for number in CANARY_NUMBERS)


def test_receiver_killed_inside_an_association_loses_nothing(make: Callable[..., Service]) -> None:
    service = make(roles=("receive", "schedule")).start()
    port = service.port
    acknowledged: list[str] = []
    killed = threading.Event()

    def send() -> None:
        while not killed.is_set():
            # pynetdicom raises where the association ends between the look and the send.
            with association(port) as opened, contextlib.suppress(RuntimeError):
                while opened.is_established:
                    dataset = ultrasound(pixels=os.urandom(256))
                    status = opened.send_c_store(dataset)
                    if "Status" in status and status.Status == 0x0000:
                        acknowledged.append(dataset.SOPInstanceUID)

    sender = threading.Thread(target=send)
    sender.start()
    for count in (3, 8):
        eventually(lambda count=count: len(acknowledged) >= count)
        if count == 8:
            killed.set()
        service.kill_role("receive")
    sender.join(60)
    assert store(port, ultrasound()) == [0x0000]
    stored = set(rows(service, Instance.sop_instance_uid))
    assert set(acknowledged) <= stored
    assert [line["signal"] for line in service.events("process died")] == ["SIGKILL", "SIGKILL"]
    spool = service.folder / "spool"
    files = {path.stem for path in spool.rglob("*.dcm")}
    assert len(files) >= len(stored)
    assert not list((spool / "incoming").iterdir())


def test_children_die_with_the_supervisor_and_all_comes_back(make: Callable[..., Service]) -> None:
    service = make().start()
    first = ultrasound()
    store(service.port, first)
    # A lease of a process that no longer runs, as a killed worker leaves it behind.
    dead = lease_owner("work", 1).replace(":1:", ":4194304:")
    with database(service).begin() as session:
        job = jobs.claim(session, [JobKind.SCORE], dead, datetime.now(UTC), 3600)
    assert job is not None
    pids = service.kill()
    assert len(pids) == 3
    service.start()
    eventually(lambda: dead in [line["owner"] for line in service.events("leases released")])
    with database(service).read() as session:
        again = jobs.get(session, job.id)
    assert again is not None
    assert (again.state, again.deaths) == ("ready", 0)
    assert store(service.port, ultrasound()) == [0x0000]
    assert first.SOPInstanceUID in rows(service, Instance.sop_instance_uid)


def test_a_dead_worker_s_lease_is_released_and_its_death_counted(
    make: Callable[..., Service],
) -> None:
    service = make(roles=("receive", "schedule")).start()
    store(service.port, ultrasound())
    pid = service.pid("schedule")
    with database(service).begin() as session:
        job = jobs.claim(
            session, [JobKind.SCORE], lease_owner("schedule", pid), datetime.now(UTC), 3600
        )
    assert job is not None
    assert service.kill_role("schedule") == pid
    eventually(lambda: service.events("leases released"))
    with database(service).read() as session:
        again = jobs.get(session, job.id)
    assert again is not None
    assert (again.state, again.deaths) == ("ready", 1)


def test_quiet_exam_is_closed(make: Callable[..., Service]) -> None:
    service = make(roles=("receive", "schedule")).start()
    store(service.port, ultrasound())
    assert rows(service, Exam.state) == ["open"]
    with database(service).begin() as session:
        waiting = list(session.scalars(select(JobRow.id)))
        jobs.cancel(session, waiting, datetime.now(UTC))
    eventually(lambda: rows(service, Exam.state) == ["closed"])
    assert service.events("exam closed")


def test_one_receiver_from_start_to_stop(make: Callable[..., Service]) -> None:
    service = make(roles=("receive",), environment={"QC_DAEMON_RECEIVE__AE_TITLE": "OTHER"})
    service.start()
    # The environment wins over the file, in the child too.
    with association(service.port, called="QCDAEMON") as opened:
        assert opened.is_rejected
    with association(service.port, called="OTHER") as opened:
        assert opened.send_c_store(ultrasound()).Status == 0x0000
        mapped = Path(f"/proc/{service.pid('receive')}/maps").read_text()
        assert "sqlite" in mapped
        assert "torch" not in mapped
        # Asked to stop, it lets the association finish.
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        assert opened.send_c_store(ultrasound()).Status == 0x0000
    assert service.wait() == 0
    assert not running(service.pid("receive"))
    assert len(rows(service, Instance.id)) == 2


def test_nothing_is_imported_from_the_working_directory(
    make: Callable[..., Service], tmp_path: Path
) -> None:
    """Modules of our packages' names and of the standard library's lie where we are started."""
    folder = traps(tmp_path)
    service = make(
        roles=("receive", "work", "deliver", "schedule"), working_directory=folder
    ).start()
    assert store(service.port, ultrasound()) == [0x0000]
    eventually(lambda: service.events("not delivered"))
    eventually(lambda: service.events("scored") or service.events("score failed"))
    assert service.stop() == 0
    assert "Traceback" not in service.log_file.read_text()
    assert not list(folder.glob("*.imported"))


def test_a_pool_of_processes_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    folder = traps(tmp_path)
    # As pip writes a command: a script, which Python starts without -P.
    command = tmp_path / "qc-model"
    command.write_text("from training.cli import main\nif __name__ == '__main__':\n    main()\n")
    process = subprocess.run(
        [sys.executable, command, "phantom", "--out", "out", "--count", "2", "--workers", "2"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
    )
    assert process.returncode == 0, process.stderr
    assert not list(folder.glob("*.imported"))


TRAP = "from pathlib import Path; Path(__file__).with_suffix('.imported').touch(); raise SystemExit"


def traps(folder: Path) -> Path:
    """A folder whose modules tell that they were imported."""
    trap_folder = folder / "traps"
    trap_folder.mkdir()
    for name in ("detector", "model", "training", "qc_daemon", "migrations", "json", "struct"):
        (trap_folder / f"{name}.py").write_text(TRAP)
    return trap_folder


def test_port_in_use_is_one_line_and_status_2(make: Callable[..., Service]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        service = make(port=blocker.getsockname()[1]).spawn()
        assert service.wait() == 2
    (line,) = service.log_file.read_text().splitlines()
    assert "cannot listen on 127.0.0.1" in line
    assert "receive.port" in line


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings for a start in this process that is refused before anything runs."""
    yield Settings(
        store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": tmp_path / "spool"},
        receive={"port": 0},
    )
    log.configure("critical")


def test_spool_that_cannot_be_written_is_one_line(settings: Settings) -> None:
    settings.store.spool.write_bytes(b"a file where a folder should be")
    with pytest.raises(QCError, match=r"the spool .* cannot be written: .*set store\.spool$"):
        supervisor.serve(settings, ["receive"])


def test_read_only_spool_is_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def read_only(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and str(path).endswith(".part"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(path, flags, mode)

    monkeypatch.setattr("qc_daemon.spool.spool.os.open", read_only)
    with pytest.raises(QCError, match="read-only file system"):
        supervisor.serve(settings, ["receive"])


def test_database_that_cannot_be_used_is_one_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "qc.db").write_bytes(b"no database at all, and longer than its header of 100" * 9)
    with pytest.raises(QCError, match=r"database [^\n]*$"):
        supervisor.serve(settings, ["receive"])


def test_unknown_role_is_wrong_usage(settings: Settings) -> None:
    with pytest.raises(UsageError, match="--role paint"):
        supervisor.serve(settings, ["receive", "paint"])


def test_a_lease_owner_differs_from_a_later_process_of_its_number() -> None:
    here = lease_owner("work", os.getpid())
    assert not has_exited(here)
    assert has_exited(here[:-1] + ("1" if here[-1] != "1" else "2"))
    assert not has_exited(here.replace(socket.gethostname(), "elsewhere"))
    assert not has_exited("anyone")

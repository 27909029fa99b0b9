"""What the doctor says of an installation, of the service, and of what waits for a person."""

import contextlib
import hashlib
import json
import os
import random
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from pynetdicom import AE
from typer.testing import CliRunner

from detector.errors import ErrorCode, QCError
from qc_daemon.cli.app import app
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID
from qc_daemon.observe import counters, endpoint, metrics
from qc_daemon.operations.doctor import CheckResult, examine
from qc_daemon.receive import Spool
from qc_daemon.records import schema
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results import destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Commitment, CommitmentState, JobKind
from qc_daemon.settings import (
    DestinationSettings,
    ReceiveSettings,
    Settings,
    StoreSettings,
    TLSSettings,
)
from qc_daemon.spool import service_lock
from qc_daemon.spool.verification import move_to_damaged
from tests.support.certificates import Authority
from tests.support.databases import migrate
from tests.support.ports import reserve_port
from tests.support.records import Records
from tests.support.stow_server import StowServer


def check(name: str, folder: Path | None = None, **receive: object) -> CheckResult:
    settings = Settings(receive=ReceiveSettings(**receive))
    if folder is not None:
        settings.store = StoreSettings(url=f"sqlite:///{folder / 'qc.db'}", spool=folder / "spool")
    return checked(settings, name)


def checked(settings: Settings, name: str) -> CheckResult:
    return next(each for each in examine(settings) if each.name == name)


def serving(folder: Path) -> contextlib.AbstractContextManager[None]:
    """As far as anybody can see, a service runs on the spool."""
    return service_lock.shared(folder / "spool")


def tls(authority: Authority, days: int, **options: object) -> TLSSettings:
    own = authority.issue("receiver", days)
    return TLSSettings(
        certificate=own.certificate, key=own.key, ca=authority.certificate, **options
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


@pytest.mark.parametrize(
    ("days", "healthy", "message"),
    [(400, True, "399 days"), (8, True, "7 days; renew it soon"), (-1, False, "expired on")],
)
def test_the_check_names_the_certificate_s_end(
    authority: Authority, days: int, healthy: bool, message: str
) -> None:
    result = check("certificate", tls=tls(authority, days))
    assert result.is_healthy is healthy
    assert message in result.message


def test_an_unusable_certificate_fails_the_check(authority: Authority) -> None:
    settings = tls(authority, 8)
    settings.key.unlink()
    result = check("certificate", tls=settings)
    assert not result.is_healthy
    assert "receive.tls.key" in result.message


def test_a_receiver_that_knows_its_peers_is_healthy(tmp_path: Path) -> None:
    ae = AE("QCDAEMON")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.require_calling_aet = ["US1"]
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        port = server.server_address[1]
        with serving(tmp_path):
            result = check("receiver", tmp_path, port=port)
        assert result.is_healthy
        assert "none of its peers" in result.message
    finally:
        server.shutdown()


def test_a_receiver_for_tls_only_gets_no_c_echo(authority: Authority, tmp_path: Path) -> None:
    port = reserve_port()
    settings = tls(authority, 8, port=port, only=True)
    assert "is free for the service" in check("receiver", tmp_path, tls=settings).message
    server = AE("QCDAEMON")
    server.add_supported_context("1.2.840.10008.1.1")
    running = server.start_server(("127.0.0.1", port), block=False)
    try:
        with serving(tmp_path):
            assert "for TLS only" in check("receiver", tmp_path, tls=settings).message
    finally:
        running.shutdown()


def test_a_dicomweb_destination_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNA_TOKEN", "SECRET")
    web = StowServer().start()
    url = web.url
    destination = {"name": "vna", "kind": "dicomweb", "url": url, "token": "env:VNA_TOKEN"}

    def check_web() -> CheckResult:
        settings = Settings(destination=[destination])
        return next(each for each in examine(settings) if each.name == "destination vna")

    try:
        healthy = check_web()
        assert healthy.is_healthy
        assert healthy.message.endswith("credentials go there in the clear, use https")
        assert web.queries == ["/dicom-web/studies?limit=1"]
        web.query_status = 401
        refused = check_web()
        assert (refused.is_healthy, refused.message) == (
            False,
            f"{url} answers HTTP 401, credentials not accepted",
        )
    finally:
        web.stop()
    result = check_web()
    assert not result.is_healthy
    assert result.message.endswith(
        "cannot be reached: connection refused: nothing listens at the port"
    )
    monkeypatch.delenv("VNA_TOKEN")
    assert "its token is not in the environment variable VNA_TOKEN" in check_web().message


def test_what_serve_will_make_is_no_fault(tmp_path: Path) -> None:
    settings = Settings(
        store=StoreSettings(
            url=f"sqlite:///{tmp_path / 'var' / 'qc.db'}", spool=tmp_path / "spool"
        ),
    )
    result = checked(settings, "database")
    assert result == CheckResult("database", True, "is not there yet; serve makes it")
    assert not any(tmp_path.iterdir())


def test_the_folder_of_a_destination_has_to_be_there(here: Settings, tmp_path: Path) -> None:
    """As where a share is not mounted: the service would not make it either."""
    folder = tmp_path / "share"
    here.destination = [DestinationSettings(name="share", kind="folder", folder=folder)]
    assert checked(here, "destination share") == CheckResult(
        "destination share",
        False,
        f"the folder {folder} is not there; mount its share, or make the folder",
    )
    assert not folder.exists()
    folder.touch()
    assert "is not a folder" in checked(here, "destination share").message
    folder.unlink()
    folder.mkdir()
    assert checked(here, "destination share").message == f"{folder} is writable"
    assert not any(folder.iterdir())


@pytest.mark.parametrize(("device", "healthy"), [("cpu", True), ("cuda:99", False)])
def test_a_missing_device_fails_the_check(device: str, healthy: bool) -> None:
    settings = Settings(score={"device": device})
    result = next(each for each in examine(settings) if each.name == "device")
    assert (result.is_healthy, device in result.message) == (healthy, True)


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """Settings of an installation with its database made."""
    settings = Settings(
        store=StoreSettings(url=f"sqlite:///{tmp_path / 'qc.db'}", spool=tmp_path / "spool")
    )
    migrate(settings.store.url)
    Spool(settings.store.spool).prepare()
    return settings


@contextlib.contextmanager
def verification(ae_title: str, **options: object) -> Iterator[int]:
    """A DICOM service of somebody else's; its port."""
    ae = AE(ae_title)
    ae.add_supported_context("1.2.840.10008.1.1")
    for name, value in options.items():
        setattr(ae, name, value)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def test_whoever_answers_on_our_port_must_be_ours(here: Settings) -> None:
    with verification("ORTHANC") as port:
        here.receive.port = port
        # serve would say: address already in use.
        result = checked(here, "receiver")
        assert not result.is_healthy
        assert "another program answers" in result.message
        with service_lock.shared(here.store.spool):
            result = checked(here, "receiver")
        assert not result.is_healthy
        assert "another DICOM service answers" in result.message
    with verification("OTHER", require_called_aet=True) as port:
        here.receive.port = port
        with service_lock.shared(here.store.spool):
            result = checked(here, "receiver")
        assert not result.is_healthy
        assert "does not know the AE title" in result.message


def test_our_receiver_is_recognised_by_its_implementation_class(here: Settings) -> None:
    with verification("QCDAEMON", implementation_class_uid=IMPLEMENTATION_CLASS_UID) as port:
        here.receive.port = port
        with service_lock.shared(here.store.spool):
            result = checked(here, "receiver")
    assert (result.is_healthy, result.message) == (True, f"QCDAEMON answers on 127.0.0.1:{port}")


def test_a_metrics_port_of_another_program_fails_the_check(here: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here.observe.port = server.getsockname()[1]
        result = checked(here, "metrics")
    assert not result.is_healthy
    assert "observe.port" in result.message


def test_the_metrics_of_a_running_service_answer(here: Settings) -> None:
    store = Store(here.store.url)
    processes = [metrics.Process("receive", running=True, ready=True, restarts=0)]
    service = metrics.Service(here, store, counters.SharedCounters.create(), lambda: processes)
    server = endpoint.listen("127.0.0.1", 0, service)
    try:
        here.observe.port = server.server_address[1]
        with service_lock.shared(here.store.spool):
            result = checked(here, "metrics")
            reasons = service.unready()
            assert result.is_healthy is not bool(reasons)
            assert all(reason in result.message for reason in reasons)
            processes[:] = [metrics.Process("receive", running=False, ready=False, restarts=1)]
            result = checked(here, "metrics")
            assert not result.is_healthy
            assert "receive" in result.message
    finally:
        server.shutdown()
        server.server_close()
        store.close()


def test_a_spool_that_is_a_file_fails_the_check(here: Settings, tmp_path: Path) -> None:
    here.store.spool = tmp_path / "file"
    here.store.spool.touch()
    assert not checked(here, "spool").is_healthy
    here.store.spool = tmp_path / "file" / "spool"
    assert "is not a folder" in checked(here, "spool").message


def test_a_folder_that_cannot_be_written_fails_the_check(here: Settings) -> None:
    """Rights do not tell: root may write everywhere, but not make a folder in /proc."""
    here.destination = [DestinationSettings(name="x", kind="folder", folder=Path("/proc"))]
    assert not checked(here, "destination x").is_healthy
    here.store.url = "sqlite:////proc/qc.db"
    assert not checked(here, "database").is_healthy


def test_no_destination_is_a_warning_only(here: Settings) -> None:
    result = checked(here, "destinations")
    assert (result.is_healthy, result.word) == (True, "warn")


def test_a_missing_database_beside_a_full_spool_fails_the_check(here: Settings) -> None:
    folder = here.store.spool / "ab"
    folder.mkdir()
    (folder / f"{'ab' * 32}.dcm").touch()
    file = schema.file_of(here.store.url)
    assert file is not None
    file.unlink()
    result = checked(here, "database")
    assert not result.is_healthy
    assert "1 received object;" in result.message


def test_an_empty_postgresql_is_no_fault(here: Settings, postgres_url: str) -> None:
    here.store.url = postgres_url
    assert checked(here, "database") == CheckResult(
        "database", True, "is empty; serve makes its tables"
    )


def test_an_older_schema_is_a_warning_for_serve_brings_it_up(here: Settings) -> None:
    schema.downgrade(here.store.url, "0003")
    result = checked(here, "database")
    assert (result.is_healthy, result.word) == (True, "warn")
    assert "db backup" in result.message


def test_a_damaged_database_fails_the_check(here: Settings) -> None:
    file = schema.file_of(here.store.url)
    assert file is not None
    schema.checkpoint(here.store.url)
    content = bytearray(file.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[5 * page : 6 * page] = os.urandom(page)
    file.write_bytes(content)
    result = checked(here, "database")
    assert not result.is_healthy
    assert "db restore" in result.message


def test_rows_that_an_index_lacks_fail_the_check(here: Settings) -> None:
    """As after a copy under a log that stayed: pages are whole, but do not belong together."""
    file = schema.file_of(here.store.url)
    assert file is not None
    with closing(sqlite3.connect(file)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_peer_1'"
        ).fetchone()
    schema.checkpoint(here.store.url)
    before = file.read_bytes()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO peer VALUES (1, 'US1', '10.0.0.1', NULL, '2026-01-01')")
        connection.commit()
    schema.checkpoint(here.store.url)
    page = int.from_bytes(before[16:18], "big")
    page_bytes = slice((root - 1) * page, root * page)
    content = bytearray(file.read_bytes())
    assert content[page_bytes] != before[page_bytes]
    content[page_bytes] = before[page_bytes]
    file.write_bytes(content)
    assert "missing from index" in checked(here, "database").message


def test_a_dangling_reference_fails_the_check(here: Settings) -> None:
    file = schema.file_of(here.store.url)
    assert file is not None
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO association_lease VALUES ('a', 77, '2026-01-01')")
        connection.commit()
    result = checked(here, "database")
    assert not result.is_healthy
    assert "1 row of association_lease refers to rows of exam" in result.message


def test_files_open_to_other_users_are_a_warning(here: Settings) -> None:
    file = schema.file_of(here.store.url)
    assert file is not None
    file.chmod(0o644)
    assert checked(here, "database").word == "warn"
    here.store.spool.chmod(0o755)
    assert checked(here, "spool").word == "warn"


def test_an_unreachable_destination_fails_with_its_cause(here: Settings) -> None:
    here.destination = [DestinationSettings(name="pacs", port=reserve_port())]
    assert "connection refused" in checked(here, "destination pacs").message


NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def records(here: Settings) -> Iterator[Records]:
    """The other stages of the installation."""
    store = Store(here.store.url)
    yield Records(store)
    store.close()


def test_a_service_that_was_never_started_is_a_hint_and_one_that_stopped_a_warning(
    here: Settings, records: Records, tmp_path: Path
) -> None:
    assert check("service", tmp_path / "new") == CheckResult(
        "service", True, "not running yet; start it with qc-daemon serve"
    )
    stopped = checked(here, "service")
    assert (stopped.word, "start it with qc-daemon serve" in stopped.message) == ("warn", True)
    assert checked(here, "queue") == CheckResult("queue", True, "no job waits")
    with service_lock.shared(here.store.spool):
        assert checked(here, "service") == CheckResult("service", True, "runs")
        records.now = datetime.now(UTC)
        records.image()
        waiting = checked(here, "queue")
        score = records.claim(JobKind.SCORE)
        assert score is not None
        with records.store.begin() as session:
            error = QCError(ErrorCode.SPOOL_MISSING, "gone")
            jobs.fail(session, score, error, records.now, RetryPolicy(), random.Random(1))
        retried = checked(here, "queue")
    assert (waiting.is_healthy, waiting.message.startswith("1 job waits (1 score), ")) == (
        True,
        True,
    )
    assert retried.word == "warn"
    assert retried.message.endswith(
        "; 1 of them after a failure (1 spool-file-missing): see qc-daemon queue list"
    )
    # What waits is not done: no longer ok.
    assert checked(here, "queue").word == "FAIL"


def test_what_waits_for_a_person_is_a_warning_with_its_reasons_and_the_command(
    here: Settings, records: Records
) -> None:
    names = ("failed jobs", "quarantine", "commitment requests")
    before = [checked(here, name) for name in names]
    assert [(each.word, each.message) for each in before] == [
        ("ok", "none"),
        ("ok", "empty"),
        ("ok", "none was given up"),
    ]
    with service_lock.shared(here.store.spool):
        for code in (ErrorCode.TRUNCATED, ErrorCode.NO_FRAMES, ErrorCode.TRUNCATED):
            records.image()
            score = records.claim(JobKind.SCORE)
            assert score is not None
            with records.store.begin() as session:
                error = QCError(code, "broken")
                jobs.fail(session, score, error, NOW, RetryPolicy(), random.Random(1))
        records.receive("pacs")
        (deliver,) = records.jobs(JobKind.DELIVER)
        with records.store.begin() as session:
            jobs.cancel(session, [deliver.id], NOW)
            session.add(
                Commitment(
                    transaction_uid="1.2",
                    requested_by="US1",
                    address="127.0.0.1",
                    association="",
                    state=CommitmentState.DEAD,
                    not_before=NOW,
                    requested_at=NOW,
                )
            )
        failed, quarantine, requests = (checked(here, name) for name in names)
    assert {each.word for each in (failed, quarantine, requests)} == {"warn"}
    # A job of an object in quarantine is not told twice.
    assert failed.message.startswith("1 job was given up (1 deliver to pacs: cancelled); see")
    assert "qc-daemon queue list --state dead --state quarantined" in failed.message
    assert quarantine.message == (
        "3 objects are in quarantine, not scored or not reported"
        f" (2 {ErrorCode.TRUNCATED}, 1 {ErrorCode.NO_FRAMES}); see qc-daemon quarantine list,"
        " then quarantine release or dismiss"
    )
    assert requests.message.startswith("1 report was given up; see qc-daemon commitment list")


def test_a_destination_that_answers_though_sending_fails_is_a_warning(
    here: Settings, records: Records, tmp_path: Path
) -> None:
    here.destination = [DestinationSettings(name="share", kind="folder", folder=tmp_path / "share")]
    (tmp_path / "share").mkdir()
    assert checked(here, "destination share").word == "ok"
    records.receive("share", "old")
    with records.store.begin() as session:
        full = QCError(ErrorCode.DELIVERY_RESOURCES, "the share is full")
        destinations.record_failure(session, "share", full, NOW)
    failing = checked(here, "destination share")
    assert failing.word == "warn"
    assert f"fails since 2026-03-04 05:06 UTC ({full.code}: the share is full)" in failing.message
    assert "qc-daemon destination list" in failing.message
    known = checked(here, "destinations")
    assert known.word == "warn"
    assert "1 is set; objects wait for some that are not in the settings (1 for old)" in (
        known.message
    )


def test_missing_and_damaged_files_are_counted_and_the_command_lists_them(
    here: Settings, records: Records
) -> None:
    paths = []
    for number in range(4):
        content = bytes([number]) * 1000
        sha256 = hashlib.sha256(content).hexdigest()
        path = here.store.spool / sha256[:2] / f"{sha256}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        records.image(
            sha256=sha256, path=f"{sha256[:2]}/{sha256}.dcm", study_instance_uid=f"1.{number}"
        )
        paths.append(path)
    name = "spool and database"
    assert checked(here, name).message == "4 files, all known and as received"
    gone, flipped, set_aside, _ = paths
    gone.unlink()
    for path in (flipped, set_aside):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert move_to_damaged(here.store.spool, set_aside, set_aside.stem) is not None
    assert checked(here, name) == CheckResult(
        name,
        False,
        "1 file is missing, 2 files are damaged: qc-daemon spool check --full lists them by exam,"
        " and says what to do",
    )
    config = here.store.spool.parent / "qc.toml"
    config.write_text(f'[store]\nurl = "{here.store.url}"\nspool = "spool"\n')

    def listed(*options: str) -> Result:
        arguments = ["spool", "check", "--config", str(config), *options]
        return CliRunner().invoke(app, arguments)

    rows = [json.loads(line) for line in listed("--full", "--format", "json").stdout.splitlines()]
    assert [(row["condition"], row["exam_id"], row["sop_instance_uid"]) for row in rows] == [
        ("missing", 1, "1.2.3.4.1"),
        ("damaged", 2, "1.2.3.4.2"),
        ("damaged", 3, "1.2.3.4.3"),
    ]
    assert rows[1]["set_aside"] is None
    assert rows[2]["set_aside"] == f"damaged/{set_aside.stem}-1.dcm"
    by_size = listed()
    assert by_size.exit_code == 1
    assert "1.2.3.4.3" in by_size.stdout
    assert "1.2.3.4.2" not in by_size.stdout
    assert "only the sizes of the files were compared" in by_size.stdout
    assert "spool check --full reads their content" in by_size.stdout
    assert "copy the file from a backup to its place" in by_size.stdout
    # Sizes alone say nothing of flipped bytes, and the command does not pretend they do.
    for path, number in ((gone, 0), (set_aside, 2)):
        path.write_bytes(bytes([number]) * 1000)
    assert "1 file is damaged: qc-daemon spool check --full lists" in checked(here, name).message
    by_size = listed()
    assert by_size.exit_code == 0
    assert "damaged" not in by_size.stdout
    assert "spool check --full reads their content" in by_size.stdout
    rows_and_note = listed("--format", "json")
    assert rows_and_note.stdout == ""
    assert "spool check --full reads their content" in rows_and_note.stderr
    # The files are back.
    for path, number in ((gone, 0), (flipped, 1), (set_aside, 2)):
        path.write_bytes(bytes([number]) * 1000)
    again = listed("--full")
    assert (again.exit_code, again.stdout) == (0, "no missing or damaged files\n")
    assert checked(here, name).is_healthy
    orphan = here.store.spool / "ab"
    orphan.mkdir(exist_ok=True)
    (orphan / f"{'ab' * 32}.dcm").touch()
    assert checked(here, name).message.startswith(
        "1 file belongs to no object that the database knows: qc-daemon spool list shows it"
    )

"""Planted faults are each named, with what to do; sound installations give no false alarm."""

import json
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from pynetdicom import AE, evt

from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID
from qc_daemon.operations import passwords
from qc_daemon.operations.doctor import CheckResult, examine
from qc_daemon.operations.doctor_checks import clock, disk, schedule
from qc_daemon.operations.doctor_checks.clock import stamps_ahead
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings, load
from qc_daemon.spool import running_services, service_lock
from tests.support.accounts import QUICK_HASHER, add_account
from tests.support.certificates import Authority
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate
from tests.support.ports import reserve_port
from tests.support.records import Records
from tests.support.smtp_server import SmtpServer
from tests.support.stow_server import StowServer

NOW = datetime.now(UTC)


def settings_in(folder: Path, **more: Any) -> Settings:
    (folder / "out").mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "store": {"url": f"sqlite:///{folder / 'qc.db'}", "spool": folder / "spool"},
        "receive": {"port": reserve_port()},
        "destination": [{"name": "shelf", "kind": "folder", "folder": folder / "out"}],
    }
    return Settings(**values | more)


def receive_one(settings: Settings, **values: Any) -> None:
    """Have an object of the settings' database, its only one."""
    migrate(settings.store.url)
    store = Store(settings.store.url)
    Records(store).receive(**values)
    store.close()


def named(settings: Settings, name: str) -> CheckResult:
    (result,) = examine(settings, [name])
    return result


@pytest.fixture(autouse=True)
def a_good_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that writes and a clock that is kept, whatever the tests run on."""
    monkeypatch.setattr(disk, "sync_seconds", lambda _folder: 0.002)
    monkeypatch.setattr(clock, "is_synchronised", lambda: True)
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)


@contextmanager
def listening() -> Iterator[int]:
    """A program that is none of ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def application(title: str, *classes: str, ours: bool = False) -> Iterator[int]:
    """A DICOM application that takes C-ECHO and these classes."""
    ae = AE(title)
    if ours:
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    for uid in ("1.2.840.10008.1.1", *classes):
        ae.add_supported_context(uid)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0x0000)]
    )
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


US, SR = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.88.34"
OVERLAY = "1.2.840.10008.5.1.4.1.1.7"


# Each plants one fault and gives settings; the names are of the checks that have to tell.


def _spool_is_a_file(folder: Path, _stack: ExitStack) -> Settings:
    (folder / "spool").write_text("")
    return settings_in(folder)


def _database_is_gone(folder: Path, _stack: ExitStack) -> Settings:
    (folder / "spool" / "ab").mkdir(parents=True)
    (folder / "spool" / "ab" / f"{'ab' * 32}.dcm").write_bytes(b"x")
    return settings_in(folder)


def _database_is_garbage(folder: Path, _stack: ExitStack) -> Settings:
    (folder / "qc.db").write_bytes(b"no database at all" * 500)
    return settings_in(folder)


def _service_is_not_running(folder: Path, _stack: ExitStack) -> Settings:
    settings = settings_in(folder)
    migrate(settings.store.url)
    return settings


def _bundle_is_not_there(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder, score={"bundle": str(folder / "mine")})


def _device_is_not_there(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder, score={"device": "cuda:7"})


def _port_is_taken(folder: Path, stack: ExitStack) -> Settings:
    return settings_in(folder, receive={"port": stack.enter_context(listening())})


def _metrics_port_is_taken(folder: Path, stack: ExitStack) -> Settings:
    return settings_in(folder, observe={"port": stack.enter_context(listening())})


def _web_port_is_taken(folder: Path, stack: ExitStack) -> Settings:
    return settings_in(folder, web={"port": stack.enter_context(listening())})


def _nobody_can_log_in(folder: Path, _stack: ExitStack) -> Settings:
    settings = settings_in(folder, web={"port": reserve_port()})
    migrate(settings.store.url)
    return settings


def _receiver_s_key_is_another(folder: Path, _stack: ExitStack) -> Settings:
    authority = Authority.make(folder / "ca")
    one, other = authority.issue("one"), authority.issue("other")
    tls = {"certificate": one.certificate, "key": other.key, "ca": authority.certificate}
    return settings_in(folder, receive={"port": reserve_port(), "tls": tls})


def _web_key_is_another(folder: Path, _stack: ExitStack) -> Settings:
    authority = Authority.make(folder / "ca")
    one, other = authority.issue("one", 400), authority.issue("other", 400)
    web = {"port": reserve_port(), "certificate": one.certificate, "key": other.key}
    return settings_in(folder, web=web)


def _hl7_certificate_has_expired(folder: Path, _stack: ExitStack) -> Settings:
    own = Authority.make(folder / "ca").issue("own", -1)
    tls = {"certificate": own.certificate, "key": own.key, "mutual": "none"}
    return settings_in(folder, hl7={"port": reserve_port(), "tls": tls})


def _our_certificate_has_expired(folder: Path, _stack: ExitStack) -> Settings:
    own = Authority.make(folder / "ca").issue("own", -1)
    tls = {"certificate": own.certificate, "key": own.key}
    pacs = {"name": "pacs", "ae_title": "PACS", "tls": tls}
    return settings_in(folder, destination=[pacs])


def _authority_is_not_there(folder: Path, _stack: ExitStack) -> Settings:
    pacs = {"name": "pacs", "ae_title": "PACS", "tls": {"ca": folder / "ca.pem"}}
    return settings_in(folder, destination=[pacs])


def _pacs_does_not_answer(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder, destination=[{"name": "pacs", "port": reserve_port()}])


def _pacs_takes_no_reports(folder: Path, stack: ExitStack) -> Settings:
    port = stack.enter_context(application("PACS", US))
    return settings_in(
        folder, destination=[{"name": "pacs", "port": port, "objects": ["source", "sr"]}]
    )


def _folder_is_not_there(folder: Path, _stack: ExitStack) -> Settings:
    shelf = {"name": "shelf", "kind": "folder", "folder": folder / "not-mounted"}
    return settings_in(folder, destination=[shelf])


def _machine_takes_no_reports(folder: Path, _stack: ExitStack) -> Settings:
    peer = {"ae_title": "US1", "address": "127.0.0.1", "port": reserve_port()}
    return settings_in(folder, receive={"port": reserve_port(), "peer": [peer]})


def _anybody_may_store(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder, receive={"port": reserve_port(), "peer": [{"ae_title": "US1"}]})


def _peer_stands_twice(folder: Path, _stack: ExitStack) -> Settings:
    peer = {"ae_title": "US1", "address": "10.1.0.0/16"}
    return settings_in(folder, receive={"port": reserve_port(), "peer": [peer, peer]})


def _mail_server_does_not_answer(folder: Path, _stack: ExitStack) -> Settings:
    mail = {"host": "127.0.0.1", "port": reserve_port(), "sender": "qc@example.org"}
    return settings_in(folder, mail=mail)


def _worklist_does_not_answer(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder, worklist={"host": "127.0.0.1", "port": reserve_port()})


def _mail_password_is_not_there(folder: Path, stack: ExitStack) -> Settings:
    authority = Authority.make(folder / "ca")
    server = SmtpServer(authority.issue("localhost"), needs_login=True)
    stack.enter_context(server)
    mail = {"host": "127.0.0.1", "port": server.port, "sender": "qc@example.org", "user": "qc"}
    mail |= {"password": "env:NO_SUCH_PASSWORD", "ca": authority.certificate}
    return settings_in(folder, mail=mail)


def _audit_server_is_away(folder: Path, _stack: ExitStack) -> Settings:
    server = {"name": "arr", "host": "127.0.0.1", "port": reserve_port()}
    return settings_in(folder, audit_log={"server": [server]})


def _audit_log_was_spoilt(folder: Path, _stack: ExitStack) -> Settings:
    settings = settings_in(folder)
    recorder.record(settings, AuditKind.START)
    (recorder.chain_folder(settings) / "head").write_text("gone")
    return settings


def _work_runs_without_models(folder: Path, stack: ExitStack) -> Settings:
    settings = settings_in(folder)
    stack.enter_context(running_services.announce(settings.store.spool, "1", "a", ["work"], NOW))
    stack.enter_context(patch.dict(sys.modules, {"torch": None}))
    return settings


def _nobody_saves_it(folder: Path, _stack: ExitStack) -> Settings:
    settings = settings_in(folder)
    receive_one(settings)
    return settings


def _backups_go_to_no_disk(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder, backup={"folder": folder / "not-mounted"})


def _no_backup_is_good(folder: Path, _stack: ExitStack) -> Settings:
    settings = settings_in(folder, backup={"folder": folder / "backups"})
    (folder / "backups" / "backup-20261129T030000Z").mkdir(parents=True)
    return settings


PLANTED: list[tuple[Callable[[Path, ExitStack], Settings], str, str, str]] = [
    (_spool_is_a_file, "spool", "FAIL", "is not a folder; move it away"),
    (_database_is_gone, "database", "FAIL", "restore a backup (qc-daemon db restore)"),
    (_database_is_garbage, "database", "FAIL", "database"),
    (_service_is_not_running, "service", "warn", "start it with qc-daemon serve"),
    (_bundle_is_not_there, "bundle", "FAIL", "see bundle list"),
    (_device_is_not_there, "device", "FAIL", "cuda:7"),
    (_work_runs_without_models, "device", "FAIL", "install again without --no-models"),
    (_port_is_taken, "receiver", "FAIL", "stop it or change receive.port"),
    (_metrics_port_is_taken, "metrics", "FAIL", "change the host or observe.port"),
    (_web_port_is_taken, "web", "FAIL", "stop it or change web.port"),
    (_nobody_can_log_in, "web", "warn", "qc-daemon user add makes an account"),
    (_receiver_s_key_is_another, "certificate", "FAIL", "receive.tls"),
    (_web_key_is_another, "certificates", "FAIL", "is not of its key"),
    (_hl7_certificate_has_expired, "certificates", "FAIL", "hl7: "),
    (_our_certificate_has_expired, "certificates", "FAIL", "has expired; renew it"),
    (_authority_is_not_there, "certificates", "FAIL", "ca.pem cannot be read"),
    (_pacs_does_not_answer, "destination pacs", "FAIL", "PACS@127.0.0.1"),
    (_pacs_takes_no_reports, "classes pacs", "warn", "takes no structured reports"),
    (_folder_is_not_there, "destination shelf", "FAIL", "not-mounted"),
    (_machine_takes_no_reports, "peers", "FAIL", "correct its port or address, or remove port"),
    (_anybody_may_store, "peers", "warn", "US1 may call from anywhere"),
    (_peer_stands_twice, "peers", "warn", "US1 is listed twice for 10.1.0.0/16; remove one"),
    (_mail_server_does_not_answer, "mail", "FAIL", "the mail server cannot be reached"),
    (_worklist_does_not_answer, "worklist", "FAIL", "the worklist WORKLIST@127.0.0.1"),
    (_mail_password_is_not_there, "mail", "FAIL", "environment variable NO_SUCH_PASSWORD"),
    (_audit_server_is_away, "audit log", "FAIL", "server arr does not answer"),
    (_audit_log_was_spoilt, "audit log", "FAIL", "see qc-daemon audit-log verify"),
    (_backups_go_to_no_disk, "backups", "FAIL", "cannot be used: no such file or directory"),
    (_no_backup_is_good, "backups", "FAIL", "there is no good one"),
    (_nobody_saves_it, "backups", "warn", "qc-daemon db backup FOLDER --with-spool"),
]


@pytest.mark.parametrize(
    ("plant", "check", "word", "message"), PLANTED, ids=[each[0].__name__[1:] for each in PLANTED]
)
def test_a_planted_fault_is_named_with_what_to_do(
    tmp_path: Path,
    plant: Callable[[Path, ExitStack], Settings],
    check: str,
    word: str,
    message: str,
) -> None:
    with ExitStack() as stack:
        result = named(plant(tmp_path, stack), check)
    assert (result.word, result.message) == (word, result.message)
    assert message in result.message


def test_a_slow_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 0 < disk.sync_seconds(tmp_path) < 60
    monkeypatch.setattr(disk, "sync_seconds", lambda _folder: 0.4)
    result = named(settings_in(tmp_path), "disk speed")
    assert (result.word, "400.0 ms" in result.message) == ("warn", True)
    assert "Use a local one" in result.message


def test_a_clock_that_nothing_keeps_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "is_synchronised", lambda: False)
    result = named(settings_in(tmp_path), "clock")
    assert result.word == "warn"
    assert "timedatectl set-ntp true" in result.message
    monkeypatch.undo()
    assert clock.is_synchronised() in (True, False, None)


def test_a_machine_whose_images_are_of_the_future_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = (NOW + timedelta(minutes=47)).strftime("%Y-%m-%dT%H:%M:%S")
    rows = [("VOLUSON1", ahead, "+0000", NOW), ("US2", ahead, "+0100", NOW)]
    monkeypatch.setattr(acquisitions, "newest_stamps", lambda _session, _limit: rows)
    settings = settings_in(tmp_path)
    migrate(settings.store.url)
    result = named(settings, "clock")
    assert result.word == "warn"
    assert "VOLUSON1 by 47 min; set the clock of these machines" in result.message
    assert "US2" not in result.message


@pytest.mark.parametrize(
    ("acquired", "offset", "expected"),
    [
        ("2026-11-30T09:10:00", None, timedelta(0)),
        ("2026-11-30T09:16:00", None, timedelta(minutes=16)),
        ("2026-11-30T09:16:00", "+0200", timedelta(0)),
        ("2026-12-30", None, timedelta(0)),
        (None, None, timedelta(0)),
        ("yesterday at noon or so", None, timedelta(0)),
        ("2026-11-30T09:16:00", "noon", timedelta(0)),
    ],
)
def test_stamps_are_compared_in_their_zone_and_days_are_no_stamps(
    acquired: str | None, offset: str | None, expected: timedelta
) -> None:
    received = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
    rows = [("US1", acquired, offset, received)]
    if acquired == "2026-11-30T09:10:00":
        rows = [("US1", "2026-11-30T09:04:00", offset, received)]
    assert stamps_ahead(rows, UTC).get("US1", timedelta(0)) == expected


def test_an_audit_that_is_overdue_is_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, schedule={"timezone": "Europe/Berlin"})
    assert "audits from 02:00 on (Europe/Berlin)" in named(settings, "schedule").message


def test_a_backup_is_known_by_the_audit_log(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    receive_one(settings)
    recorder.record(settings, AuditKind.EXPORTED, detail={"what": "backup"})
    recorder.record(settings, AuditKind.EXPORTED, detail={"what": "findings"})
    assert "the last one is of" in schedule.check_backups(settings)
    later = datetime.now(UTC) + timedelta(days=30)
    with pytest.raises(schedule.NoticeError, match="make one now"):
        schedule.check_backups(settings, lambda: later)


# Sound installations.


def _fresh(folder: Path, _stack: ExitStack) -> Settings:
    return settings_in(folder)


def _before_a_pacs(folder: Path, stack: ExitStack) -> Settings:
    pacs = stack.enter_context(application("PACS", US, SR, OVERLAY))
    machine = stack.enter_context(application("US1"))
    peer = {"ae_title": "US1", "address": "127.0.0.1", "port": machine}
    objects = ["source", "sr", "overlay"]
    return settings_in(
        folder,
        receive={"port": reserve_port(), "peer": [peer]},
        destination=[{"name": "pacs", "port": pacs, "objects": objects}],
    )


def _running(folder: Path, stack: ExitStack) -> Settings:
    port = stack.enter_context(application("QCDAEMON", ours=True))
    settings = settings_in(folder, receive={"port": port}, web={"port": reserve_port()})
    migrate(settings.store.url)
    add_account(settings, "lee", "lead")
    stack.enter_context(service_lock.shared(settings.store.spool))
    return settings


def _with_web_archive_and_mail(folder: Path, stack: ExitStack) -> Settings:
    web = StowServer().start()
    stack.callback(web.stop)
    authority = Authority.make(folder / "ca", days=400)
    mail_server = SmtpServer(authority.issue("localhost", 400))
    stack.enter_context(mail_server)
    mail = {"host": "127.0.0.1", "port": mail_server.port, "sender": "qc@example.org"}
    return settings_in(
        folder,
        destination=[{"name": "vna", "kind": "dicomweb", "url": web.url}],
        mail=mail | {"ca": authority.certificate},
    )


def _with_tls_and_audit_server(folder: Path, stack: ExitStack) -> Settings:
    authority = Authority.make(folder / "ca")
    own = authority.issue("own", 400)
    pair = {"certificate": own.certificate, "key": own.key}
    server = {"name": "arr", "host": "127.0.0.1", "port": stack.enter_context(listening())}
    return settings_in(
        folder,
        receive={
            "port": reserve_port(),
            "tls": pair | {"mutual": "none", "port": reserve_port()},
        },
        web=pair | {"port": reserve_port()},
        audit_log={"server": [server | pair]},
        schedule={"timezone": "Europe/Berlin"},
    )


def _that_only_receives(folder: Path, stack: ExitStack) -> Settings:
    """Installed with `--no-models`."""
    settings = settings_in(folder)
    stack.enter_context(running_services.announce(settings.store.spool, "1", "a", ["receive"], NOW))
    stack.enter_context(patch.dict(sys.modules, {"torch": None}))
    return settings


@pytest.mark.parametrize(
    "make",
    [
        _fresh,
        _that_only_receives,
        _before_a_pacs,
        _running,
        _with_web_archive_and_mail,
        _with_tls_and_audit_server,
    ],
    ids=lambda each: each.__name__[1:],
)
def test_a_sound_installation_gives_no_alarm(
    tmp_path: Path, make: Callable[[Path, ExitStack], Settings]
) -> None:
    with ExitStack() as stack:
        results = list(examine(make(tmp_path, stack)))
    assert [(each.name, each.message) for each in results if each.word != "ok"] == []
    assert len(results) > 20


CANARY = "CANARY^PATIENT"


def test_what_is_written_for_support_has_no_patient(tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text(
        "[store]\nurl = 'sqlite:///qc.db'\nspool = 'spool'\n"
        "[mail]\nhost = 'mail.example.org'\nsender = 'dr.lee@example.org'\n"
        "[[mail.recipient]]\naddress = 'head@example.org'\n"
    )
    receive_one(load(config), patient_id="CANARY-ID", patient_name=CANARY)
    log = tmp_path / "log.jsonl"
    log.write_text(
        json.dumps({"event": "scored", "exam": 1, "patient": CANARY})
        + f"\n{json.dumps({'event': 'something else', 'reason': CANARY})}\nTraceback: {CANARY}\n"
    )
    out = tmp_path / "help.tar.gz"
    result = qc_daemon_here(
        "doctor", "--config", config, "--support", out, "--log", log, "--check", "database"
    )
    assert f"{out}: written" in result.stderr
    assert out.stat().st_mode & 0o077 == 0
    files = {}
    with tarfile.open(out) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            files[Path(member.name).name] = content.read().decode()
    assert set(files) == {
        "checks.json",
        "settings.json",
        "versions.json",
        "counts.json",
        "audit-log.json",
        "log.json",
    }
    everything = "".join(files.values())
    for private in (CANARY, "CANARY-ID", "dr.lee", "head@example.org"):
        assert private not in everything
    assert json.loads(files["counts.json"])["rows"]["exam"] == 1
    lines = json.loads(files["log.json"])
    assert (len(lines["lines"]), lines["left_out"]) == (1, 2)
    assert lines["lines"][0]["dropped"] == ["patient"]


def test_one_check_can_be_asked_for(tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text("")
    result = qc_daemon_here("doctor", "--config", config, "--check", "spool")
    assert result.stdout.splitlines()[0].startswith("ok   spool:")
    assert len(result.stdout.splitlines()) == 1
    result = qc_daemon_here("doctor", "--config", config, "--check", "weather")
    assert (result.returncode, "--check weather: give one of spool" in result.stderr) == (2, True)
    result = qc_daemon_here("doctor", "--config", config, "--log", config)
    assert result.returncode == 2

"""Each alert fires when its fault is caused, and clears when it is mended.

The metrics are those of the real endpoint before, with and after the fault; promtool evaluates the
shipped rules on them over ten hours.
"""

import contextlib
import json
import os
import subprocess
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail import forwarding, recorder
from qc_daemon.audit_trail.chain import segments
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.forwarding import Forwarder
from qc_daemon.audit_trail.recorder import chain_folder, source_of
from qc_daemon.audit_trail.syslog import SyslogError
from qc_daemon.dicom.storage_commitment import Reference
from qc_daemon.observe import counters
from qc_daemon.observe.counters import SharedCounters
from qc_daemon.observe.machine_watch import MachineWatch
from qc_daemon.observe.metrics import Process
from qc_daemon.receive.back_pressure import BackPressure
from qc_daemon.records.commitment import scp
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import receipts, revisions
from qc_daemon.records.results import audits, destinations, digests
from qc_daemon.records.tables import CommitmentState, JobRow, JobState
from qc_daemon.settings import PressureSettings
from tests.support.certificates import Authority, Pair
from tests.support.environment import ROOT
from tests.support.observed_service import ObservedService
from tests.support.receipts import numbered_receipt

RULES = ROOT / "deploy" / "prometheus" / "qc-daemon.rules.yml"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STEP_MINUTES = 5
# Steps of each phase: half an hour sound, an hour and a half of fault, eight hours and more mended.
SOUND, FAULT, MENDED = 7, 18, 100

# Its objects are this one scenario's only.
MACHINE = "LOGIQ1"

Series = dict[str, float]


class Clinic:
    """A service that is watched, and the ways to disturb it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.make(folder / "authority")
        self.certificate = self.authority.issue("ours", days=400)
        self.folder = folder
        self.numbers = count(1)
        self.observed = ObservedService.make(
            folder,
            receive={
                "peer": [{"ae_title": MACHINE, "address": "10.0.0.0/8"}],
                "tls": {
                    "certificate": self.certificate.certificate,
                    "key": self.certificate.key,
                    "mutual": "none",
                },
            },
            schedule={"timezone": "UTC"},
            backup={"folder": folder / "backups"},
            audit_log={"server": [{"name": "arr", "host": "127.0.0.1"}]},
        ).start()
        # OpenSSL knows only the machine's clock.
        self.now = self.observed.now = datetime.now(UTC)
        self.free_share = 0.5
        self.quarantined = 0
        counters.use(self.observed.shared, 9)

    @property
    def store(self) -> Any:
        return self.observed.store

    def close(self) -> None:
        counters.use(SharedCounters.create(), 0)
        self.observed.close()

    def scrape(self) -> Series:
        """Each sample by its series; moments count from now, where promtool's time begins."""
        labels = {"job": "qc-daemon", "instance": "here:9404"}
        try:
            samples = self.observed.samples()
        except urllib.error.URLError:
            return {series("up", labels): 0.0}
        values = {series("up", labels): 1.0}
        for each in samples:
            is_moment = each.name.endswith("_timestamp_seconds") and each.value != 0
            origin = self.now.timestamp() if is_moment else 0.0
            values[series(each.name, labels | each.labels)] = each.value - origin
        return values

    def receive(self, ago: timedelta, *to: str, calling_ae: str = "VOLUSON1") -> receipts.Admission:
        """An object that came so long ago, to be sent to these destinations."""
        receipt = numbered_receipt(next(self.numbers), calling_ae=calling_ae)
        with self.store.begin() as session:
            return receipts.admit(
                session,
                receipt,
                source_destinations=to,
                bundle_id=None,
                now=self.now - ago,
            )

    def finish_jobs(self, kind: str | None = None) -> None:
        """Whatever is to be done is done."""
        statement = update(JobRow).values(state=JobState.DONE)
        with self.store.begin() as session:
            session.execute(statement if kind is None else statement.where(JobRow.kind == kind))

    def audit(self, number: int, ago: timedelta, *drifting: str, fails: bool = False) -> None:
        """A nightly audit of a date, later for a larger number, that ended so long ago."""
        now, date = self.now - ago, f"2026-10-{number:02}"
        with self.store.begin() as session:
            audits.queue(session, audits.NIGHTLY, date, now)
            audits.restart(session, audits.NIGHTLY, date, None, now)
            claimed = audits.claim(session, "owner", now, 60, only=(audits.NIGHTLY, date))
            assert claimed is not None
            if fails:
                assert audits.fail(session, claimed, "internal", "no answer", now)
                return
            drift = [{"kind": "device", "id": each, "flag": "alarm"} for each in drifting]
            steady = {"kind": "device", "id": "d0", "flag": None}
            content = {"data_sha256": "0" * 64, "drift": [steady, *drift]}
            assert audits.finish(session, claimed, content, now)


def series(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ", ".join(f"{k}={json.dumps(v)}" for k, v in sorted(labels.items())) + "}"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    instance = Clinic(tmp_path_factory.mktemp("alerts"))
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        if Path(path) != instance.folder:
            return real(path)
        size = real(path).f_frsize
        return SimpleNamespace(f_frsize=size, f_blocks=1000, f_bavail=1000 * instance.free_share)

    with pytest.MonkeyPatch.context() as patch:
        # A disk that can be filled in no time.
        patch.setattr("os.statvfs", statvfs)
        yield instance
    instance.close()


class Scenario:
    """A fault: how it is caused, and mended where it does not pass by itself."""

    def __init__(
        self,
        alert: str,
        cause: Callable[[Clinic], object],
        mend: Callable[[Clinic], object] = lambda _clinic: None,
    ) -> None:
        self.alert, self.cause, self.mend = alert, cause, mend


def set_gauge(name: str, value: float) -> Callable[[Clinic], object]:
    return lambda _clinic: counters.set(name, value)


def count_up(name: str, times: int) -> Callable[[Clinic], object]:
    return lambda _clinic: counters.add(name, times)


def become(role: str, **changes: Any) -> Callable[[Clinic], object]:
    def change(clinic: Clinic) -> None:
        processes = clinic.observed.processes
        index = next(i for i, each in enumerate(processes) if each.role == role)
        facts = {"running": True, "ready": True, "restarts": 0} | changes
        processes[index] = Process(role, **facts)

    return change


def lose_database(clinic: Clinic) -> None:
    clinic.store.close()
    file = clinic.folder / "qc.db"
    file.rename(clinic.folder / "away.db")
    file.mkdir()


def return_database(clinic: Clinic) -> None:
    clinic.store.close()
    (clinic.folder / "qc.db").rmdir()
    (clinic.folder / "away.db").rename(clinic.folder / "qc.db")


def press(soft: float, hard: float) -> Callable[[Clinic], object]:
    """The disk is measured with marks at so many percent free."""

    def measure(clinic: Clinic) -> None:
        marks = PressureSettings(
            soft_free_percent=soft,
            hard_free_percent=hard,
            soft_free_megabytes=10**6,
            hard_free_megabytes=10**6,
            soft_queue_minutes=0,
            hard_queue_minutes=0,
        )
        BackPressure(marks, clinic.folder, clinic.store).level()

    return measure


def fill_disk(clinic: Clinic) -> None:
    clinic.free_share = 0.1


def free_disk(clinic: Clinic) -> None:
    clinic.free_share = 0.5


def leave_late_delivery(clinic: Clinic) -> None:
    clinic.receive(2 * HOUR, "pacs")
    clinic.finish_jobs("score")


def give_up_delivery(clinic: Clinic) -> None:
    clinic.receive(timedelta(minutes=1), "pacs")
    clinic.finish_jobs("score")
    with clinic.store.begin() as session:
        pending = [each.id for each in jobs.listing(session, states=[JobState.READY])]
        assert jobs.cancel(session, pending, clinic.now) == 1


def quarantine(clinic: Clinic) -> None:
    admission = clinic.receive(timedelta(minutes=1))
    clinic.finish_jobs()
    with clinic.store.begin() as session:
        revisions.quarantine(
            session, admission.revision_id, ErrorCode.TRUNCATED, "cut short", clinic.now
        )
    clinic.quarantined = admission.revision_id


def dismiss(clinic: Clinic) -> None:
    with clinic.store.begin() as session:
        assert revisions.dismiss(
            session,
            clinic.quarantined,
            reason="sent again",
            dismissed_by="Lee",
            now=clinic.now,
        )


def lose_destination(clinic: Clinic) -> None:
    error = QCError(ErrorCode.DELIVERY_FAILED, "not reached")
    with clinic.store.begin() as session:
        destinations.record_failure(session, "pacs", error, clinic.now - timedelta(minutes=20))


def reach_destination(clinic: Clinic) -> None:
    with clinic.store.begin() as session:
        destinations.record_success(session, "pacs")


def give_up_commitment(clinic: Clinic) -> None:
    now = clinic.now
    policy = RetryPolicy(max_attempts=1, backoff_seconds=1, backoff_cap_seconds=1)
    request = scp.Request("1.2.9", "VOLUSON1", "10.0.0.1", "a", (Reference("1.2", "1.2.3"),))
    with clinic.store.begin() as session:
        assert scp.record_request(session, request, now - HOUR)
        claimed = scp.claim(session, CommitmentState.WAITING, "owner", now, 60)
        assert claimed is not None
        state = scp.record_failed_report(session, claimed, "refused", now, policy, Random(1))
        assert state is CommitmentState.DEAD


def requeue_commitment(clinic: Clinic) -> None:
    with clinic.store.begin() as session:
        (dead,) = scp.listing(session, [CommitmentState.DEAD])
        assert scp.requeue(session, [dead.id], clinic.now) == 1


def install(days: int) -> Callable[[Clinic], object]:
    def issue(clinic: Clinic) -> None:
        pair: Pair = clinic.authority.issue(f"for-{days}", days=days)
        clinic.certificate.install(pair)

    return issue


def silence_machine(clinic: Clinic) -> None:
    """It sent at each of these hours in the weeks before, and today it does not."""
    for week in range(1, 5):
        for hour in range(1, 7):
            clinic.receive(week * 7 * DAY + hour * HOUR, calling_ae=MACHINE)
    clinic.receive(7 * HOUR, calling_ae=MACHINE)
    clinic.finish_jobs()
    watch_machines(clinic)


def hear_machine(clinic: Clinic) -> None:
    clinic.receive(timedelta(0), calling_ae=MACHINE)
    clinic.finish_jobs()
    watch_machines(clinic)


def watch_machines(clinic: Clinic) -> None:
    watch = MachineWatch(clinic.observed.settings, clinic.store, lambda: clinic.now)
    watch.check()
    clinic.observed.machines = watch.machines()


def count_findings(clinic: Clinic) -> None:
    for flags in (["out-of-distribution"],) * 30 + ([],) * 5:
        counters.count_finding("NT", "review", flags)


def give_up_digest(clinic: Clinic) -> None:
    clinic.audit(8, HOUR)
    recipient = digests.Recipient("mail", "lab@example.org")
    with clinic.store.begin() as session:
        digests.create_for_newest(session, audits.NIGHTLY, [recipient], clinic.now)
        (row,) = digests.listing(session)
        digests.mark_failed(session, row.id, QCError(ErrorCode.DELIVERY_FAILED, "no"), None)


def send_digest(clinic: Clinic) -> None:
    with clinic.store.begin() as session:
        (row,) = digests.listing(session)
        digests.retry(session, [row.id], clinic.now)
        session.flush()
        digests.mark_sent(session, row.id, clinic.now)


def segment(clinic: Clinic) -> Path:
    return segments(chain_folder(clinic.observed.settings))[0]


def tamper(clinic: Clinic) -> None:
    recorder.record(clinic.observed.settings, AuditKind.START, detail={"roles": "receive"})
    file = segment(clinic)
    file.write_bytes(file.read_bytes().replace(b"receive", b"deceive", 1))
    clinic.observed.audit_log_watch.check()


def untamper(clinic: Clinic) -> None:
    file = segment(clinic)
    file.write_bytes(file.read_bytes().replace(b"deceive", b"receive", 1))
    clinic.observed.audit_log_watch.check()


class Repository:
    """An audit record repository that can be away."""

    def __init__(self) -> None:
        self.is_away = True

    def send(self, messages: Sequence[bytes]) -> None:
        if self.is_away:
            raise SyslogError("connection refused")

    def close(self) -> None:
        pass


def forward(clinic: Clinic, repository: Repository) -> None:
    settings = clinic.observed.settings
    (server,) = settings.audit_log.server
    forwarder = Forwarder(chain_folder(settings), source_of(settings), server, repository)
    with contextlib.suppress(SyslogError):
        forwarder.send_batch()


def lose_repository(clinic: Clinic) -> None:
    forwarding.begin(clinic.observed.settings)
    recorder.record(clinic.observed.settings, AuditKind.START)
    forward(clinic, Repository())


def reach_repository(clinic: Clinic) -> None:
    repository = Repository()
    repository.is_away = False
    forward(clinic, repository)


SCENARIOS = [
    Scenario("Down", lambda c: c.observed.stop(), lambda c: c.observed.start()),
    Scenario("DatabaseDown", lose_database, return_database),
    Scenario("ProcessNotReady", become("work", ready=False), become("work")),
    Scenario("ProcessRestarts", become("work", restarts=6), become("work", restarts=6)),
    Scenario("ReceivingStopped", press(90, 80), press(2, 1)),
    Scenario("ReceivingHeldBack", press(90, 1), press(2, 1)),
    Scenario("DiskFills", fill_disk, free_disk),
    Scenario("ObjectsRefused", lambda _: counters.count_refused(0xA700)),
    Scenario("CallersRejected", count_up("rejected_unknown", 1)),
    Scenario("AssociationsExhausted", count_up("rejected_busy", 20)),
    Scenario("JobsLate", lambda c: c.receive(HOUR), lambda c: c.finish_jobs()),
    Scenario("DeliveriesLate", leave_late_delivery, lambda c: c.finish_jobs()),
    Scenario("JobsFail", lambda _: [counters.count_job_failure("score") for _ in range(20)]),
    Scenario("JobsDead", give_up_delivery, lambda c: c.finish_jobs()),
    Scenario("ObjectsQuarantined", quarantine, dismiss),
    Scenario("DestinationFails", lose_destination, reach_destination),
    Scenario("CommitmentsDead", give_up_commitment, requeue_commitment),
    Scenario("SpoolDamaged", set_gauge("spool_missing", 1), set_gauge("spool_missing", 0)),
    Scenario("SpoolDamaged", count_up("spool_damaged", 1)),
    Scenario(
        "ScrubOverdue",
        lambda c: counters.set("scrub_finished", (c.now - 4 * DAY).timestamp()),
        lambda c: counters.set("scrub_finished", (c.now + DAY).timestamp()),
    ),
    Scenario(
        "BackupOverdue",
        lambda c: counters.set("backup_finished", (c.now - 40 * HOUR).timestamp()),
        lambda c: counters.set("backup_finished", (c.now + 8 * HOUR).timestamp()),
    ),
    Scenario("CertificateExpires", install(20), install(401)),
    Scenario("MachineQuiet", silence_machine, hear_machine),
    Scenario(
        "ReviewsLate",
        lambda c: counters.set("reviews_oldest", (c.now - 15 * DAY).timestamp()),
        set_gauge("reviews_oldest", 0),
    ),
    Scenario("PromiseBroken", set_gauge("promises_broken", 1), set_gauge("promises_broken", 0)),
    Scenario(
        "SiteNotCalibrated",
        set_gauge("sites_commissioning", 1),
        set_gauge("sites_commissioning", 0),
    ),
    Scenario("UnfamiliarImages", count_findings),
    Scenario("AuditFailed", lambda c: c.audit(1, HOUR, fails=True), lambda c: c.audit(2, HOUR)),
    Scenario("Drift", lambda c: c.audit(3, HOUR, "d1"), lambda c: c.audit(4, HOUR)),
    Scenario("AuditOverdue", lambda c: c.audit(5, 40 * HOUR), lambda c: c.audit(6, HOUR)),
    Scenario("DigestsDead", give_up_digest, send_digest),
    Scenario("AuditLogBroken", tamper, untamper),
    Scenario("AuditLogNotSent", lose_repository, reach_repository),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.alert)
def test_the_alert_fires_with_its_fault_and_clears_without(
    clinic: Clinic, scenario: Scenario, tmp_path: Path
) -> None:
    sound = clinic.scrape()
    scenario.cause(clinic)
    fault = clinic.scrape()
    scenario.mend(clinic)
    mended = clinic.scrape()
    evaluate(tmp_path, sound, fault, mended, ["QcDaemon" + scenario.alert])


def evaluate(folder: Path, sound: Series, fault: Series, mended: Series, fires: list[str]) -> None:
    """Have promtool judge the phases: none fires in the first, exactly these in the second, and
    none at the end of the third."""
    ends = [SOUND, SOUND + FAULT, SOUND + FAULT + MENDED]
    minutes = [(end - 1) * STEP_MINUTES for end in ends]
    firing = 'ALERTS{alertstate="firing"}'
    during = f"max_over_time({firing}[{(FAULT - 1) * STEP_MINUTES}m])"
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP_MINUTES}m",
        "tests": [
            {
                "interval": f"{STEP_MINUTES}m",
                "input_series": [
                    {"series": each, "values": values(each, sound, fault, mended)}
                    for each in sorted({*sound, *fault, *mended})
                ],
                "promql_expr_test": [
                    expected(firing, minutes[0], []),
                    expected(during, minutes[1], fires),
                    expected(firing, minutes[2], []),
                ],
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(test))
    run = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def values(name: str, *phases: Series) -> str:
    """The values of a series: those of each phase, as often as it has steps."""
    parts = []
    for phase, steps in zip(phases, (SOUND, FAULT, MENDED), strict=True):
        value = phase.get(name)
        parts.append(f"_x{steps}" if value is None else f"{value:.6f}+0x{steps - 1}")
    return " ".join(parts)


def expected(expression: str, minute: int, alerts: list[str]) -> dict[str, Any]:
    return {
        "expr": f"group by (alertname) ({expression})",
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": f'{{alertname="{each}"}}', "value": 1} for each in alerts],
    }


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def test_each_alert_has_its_fault_here() -> None:
    assert {rule["alert"] for rule in rules()} == {"QcDaemon" + each.alert for each in SCENARIOS}


def test_each_alert_has_a_runbook_line_and_no_line_is_of_another() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    lines = [line.split("|")[1].strip(" `") for line in text.splitlines() if "| `QcD" in line]
    assert lines == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == "docs/alerts.md"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_rules_and_configuration_pass_promtool() -> None:
    for command in (
        ["promtool", "check", "rules", str(RULES)],
        ["promtool", "check", "config", str(RULES.parent / "prometheus.yml")],
    ):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr

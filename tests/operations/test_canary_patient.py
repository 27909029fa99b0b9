"""A patient who is in no output of audits: mail, call, log, metric, report, export, file name."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars
import pytest

from qc_daemon.observe import counters
from qc_daemon.observe.counters import SharedCounters
from qc_daemon.operations.audit_reports import ReportPeriod
from qc_daemon.operations.audits import run_audit
from qc_daemon.operations.digests import send_due
from qc_daemon.settings import MailRecipient, MailSettings, WebhookSettings
from tests.support import pdf
from tests.support.audited_exam import CANARIES, AuditedExam
from tests.support.command_line import qc_daemon_here
from tests.support.observed_service import ObservedService
from tests.support.scored_exam import START
from tests.support.webhook_server import webhook_server

if "QC_REQUIRE_ALL" not in os.environ:
    pytest.importorskip("aiosmtpd")
from tests.support.smtp_server import SmtpServer

DAY = START.date().isoformat()


class Outputs:
    """All that a lab gets of an audit of pictures of these patients, as text by what it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.audited = AuditedExam(folder / "site")
        self.audited.reviewed.accept(1, 2)
        self.settings = self.audited.settings
        run_audit(self.settings, DAY, clock=lambda: START + timedelta(days=2))
        self.config = folder / "qc-daemon.toml"
        store = self.settings.store
        self.config.write_text(
            f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n'
            f'[audit_log]\nfolder = "{folder / "audit-log"}"\n'
        )

    def reports(self) -> Iterator[tuple[str, str]]:
        period = ReportPeriod.parse(DAY, DAY)
        targets = {
            "person": self.audited.person,
            "device": self.audited.device,
            "site": "St. Anna",
        }
        for kind, id in targets.items():
            for format in ("html", "json", "pdf"):
                path = self.folder / f"{kind}.{format}"
                path.write_bytes(self.audited.report(format, period, **{kind: id}))
                text = pdf.text(path) if format == "pdf" else path.read_text()
                yield f"report of a {kind}, {format}", text

    def exports(self) -> Iterator[tuple[str, str]]:
        for what in ("findings", "reviews", "audits"):
            for format in ("csv", "jsonl", "parquet"):
                out = self.folder / f"{what}.{format}"
                arguments = ("export", what, "--format", format, "--out", out, "-c", self.config)
                done = qc_daemon_here(*arguments)
                assert done.returncode == 0, done.stderr
                if format == "parquet":
                    text = str(polars.read_parquet(out).to_dicts())
                else:
                    text = out.read_text()
                yield f"export of {what}, {format}", text + done.stdout + done.stderr

    def shown(self) -> Iterator[tuple[str, str]]:
        for line in (
            ("audit", "show", DAY),
            ("audit", "show", DAY, "--format", "json"),
            ("audit", "list", "--format", "json"),
            ("person", "list"),
            ("device", "list"),
        ):
            done = qc_daemon_here(*line, "-c", self.config)
            assert done.returncode == 0, done.stderr
            yield " ".join(line), done.stdout + done.stderr

    def digests(self, folder: Path) -> Iterator[tuple[str, str]]:
        (folder / "key").write_text("secret\n")
        with SmtpServer() as mails, webhook_server() as hook:
            self.settings.mail = MailSettings(
                host="127.0.0.1",
                port=mails.port,
                security="none",
                sender="qc@example.org",
                per_minute=6000,
                recipient=[
                    MailRecipient(address="lead@example.org"),
                    MailRecipient(address="anna@example.org", person=self.audited.person),
                ],
            )
            self.settings.webhook = [
                WebhookSettings(name="board", url=hook.url, secret=f"file:{folder / 'key'}")
            ]
            store = self.audited.reviewed.exam.store
            outcome = send_due(self.settings, store, lambda: START, lambda _seconds: False)
        assert outcome.sent == 3
        for mail in mails.mails:
            yield f"mail to {mail['To']}", f"{mail.as_string()}\n{mail.get_content()}"
        [(headers, body)] = hook.calls
        yield "webhook", f"{headers} {body.decode()}"

    def metrics(self) -> tuple[str, str]:
        store = self.audited.reviewed.exam.store
        shared = SharedCounters.create(counters.delivery_names(["pacs"]))
        service = ObservedService(self.settings, store, shared).start()
        try:
            return "metrics", service.get("/metrics")[1]
        finally:
            service.stop()

    def file_names(self) -> tuple[str, str]:
        return "file names", "\n".join(str(path) for path in self.folder.rglob("*"))


def test_a_patient_is_in_no_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outputs = Outputs(tmp_path)
    texts = dict(outputs.reports())
    texts |= dict(outputs.exports())
    texts |= dict(outputs.shown())
    texts |= dict(outputs.digests(tmp_path))
    texts |= dict([outputs.metrics(), outputs.file_names()])
    assert all(texts.values()), [name for name, text in texts.items() if not text]
    texts["log"] = "".join(capfd.readouterr())
    outputs.audited.reviewed.exam.store.close()
    # They are in what was received: of a patient whom nobody sent all this would say nothing.
    objects = b"".join(path.read_bytes() for path in outputs.audited.reviewed.paths.values())
    for canary in CANARIES:
        assert canary.replace("1987-12-31", "19871231").encode() in objects, canary
        assert not [name for name, text in texts.items() if canary in text], canary

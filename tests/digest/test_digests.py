"""Digests of audits: once for each recipient and audit, over a real mail server and over HTTP."""

import hmac
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from detector.console import UsageError
from qc_daemon.digest.message import Digest, mail_message, signature_headers
from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.language.wording import Wording
from qc_daemon.operations.digests import list_digests, retry_digests, send_due, send_now
from qc_daemon.operations.doctor import examine
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AuditRow, AuditState, DigestRow
from qc_daemon.settings import (
    MailRecipient,
    MailSettings,
    Settings,
    SettingsError,
    StoreSettings,
    WebhookSettings,
    checked,
)
from qc_daemon.settings.observe import AuditLogSettings
from tests.support.certificates import Authority
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate
from tests.support.webhook_server import WebhookServer, webhook_server

if "QC_REQUIRE_ALL" not in os.environ:
    pytest.importorskip("aiosmtpd")
from tests.support.smtp_server import PASSWORD, USER, SmtpServer

NOW = datetime(2026, 6, 29, 3, 0, tzinfo=UTC)
LEAD, ANNA = "lead@example.org", "anna@example.org"


class Lab:
    """A store with audits, and settings that send to a lead and to one person."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.now = NOW
        url = url or f"sqlite:///{folder / 'qc.db'}"
        migrate(url)
        self.settings = Settings(
            store=StoreSettings(url=url, spool=folder),
            audit_log=AuditLogSettings(folder=folder / "audit-log"),
        )
        self.store = Store(url)
        self.audit("2026-06-27")
        self.audit("2026-06-28")

    def audit(self, day: str, state: AuditState = AuditState.DONE) -> None:
        with self.store.begin() as session:
            session.add(
                AuditRow(
                    name="nightly",
                    local_date=day,
                    state=state,
                    data_sha256="ab" * 32,
                    created_at=self.now,
                    updated_at=self.now,
                )
            )

    def mail(self, port: int, **values: Any) -> None:
        self.settings.mail = MailSettings(
            **{
                "host": "127.0.0.1",
                "port": port,
                "security": "none",
                "sender": "qc@example.org",
                "per_minute": 6000,
                "recipient": [
                    MailRecipient(address=LEAD),
                    MailRecipient(address=ANNA, person="p1680f6b9", language="de"),
                ],
                **values,
            }
        )

    def send(self) -> int:
        return send_due(self.settings, self.store, lambda: self.now, lambda _seconds: False).sent

    def states(self) -> dict[str, tuple[str, int]]:
        rows = list_digests(self.settings)
        return {row["recipient"]: (row["state"], row["attempts"]) for row in rows}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.store.close()


def test_each_recipient_gets_one_mail_for_an_audit(lab: Lab) -> None:
    lab.audit("2026-06-29", AuditState.WAITING)
    with SmtpServer() as server:
        lab.mail(server.port)
        assert [lab.send(), lab.send()] == [2, 0]
        assert [(m["To"], m["From"]) for m in server.mails] == [
            (LEAD, "qc@example.org"),
            (ANNA, "qc@example.org"),
        ]
        lead, anna = (mail.get_content() for mail in server.mails)
        assert "qc-daemon audit show 2026-06-28" in lead
        assert "qc-daemon report --person p1680f6b9 --to 2026-06-28" in anna
        assert server.mails[1]["Subject"] == "Bildqualität: Audit vom 2026-06-28"
        lab.audit("2026-06-30")
        assert lab.send() == 2
    # The audit before was never caught up with.
    assert {row["date"] for row in list_digests(lab.settings)} == {"2026-06-28", "2026-06-30"}


def test_a_mail_has_a_link_and_no_number_of_anybody(lab: Lab) -> None:
    with SmtpServer() as server:
        lab.mail(server.port, link="https://qc.example.org")
        lab.send()
        anna = server.mails[1].get_content()
    assert "https://qc.example.org/people/p1680f6b9?day=2026-06-28" in anna
    assert "%" not in anna


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_processes_send_each_digest_once(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else None
    lab = Lab(tmp_path, url)
    many = [MailRecipient(address=f"a{number}@example.org") for number in range(12)]
    with SmtpServer() as server:
        lab.mail(server.port, recipient=many)
        threads = [threading.Thread(target=lab.send) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Whoever lost a race leaves the rest to the next minute.
        lab.send()
        assert sorted(mail["To"] for mail in server.mails) == sorted(m.address for m in many)
    lab.store.close()


def test_starttls_and_login(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.make(tmp_path / "ca")
    monkeypatch.setenv("QC_TEST_MAIL", PASSWORD)
    with SmtpServer(certificate=authority.issue("mail"), needs_login=True) as server:
        secure = {
            "host": "localhost",
            "security": "starttls",
            "user": USER,
            "password": "env:QC_TEST_MAIL",
        }
        lab.mail(server.port, **secure, ca=authority.certificate)
        assert lab.send() == 2
        assert server.was_secret == [True, True]


def test_a_server_that_cannot_be_trusted_gets_nothing(lab: Lab, tmp_path: Path) -> None:
    authority, other = Authority.make(tmp_path / "ca"), Authority.make(tmp_path / "other")
    with SmtpServer(certificate=authority.issue("mail")) as server:
        lab.mail(server.port, host="localhost", security="starttls", ca=other.certificate)
        assert lab.send() == 0
        assert not server.mails
    errors = {row["error"] for row in list_digests(lab.settings)}
    assert all("cannot be trusted" in error for error in errors)


def test_a_server_without_starttls_gets_nothing(lab: Lab) -> None:
    with SmtpServer() as server:
        lab.mail(server.port, security="starttls")
        assert lab.send() == 0
        assert not server.mails


def test_a_wrong_password_is_tried_again_and_never_told(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.make(tmp_path / "ca")
    monkeypatch.setenv("QC_TEST_MAIL", "wrong-one")
    with SmtpServer(certificate=authority.issue("mail"), needs_login=True) as server:
        lab.mail(
            server.port,
            host="localhost",
            security="starttls",
            ca=authority.certificate,
            user=USER,
            password="env:QC_TEST_MAIL",
        )
        lab.send()
        assert lab.states()[LEAD] == ("ready", 1)
        rows = str(list_digests(lab.settings))
        assert "refused user or password" in rows
        assert "wrong-one" not in rows
        monkeypatch.delenv("QC_TEST_MAIL")
        lab.now += timedelta(hours=2)
        lab.send()
        assert "mail.password is not in the environment variable QC_TEST_MAIL" in str(
            list_digests(lab.settings)
        )


def test_what_is_put_off_is_tried_again_later(lab: Lab) -> None:
    with SmtpServer(answers=["451 later"]) as server:
        lab.mail(server.port)
        assert lab.send() == 1
        assert lab.states() == {LEAD: ("ready", 1), ANNA: ("sent", 1)}
        assert lab.send() == 0
        lab.now += timedelta(hours=2)
        assert lab.send() == 1
        assert lab.states()[LEAD] == ("sent", 2)


def test_what_is_refused_is_given_up_until_a_person_retries(lab: Lab) -> None:
    with SmtpServer(answers=["550 no such user"]) as server:
        lab.mail(server.port)
        lab.send()
        assert lab.states()[LEAD] == ("dead", 1)
        dead = next(row for row in list_digests(lab.settings) if row["state"] == "dead")
        assert dead["error"] == "the mail server refused it (550)"
        outcome = retry_digests(lab.settings, [dead["id"], 99], lambda: lab.now)
        assert (outcome.count, outcome.problems) == (1, ("no digest 99; see digest list",))
        assert lab.send() == 1


def test_doctor_says_what_was_not_sent(lab: Lab) -> None:
    def result() -> tuple[str, str]:
        checks = {each.name: each for each in examine(lab.settings)}
        return checks["digests"].word, checks["digests"].message

    with SmtpServer(answers=["451 later", "250 OK", "550 no"]) as server:
        lab.mail(server.port)
        lab.send()
        assert result() == ("warn", "1 digest is tried again: the mail server put it off (451)")
        lab.now += timedelta(hours=2)
        lab.send()
        word, message = result()
        assert word == "warn"
        assert "1 digest was given up, the last one: the mail server refused it (550)" in message
        retry_digests(lab.settings, [1], lambda: lab.now)
        lab.send()
        assert result() == ("ok", "2 digests sent")


def test_a_server_that_is_away_is_waited_for_and_given_up_at_last(lab: Lab) -> None:
    with SmtpServer() as server:
        port = server.port
    lab.mail(port)
    lab.settings.jobs.max_attempts = 3
    for _ in range(4):
        assert lab.send() == 0
        lab.now += timedelta(days=1)
    assert lab.states() == {LEAD: ("dead", 3), ANNA: ("dead", 3)}
    assert "cannot be reached" in str(list_digests(lab.settings))


def test_the_command_fails_in_one_line_where_a_digest_could_not_be_sent(
    lab: Lab, tmp_path: Path
) -> None:
    config = tmp_path / "qc.toml"

    def send(port: int) -> tuple[int, str, str]:
        config.write_text(
            f'[store]\nurl = "{lab.settings.store.url}"\nspool = "{tmp_path}"\n[mail]\n'
            f'host = "127.0.0.1"\nport = {port}\nsecurity = "none"\nsender = "qc@example.org"\n'
            f'per_minute = 6000\nrecipient = [{{address = "{LEAD}"}}, {{address = "{ANNA}"}}]\n'
        )
        done = qc_daemon_here("digest", "send", "--config", config)
        return done.returncode, done.stdout, done.stderr

    with SmtpServer() as server:
        away = server.port
    assert send(away) == (
        1,
        "",
        "error: 0 sent; 2 digests could not be: the mail server cannot be reached"
        " (ConnectionRefusedError); digest list says when each is tried again\n",
    )
    assert lab.states() == {LEAD: ("ready", 1), ANNA: ("ready", 1)}
    with lab.store.begin() as session:
        session.execute(update(DigestRow).values(next_at=NOW))
    with SmtpServer(answers=["451 later"]) as server:
        status, out, line = send(server.port)
        assert (status, out, line.count("\n")) == (1, "", 1)
        assert line.startswith("error: 1 sent; 1 digest could not be: the mail server put it off")
        audit = "of the audit of 2026-06-28"
        assert send(server.port)[1] == (
            f"nothing is due: {audit} 1 digest was sent already, 1 digest is to be tried again;"
            " see digest list\n"
        )
        with lab.store.begin() as session:
            session.execute(update(DigestRow).values(next_at=NOW))
        assert send(server.port) == (0, "1 sent; see digest list\n", "")
        assert send(server.port) == (
            0,
            f"nothing is due: {audit} 2 digests were sent already; see digest list\n",
            "",
        )
        assert sorted(mail["To"] for mail in server.mails) == [ANNA, LEAD]


def test_no_more_than_so_many_go_in_a_minute(lab: Lab) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 1

    with SmtpServer() as server:
        lab.mail(server.port, per_minute=20)
        assert send_due(lab.settings, lab.store, lambda: lab.now, wait).sent == 1
    assert waits == [3.0]


def test_who_was_removed_from_the_settings_gets_nothing(lab: Lab) -> None:
    with SmtpServer(answers=["451 later", "451 later"]) as server:
        lab.mail(server.port)
        lab.send()
        lab.mail(server.port, recipient=[MailRecipient(address=LEAD)])
        lab.now += timedelta(hours=2)
        assert lab.send() == 1
    assert lab.states()[ANNA] == ("dead", 2)


@pytest.fixture
def hook() -> Iterator[WebhookServer]:
    with webhook_server() as hook:
        yield hook


def test_a_webhook_is_called_once_and_signed(lab: Lab, hook: WebhookServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("top secret\n")
    lab.settings.webhook = [
        WebhookSettings(name="board", url=hook.url, secret=f"file:{tmp_path / 'key'}")
    ]
    hook.answers = [503]
    assert lab.send() == 0
    lab.now += timedelta(hours=2)
    assert [lab.send(), lab.send()] == [1, 0]
    assert len(hook.calls) == 2
    headers, body = hook.calls[1]
    assert json.loads(body) == {
        "event": "audit",
        "audit": "nightly",
        "date": "2026-06-28",
        "data_sha256": "ab" * 32,
        "link": None,
    }
    timestamp = headers["X-QC-Timestamp"]
    assert int(timestamp) == int(lab.now.timestamp())
    signed = hmac.new(b"top secret", timestamp.encode() + b"." + body, "sha256").hexdigest()
    assert headers["X-QC-Signature"] == f"sha256={signed}"


@pytest.mark.parametrize(("status", "state"), [(404, "dead"), (301, "dead"), (429, "ready")])
def test_what_a_webhook_answers(
    lab: Lab, hook: WebhookServer, status: int, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QC_TEST_HOOK", "key")
    lab.settings.webhook = [WebhookSettings(name="b", url=hook.url, secret="env:QC_TEST_HOOK")]
    hook.answers = [status]
    assert lab.send() == 0
    assert lab.states() == {"b": (state, 1)}


def test_another_body_or_time_has_another_signature() -> None:
    first = signature_headers(b"{}", "key", 1)
    assert signature_headers(b"{}", "key", 1) == first
    for other in (("{ }", "key", 1), ("{}", "key", 2), ("{}", "yek", 1)):
        headers = signature_headers(other[0].encode(), other[1], other[2])
        assert headers["X-QC-Signature"] != first["X-QC-Signature"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_mail_sent_twice_is_known_by_its_id(language: str) -> None:
    digest = Digest(LEAD, "nightly", "2026-06-28")
    w = Wording(language)
    mails = [mail_message(digest, "qc@example.org", None, w) for _ in range(2)]
    assert mails[0]["Message-ID"] == mails[1]["Message-ID"]
    other = mail_message(Digest(LEAD, "nightly", "2026-06-29"), "qc@example.org", None, w)
    assert other["Message-ID"] != mails[0]["Message-ID"]
    assert mails[0].as_bytes().isascii()


def test_nobody_to_send_to_is_said(lab: Lab) -> None:
    with pytest.raises(UsageError, match="nobody gets digests"):
        send_now(lab.settings)


def test_without_an_audit_there_is_nothing_to_send(lab: Lab) -> None:
    lab.mail(1)
    with lab.store.begin() as session:
        session.execute(delete(AuditRow))
    assert send_now(lab.settings) == (
        "nothing is due: there is no nightly audit yet; audit run makes one"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"mail": {"host": "m"}}, "mail.sender is missing"),
        ({"mail": {"recipient": [{"address": LEAD}]}}, "mail.host is missing"),
        ({"mail": {"host": "m", "sender": LEAD, "user": "u"}}, "user and password go together"),
        (
            {
                "mail": {
                    "host": "m",
                    "sender": LEAD,
                    "user": "u",
                    "password": "env:A",
                    "security": "none",
                }
            },
            "a password is not sent without TLS",
        ),
        (
            {"mail": {"host": "m", "sender": LEAD, "recipient": [{"address": LEAD}] * 2}},
            "is listed twice",
        ),
        ({"mail": {"host": "m", "sender": "Dr Lee <lee@example.org>"}}, "a mail address is"),
        ({"mail": {"host": "m", "sender": "a@b\nBcc: x@y"}}, "a mail address is"),
        (
            {"webhook": [{"name": "a", "url": "https://h/x", "secret": "env:A"}] * 2},
            "two webhooks share a name",
        ),
    ],
)
def test_settings_that_cannot_be_meant(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        checked(data)

"""What somebody tries who should not get in: each of it fails, and what is there stays as it was.

Slow clients: `test_server.py`; bodies that are too large: `test_sessions.py`; a proxy's header:
`test_header_login.py`; answers of a provider: `test_oidc.py`.
"""

import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from qc_daemon.operations import accounts, identities
from qc_daemon.records.clock import utc_now
from qc_daemon.records.tables import IdentityKind
from qc_daemon.verbs import Verb
from qc_daemon.web.access import COOKIE, CSRF_FIELD
from qc_daemon.web.app import routes_of
from tests.support.web_site import WebSite, web_site
from tests.web.test_server import answer_of, serving

SAME = {"Sec-Fetch-Site": "same-origin"}
DOMAIN = "qc.example.org"
SECRET_FILE = "/etc/passwd"


def test_a_session_is_never_one_that_somebody_else_chose(site: WebSite) -> None:
    """Session fixation: the cookie of another, planted before the log-in, is neither kept nor
    raised to the new account, and that browser's session ends."""
    attacker, victim = site.visitor(), site.visitor()
    site.log_in(attacker, "sonographer")
    planted = attacker.cookies[COOKIE]
    victim.cookies.set(COOKIE, planted, domain=DOMAIN)
    site.log_in(victim, "lead")
    cookies = [each.value for each in victim.cookies.jar if each.name == COOKIE]
    assert len(set(cookies) - {planted}) == 1
    # With what he planted he is nobody any more, and never the lead.
    assert attacker.get("/account").status_code == 303
    thief = site.visitor()
    thief.cookies.set(COOKIE, planted, domain=DOMAIN)
    assert thief.get("/worklist").status_code == 303


def test_a_cookie_after_the_log_out_is_none(site: WebSite) -> None:
    client = site.visitor()
    site.log_in(client, "lead")
    cookie = client.cookies[COOKIE]
    site.post(client, "/logout")
    thief = site.visitor()
    thief.cookies.set(COOKIE, cookie, domain=DOMAIN)
    assert thief.get("/account").status_code == 303


@pytest.mark.parametrize("cookie", ["", "x" * 5000, "a; b=c", "%00", "' OR 1=1 --"])
def test_a_cookie_that_was_made_up_is_none(site: WebSite, cookie: str) -> None:
    answer = site.visitor().get("/account", headers={"cookie": f"{COOKIE}={cookie}"})
    assert answer.status_code == 303


def _writes(site: WebSite) -> Iterator[str]:
    for name, _ in routes_of(site.app):
        method, path = name.split()
        if method not in ("GET", "HEAD") and path not in ("/login", "/kiosk"):
            yield path


def test_no_write_of_a_session_goes_without_its_token(site: WebSite) -> None:
    """CSRF: by each route that changes something, those of the API among them."""
    client = site.browser("lead")
    other = site.csrf(site.browser("auditor"))
    paths = list(_writes(site))
    assert len(paths) > 20
    for path in paths:
        url = path.replace("{finding_id}", "3").replace("{exam_id}", "2")
        for token in ({}, {CSRF_FIELD: ""}, {CSRF_FIELD: other}):
            answer = client.post(url, data=token, headers=SAME)
            assert answer.status_code == 403, (path, token)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        body = {"verb": "accept", "version": 0}
        answer = client.post("/api/v1/findings/3/reviews", json=body, headers=headers)
        assert answer.status_code == 403, headers
    history = site.program("lead").get("/api/v1/findings/3/reviews").json()
    assert history["version"] == 0


def test_a_read_changes_nothing(site: WebSite) -> None:
    """A link cannot do what a form does."""
    client = site.browser("lead")
    for path in _writes(site):
        url = path.replace("{finding_id}", "3").replace("{exam_id}", "2")
        assert client.get(url).status_code in (200, 303, 403, 404, 405, 422), path
    assert site.program("lead").get("/api/v1/findings/3/reviews").json()["version"] == 0


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "https:evil.example",
        "/%5cevil.example/..//evil",
    ],
)
def test_no_parameter_leads_to_another_site(site: WebSite, target: str) -> None:
    """Open redirect: by each route that has `next` or `back`."""
    lead = site.browser("lead")
    quoted = quote(target, safe="")
    answers = [
        site.log_in(site.visitor(), "lead", next=target),
        lead.get(f"/login?next={quoted}"),
        lead.get(f"/language/de?next={quoted}"),
    ]
    for answer in answers:
        location = answer.headers["location"]
        assert location.startswith("/"), location
        assert not location.startswith(("//", "/\\", "/\t")), location
    for page in ("/identities/confirm?change=person-split&name=x", "/worklist/accept?finding=1"):
        text = lead.get(f"{page}&back={quoted}").text
        for link in re.findall(r'(?:href|action)="([^"]*)"', text):
            assert re.match(r"#|/($|[^/\\])", link), link


@pytest.mark.parametrize(
    "path",
    [
        "/static/1/../../app.py",
        "/static/1/..%2f..%2fapp.py",
        "/static/1/%2e%2e%2f%2e%2e%2fapp.py",
        "/static/1/..%5capp.py",
        "/static/%2e%2e/app.py",
        "/static/1/%2fetc%2fpasswd",
        f"/static/1/{quote(SECRET_FILE, safe='')}",
        "/static/1/pages.css%00.py",
        "/static/1/app.py",
        "/language/..%2f..%2fetc",
        "/models/..%2f..%2fetc%2fpasswd",
        "/people/..%2f..%2fetc%2fpasswd/report.pdf",
        "/audits/..%2f..%2fetc",
        "/api/v1/bundles/..%2f..%2fetc%2fpasswd",
        "/api/v1/site-calibrations/..%2fetc",
    ],
)
def test_no_path_leads_out_of_our_files(site: WebSite, path: str) -> None:
    """Path traversal, as a client that does not tidy paths up sends them."""
    cookie = site.browser("lead")
    token = next(each.value for each in cookie.cookies.jar if each.name == COOKIE)
    with (
        serving(site, site.exam.settings.web) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {COOKIE}={token}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = answer_of(connection)
    status = int(answer.split()[1])
    assert status in (303, 404, 422), answer[:200]
    assert b"root:" not in answer
    assert b"import " not in answer


def test_a_token_ends_with_its_person(site: WebSite) -> None:
    """Who leaves the hospital: the account is disabled, and nothing that it gave out counts."""
    settings = site.exam.settings
    client, program = site.browser("lead"), site.program("lead")
    wall = accounts.add_token(settings, "kiosk", "wall", [Verb.SEE_BOARD], 30)
    screen = site.visitor()
    sent = screen.post("/kiosk", data={"token": wall}, headers=SAME)
    assert sent.status_code == 303
    assert screen.get("/board").status_code == 200
    for name in ("lead", "kiosk"):
        accounts.disable_account(settings, name)
    assert client.get("/account").status_code == 303
    assert program.get("/api/v1/findings").status_code == 401
    assert screen.get("/board").status_code == 303
    assert site.log_in(site.visitor(), "lead").status_code == 403


def test_what_is_ones_own_follows_the_person(site: WebSite) -> None:
    """An account whose person is taken away sees no image any more, by page and by token."""
    settings = site.exam.settings
    program = site.program("sonographer")
    assert len(program.get("/api/v1/findings").json()["items"]) == 2
    accounts.change_account(settings, "sonographer", person="")
    assert program.get("/api/v1/findings").json()["items"] == []
    assert site.browser("sonographer").get("/exams/1").status_code == 404
    accounts.change_account(settings, "sonographer", role="kiosk")
    assert program.get("/api/v1/findings").status_code == 403
    jane = site.numbers["jane"]
    identities.rename(settings, IdentityKind.PERSON, jane, "Somebody else", "Dr Lead")
    assert program.get("/api/v1/findings").status_code == 403


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.offset


def test_a_clock_that_is_set_lets_nobody_in_longer(tmp_path: Path) -> None:
    """Clock skew: a session and a token end when they should by the clock as it is; one set back
    locks nobody out, and one set forward ends what is over by then."""
    clock = Clock()
    with web_site(tmp_path, clock=clock) as site:
        settings = site.exam.settings
        web = settings.web
        client = site.browser("lead")
        token = accounts.add_token(settings, "lead", "program", [Verb.SEE_ALL], 1, clock)
        program = site.visitor()
        program.headers["authorization"] = f"Bearer {token}"

        def statuses() -> tuple[int, int]:
            return (
                client.get("/account").status_code,
                program.get("/api/v1/findings").status_code,
            )

        assert statuses() == (200, 200)
        clock.offset = timedelta(minutes=web.idle_minutes) - timedelta(minutes=1)
        assert statuses() == (200, 200)
        clock.offset = timedelta(hours=web.session_hours) + timedelta(minutes=1)
        assert statuses() == (303, 200)
        clock.offset = timedelta(days=1, minutes=1)
        assert statuses() == (303, 401)
        # Set back: who is in stays in, and when it is set right again has to log in, not longer in.
        clock.offset = timedelta()
        site.log_in(client, "lead")
        clock.offset = -timedelta(days=2)
        assert statuses() == (200, 200)
        clock.offset = timedelta()
        assert statuses() == (303, 200)
        # A moment long ago is no session that has just begun, either.
        clock.offset = datetime(2001, 1, 1, tzinfo=UTC) - utc_now()
        assert site.log_in(site.visitor(), "lead").status_code == 303


def test_a_lock_is_not_opened_by_another_spelling(site: WebSite) -> None:
    client = site.visitor()
    for _ in range(site.exam.settings.web.login_attempts):
        site.log_in(client, "lead", "wrong password")
    assert site.log_in(client, "lead").status_code == 429
    assert site.log_in(client, " LEAD ").status_code == 429

"""Log-in, sessions and requests from elsewhere."""

from datetime import timedelta

import pytest

from qc_daemon.operations import accounts
from qc_daemon.web.access import COOKIE
from qc_daemon.web.middleware import SECURITY_HEADERS
from qc_daemon.web.rendering import is_own_path
from tests.support.accounts import PASSWORD
from tests.support.web_site import WebSite


def test_a_log_in_gives_a_new_strict_cookie(site: WebSite) -> None:
    client = site.visitor()
    # A cookie that somebody else planted is not the session's.
    client.cookies.set(COOKIE, "planted", domain="qc.example.org")
    answer = site.log_in(client, "lead", next="/exams?state=open")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/exams?state=open"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "planted" not in cookie
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in cookie
    assert "Domain" not in cookie


def test_pages_ask_to_log_in_and_lead_back(site: WebSite) -> None:
    answer = site.visitor().get("/exams?text=a")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fexams%3Ftext%3Da"
    assert site.visitor().get("/api/v1/exams").status_code == 401
    assert site.browser("engineer").get("/").headers["location"] == "/operations"
    assert site.browser("sonographer").get("/").headers["location"] == "/exams"
    assert site.browser("lead").get("/").headers["location"] == "/worklist"


@pytest.mark.parametrize(
    "path", ["https://evil.example", "//evil.example", "/\\evil", "evil", "/a\nb", "/%0a\t"]
)
def test_a_log_in_leads_nowhere_else(site: WebSite, path: str) -> None:
    assert not is_own_path(path) or path.startswith("/%0a") is False
    answer = site.log_in(site.visitor(), "lead", next=path)
    assert answer.headers["location"] == "/"


def test_wrong_passwords_lock_and_the_right_one_waits(site: WebSite) -> None:
    client = site.visitor()
    for _ in range(site.exam.settings.web.login_attempts):
        answer = site.log_in(client, "lead", "wrong password")
        assert answer.status_code == 403
        assert "wrong password" not in answer.text
    assert site.log_in(client, "lead").status_code == 429
    # Somebody else, or from elsewhere, is not locked out by it.
    assert site.log_in(client, "auditor").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://qc.example.org"},
        {"Origin": "null"},
        {},
    ],
)
def test_another_site_writes_nothing(site: WebSite, headers: dict[str, str]) -> None:
    client = site.browser("lead")
    csrf = site.csrf(client)
    answer = client.post("/logout", data={"csrf_token": csrf}, headers=headers)
    assert answer.status_code == 403
    assert client.get("/account").status_code == 200


def test_a_form_carries_its_own_sessions_token(site: WebSite) -> None:
    client = site.browser("lead")
    other = site.csrf(site.browser("auditor"))
    for token in ("", "0" * 64, other):
        answer = client.post(
            "/logout", data={"csrf_token": token}, headers={"Origin": "https://qc.example.org"}
        )
        assert answer.status_code == 403
    assert site.post(client, "/logout").status_code == 303
    assert client.get("/account").status_code == 303


def test_every_answer_has_the_headers(site: WebSite) -> None:
    lead = site.browser("lead")
    for answer in (
        lead.get("/worklist"),
        lead.get("/nothing"),
        site.visitor().get("/login"),
        site.visitor().post("/login"),
        lead.get("/api/v1/findings"),
    ):
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert "strict-transport-security" in answer.headers
        assert "server" not in answer.headers


def test_a_body_that_is_too_large_is_refused(site: WebSite) -> None:
    size = 1024 * site.exam.settings.web.request_kilobytes + 1
    headers = {"Origin": "https://qc.example.org"}
    client = site.visitor()
    assert client.post("/login", content=b"x" * size, headers=headers).status_code == 413
    parts = iter([b"name=" + b"x" * (size // 2)] * 3)
    form = headers | {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/login", content=parts, headers=form).status_code == 413


def test_a_session_ends_at_once_when_its_account_does(site: WebSite) -> None:
    client, program = site.browser("lead"), site.program("lead")
    assert client.get("/worklist").status_code == 200
    accounts.disable_account(site.exam.settings, "lead")
    assert client.get("/worklist").status_code == 303
    assert program.get("/api/v1/findings").status_code == 401
    accounts.enable_account(site.exam.settings, "lead")
    assert client.get("/worklist").status_code == 303
    assert program.get("/api/v1/findings").status_code == 200


def test_own_sessions_are_listed_and_ended(site: WebSite) -> None:
    first, second = site.browser("lead"), site.visitor()
    site.log_in(second, "lead")
    (other,) = [
        row["session"]
        for row in accounts.list_sessions(site.exam.settings, "lead")
        if f'value="{row["session"]}"' in first.get("/account").text
    ]
    assert site.post(first, "/account/sessions/end", session=str(other)).status_code == 303
    assert second.get("/account").status_code == 303
    theirs = accounts.list_sessions(site.exam.settings, "lead")[0]["session"]
    answer = site.post(site.browser("auditor"), "/account/sessions/end", session=str(theirs))
    assert answer.status_code == 409
    assert first.get("/account").status_code == 200


def test_a_password_is_never_shown_again(site: WebSite) -> None:
    answer = site.log_in(site.visitor(), "lead", f"{PASSWORD}!")
    assert PASSWORD not in answer.text
    assert timedelta(hours=site.exam.settings.web.session_hours) > timedelta()

"""Log-in by the header of a trusted proxy, and by nobody else's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from qc_daemon.observe import counters
from qc_daemon.operations import accounts, passwords
from qc_daemon.settings.login import HeaderLoginSettings, RoleMapping
from qc_daemon.settings.web import WebSettings
from qc_daemon.web.access import COOKIE
from tests.support.accounts import QUICK_HASHER
from tests.support.web_site import WebSite, web_site

PROXY, ELSEWHERE = "10.1.0.7", "10.2.0.7"
NAME, FULL_NAME, GROUPS = "X-Remote-User", "X-Remote-Name", "X-Remote-Groups"
COUNTER = "login_headers_ignored"


def header_login(**more: Any) -> HeaderLoginSettings:
    values = {
        "addresses": ["10.1.0.0/16"],
        "full_name_header": FULL_NAME,
        "roles_header": GROUPS,
        "mapping": [RoleMapping(value="leads", role="lead")],
        "first_login": "create",
        "logout_page": "https://login.example.org/logout",
    }
    return HeaderLoginSettings(**(values | more))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebSite]:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    # A proxy that does TLS, too: what it says of addresses must not decide whom we trust.
    web = WebSettings(header_login=header_login(), trusted_proxies=["10.1.0.0/16"])
    with web_site(tmp_path, web=web) as site:
        yield site


def log_in(client: TestClient, name: str = "mai", **headers: str) -> Any:
    return client.get("/login?next=/worklist", headers={NAME: name, GROUPS: "leads"} | headers)


def test_whom_the_proxy_names_is_logged_in(site: WebSite) -> None:
    client = site.visitor(PROXY)
    headers = {
        NAME: "Mai",
        GROUPS: "others, leads",
        FULL_NAME: "Mai Trần".encode(),
    }
    # What is asked for without a session leads over the log-in and back.
    asked = client.get("/worklist", headers=headers)
    assert asked.headers["location"] == "/login?next=%2Fworklist"
    answer = client.get(asked.headers["location"], headers=headers)
    assert 'content="0; url=/worklist"' in answer.text
    assert client.get("/worklist", headers=headers).status_code == 200
    row = next(each for each in accounts.list_accounts(site.exam.settings) if each["name"] == "mai")
    assert (row["full_name"], row["role"], row["state"]) == ("Mai Trần", "lead", "enabled")
    assert accounts.list_sessions(site.exam.settings, "mai")[0]["by"] == "header"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"X-Forwarded-For": PROXY},
        {"X-Forwarded-For": f"{PROXY}, {PROXY}", "X-Real-IP": PROXY, "Forwarded": f"for={PROXY}"},
    ],
    ids=str,
)
def test_a_header_from_elsewhere_is_ignored_and_counted(
    site: WebSite, more: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    client, before = site.visitor(ELSEWHERE), counters.get(COUNTER)
    answer = log_in(client, "lead", **more)
    assert answer.status_code == 200
    assert 'name="password"' in answer.text
    assert COOKIE not in client.cookies
    assert client.get("/worklist", headers={NAME: "lead"} | more).status_code == 303
    assert client.get("/api/v1/findings", headers={NAME: "lead"} | more).status_code == 401
    assert counters.get(COUNTER) == before + 3
    # A line a minute, not one a request.
    captured = capfd.readouterr()
    assert (captured.out + captured.err).count("log-in header ignored") == 1


@pytest.mark.parametrize("name", [NAME, NAME.lower(), NAME.upper()])
def test_a_header_that_comes_twice_is_no_header(site: WebSite, name: str) -> None:
    """The proxy adds its own beside the browser's: nobody knows which is whose."""
    client, before = site.visitor(PROXY), counters.get(COUNTER)
    headers = [(name, "lead"), (NAME, "mai"), (GROUPS, "leads")]
    answer = client.get("/login", headers=headers)
    assert 'name="password"' in answer.text
    assert COOKIE not in client.cookies
    assert counters.get(COUNTER) == before + 1


def test_roles_from_elsewhere_are_ignored_with_the_name(site: WebSite) -> None:
    client = site.visitor(ELSEWHERE)
    assert COOKIE not in client.cookies
    assert client.get("/login", headers={GROUPS: "leads"}).status_code == 200
    assert counters.get(COUNTER) >= 1


def test_a_session_counts_only_while_the_proxy_names_its_person(site: WebSite) -> None:
    client = site.visitor(PROXY)
    log_in(client)
    cookie = client.cookies[COOKIE]
    assert client.get("/worklist", headers={NAME: "MAI"}).status_code == 200
    for headers in ({}, {NAME: "lead"}, {NAME: ""}, {NAME: "no\\name"}):
        assert client.get("/worklist", headers=headers).status_code == 303, headers
    other = site.visitor(ELSEWHERE)
    other.cookies.set(COOKIE, cookie, domain="qc.example.org")
    assert other.get("/worklist", headers={NAME: "mai"}).status_code == 303
    # A person that logged in with a password needs no header.
    assert site.log_in(other, "lead").status_code == 303
    assert other.get("/worklist").status_code == 200


def test_another_person_at_the_proxy_gets_another_session(site: WebSite) -> None:
    client = site.visitor(PROXY)
    log_in(client)
    first = client.cookies[COOKIE]
    assert log_in(client, "lead").status_code == 200
    assert client.cookies[COOKIE] != first
    assert "Dr Lead" in client.get("/account", headers={NAME: "lead"}).text
    # The session before has ended.
    thief = site.visitor(PROXY)
    thief.cookies.set(COOKIE, first, domain="qc.example.org")
    assert thief.get("/account", headers={NAME: "mai"}).status_code == 303


def test_a_log_out_leads_to_the_proxys(site: WebSite) -> None:
    client = site.visitor(PROXY)
    log_in(client)
    client.headers[NAME] = "mai"
    answer = site.post(client, "/logout")
    assert 'content="0; url=https://login.example.org/logout"' in answer.text
    assert client.get("/account").status_code == 303


def test_who_may_not_be_let_in_sees_why_and_may_use_a_password(site: WebSite) -> None:
    client = site.visitor(PROXY)
    for name, groups, words in (
        ("mai", "others", "None of your groups has a role here"),
        ("HOSPITAL\\mai", "leads", "cannot be an account"),
        ("lead", "others", "None of your groups has a role here"),
    ):
        answer = client.get("/login", headers={NAME: name, GROUPS: groups})
        assert answer.status_code == 403
        assert words in answer.text
        assert 'name="password"' in answer.text
    assert site.log_in(client, "auditor").status_code == 303


def test_a_disabled_account_stays_out(site: WebSite) -> None:
    client = site.visitor(PROXY)
    log_in(client)
    accounts.disable_account(site.exam.settings, "mai")
    assert client.get("/worklist", headers={NAME: "mai"}).status_code == 303
    assert "waits until an administrator" in log_in(client).text


def test_a_new_account_may_wait(tmp_path: Path) -> None:
    login = header_login(first_login="approve", mapping=[], default_role="sonographer")
    with web_site(tmp_path, web=WebSettings(header_login=login)) as site:
        client = site.visitor(PROXY)
        assert log_in(client).status_code == 403
        accounts.enable_account(site.exam.settings, "mai")
        assert log_in(client).status_code == 200
        # A mapping gives roles; without one an administrator does, and a log-in keeps that one.
        accounts.change_account(site.exam.settings, "mai", role="auditor")
        log_in(client)
        assert "auditor" in client.get("/account", headers={NAME: "mai"}).text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"addresses": []}, "at least 1"),
        ({"addresses": ["proxy"]}, "an address or a network"),
        ({"roles_header": None}, "roles_header is missing"),
        ({"mapping": []}, "would have no role"),
        ({"name_header": "X User"}, "letters, digits and -"),
        ({"logout_page": "javascript:alert(1)"}, "https://HOST/PATH"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        header_login(**values)

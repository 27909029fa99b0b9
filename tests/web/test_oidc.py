"""Log-in at an OpenID provider: a real one over HTTP, which answers rightly and wrongly."""

import hashlib
import hmac
import html
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from joserfc.jwk import RSAKey
from pydantic import ValidationError
from starlette.testclient import TestClient

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.operations import accounts, passwords
from qc_daemon.operations.access_log import list_access, parse_access_filter
from qc_daemon.records.clock import utc_now
from qc_daemon.settings.login import OidcSettings, RoleMapping
from qc_daemon.settings.web import WebSettings
from qc_daemon.web.access import COOKIE
from qc_daemon.web.pages.external_login import ATTEMPT_COOKIE
from tests.support.accounts import QUICK_HASHER, add_account
from tests.support.oidc_provider import CLIENT, SECRET, OidcProvider, oidc_provider
from tests.support.ports import reserve_port
from tests.support.web_site import ORIGIN, WebSite, web_site

CALLBACK = f"{ORIGIN}/login/oidc/callback"
NURSE = {"sub": "u-17", "preferred_username": "Mai.Tran", "name": "Mai Tran", "groups": ["leads"]}
SiteFor = Callable[..., WebSite]


@pytest.fixture(scope="module")
def running_provider() -> Iterator[OidcProvider]:
    with oidc_provider(CALLBACK) as provider:
        yield provider


@pytest.fixture
def provider(running_provider: OidcProvider) -> OidcProvider:
    """At which the nurse is logged in."""
    provider = running_provider
    provider.person, provider.token, provider.description = dict(NURSE), {}, {}
    provider.clock_seconds, provider.signs_with, provider.answers_error = 0.0, None, None
    provider.asked.clear()
    provider.codes.clear()
    return provider


def oidc_settings(issuer: str, **more: Any) -> OidcSettings:
    values = {
        "issuer": issuer,
        "client_id": CLIENT,
        "client_secret": "env:QC_TEST_OIDC",
        "title": "Hospital",
        "roles_claim": "groups",
        "mapping": [
            RoleMapping(value="leads", role="lead"),
            RoleMapping(value="scans", role="sonographer"),
        ],
        "first_login": "create",
    }
    return OidcSettings(**(values | more))


@contextmanager
def site_of(
    folder: Path, patch: pytest.MonkeyPatch, oidc: OidcSettings, clock: Any = utc_now
) -> Iterator[WebSite]:
    patch.setenv("QC_TEST_OIDC", SECRET)
    patch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    with web_site(folder, web=WebSettings(oidc=oidc), clock=clock) as site:
        yield site


@pytest.fixture
def site(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebSite]:
    with site_of(tmp_path, monkeypatch, oidc_settings(provider.issuer)) as site:
        yield site


def way_back(client: TestClient, path: str = "/worklist") -> str:
    """What the provider leads the browser back to, with its answer."""
    answer = client.get("/login/oidc", params={"next": path})
    assert answer.status_code == 303, answer.text
    at_provider = requests.get(answer.headers["location"], allow_redirects=False, timeout=30)
    assert at_provider.status_code == 303, at_provider.text
    location = at_provider.headers["location"]
    assert location.startswith(f"{CALLBACK}?")
    return location.removeprefix(ORIGIN)


def log_in(client: TestClient, path: str = "/worklist") -> Any:
    return client.get(way_back(client, path))


def problem(answer: Any) -> str:
    """What the form says that went wrong."""
    match = re.search(r'<p class="problem" role="alert">\s*(.*?)\s*</p>', answer.text, re.S)
    return "" if match is None else html.unescape(match[1])


def account(site: WebSite, name: str) -> dict[str, Any] | None:
    rows = accounts.list_accounts(site.exam.settings)
    return next((row for row in rows if row["name"] == name), None)


def test_a_log_in_makes_the_account_and_leads_on(site: WebSite) -> None:
    client = site.visitor()
    assert 'href="/login/oidc?next=%2F"' in client.get("/login").text
    answer = log_in(client, "/worklist?view=NT")
    # After a redirection from another site a browser would not send the strict cookie.
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/worklist?view=NT">' in answer.text
    cookies = answer.headers.get_list("set-cookie")
    session = next(each for each in cookies if each.startswith(f"{COOKIE}="))
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in session
    assert client.get("/worklist?view=NT").status_code == 200
    row = account(site, "mai.tran")
    assert row is not None
    assert (row["full_name"], row["role"], row["subject"]) == ("Mai Tran", "lead", ["u-17"])
    assert accounts.list_sessions(site.exam.settings, "mai.tran")[0]["by"] == "oidc"
    # The same person again, by whatever name, is the same account.
    site.app.state.context.oidc.settings.name_claim = "given_name"
    assert log_in(site.visitor()).status_code == 200
    assert len(accounts.list_sessions(site.exam.settings, "mai.tran")) == 2


def test_a_new_account_may_wait_for_an_administrator(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc = oidc_settings(provider.issuer, first_login="approve")
    with site_of(tmp_path, monkeypatch, oidc) as site:
        client = site.visitor()
        for _ in range(2):
            answer = log_in(client)
            assert answer.status_code == 403
            assert "waits until an administrator" in problem(answer)
            assert client.get("/worklist").status_code == 303
        accounts.enable_account(site.exam.settings, "mai.tran")
        assert log_in(client).status_code == 200
        assert client.get("/worklist").status_code == 200
        accounts.disable_account(site.exam.settings, "mai.tran")
        assert client.get("/worklist").status_code == 303
        assert log_in(client).status_code == 403


def test_settings_may_refuse_who_has_no_account(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc = oidc_settings(provider.issuer, first_login="refuse")
    with site_of(tmp_path, monkeypatch, oidc) as site:
        assert "You have no account here" in problem(log_in(site.visitor()))
        add_account(site.exam.settings, "mai", "lead")
        accounts.link_account(site.exam.settings, "mai", "u-17")
        assert log_in(site.visitor()).status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        {"iss": "https://other.example.org"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"aud": None},
        {"aud": [CLIENT, "another-client"]},
        {"aud": [CLIENT, "another-client"], "azp": "another-client"},
        {"nonce": "of another log-in"},
        {"nonce": None},
        {"nonce": None, "nonce_supported": False},
        {"exp": 1_600_000_000},
        {"exp": None},
        {"exp": "never"},
        {"iat": None},
        {"nbf": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": 17},
        {"at_hash": "of-another-token"},
    ],
    ids=str,
)
def test_a_token_that_says_otherwise_is_not_accepted(
    site: WebSite, provider: OidcProvider, token: dict[str, Any]
) -> None:
    provider.token = token
    client = site.visitor()
    answer = log_in(client)
    assert answer.status_code == 403
    assert "was not accepted" in problem(answer)
    assert COOKIE not in client.cookies
    assert account(site, "mai.tran") is None
    refused = list_access(site.exam.settings, parse_access_filter(None, None, None, None), 1)
    assert refused[0]["action"] == "login-refused"


def test_an_audience_of_several_needs_us_as_the_authorised_party(
    site: WebSite, provider: OidcProvider
) -> None:
    provider.token = {"aud": [CLIENT, "another-client"], "azp": CLIENT}
    assert log_in(site.visitor()).status_code == 200


def test_a_signature_must_be_of_the_providers_key(
    site: WebSite, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = site.visitor()
    provider.signs_with = RSAKey.generate_key(2048, {"kid": provider.key.kid})
    assert "was not accepted" in problem(log_in(client))
    # Signed with what everybody has: the public key as a secret, or nothing at all.
    public = provider.key.as_pem(private=False)

    def signed_by_secret(nonce: str) -> str:
        values = {"iss": provider.issuer, "aud": CLIENT, "nonce": nonce, "iat": 1, "exp": 4e9}
        parts = [{"alg": "HS256", "kid": provider.key.kid}, values | NURSE]
        text = b".".join(urlsafe_b64encode(json.dumps(each).encode()) for each in parts)
        text = text.replace(b"=", b"")
        signature = hmac.new(public, text, hashlib.sha256).digest()
        return f"{text.decode()}.{urlsafe_b64encode(signature).decode().rstrip('=')}"

    def unsigned(nonce: str) -> str:
        head = "eyJhbGciOiJub25lIn0"
        return f"{head}.{signed_by_secret(nonce).split('.')[1]}."

    for forged in (signed_by_secret, unsigned, lambda nonce: "no token", lambda nonce: "a.b.c"):
        monkeypatch.setattr(provider, "id_token", forged)
        assert "was not accepted" in problem(log_in(site.visitor()))
        site.app.state.context.login_limits.forget("oidc testclient", "testclient")
    assert account(site, "mai.tran") is None


@pytest.mark.parametrize(("seconds", "status"), [(-330, 200), (-400, 403), (50, 200), (120, 403)])
def test_clocks_may_differ_by_the_leeway(
    site: WebSite, provider: OidcProvider, seconds: float, status: int
) -> None:
    """The provider's tokens count 300 s, the leeway is 60 s."""
    provider.clock_seconds = seconds
    assert log_in(site.visitor()).status_code == status


def test_keys_are_cached_and_fetched_again_when_they_change(
    site: WebSite, provider: OidcProvider
) -> None:
    for _ in range(2):
        assert log_in(site.visitor()).status_code == 200
    assert provider.asked.count("keys") == 1
    assert provider.asked.count("description") == 1
    provider.rotate()
    assert log_in(site.visitor()).status_code == 200
    assert provider.asked.count("keys") == 2
    # Another key under the name of the one before.
    kid = provider.key.kid
    provider.key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
    assert log_in(site.visitor()).status_code == 200
    assert provider.asked.count("keys") == 3


def test_an_answer_counts_once_and_in_the_browser_that_asked(site: WebSite) -> None:
    client, other = site.visitor(), site.visitor()
    back = way_back(client)
    # A browser that asked for nothing, and one that asked for another log-in.
    assert "in another window" in problem(other.get(back))
    way_back(other)
    assert "in another window" in problem(other.get(back))
    attempt = client.cookies[ATTEMPT_COOKIE]
    assert client.get(back).status_code == 200
    assert "in another window" in problem(site.visitor().get(back))
    # The same answer with the same cookie: its code was used.
    thief = site.visitor()
    thief.cookies.set(ATTEMPT_COOKIE, attempt, domain="qc.example.org")
    assert "was not accepted" in problem(thief.get(back))
    assert COOKIE not in thief.cookies


@pytest.mark.parametrize("cookie", ["", "x", "e30=", "W10=", "bnVsbA==", "éß".encode().hex()])
def test_a_cookie_that_is_no_attempt_is_refused(site: WebSite, cookie: str) -> None:
    client = site.visitor()
    client.cookies.set(ATTEMPT_COOKIE, cookie, domain="qc.example.org")
    answer = client.get("/login/oidc/callback?state=a&code=b")
    assert answer.status_code == 403
    assert "Begin it again" in problem(answer)


def test_an_answer_of_another_provider_is_not_accepted(site: WebSite) -> None:
    client = site.visitor()
    query = {name: value[0] for name, value in parse_qs(urlsplit(way_back(client)).query).items()}
    path = "/login/oidc/callback"
    wrong = client.get(path, params=query | {"iss": "https://other.example.org"})
    assert "was not accepted" in problem(wrong)
    query = {name: value[0] for name, value in parse_qs(urlsplit(way_back(client)).query).items()}
    del query["iss"]
    assert "was not accepted" in problem(client.get(path, params=query))


def test_a_refusal_of_the_provider_has_our_words(
    site: WebSite, provider: OidcProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    provider.answers_error = "access_denied"
    answer = log_in(site.visitor())
    assert answer.status_code == 403
    assert "let nobody in" in problem(answer)
    assert "Doe" not in answer.text
    captured = capfd.readouterr()
    assert "Doe" not in captured.out + captured.err
    assert "access_denied" in captured.out + captured.err


@pytest.mark.parametrize("path", ["https://evil.example", "//evil.example", "/\\evil", "evil"])
def test_a_log_in_at_the_provider_leads_nowhere_else(site: WebSite, path: str) -> None:
    answer = log_in(site.visitor(), path)
    assert 'content="0; url=/"' in answer.text


def test_roles_follow_the_groups_at_each_log_in(site: WebSite, provider: OidcProvider) -> None:
    def role_after(groups: object) -> object:
        provider.person["groups"] = groups
        status = log_in(site.visitor()).status_code
        row = account(site, "mai.tran")
        assert row is not None
        return row["role"] if status == 200 else status

    assert role_after(["others", "scans"]) == "sonographer"
    # Of several the first of the settings; one group may come as a text.
    assert role_after(["scans", "leads"]) == "lead"
    assert role_after("scans") == "sonographer"
    for nothing in ([], None, {"leads": True}, 7):
        assert role_after(nothing) == 403


def test_groups_may_stand_deep_in_the_claims(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc = oidc_settings(provider.issuer, roles_claim="realm_access.roles", default_role="kiosk")
    with site_of(tmp_path, monkeypatch, oidc) as site:
        provider.person["realm_access"] = {"roles": ["leads"]}
        assert log_in(site.visitor()).status_code == 200
        assert (account(site, "mai.tran") or {})["role"] == "lead"
        provider.person["realm_access"] = "none"
        assert log_in(site.visitor()).status_code == 200
        assert (account(site, "mai.tran") or {})["role"] == "kiosk"


def test_a_name_or_address_joins_no_accounts(site: WebSite, provider: OidcProvider) -> None:
    """Whoever may choose a name or address at the provider would choose another's."""
    add_account(site.exam.settings, "mai.tran", "administrator")
    add_account(site.exam.settings, "mai@example.org", "administrator")
    provider.person |= {"email": "mai@example.org", "email_verified": True}
    for name in ("mai.tran", "mai@example.org", " MAI@example.org"):
        provider.person["preferred_username"] = name
        answer = log_in(site.visitor())
        assert "Another account here has your name" in problem(answer)
    provider.person |= {"preferred_username": "mt", "name": "Dr Mai.tran"}
    assert log_in(site.visitor()).status_code == 200
    row = account(site, "mt")
    assert row is not None
    # The reader of reviews is one account only.
    assert (row["full_name"], row["role"]) == ("Dr Mai.tran (mt)", "lead")


def test_a_verified_address_joins_where_the_settings_say_so(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc = oidc_settings(
        provider.issuer, join_verified_email=True, scopes=["openid", "email"], first_login="refuse"
    )
    with site_of(tmp_path, monkeypatch, oidc) as site:
        add_account(site.exam.settings, "mai@example.org", "auditor")
        provider.person["email"] = "Mai@example.org"
        for is_verified in (None, False, "true", 1):
            provider.person["email_verified"] = is_verified
            assert "You have no account here" in problem(log_in(site.visitor()))
        provider.person["email_verified"] = True
        assert log_in(site.visitor()).status_code == 200
        assert (account(site, "mai@example.org") or {})["subject"] == ["u-17"]
        # Somebody else who has that address later is not that person.
        provider.person["sub"] = "u-18"
        assert "Another account here" in problem(log_in(site.visitor()))


def test_an_administrator_joins_and_parts_accounts(site: WebSite) -> None:
    settings = site.exam.settings
    with pytest.raises(QCError, match="no account nobody"):
        accounts.link_account(settings, "nobody", "u-17")
    accounts.link_account(settings, "lead", "u-17")
    with pytest.raises(QCError, match="is the account lead already"):
        accounts.link_account(settings, "auditor", "u-17")
    with pytest.raises(QCError, match="is another person"):
        accounts.link_account(settings, "lead", "u-18")
    client = site.visitor()
    log_in(client)
    assert client.get("/account").status_code == 200
    assert "Dr Lead" in client.get("/account").text
    assert "unlinked, 1 session ended" in accounts.unlink_account(settings, "lead")
    assert client.get("/account").status_code == 303
    with pytest.raises(QCError, match="no provider's person"):
        accounts.unlink_account(settings, "lead")
    settings.web.oidc = None
    with pytest.raises(UsageError, match=r"\[web.oidc\]"):
        accounts.link_account(settings, "lead", "u-17")


def test_a_log_out_ends_the_providers_session_too(site: WebSite, provider: OidcProvider) -> None:
    client = site.visitor()
    log_in(client)
    answer = site.post(client, "/logout")
    assert answer.status_code == 200
    match = re.search(r'content="0; url=([^"]+)"', answer.text)
    assert match is not None
    target = html.unescape(match[1])
    assert target.startswith(f"{provider.issuer}/end?")
    back = requests.get(target, allow_redirects=False, timeout=30)
    assert back.headers["location"] == f"{ORIGIN}/login"
    assert client.get("/account").status_code == 303
    # Who logged in with a password is not logged out elsewhere.
    other = site.visitor()
    site.log_in(other, "lead")
    assert site.post(other, "/logout").headers["location"] == "/login"


def test_a_provider_that_is_down_keeps_no_local_account_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    later = timedelta()
    port = reserve_port()
    oidc = oidc_settings(f"http://127.0.0.1:{port}")
    with site_of(tmp_path, monkeypatch, oidc, lambda: utc_now() + later) as site:
        client = site.visitor()
        answer = client.get("/login/oidc")
        assert answer.status_code == 503
        assert "does not answer" in problem(answer)
        # It is not asked again at once: nobody waits in a row for it.
        monkeypatch.setattr("requests.sessions.Session.request", _no_request)
        assert client.get("/login/oidc").status_code == 503
        monkeypatch.undo()
        monkeypatch.setenv("QC_TEST_OIDC", SECRET)
        assert site.log_in(client, "lead").status_code == 303
        assert client.get("/worklist").status_code == 200
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert captured.err.count("log-in refused") + captured.out.count("log-in refused") == 2


def _no_request(*_: object, **__: object) -> None:
    raise AssertionError("the provider was asked")


def test_a_missing_secret_is_logged(
    site: WebSite, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("QC_TEST_OIDC")
    assert site.visitor().get("/login/oidc").status_code == 503
    captured = capfd.readouterr()
    assert "web.oidc.client_secret is not in the environment variable QC_TEST_OIDC" in (
        captured.out + captured.err
    )


@pytest.mark.parametrize(
    "description",
    [
        {"issuer": "https://other.example.org"},
        {"token_endpoint": "http://other.example.org/token"},
        {"jwks_uri": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"end_session_endpoint": "ftp://other.example.org"},
    ],
    ids=str,
)
def test_a_description_that_cannot_be_right_is_not_used(
    site: WebSite, provider: OidcProvider, description: dict[str, Any]
) -> None:
    provider.description = description
    answer = site.visitor().get("/login/oidc")
    assert answer.status_code == 403
    assert "was not accepted" in problem(answer)


def test_many_wrong_answers_lock_an_address(site: WebSite, provider: OidcProvider) -> None:
    provider.token = {"nonce": None}
    client = site.visitor()
    for _ in range(site.exam.settings.web.login_attempts):
        assert log_in(client).status_code == 403
    back = way_back(client)
    asked = provider.asked.count("token")
    assert client.get(back).status_code == 429
    assert provider.asked.count("token") == asked
    provider.token = {}
    assert log_in(site.visitor("10.9.9.9")).status_code == 200


def test_without_a_provider_there_is_no_such_page(tmp_path: Path) -> None:
    with web_site(tmp_path) as site:
        for path in ("/login/oidc", "/login/oidc/callback?state=a&code=b"):
            assert site.visitor().get(path).status_code == 404
        assert "/login/oidc" not in site.visitor().get("/login").text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"issuer": "http://idp.example.org"}, "over https"),
        ({"issuer": "https://idp.example.org/?a=b"}, "no user, query or fragment"),
        ({"scopes": ["profile"]}, "scopes needs openid"),
        ({"roles_claim": None}, "roles_claim is missing"),
        ({"mapping": [], "roles_claim": None}, "would have no role"),
        ({"join_verified_email": True}, "add email to scopes"),
        ({"client_secret": "s3cret"}, "env:NAME or file:PATH"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        oidc_settings(**({"issuer": "https://idp.example.org"} | values))


def test_roles_of_a_mapping_are_roles_of_the_settings() -> None:
    mapping = [RoleMapping(value="a", role="boss")]
    with pytest.raises(ValidationError, match="there is no role boss"):
        WebSettings(oidc=oidc_settings("https://idp.example.org", mapping=mapping))

"""A log-in at an OpenID provider, as a person at a real Chromium sees it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from qc_daemon.operations import accounts, passwords
from qc_daemon.settings.web import WebSettings
from tests.support.accounts import QUICK_HASHER
from tests.support.browser import PATIENCE_MS, chromium, person
from tests.support.oidc_provider import SECRET, OidcProvider, oidc_provider
from tests.support.web_site import web_site
from tests.web.test_oidc import NURSE, oidc_settings
from tests.web.test_server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    """At which the nurse is logged in; where she is led back to is known once we are served."""
    with oidc_provider("") as provider:
        provider.person = dict(NURSE)
        yield provider


def test_a_person_logs_in_and_out_at_the_provider(
    browser: Browser, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back again, with the cookies and redirections that a real browser lets through."""
    monkeypatch.setenv("QC_TEST_OIDC", SECRET)
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    oidc = oidc_settings(provider.issuer, end_provider_session=True)
    with (
        web_site(tmp_path, web=WebSettings(oidc=oidc)) as site,
        serving(site, site.exam.settings.web) as port,
    ):
        origin = f"http://localhost:{port}"
        provider.redirect_uri = f"{origin}/login/oidc/callback"
        with person(browser, origin) as nurse:
            nurse.hosts = (provider.issuer.removeprefix("http://"),)
            page = nurse.visit("/exams")
            expect(page).to_have_url(f"{origin}/login?next=%2Fexams")
            page.get_by_role("link", name="Hospital").click()
            # What was asked for before the log-in, without another click.
            expect(page).to_have_url(f"{origin}/exams")
            expect(page.locator("table a[href='/exams/1']").first).to_be_visible()
            (row,) = accounts.list_sessions(site.exam.settings, "mai.tran")
            assert row["by"] == "oidc"
            assert nurse.violations() == []
            # Nothing of it stays where a later visitor of the browser could read it.
            assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
            page.locator("form[action='/logout'] button").click()
            expect(page).to_have_url(f"{origin}/login")
            assert provider.asked[-1] == "end"
            assert accounts.list_sessions(site.exam.settings, "mai.tran") == []
            # Our pages are closed, also to a browser that goes back.
            page.goto(f"{origin}/exams")
            expect(page).to_have_url(f"{origin}/login?next=%2Fexams")


def test_who_is_not_let_in_sees_why(
    browser: Browser, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QC_TEST_OIDC", SECRET)
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    provider.answers_error = "access_denied"
    with (
        web_site(tmp_path, web=WebSettings(oidc=oidc_settings(provider.issuer))) as site,
        serving(site, site.exam.settings.web) as port,
    ):
        origin = f"http://localhost:{port}"
        provider.redirect_uri = f"{origin}/login/oidc/callback"
        with person(browser, origin) as nurse:
            nurse.hosts = (provider.issuer.removeprefix("http://"),)
            nurse.expected = ("403", "401")
            page = nurse.visit("/login")
            page.get_by_role("link", name="Hospital").click()
            expect(page.locator(".problem")).to_be_visible()
            # In our words, not the provider's.
            assert "Doe^Jane" not in page.content()
            assert nurse.violations() == []

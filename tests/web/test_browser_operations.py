"""Operations, audits and models in a real Chromium: nothing that axe finds serious, and nothing cut
off, on a large and a small screen."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import update

from model.bundle.bundle import read_model_id
from qc_daemon.operations import passwords
from qc_daemon.operations.bundles import seed_bundle
from qc_daemon.records.tables import AcquisitionRow, AuditRow, AuditState
from tests.support import pdf
from tests.support.accounts import QUICK_HASHER
from tests.support.audit_json import audit_json
from tests.support.browser import PATIENCE_MS, chromium, person
from tests.support.web_site import WebSite, web_site
from tests.web.test_server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DAY = "2026-06-28"
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WebSite, str]]:
    """A site with an active bundle and an audit of Jane and others, and where it is served."""
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    with (
        web_site(tmp_path, with_pixels=True) as site,
        serving(site, site.exam.settings.web) as port,
    ):
        seed_bundle(site.exam.settings, site.exam.store)
        text = json.dumps(audit_json({"p1": 120, **{f"q{i}": 40 + i for i in range(8)}}))
        row = AuditRow(name="nightly", local_date=DAY, state=AuditState.DONE)
        row.content = text.replace('"p1"', f'"{site.numbers["jane"]}"').encode()
        row.created_at = row.updated_at = site.exam.now
        with site.exam.store.begin() as session:
            session.add(row)
        yield site, f"http://localhost:{port}"


def _paths(site: WebSite) -> dict[str, list[str]]:
    jane = site.numbers["jane"]
    return {
        "lead": [
            "/worklist?state=automatic&state=waiting",
            "/worklist/accept?finding=1&finding=2",
            "/audits",
            f"/audits/{DAY}",
            "/people",
            f"/people/{jane}",
            f"/identities/confirm?change=person-rename&name={jane}",
            "/devices",
            "/models",
            f"/models/{read_model_id('default')}",
            "/site-calibrations",
        ],
        "engineer": [
            "/operations",
            "/operations/queue?state=done&state=ready&state=dead",
            "/operations/quarantine",
            "/operations/destinations",
            "/operations/peers",
            "/operations/commitments",
            "/operations/disk",
            "/operations/checks",
            "/operations/confirm?change=peer-add",
            "/operations/confirm?change=queue-retry&id=1",
        ],
    }


@pytest.mark.parametrize(("theme", "width", "height"), [("light", 1366, 768), ("dark", 390, 844)])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(
    browser: Browser, pages: tuple[WebSite, str], theme: str, width: int, height: int
) -> None:
    site, origin = pages
    for name, paths in _paths(site).items():
        viewport = {"width": width, "height": height}
        with person(browser, origin, color_scheme=theme, viewport=viewport) as someone:
            someone.log_in(name)
            for path in paths:
                page = someone.visit(path)
                what = (theme, path)
                assert someone.violations() == [], what
                assert page.evaluate("document.documentElement.scrollWidth") <= width, what


def test_a_click_on_a_point_leads_to_its_findings(
    browser: Browser, pages: tuple[WebSite, str]
) -> None:
    site, origin = pages
    with person(browser, origin) as lead:
        lead.log_in("lead")
        page = lead.visit(f"/people/{site.numbers['jane']}")
        page.locator("svg.chart a").first.click()
        page.wait_for_url("**/worklist?person=*made_from=*")


def test_a_point_of_a_chart_leads_to_its_exams(
    browser: Browser, pages: tuple[WebSite, str]
) -> None:
    """From the audit to the person, the point, the findings of its week and one's exam."""
    site, origin = pages
    jane, day = site.numbers["jane"], date.fromisoformat(DAY)
    # Her images were made in the audit's last week.
    with site.exam.store.begin() as session:
        session.execute(update(AcquisitionRow).values(acquired=f"{day:%Y-%m-%d}T10:00:00"))
    with person(browser, origin) as lead:
        lead.log_in("lead")
        page = lead.visit(f"/audits/{DAY}")
        page.locator(f"a[href^='/people/{jane}']").first.click()
        page.wait_for_url(f"**/people/{jane}*")
        page.locator("svg.chart a").last.click()
        page.wait_for_url("**/worklist?person=*made_from=*")
        page.locator("a[href^='/exams/1']").first.click()
        page.wait_for_url("**/exams/1*")
        expect(page.locator("img.boxes")).to_be_visible()


def test_a_report_is_downloaded_as_pdf(
    browser: Browser, pages: tuple[WebSite, str], tmp_path: Path
) -> None:
    site, origin = pages
    jane = site.numbers["jane"]
    with person(browser, origin, accept_downloads=True) as lead:
        lead.log_in("lead")
        for path, words in (
            (f"/audits/{DAY}", f"Auditof{DAY}"),
            (f"/people/{jane}", "Doe"),
        ):
            page = lead.visit(path)
            with page.expect_download() as waiting:
                page.get_by_role("link", name="PDF", exact=True).first.click()
            file = tmp_path / waiting.value.suggested_filename
            waiting.value.save_as(file)
            assert file.name.endswith(".pdf")
            assert words in pdf.text(file)
            # The page stays where it was.
            expect(page).to_have_url(f"{origin}{path}")

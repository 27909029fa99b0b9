"""The pages as a person at a browser sees them: real Chromium, no error in its console, no
violation of our policy, no request to anybody else (`tests.support.browser`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from detector.anatomy import View
from qc_daemon.operations import accounts, passwords, reviews
from qc_daemon.operations.reviews import Answer
from qc_daemon.report.source import SourceInstance
from qc_daemon.settings import load
from tests.support.accounts import QUICK_HASHER, add_account
from tests.support.browser import PATIENCE_MS, chromium, person
from tests.support.peers import association
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.service import Service
from tests.support.waiting import eventually
from tests.support.web_site import CANARY_FAMILY, WebSite, noise, web_site
from tests.web.test_server import serving
from training.phantom.dicom import exam

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
expect.set_options(timeout=PATIENCE_MS)
SIZES = {"laptop": (1366, 768), "tablet": (820, 1180), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WebSite, str]]:
    """A site whose images have pixels, and where it is served."""
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    with (
        web_site(tmp_path, with_pixels=True) as site,
        serving(site, site.exam.settings.web) as port,
    ):
        yield site, f"http://localhost:{port}"


def has_focus(page: Page, selector: str) -> bool:
    return bool(page.evaluate("s => document.activeElement?.matches(s) ?? false", selector))


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is there, as somebody without a mouse does."""
    for _ in range(60):
        if has_focus(page, selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never leads to {selector}")


def test_an_override_is_said_on_the_page(browser: Browser, pages: tuple[WebSite, str]) -> None:
    _, origin = pages
    with person(browser, origin) as lead:
        page = lead.log_in("lead")
        expect(page).to_have_url(f"{origin}/worklist")
        lead.visit("/exams/1?finding=1")
        page.check("input[name=verb][value=override]")
        page.select_option("select[name=verdict]", "non-standard")
        page.select_option("select[name=reason]", "criterion")
        page.fill("input[name=remark]", "the neck is bent")
        page.click("#review button.main")
        expect(page.locator(".history")).to_contain_text("Dr Lead")
        expect(page.locator(".verdicts h2 .verdict")).to_have_text("NON-STANDARD")
        # The picture that was asked for is there.
        expect(page.locator("img.boxes")).to_have_js_property("naturalWidth", 640)


def test_the_board_turns_while_one_looks(browser: Browser, pages: tuple[WebSite, str]) -> None:
    site, origin = pages
    with person(browser, origin) as lead:
        page = lead.log_in("lead", "/board")
        expect(page.locator(".tile")).to_have_count(2)
        header = ultrasound_header(
            SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78", PatientName="New^Ann", **noise(9)
        )
        path, job = site.exam.arrive(header)
        tile = page.locator("#exam-3")
        expect(tile.locator(".view.pending")).to_have_count(4)
        expect(page.locator(".tile").first).to_have_id("exam-3")
        finding = nuchal_finding(SourceInstance.of(header, ""))
        site.exam.score(job, path, finding)
        expect(tile.locator(".view.non-standard .change").first).to_be_visible()
        expect(tile.locator(".view.missing")).to_have_count(3)
        # A person says otherwise: the tile turns again.
        reviews.override(
            site.exam.settings, 4, Answer("Dr Lee", verdict="standard", reason="measurable")
        )
        expect(tile.locator(".view.standard")).to_have_count(1)
        tile.locator("h2 a").click()
        expect(page).to_have_url(f"{origin}/exams/3")


def test_a_screen_on_the_wall(browser: Browser, pages: tuple[WebSite, str]) -> None:
    site, origin = pages
    token = accounts.add_token(site.exam.settings, "kiosk", "wall", ["see-board"], 30)
    with person(browser, origin, viewport={"width": 1920, "height": 1080}) as screen:
        page = screen.visit("/kiosk")
        page.fill("input[name=token]", token)
        page.click("button.main")
        expect(page.locator("#exam-1")).to_be_visible()
        assert page.locator("nav, a[href^='/exams']").count() == 0
        for word in (CANARY_FAMILY, "CANARY-1"):
            assert word not in page.content()
        page.wait_for_load_state("load")
        # Two metres away: a letter of 20 minutes of arc is some 40 pixels of a wall's screen high.
        size = page.evaluate(
            "parseFloat(getComputedStyle(document.querySelector('.tile .view-code')).fontSize)"
        )
        assert size >= 40
        accounts.revoke_token(site.exam.settings, "kiosk", "wall")
        screen.expected = ("401", "303", "EventSource")
        page.reload()
        expect(page).to_have_url(f"{origin}/login?next=%2Fboard%3Fkiosk%3D1")


def test_a_server_that_is_away_is_said(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    with (
        web_site(tmp_path) as site,
        serving(site, site.exam.settings.web) as port,
        person(browser, f"http://localhost:{port}") as lead,
    ):
        lead.expected = ("ERR_", "Failed to load")
        page = lead.log_in("lead", "/board")
        expect(page.locator("#exam-1")).to_be_visible()
        expect(page.locator("#lost")).to_be_hidden()
        lead.context.set_offline(True)
        site.app.state.context.board.close()
        expect(page.locator("#lost")).to_be_visible()


def test_a_blinded_reading_by_keyboard(browser: Browser, pages: tuple[WebSite, str]) -> None:
    site, origin = pages
    answer = Answer("Dr Ng", reason="measurable", remark="UNSPEAKABLE")
    reviews.dispute(site.exam.settings, 2, answer)
    with person(browser, origin) as lead:
        page = lead.log_in("lead", "/second-readings")
        tab_to(page, "a[href='/second-readings/2']")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Read finding 2")
        for word in ("UNSPEAKABLE", "boxes.png", "0.1234", "12 %"):
            assert word not in page.content()
        page.keyboard.press("r")
        assert has_focus(page, "input[name=view]")
        page.keyboard.press("Space")
        expect(page.locator("details[data-view=NT]")).to_be_visible()
        expect(page.locator("details[data-view=CRL]")).to_be_hidden()
        page.keyboard.press("Tab")
        assert has_focus(page, "input[name=verdict]")
        page.keyboard.press("Space")
        tab_to(page, "#review button.main")
        page.keyboard.press("Enter")
        expect(page.locator("[role=status]")).to_contain_text("Your reading stands")


def test_all_of_it_without_a_mouse(browser: Browser, pages: tuple[WebSite, str]) -> None:
    _, origin = pages
    with person(browser, origin) as lead:
        page = lead.visit("/login?next=/exams/1")
        expect(page.locator("input[name=name]")).to_be_focused()
        page.keyboard.type("lead")
        page.keyboard.press("Tab")
        page.keyboard.type("correct horse battery")
        page.keyboard.press("Enter")
        expect(page.locator(".findings [aria-current]")).to_have_count(1)
        page.keyboard.press("Tab")
        expect(page.locator("a.skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("img.boxes")).to_be_visible()
        page.keyboard.press("b")
        expect(page.locator("img.boxes")).to_be_hidden()
        expect(page.locator("img.frame")).to_be_visible()
        page.keyboard.press("j")
        expect(page).to_have_url(f"{origin}/exams/1?finding=2")
        page.keyboard.press("k")
        expect(page).to_have_url(f"{origin}/exams/1?finding=1")
        tab_to(page, "form[action='/logout'] button")
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{origin}/login")


def test_a_cine_is_moved_and_played(browser: Browser, pages: tuple[WebSite, str]) -> None:
    site, origin = pages
    header = ultrasound_header(
        SOPInstanceUID="1.2.5",
        StudyInstanceUID="1.2.78",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        FrameTime="40",
        **noise(5, 120, 160),
    )
    header.NumberOfFrames = 9
    header.PixelData = header.PixelData * 9
    source = SourceInstance.of(header, "")
    scores = {1: 0.2, 4: 0.4, 9: 0.9}
    site.exam.receive(
        header, *(nuchal_finding(source, frame=n, probability=p) for n, p in scores.items())
    )
    with person(browser, origin) as lead:
        page = lead.log_in("lead", "/exams/3")
        note, picture = page.locator("#frame-note"), page.locator("img.boxes")
        expect(note).to_contain_text("frame 9")
        page.locator("#frame").press("Home")
        expect(note).to_contain_text("frame 1,")
        expect(picture).to_have_attribute("src", "/findings/4/boxes.png")
        page.locator("#frame").press("ArrowRight")
        expect(note).to_contain_text("frame 4")
        page.evaluate(
            """() => {
                window.frames_shown = new Set();
                new MutationObserver(() => {
                    const words = document.getElementById("frame-note").textContent;
                    window.frames_shown.add(words.split(",")[0]);
                }).observe(document.getElementById("frame-note"), {childList: true});
            }"""
        )
        page.keyboard.press("p")
        expect(page.locator("#play")).to_have_attribute("aria-pressed", "true")
        wanted = {"frame 1", "frame 4", "frame 9"}
        eventually(lambda: wanted <= set(page.evaluate("[...window.frames_shown]")))
        page.keyboard.press("p")
        expect(page.locator("#play")).to_have_attribute("aria-pressed", "false")
        # The header's pace was asked for and is known.
        expect(note).not_to_contain_text("10 a second")
        page.locator(".scores a").first.click()
        expect(page).to_have_url(f"{origin}/exams/3?finding=4")
        assert lead.violations() == []


PAGES = {
    "lead": (
        "/worklist?state=automatic&state=waiting",
        "/exams",
        "/exams/1?finding=2",
        "/board",
        "/board?kiosk=1",
        "/second-readings",
        "/second-readings/1",
        "/account",
    ),
    "auditor": ("/access", "/operations", "/nothing"),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(
    browser: Browser, pages: tuple[WebSite, str], theme: str, size: str
) -> None:
    site, origin = pages
    reviews.dispute(site.exam.settings, 1, Answer("Dr Ng", reason="measurable"))
    width, height = SIZES[size]
    for name, paths in PAGES.items():
        with person(
            browser, origin, color_scheme=theme, viewport={"width": width, "height": height}
        ) as someone:
            someone.expected = ("404",)
            for path in ("/login", "/kiosk", *paths):
                if path == paths[0]:
                    someone.log_in(name)
                page = someone.visit(path)
                what = (theme, size, path)
                assert someone.violations() == [], what
                # Tables scroll by themselves; the page never does sideways.
                assert page.evaluate("document.documentElement.scrollWidth") <= width, what


@pytest.mark.parametrize(
    ("locale", "heading", "missing"),
    [
        ("en-GB", "Live board", "MISSING"),
        ("de-DE", "Anzeigetafel", "FEHLT"),
        ("zh-CN", "实时看板", "缺失"),
    ],
)
def test_the_reader_s_language(
    browser: Browser, pages: tuple[WebSite, str], locale: str, heading: str, missing: str
) -> None:
    site, origin = pages
    with person(browser, origin, locale=locale) as lead:
        page = lead.log_in("lead", "/board")
        expect(page.locator("h1")).to_have_text(heading)
        # Also of what is pushed later.
        site.exam.receive_image(
            ultrasound_header(SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78"), quality="standard"
        )
        expect(page.locator("#exam-3 .view.missing .view-status").first).to_have_text(missing)
        assert page.evaluate("document.documentElement.lang") == locale[:2]
        if locale.startswith("zh"):
            # Without the system's help: no letter is a box.
            page.reload()
            page.evaluate("document.fonts.ready")
            for part in ("h1", ".top nav li", ".languages a[lang=zh]", "form button", "footer p"):
                assert all(font["isCustomFont"] for font in fonts_of(page, part)), part


def fonts_of(page: Page, selector: str) -> list[dict[str, Any]]:
    """The fonts that an element's letters are drawn with."""
    tools = page.context.new_cdp_session(page)
    for domain in ("DOM", "CSS"):
        tools.send(f"{domain}.enable")
    root = tools.send("DOM.getDocument")["root"]["nodeId"]
    node = tools.send("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
    fonts: list[dict[str, Any]] = tools.send("CSS.getPlatformFontsForNode", {"nodeId": node})[
        "fonts"
    ]
    return fonts


SERVICE = """
[store]
url = "sqlite:///{folder}/qc.db"
spool = "{folder}/spool"
[receive]
port = 0
processes = 1
quiet_seconds = 3600
[web]
port = 0
[jobs]
poll_seconds = 0.1
"""


def test_a_stored_image_comes_to_the_board(browser: Browser, tmp_path: Path) -> None:
    """By C-STORE, scored by the models that we ship, in the service's own processes."""
    service = Service(
        tmp_path, SERVICE.format(folder=tmp_path), roles=("receive", "work", "schedule", "web")
    ).start()
    try:
        add_account(load(service.config), "lead", "lead")
        origin = f"http://localhost:{service.events('pages')[0]['port']}"
        with person(browser, origin) as lead:
            page = lead.log_in("lead", "/board")
            expect(page.locator("#no-exam")).to_be_visible()
            images = exam(3, views=[View.NT, View.CRL])[:2]
            with association(service.port) as peer:
                assert [peer.send_c_store(each).Status for each in images] == [0, 0]
            expect(page.locator("#exam-1")).to_be_visible()
            expect(page.locator("#no-exam")).to_be_hidden()
            judged = page.locator(".view:not(.missing):not(.pending)")
            expect(judged).not_to_have_count(0, timeout=600_000)
            expect(page.locator("#exam-1 .scoring")).to_have_count(0, timeout=600_000)
        # Whoever looks at pages does not keep a machine waiting.
        web, receiver = (psutil.Process(service.pid(role)).nice() for role in ("web", "receive"))
        assert web > receiver
        assert not service.events("score failed")
    finally:
        assert service.stop() == 0

"""Debian's Chromium, driven by Playwright: what a person at a browser sees, and what it must not
do: an error in the console, a violation of our policy, a request to anybody else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.support.accounts import PASSWORD
from tools.web_scripts import AXE, fetch, is_there

PATIENCE_MS = 120_000
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
_SERIOUS = ("serious", "critical")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a window. Raises RuntimeError if it is not installed."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("chromium is missing; deploy/system-tools.sh installs it")
    arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Person:
    """Somebody at a browser, with nothing of another's in it."""

    context: BrowserContext
    origin: str
    page: Page
    complaints: list[str] = field(default_factory=list)
    # Answers that a test asks for on purpose, which the browser calls errors.
    expected: tuple[str, ...] = ()
    # Hosts beside ours that a test has somebody visit: a provider to log in at.
    hosts: tuple[str, ...] = ()

    def visit(self, path: str) -> Page:
        """Open a page of ours."""
        self.page.goto(f"{self.origin}{path}")
        return self.page

    def log_in(self, name: str, path: str = "/") -> Page:
        """Log in by the form."""
        self.visit(f"/login?next={path}")
        self.page.fill("input[name=name]", name)
        self.page.fill("input[name=password]", PASSWORD)
        self.page.click("button.main")
        return self.page

    def note(self, complaint: str) -> None:
        if not any(word in complaint for word in self.expected):
            self.complaints.append(complaint)

    def violations(self) -> list[str]:
        """What axe finds serious on this page, as `rule: element`."""
        if not is_there(AXE):
            fetch(AXE)
        self.page.evaluate(AXE.target.read_text(encoding="utf-8"))
        answer = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{rule['id']}: {node['target']}"
            for rule in answer["violations"]
            if rule["impact"] in _SERIOUS
            for node in rule["nodes"]
        ]


@contextmanager
def person(browser: Browser, origin: str, **options: Any) -> Iterator[Person]:
    """Somebody at a browser; at the end nothing may have been complained of. `options` are of
    Playwright's `new_context`: locale, color_scheme, viewport."""
    context = browser.new_context(locale=options.pop("locale", "en-GB"), **options)
    context.set_default_timeout(PATIENCE_MS)
    someone = Person(context, origin, context.new_page())
    host = urlsplit(origin).netloc

    def check_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            someone.note(f"console: {message.text}")

    def check_request(request: Any) -> None:
        parts = urlsplit(request.url)
        allowed = (host, *someone.hosts)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc not in allowed:
            someone.note(f"request to {parts.netloc}")

    context.on("console", check_console)
    context.on("request", check_request)
    context.on("weberror", lambda error: someone.note(f"script: {error.error.message}"))
    try:
        yield someone
    finally:
        context.close()
    # Said in words: this module's assertions are not rewritten.
    assert not someone.complaints, someone.complaints

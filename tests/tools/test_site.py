"""The documents as a site: built without a warning, and nothing of it comes from another host."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.browser import chromium
from tests.support.environment import ROOT

# What a browser loads by itself when it shows a page; links wait for a person.
_LOADING = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "form": ("action",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
    "input": ("src",),
}
_RELATIONS = {"canonical", "next", "prev", "alternate"}
_CSS_ADDRESS = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])([^'\")]+)")


class _Loads(HTMLParser):
    """Collects the addresses that a page loads, and the words of `class`."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.classes |= set(values.get("class", "").split())
        if tag == "link" and set(values.get("rel", "").split()) - _RELATIONS:
            self.addresses.append(values.get("href", ""))
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.addresses.append(values.get("content", "").partition("=")[2])
        for name in _LOADING.get(tag, ()):
            self.addresses += [each.split()[0] for each in values.get(name, "").split(",") if each]
        self.addresses += _CSS_ADDRESS.findall(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.addresses += _CSS_ADDRESS.findall(data)


def loads(html: str) -> _Loads:
    parser = _Loads()
    parser.feed(html)
    return parser


def is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme not in ("", "data") or bool(parts.netloc)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert documents <= {path.stem for path in site.glob("*.html")}
    assert "index" in documents


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = {path.name: loads(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    elsewhere = {
        name: found
        for name, page in pages.items()
        if (found := [each for each in page.addresses if is_elsewhere(each)])
    }
    assert elsewhere == {}
    # The theme's script fetches a library for such blocks.
    assert not any("mermaid" in page.classes for page in pages.values())
    assert all(page.addresses for page in pages.values())


def test_no_style_sheet_loads_anything_from_another_host(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        addresses = _CSS_ADDRESS.findall(sheet.read_text(encoding="utf-8"))
        assert [each for each in addresses if is_elsewhere(each)] == [], sheet.name


def test_an_address_of_another_host_fails_the_check() -> None:
    page = loads(
        '<link rel="stylesheet" href="https://fonts.example/f.css"><img src="a.png">'
        '<script src="//cdn.example/x.js"></script><a href="https://example.org">link</a>'
        "<style>@import 'https://a.example/b.css'; p { background: url(https://c.example/d.png) }"
        '</style><link rel="canonical" href="https://example.org/">'
    )
    assert [each for each in page.addresses if is_elsewhere(each)] == [
        "https://fonts.example/f.css",
        "//cdn.example/x.js",
        "https://a.example/b.css",
        "https://c.example/d.png",
    ]


@pytest.fixture
def origin(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_browser_asks_no_other_host(site: Path, origin: str) -> None:
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for path in sorted(site.glob("*.html")):
            page.goto(f"{origin}/{path.name}", wait_until="networkidle")
        page.goto(f"{origin}/index.html")
        page.locator(".md-search__input").first.fill("certificate")
        page.locator(".md-search-result__item").first.wait_for()
    assert len(asked) > len(list(site.glob("*.html")))
    assert [each for each in asked if not each.startswith((origin, "data:", "blob:"))] == []

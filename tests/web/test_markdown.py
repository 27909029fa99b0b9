"""Model cards as HTML: tables and headings, and nothing that a stranger's card could do."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.web.markdown import render_markdown

_TAGS = frozenset(
    [
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "p",
        "ul",
        "ol",
        "li",
        "em",
        "strong",
        "code",
        "pre",
        "blockquote",
        "hr",
        "br",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "a",
    ]
)
_ATTRIBUTES = {"href", "title", "class", "start"}


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_headings_follow_those_of_the_page() -> None:
    html = render_markdown("# Card\n\n## Data\n\n#### Deep\n\n| a | b |\n|---|--:|\n| 1 | 2 |", 3)
    assert re.findall(r"<(h\d)>", html) == ["h3", "h4", "h6"]
    assert "<td>1</td>" in html
    assert '<td class="right">2</td>' in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](https://elsewhere.example/p.png)",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>)",
        "[x](//elsewhere.example)",
        "[x](/logout)",
        '<https://a.example/"onmouseover=alert(1)>',
    ],
)
def test_a_strangers_card_does_nothing(text: str) -> None:
    for tag, attributes in Tags(render_markdown(text, 3)).elements:
        assert tag in _TAGS
        assert set(attributes) <= _ATTRIBUTES
        assert (attributes.get("href") or "https://").startswith("https://")


@given(st.text(alphabet=st.sampled_from("#*|-[]()<>!`:/\\\"' \nahs:jps"), max_size=60))
def test_any_text_is_inert(text: str) -> None:
    for tag, attributes in Tags(render_markdown(text, 2)).elements:
        assert tag in _TAGS
        assert set(attributes) <= _ATTRIBUTES
        assert re.match(r"https?://|#|$", attributes.get("href") or "")

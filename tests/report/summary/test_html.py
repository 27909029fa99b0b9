"""The exam page: complete, self-contained, and safe with hostile words."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np

from detector.anatomy import View
from model.finding import Criterion
from qc_daemon.report.objects.overlay import render_overlay
from qc_daemon.report.summary.html import PageEntry, encode_png, exam_page

Make = Callable[..., Any]
BANNER = "Trained on simulations. Not for clinical use."


class Addresses(HTMLParser):
    """Collects everything a browser would load or follow, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = ("src", "href", "srcset", "action", "data")
        self.addresses += [value or "" for name, value in attrs if name in attributes]


def test_the_page_has_every_finding_and_loads_nothing(a_source: Make, a_finding: Make) -> None:
    finding = a_finding(a_source())
    picture = render_overlay(np.zeros((48, 64, 3), np.uint8), finding)
    second = a_finding(
        a_source(), view=View.OTHER, quality="review", probability=None, criteria=(), detections=()
    )
    page = exam_page(
        [PageEntry(finding, "NT still", picture, 0.5), PageEntry(second, "Doppler")],
        title="Exam",
        banner=BANNER,
    )
    parser = Addresses()
    parser.feed(page)
    assert all(a.startswith(("data:image/png;base64,", "#finding-")) for a in parser.addresses)
    assert parser.tags.count("img") == 1
    assert "script" not in parser.tags
    assert not re.search(r"https?://|url\(|@import", page)
    assert BANNER in page
    for word in (
        "NON-STANDARD",
        "REVIEW",
        "Gain too low",
        "Turn the overall gain up",
        "12\xa0%",
    ):
        assert word in page
    assert "nuchal translucency at the lower left" in page


def test_hostile_words_stay_words(a_source: Make, a_finding: Make) -> None:
    evil = '<script>alert(1)</script>"><img src=x>'
    finding = a_finding(
        a_source(), description=evil, criteria=(Criterion("CRIT-NT", False, 1.0, "<b>"),)
    )
    page = exam_page([PageEntry(finding, evil)], title=evil, banner=evil)
    parser = Addresses()
    parser.feed(page)
    assert "script" not in parser.tags
    assert "img" not in parser.tags
    assert "b" not in parser.tags


def test_only_criteria_that_are_not_met_have_a_fix(a_source: Make, a_finding: Make) -> None:
    finding = a_finding(
        a_source(), criteria=(Criterion("CRIT-GAIN", True), Criterion("CRIT-SIZE", False))
    )
    page = exam_page([PageEntry(finding, "x")], title="t", banner="b")
    assert "Magnify" in page
    assert "gain up" not in page
    assert "gain down" not in page


def test_png_is_a_png() -> None:
    assert encode_png(np.zeros((2, 3, 3), np.uint8)).startswith(b"\x89PNG\r\n")

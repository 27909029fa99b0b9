"""The report: one well-formed file that asks nothing of any other, and JSON of the same name."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from model.finding import NON_STANDARD
from tests.training.evaluation.test_summary import RIGHT, samples
from training.evaluation import plots
from training.evaluation.report import render_html, write_report
from training.evaluation.summary import evaluate, to_plain

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order; gathers tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def figures() -> dict[str, object]:
    evil = "<script>alert(1)</script>.png"
    several = samples()
    wrong = replace(several[0], picture=evil, standard=True, label=NON_STANDARD, probability=0.01)
    return {
        "bundle": "default",
        "command": "qc-model evaluate --samples a&b.json",
        "looks": {"silhouette": 0.31},
        "sets": {
            "both classes": evaluate([*several, wrong], ablation=True),
            "one picture": evaluate([RIGHT]),
        },
        "other ultrasound, judging half": {"files": 3, "OTHER or review": 0.99},
    }


@pytest.fixture(scope="module")
def text(figures: dict[str, object]) -> str:
    """Drawing a dozen plots takes a second."""
    return render_html("Evaluation", to_plain(figures))


def test_the_page_is_well_formed_and_needs_no_other_file(text: str) -> None:
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    assert not re.search(r"https?:|//[a-z]", text)
    assert not re.search(r"url\((?!#)", text)


def test_names_are_escaped(text: str) -> None:
    page = Page(text)
    assert "<script>alert(1)</script>.png" in "".join(page.words)


def test_a_bar_below_its_start_is_drawn_from_zero() -> None:
    """A bar from 0.5 down to 0.000 would end at 0.5 and read as one."""
    low, high = (plots.bars("t", "AUROC", {"a": area}, start=0.5) for area in (0.0, 0.9))
    assert "0.000" in low
    # The axis says where bars begin.
    assert "<!-- 0.0 -->" in low
    assert "<!-- 0.0 -->" not in high
    assert "<!-- 0.5 -->" in high


def test_plots_are_those_that_have_figures(text: str) -> None:
    page = Page(text)
    names = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert names[:9] == [
        "ROC curve",
        "precision-recall curve",
        "reliability: observed share against predicted probability",
        "risk-coverage curve",
        "gate weights by view",
        "AUROC by what is left of the branches",
        "AUROC by view",
        "AUROC by set",
        "AUROC by look",
    ]
    # One picture of one class has neither ROC nor PR curve.
    assert len(names) == 9 + 3


def test_page_and_json_have_one_name_and_the_same_figures(
    tmp_path: Path, figures: dict[str, object], text: str
) -> None:
    write_report(tmp_path / "deep" / "r.html", "Evaluation", figures)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"r.html", "r.json"}
    written = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert written == to_plain(figures)
    assert written["sets"]["one picture"]["quality"]["AUROC"]["value"] is None
    assert len(written["sets"]["both classes"]["curves"]["risk and coverage"]["risk"]) == 61
    # Another time it has the same bytes.
    assert (tmp_path / "deep" / "r.html").read_text("utf-8") == text

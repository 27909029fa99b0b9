"""A person's verdict in what is reported: pictures, summary and key objects follow it."""

from collections.abc import Iterator
from datetime import UTC
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.anatomy import View
from model.finding import Finding
from qc_daemon.language.catalogues import LANGUAGES, translations
from qc_daemon.language.fonts import load_font
from qc_daemon.operations.reviews import Answer, override, read_blinded, resolve
from qc_daemon.report.exam import ReportedFinding, best_per_view, summarise_exam
from qc_daemon.report.objects.overlay import _lines, render_overlay
from qc_daemon.report.objects.renditions import render_report
from qc_daemon.report.person_verdict import apply_review, review_rank
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.parse import parse_findings, parse_reviews
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import Decision, ViewStatus
from qc_daemon.report.summary.text import compose_page
from qc_daemon.report.summary.words import NO_VIEW, decision_line
from qc_daemon.review.events import EventKind
from qc_daemon.review.state import ReviewState
from qc_daemon.settings import ReportSettings, ReviewSettings
from tests.support.report_objects import (
    REVIEWED_AT,
    nuchal_finding,
    reviewed,
    source_instance,
    ultrasound_header,
)
from tests.support.scored_exam import ScoredExam

SOURCE = source_instance()
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def reported(review: ReviewState | None, number: int = 1, **changes: Any) -> ReportedFinding:
    source = source_instance(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{number}")
    finding = nuchal_finding(source, **changes)
    return ReportedFinding(finding, number, source, Path(f"{number}"), review=review)


def test_a_finding_as_a_person_has_it() -> None:
    finding = nuchal_finding(SOURCE)
    before = finding.to_json()
    standard = apply_review(finding, reviewed(criteria=(("CRIT-GAIN", True),))).judgement
    assert (standard.quality, standard.probability, standard.reasons) == ("standard", None, ())
    assert standard.criteria[0].met is True
    assert standard.criteria[1:] == finding.judgement.criteria[1:]
    assert standard.detections == finding.judgement.detections
    worse = apply_review(
        nuchal_finding(SOURCE, quality="standard"),
        reviewed(verdict="non-standard", criteria=(("CRIT-NECK", False),)),
    ).judgement
    assert [(each.kind, each.code) for each in worse.reasons] == [("criterion", "CRIT-NECK")]
    kept = apply_review(finding, reviewed(verdict="non-standard", criteria=(("CRIT-GAIN", True),)))
    assert [each.code for each in kept.judgement.reasons] == ["PAL"]
    other = apply_review(finding, reviewed(view=View.CRL)).judgement
    assert (other.view, other.criteria) == (View.CRL, ())
    none = apply_review(finding, reviewed(view=View.OTHER, verdict=None)).judgement
    assert (none.view, none.quality) == (View.OTHER, "review")
    agreed = apply_review(finding, reviewed(kind=EventKind.ACCEPT, verdict="non-standard"))
    assert agreed is finding
    assert apply_review(finding, None) is finding
    assert finding.to_json() == before


def test_a_persons_standard_view_comes_first_and_a_rejected_one_last() -> None:
    sure = reported(None, 1, quality="standard", probability=0.99)
    by_person = reported(reviewed(), 2)
    not_standard = reported(
        reviewed(verdict="non-standard"), 3, quality="standard", probability=0.9
    )
    ranks = [review_rank(each.finding, each.review) for each in (by_person, sure, not_standard)]
    assert ranks == sorted(ranks, reverse=True)
    assert best_per_view([sure, by_person, not_standard]) == [by_person]


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_overlay_says_who_decided_and_what_the_models_say(language: str) -> None:
    t = translations(language)
    each = reported(reviewed())
    decision = each.image.decision
    assert decision is not None
    lines = [line.text for line in _lines(each.effective, t, decision, UTC)]
    (line,) = (line for line in lines if "Dr Lee" in line)
    assert "2026-03-05" in line
    assert "12\N{NO-BREAK SPACE}%" in line
    assert any(t.gettext(words.DISCLAIMER_BESIDE_PERSON) in each for each in lines)
    # No probability stands for what a person decided, and no fault of the models' verdict.
    assert all("%" not in other for other in lines if other != line)
    assert not any(other.startswith("×") for other in lines)
    pixels = np.zeros((120, 160, 3), np.uint8)
    plain, decided = (render_overlay(pixels, each.effective, language, d) for d in (None, decision))
    assert decided.shape[0] > plain.shape[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_verdict_of_no_view_fits_its_banner(language: str) -> None:
    letters = load_font(640 // 11, language, bold=True)
    word = translations(language).gettext(NO_VIEW)
    assert letters.getlength(word) < 640
    assert language == "en" or word != NO_VIEW


def test_the_models_view_is_named_only_where_the_person_says_another() -> None:
    same, other = (
        reported(reviewed()).image.decision,
        reported(reviewed(view=View.CRL)).image.decision,
    )
    assert same is not None
    assert other is not None
    t = translations("en")
    assert "models: NON-STANDARD" in decision_line(same, t, UTC)
    assert "models: Nuchal translucency, mid-sagittal, NON-STANDARD" in decision_line(other, t, UTC)


def test_a_name_that_cannot_be_printed_is_said_to_be_one() -> None:
    each = reported(reviewed(reader="ᚱᚢᚾᛅᛋ"))
    decision = each.image.decision
    assert decision is not None
    lines = [line.text for line in _lines(each.effective, translations("en"), decision, UTC)]
    assert any("letters that cannot be printed" in line for line in lines)


def test_a_summary_follows_the_person_and_says_who() -> None:
    findings = [reported(reviewed()), reported(None, 2)]
    summary = summarise_exam(findings, ReportSettings(views=["NT"]), 1, REVIEWED_AT, ())
    (row,) = summary.rows
    assert row.status is ViewStatus.STANDARD
    page = compose_page(summary, "en", UTC)
    assert words.DISCLAIMER_BESIDE_PERSON in page.notes
    assert words.DISCLAIMER not in page.notes
    assert any("Decided by Dr Lee, 2026-03-05" in point.text for point in page.cells[0].points)
    assert "standard:" not in page.cells[0].caption
    accepted = [reported(reviewed(kind=EventKind.ACCEPT, verdict="non-standard", reason=None))]
    page = compose_page(
        summarise_exam(accepted, ReportSettings(views=["NT"]), 1, REVIEWED_AT, ()), "en"
    )
    assert any("Confirmed by Dr Lee" in point.text for point in page.cells[0].points)


class Site:
    """An exam of three images that is reported with everything there is."""

    def __init__(self, folder: Path) -> None:
        self.exam = ScoredExam(folder, ["sr", "overlay", "key-objects", "pdf"])
        self.exam.settings.review = ReviewSettings(first_share=0, share=0, risk_share=0)
        for number, quality in ((1, "non-standard"), (2, "standard"), (3, "review")):
            header = ultrasound_header(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{number}")
            self.exam.receive(
                header, nuchal_finding(SourceInstance.of(header, ""), quality=quality)
            )
        self.exam.close()
        assert self.exam.report()

    def override(self, finding: int, **answer: Any) -> None:
        override(self.exam.settings, finding, Answer("Dr Lee", reason="criterion", **answer))

    def report(self) -> dict[str, list[Dataset]]:
        """What the next report sends, by kind."""
        before = len(self.exam.sent())
        assert self.exam.report()
        objects: dict[str, list[Dataset]] = {}
        for each in self.exam.sent()[before:]:
            objects.setdefault(each.kind, []).append(dcmread(BytesIO(each.payload or b"")))
        return objects


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.exam.store.close()


def selected(objects: dict[str, list[Dataset]]) -> set[str]:
    """The last numbers of the images that need attention."""
    return {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)[-1]
        for document in objects.get("key-objects", ())
        for item in document.ContentSequence
        if item.ValueType == "IMAGE"
    }


def test_an_amended_report_brings_all_that_follows_the_person(site: Site) -> None:
    site.override(1, verdict="standard")
    site.override(2, verdict="non-standard", criteria=("NECK=not-met",))
    objects = site.report()
    (sr,) = objects["sr"]
    assert sr.InstanceNumber == 2
    assert len(sr.PredecessorDocumentsSequence) == 1
    assert [each.judgement.quality for each in parse_findings(sr)] == [
        "non-standard",
        "standard",
        "review",
    ]
    assert [(each.number, each.verdict) for each in parse_reviews(sr)] == [
        (1, "standard"),
        (2, "non-standard"),
    ]
    assert len(objects["overlay"]) == 3
    assert len(objects["pdf"]) == 1
    assert selected(objects) == {"2", "3"}
    texts = [
        str(item.TextValue)
        for document in objects["key-objects"]
        for item in document.ContentSequence
        if item.ValueType == "TEXT"
    ]
    # The second image stands in the selection of each of its reasons.
    assert sum("reviewed by a person: 1 of 1" in each for each in texts) == 2
    assert not any("Lee" in each for each in texts)


def test_what_a_person_calls_no_view_needs_no_attention(site: Site) -> None:
    site.override(1, view="OTHER")
    site.override(3, verdict="standard")
    objects = site.report()
    assert selected(objects) == set()
    assert [each.verdict for each in parse_reviews(objects["sr"][0])] == [None, "standard"]


def test_a_blinded_reading_after_a_dispute_is_the_one_reported(site: Site) -> None:
    from qc_daemon.operations.reviews import dispute

    site.override(1, verdict="standard")
    site.report()
    dispute(site.exam.settings, 1, Answer("A. Berg", reason="criterion"))
    read_blinded(site.exam.settings, 1, Answer("Ng", view="NT", verdict="non-standard"))
    (sr,) = site.report()["sr"]
    (review,) = parse_reviews(sr)
    assert (review.reader, review.verdict, review.is_blinded) == ("Ng", "non-standard", True)


def test_a_first_reading_is_reported_when_the_blinded_one_is_in(site: Site) -> None:
    site.exam.settings.review = ReviewSettings(first_share=0, share=1, risk_share=1)
    site.override(1, verdict="standard")
    assert not site.exam.report()
    # Another finding's verdict amends the report meanwhile, which says nothing of the first one's.
    site.exam.settings.review = ReviewSettings(first_share=0, share=0, risk_share=0)
    site.override(2, verdict="non-standard")
    objects = site.report()
    assert [each.number for each in parse_reviews(objects["sr"][0])] == [2]
    assert selected(objects) == {"1", "2", "3"}
    assert all("Lee" not in str(each) for each in objects["key-objects"])
    # Nor do reports choose between two that differ.
    read_blinded(site.exam.settings, 1, Answer("Ng", view="NT", verdict="non-standard"))
    assert not site.exam.report()
    resolve(site.exam.settings, 1, Answer("Roth", view="NT", verdict="standard"))
    objects = site.report()
    assert [(each.number, each.verdict) for each in parse_reviews(objects["sr"][0])] == [
        (1, "standard"),
        (2, "non-standard"),
    ]
    assert selected(objects) == {"2", "3"}


def test_what_was_reported_before_a_dispute_stays_until_it_is_read(site: Site) -> None:
    from qc_daemon.operations.reviews import dispute

    site.override(1, verdict="standard")
    site.report()
    dispute(site.exam.settings, 1, Answer("A. Berg", reason="criterion"))
    assert not site.exam.report()
    site.override(2, verdict="non-standard")
    (sr,) = site.report()["sr"]
    assert [(each.number, each.reader) for each in parse_reviews(sr)] == [
        (1, "Dr Lee"),
        (2, "Dr Lee"),
    ]


def test_a_page_for_destinations_without_sr_follows_the_person(site: Site) -> None:
    site.override(1, verdict="standard")
    site.report()
    first, last = (each.payload or b"" for each in site.exam.sent() if each.kind == "sr")
    pages = [
        dcmread(BytesIO(render_report(payload, SECONDARY_CAPTURE, {}).payload))
        for payload in (first, last)
    ]
    assert pages[1].pixel_array.shape[0] > pages[0].pixel_array.shape[0]


def test_a_decision_needs_no_models_answer_to_be_said() -> None:
    each = reported(reviewed())
    assert isinstance(each.image.decision, Decision)
    assert reported(None).image.decision is None
    assert isinstance(each.finding, Finding)

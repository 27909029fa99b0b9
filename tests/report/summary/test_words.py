"""What a person reads: the notice, faults and fixes, letters, twins, the time and its zone."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydicom import dcmread

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from detector.errors import QCError
from model.bundle.bundle import Bundle, locate, write_manifest
from model.criteria.faults import REGION_FAULTS
from model.criteria.rules import RULES
from model.finding import NON_STANDARD, STANDARD, Criterion, Finding, Reason
from qc_daemon.language.catalogues import LANGUAGES, translations
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.overlay import _lines, render_overlay
from qc_daemon.report.objects.renditions import _heading
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.sr.parse import parse_findings
from qc_daemon.report.summary import words
from qc_daemon.report.summary.html import PageEntry, exam_page, summary_html
from qc_daemon.report.summary.pdf import summary_pdf
from qc_daemon.report.summary.summary import ExamSummary, SummaryImage, summarise
from qc_daemon.report.summary.text import Page, compose_page
from qc_daemon.settings import ScheduleSettings, SettingsError, load
from tests.support import pdf

Make = Callable[..., Any]
CREATED = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)
NOTICES = {
    "en": "Not for clinical use",
    "de": "Nicht für den klinischen Gebrauch",
    "zh": "不得用于临床",
}


def page_of(findings: list[tuple[Any, Finding]], language: str = "en", **changes: Any) -> Page:
    views = [View.NT]
    images = [SummaryImage(source, finding) for source, finding in findings]
    exam_summary: ExamSummary = summarise(images, views, revision=1, created=CREATED)
    return compose_page(exam_summary, language, **changes)


def cleared(finding: Finding) -> Finding:
    return replace(finding, bundle=replace(finding.bundle, clinical_use=True))


def overlay_words(finding: Finding, language: str) -> str:
    return "\n".join(line.text for line in _lines(finding, translations(language)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_notice_stands_on_every_page_and_picture_until_a_bundle_is_cleared(
    a_source: Make, a_finding: Make, tmp_path: Path, language: str
) -> None:
    source = a_source()
    finding, notice = a_finding(source), NOTICES[language]
    page = page_of([(source, finding)], language)
    assert page.banner == notice
    assert notice in summary_html(page, {})
    document = tmp_path / "page.pdf"
    document.write_bytes(summary_pdf(page, {}, CREATED))
    assert pdf.text(document).count(notice.replace(" ", "")) == 2
    assert notice in overlay_words(finding, language)
    one, another = (render_overlay(np.zeros((90, 160, 3), np.uint8), each, language) for each in
                  (finding, cleared(finding)))  # fmt: skip
    assert one.shape[0] > another.shape[0]
    free = page_of([(source, cleared(finding))], language)
    assert free.banner == ""
    assert notice not in summary_html(free, {})
    assert notice not in overlay_words(cleared(finding), language)


def test_notice_stands_in_the_report_and_on_its_page(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    for finding, is_cleared in ((a_finding(source), False), (cleared(a_finding(source)), True)):
        target = to_bytes(build_sr([source], [finding], revision=1, created=CREATED))
        (exam_summary,) = parse_findings(target)
        assert exam_summary.bundle.clinical_use is is_cleared
        heading = [line.text for line in _heading([exam_summary], 1, 800)]
        assert ("Not for clinical use" in heading) is not is_cleared
        assert "clinical" not in str(dcmread(BytesIO(target)).SeriesDescription)


def test_a_finding_has_clinical_use_only_where_the_bundle_does(
    a_source: Make, a_finding: Make
) -> None:
    finding = a_finding(a_source())
    assert "clinical_use" not in finding.to_json()["bundle"]
    assert cleared(finding).to_json()["bundle"]["clinical_use"] is True
    for each in (finding, cleared(finding)):
        assert Finding.from_json(json.loads(json.dumps(each.to_json()))) == each


@pytest.mark.parametrize(
    ("key", "card", "expected"),
    [
        (None, "**Not for\nclinical use.**", False),
        (None, "NOT FOR CLINICAL USE", False),
        (None, "Cleared by the laboratory.", True),
        (True, "Not for clinical use.", True),
        (False, "Cleared by the laboratory.", False),
    ],
)
def test_bundle_says_by_its_manifest_else_by_its_card(
    tmp_path: Path, key: bool | None, card: str, expected: bool
) -> None:
    folder = _bundle(tmp_path, key, card)
    bundle = Bundle.open(folder)
    assert bundle.is_for_clinical_use is expected
    assert bundle.id.clinical_use is expected


def test_odd_statement_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QCError, match="clinical_use"):
        Bundle.open(_bundle(tmp_path, "maybe", "card"))


def test_shipped_bundle_is_not_for_clinical_use() -> None:
    assert not Bundle.open("default").is_for_clinical_use


def _bundle(folder: Path, key: Any, card: str) -> Path:
    target = folder / "bundle"
    copytree(locate("default"), target)
    (target / "MODEL_CARD.md").write_text(card)
    manifest = json.loads((target / "bundle.json").read_text())
    facts = {k: v for k, v in manifest.items() if k not in ("files", "format")}
    if key is not None:
        facts["clinical_use"] = key
    (target / "bundle.json").unlink()
    write_manifest(target, facts)
    return target


def test_every_rule_has_words_for_its_fault(a_source: Make, a_finding: Make) -> None:
    for view, rules in RULES.items():
        for rule in rules:
            finding = a_finding(a_source(), view=view, criteria=(Criterion(rule.code, False),))
            (fault,) = words.faults(finding.judgement)
            assert fault.words != rule.meaning
            assert fault.fix == rule.fix
            assert fault.topic != rule.code


@pytest.mark.parametrize(
    ("value", "text", "fix"),
    [
        (0.12, "Gain too low", "Turn the overall gain up"),
        (0.8, "Gain too high", "Turn the overall gain down"),
        (None, "Gain not adequate", "Adjust the overall gain"),
    ],
)
def test_gain_is_turned_the_right_way(
    a_source: Make, a_finding: Make, value: float | None, text: str, fix: str
) -> None:
    finding = a_finding(a_source(), criteria=(Criterion("CRIT-GAIN", False, value),))
    (fault,) = words.faults(finding.judgement)
    assert (fault.words, fault.fix) == (text, fix)
    assert f"× {text} → {fix}" in overlay_words(finding, "en")


def test_what_could_not_be_checked_stands_under_no_all_clear(
    a_source: Make, a_finding: Make
) -> None:
    source = a_source()
    sure = a_finding(source, quality=STANDARD, criteria=(Criterion("CRIT-NT", True),))
    unsure = a_finding(source, quality=STANDARD, criteria=(Criterion("CRIT-SHADOW", None),))
    assert page_of([(source, sure)]).tasks == ("Nothing to do: every view is there and standard.",)
    page = page_of([(source, unsure)])
    assert page.tasks == (
        "Every view is there and standard; look yourself at what could not be checked.",
    )
    assert page.cells[0].points[0].text == "Could not be checked: shadow over the anatomy"


def test_letters_are_explained(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    box = (1.0, 1.0, 20.0, 20.0)
    finding = a_finding(
        source, detections=tuple(Detection(label, box, 0.9) for label in ("NA", "IT", "NA"))
    )
    expected = "NA nasal apex · IT intracranial translucency"
    assert expected in overlay_words(finding, "en")
    assert any(expected in note for note in page_of([(source, finding)]).notes)
    assert "NA Nasenspitze" in overlay_words(finding, "de")
    none = a_finding(source, detections=())
    assert not any("Letters" in note for note in page_of([(source, none)]).notes)


def test_limit_with_twins_is_stated(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    assert any("Twins" in note for note in page_of([(source, a_finding(source))]).notes)


@pytest.mark.parametrize(
    ("zone", "printed"),
    [
        ("Europe/Berlin", "2026-01-02 10:30 CET (Europe/Berlin)"),
        ("Asia/Shanghai", "2026-01-02 17:30 CST (Asia/Shanghai)"),
        ("UTC", "2026-01-02 09:30 UTC"),
    ],
)
def test_time_is_in_the_zone_of_the_settings_which_is_named(
    a_source: Make, a_finding: Make, zone: str, printed: str
) -> None:
    source = a_source()
    page = page_of([(source, a_finding(source))], zone=ZoneInfo(zone))
    assert page.notes[-1].endswith(f"{printed}.")


def test_zone_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "qc.toml"
    path.write_text('[schedule]\ntimezone = "Europe/Berlin"\n')
    assert load(path).schedule.zone == ZoneInfo("Europe/Berlin")
    assert ScheduleSettings().zone is None
    for wrong in ("Berlin/Europe", "", "../etc/passwd"):
        path.write_text(f'[schedule]\ntimezone = "{wrong}"\n')
        with pytest.raises(SettingsError, match=r"schedule\.timezone"):
            load(path)


def test_table_of_the_demo_has_no_empty_column(a_source: Make, a_finding: Make) -> None:
    finding = a_finding(a_source(), quality=NON_STANDARD)
    untimed = exam_page([PageEntry(finding, "x")], title="t", banner="b")
    timed = exam_page([PageEntry(finding, "x", seconds=0.5)], title="t", banner="b")
    assert "Seconds" not in untimed
    assert "Seconds" in timed
    assert "0.50" in timed
    assert '<td class="number">20 / 30 / 50</td>' in untimed


REASONS = (
    Reason("criterion", "CRIT-GAIN", "gain too low: turn the overall gain up", "low"),
    Reason("structure", "PAL", "palate not visible: find the mid-sagittal plane"),
    Reason("structure", "NT", "nuchal translucency looks unlike that of standard views: …"),
    Reason("region", "upper-left", "the upper left part …: check plane and sharpness there"),
)
SAID = {
    "en": (
        "Gain too low → Turn the overall gain up",
        "Palate not visible → Find the mid-sagittal plane",
        "Nuchal translucency looks unlike that of standard views → Show the nuchal skin",
        "The upper left part of the picture weighs most against a standard view"
        " → Check plane and sharpness there",
    ),
    "de": (
        "Verstärkung zu niedrig → Gesamtverstärkung erhöhen",
        "Gaumen nicht sichtbar → Medianebene aufsuchen",
        "Nackentransparenz: sieht anders aus als in Standardebenen → Nackenhaut darstellen",
        "Der Teil oben links des Bildes spricht am meisten gegen eine Standardebene"
        " → Dort Ebene und Schärfe prüfen",
    ),
    "zh": (
        "增益过低 → 调高总增益",
        "上腭不可见 → 寻找正中矢状切面",
        "颈后透明层与标准切面中的不同 → 显示颈后皮肤",
        "图像左上部最不像标准切面 → 检查该处的切面和清晰度",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_reasons_stand_first_with_what_to_do(
    a_source: Make, a_finding: Make, language: str
) -> None:
    source = a_source()
    criteria = (
        Criterion("CRIT-NT", True),
        Criterion("CRIT-GAIN", False, 0.1),
        Criterion("CRIT-BRAIN", None),
    )
    finding = a_finding(source, quality=NON_STANDARD, criteria=criteria, reasons=REASONS)
    points = page_of([(source, finding)], language).cells[0].points
    assert [f"{p.text} → {p.fix}" for p in points[:4]] == list(SAID[language])
    assert {point.mark for point in points[:4]} == {"✗"}
    # What could not be checked is the palate, which is named already.
    assert [point.mark for point in points[4:]] == ["✓"]
    overlay = overlay_words(finding, language)
    # The letters of Chinese overlays have no arrow.
    arrow = "：" if language == "zh" else " → "
    positions = [overlay.index(f"× {said.replace(' → ', arrow)}") for said in SAID[language]]
    assert positions == sorted(positions)
    if language == "en":
        page = exam_page([PageEntry(finding, "x")], title="t", banner="b")
        positions = [page.index(said) for said in ("Gain too low <span", *SAID["en"][1:])]
        assert positions == sorted(positions)
        assert "could not be checked" not in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_is_said_in_the_language_with_a_fix(
    a_source: Make, a_finding: Make, language: str
) -> None:
    t = translations(language)
    every = [
        *[(view, "criterion", rule.code) for view, rules in RULES.items() for rule in rules],
        *[(label.view, "structure", label.code) for label in LABELS if label.view],
        *[(View.NT, "region", code) for code in REGION_FAULTS],
    ]
    for view, kind, code in every:
        reason = Reason(kind, code, "words: of another version")
        judgement = a_finding(a_source(), view=view, detections=(), reasons=(reason,)).judgement
        (fault,) = words.faults(judgement)
        statement, fix = words.statement(fault, t), words.fix(fault, t)
        assert statement
        assert fix
        assert "{" not in statement
        if language != "en":
            assert statement != words.statement(fault, translations("en"))


def test_reasons_of_another_version_are_said_in_their_own_words(
    a_source: Make, a_finding: Make
) -> None:
    reason = Reason("region", "far-left", "the far left is too dark: turn it up")
    finding = a_finding(a_source(), quality=NON_STANDARD, reasons=(reason,))
    assert "× The far left is too dark → Turn it up" in overlay_words(finding, "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_unmet_criterion_does_not_contradict_a_standard_verdict(
    a_source: Make, a_finding: Make, language: str
) -> None:
    source = a_source()
    finding = a_finding(source, quality=STANDARD, criteria=(Criterion("CRIT-SIZE", False, 0.1),))
    (point,) = page_of([(source, finding)], language).cells[0].points
    assert point.mark == "•"
    expected = translations(language).gettext(words.STILL_STANDARD).partition("{")[0]
    assert point.text.startswith(expected)
    assert "×" not in overlay_words(finding, language)
    assert f"· {expected}" in overlay_words(finding, language)
    if language == "en":
        page = exam_page([PageEntry(finding, "x")], title="t", banner="b")
        assert "Standard all the same, though: Anatomy too small in the image" in page
        assert "<td></td>" in page

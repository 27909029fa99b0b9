"""Reports of persons, devices, sites and exams: what a fair one says, and how it is written."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.anatomy import View
from model.finding import NON_STANDARD, REVIEW, STANDARD
from qc_daemon.audit.charts.drawing import Marker
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import ChartBlock, Document, Heading, Picture, TableBlock
from qc_daemon.audit.reports.exam import ExamFacts, ExamPicture, exam_report
from qc_daemon.audit.reports.facts import AuditFacts
from qc_daemon.audit.reports.html import report_html
from qc_daemon.audit.reports.measure_facts import Limits
from qc_daemon.audit.reports.pdf import report_pdf
from qc_daemon.audit.reports.person import person_report
from qc_daemon.audit.reports.place import place_report
from qc_daemon.audit.reports.words import Names
from qc_daemon.audit.statistics.proportions import funnel_limits
from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.language.wording import Wording
from tests.support import pdf
from tests.support.audit_json import audit_json, limits_json
from tests.support.charts import check_chart

CREATED = datetime(2026, 6, 28, tzinfo=UTC)
COUNTS = {
    f"p{i:02}": n
    for i, n in enumerate([300, 3, 0, 40, 120, 220, 90, 15, 400, 260, 77, 64, 180, 33, 210])
}
BLANKS = " \u200b"
NAMES = ("Anna Berg", "张伟明", "نور الهدى العبد الله", "W" * 64, "<b>&\"'", "Ünal^Özgür")


def picture(title: str, *lines: str, shape: tuple[int, int] = (60, 80)) -> Picture:
    return Picture(np.full((*shape, 3), 90, np.uint8), title, lines)


GOOD = (picture("Finding 17: NT", "Standard"), picture("Finding 18: CRL", shape=(80, 60)))
TO_LEARN = (picture("Finding 30: NT", "Neck bent or stretched → Wait for a neutral position"),)


@cache
def common_audit() -> AuditFacts:
    return AuditFacts.from_json(audit_json(COUNTS))


def composer(
    body: dict[str, Any] | None, kind: str, id: str, name: str = "Anna Berg", language: str = "en"
) -> Composer:
    audit = common_audit() if body is None else AuditFacts.from_json(body)
    subject = audit.subject(kind, id)
    assert subject is not None
    names = Names({"NT": "Nuchal translucency"}, {"d1": "Voluson E10, room 2"})
    return Composer(audit, subject, name, names, Wording(language), date(2026, 6, 29))


def of_person(id: str = "p00", name: str = "Anna Berg", language: str = "en") -> Document:
    return person_report(composer(None, "person", id, name, language), CREATED, GOOD, TO_LEARN, 17)


def flagged_body() -> dict[str, Any]:
    body = audit_json(COUNTS)
    first = body["subjects"][0]["measures"]
    first[0] |= {"flag": "alarm", "rule": "false-discovery"}
    first[2] |= {"unadjusted": {"p": 0.0001, "flag": "alarm"}, "value": 0.6}
    first[2]["adjusted"] |= {"value": 0.75, "overall": 0.8}
    return body


class Page(HTMLParser):
    """The words, ids, links and sources of a page; fails on an element that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.open = "", list[str]()
        self.ids, self.links, self.sources = list[str](), list[str](), list[str]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ("meta", "img", "polyline", "polygon", "circle"):
            self.open.append(tag)
        self.ids += filter(None, [values.get("id")])
        self.links += filter(None, [values.get("href")])
        self.sources += filter(None, [values.get("src")])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("polygon", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("id", ["p00", "p01", "p02"])
def test_page_needs_no_other_and_its_links_lead_somewhere(id: str, language: str) -> None:
    text = report_html(of_person(id, language=language))
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert len(page.sources) == 3
    assert "<script" not in text
    assert not re.search(r"url\(|@import", text)
    assert f'<html lang="{language}">' in text


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_letters_stand_in_the_page(name: str) -> None:
    text = report_html(of_person(name=name))
    assert name in Page(text).words
    assert "<b>" not in text


@pytest.mark.parametrize(
    ("id", "name", "language"),
    [
        ("p00", NAMES[3], "de"),
        ("p00", NAMES[1], "zh"),
        ("p01", NAMES[2], "en"),
        ("p02", NAMES[1], "en"),
    ],
)
def test_pdf_has_all_words_within_its_pages_and_none_on_another(
    id: str, name: str, language: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(report_pdf(of_person(id, name, language)))
    for page in pdf.pages(path):
        width, height = page.size
        words = [(word, box) for word, box in page.words if word.strip(BLANKS)]
        for word, (x0, y0, x1, y1) in words:
            assert 30 < x0 < x1 < width - 30, word
            assert 20 < y0 < y1 < height - 20, word
        for (one, a), (other, b) in combinations(words, 2):
            # Boxes have the font's whole height, letters do not: half of it may overlap.
            across = min(a[2], b[2]) - max(a[0], b[0])
            down = min(a[3], b[3]) - max(a[1], b[1])
            assert across < 1 or down < 0.45 * min(a[3] - a[1], b[3] - b[1]), (one, other)
    assert all(font["embedded"] == "yes" for font in pdf.fonts(path))


def test_the_same_audit_makes_the_same_bytes() -> None:
    assert report_pdf(of_person()) == report_pdf(of_person())
    assert report_html(of_person()) == report_html(of_person())


def test_arabic_letters_are_joined_and_in_their_order_in_the_pdf(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(report_pdf(of_person(name="نور")))
    # noon-initial, waw-final, reh-isolated: as they stand from left to right.
    assert any(form in pdf.text(path) for form in ("رﻮﻧ", "ﺭﻮﻧ", "ﻧﻮﺭ", "نور"))


@pytest.mark.parametrize(("language", "name"), [("zh", "Ödön Иван"), ("en", "王小明")])
def test_numbers_after_a_name_in_another_font_are_those_of_the_tables(
    language: str, name: str, tmp_path: Path
) -> None:
    document = of_person("p00", name, language)
    path = tmp_path / "report.pdf"
    path.write_bytes(report_pdf(document))
    words = pdf.text(path)
    for block in document.charts():
        for row in block.chart.table.rows:
            for cell in row:
                assert re.sub(r"\s", "", cell) in words


def test_own_trend_is_first_and_machines_are_before_people() -> None:
    headings = [b.text for b in of_person().blocks if isinstance(b, Heading)]
    order = [
        "In short",
        "Own trend",
        "Completeness, apart from quality",
        "The machines first",
        "Among all who scan here",
        "Views",
        "What fails most",
        "Measuring NT and CRL",
        "Good pictures",
        "Pictures to learn from",
        "How far the models agree with human readers",
        "If a finding is wrong",
        "How this was computed, and what is next",
    ]
    assert [each for each in headings if each in order] == order


def test_a_flag_names_period_rule_limit_models_and_criteria() -> None:
    document = person_report(composer(flagged_body(), "person", "p00"), CREATED)
    words = Page(report_html(document)).words
    for part in (
        "to be talked about",
        "Period 2026-03-30 – 2026-06-28",
        "exact tail beyond the limit",
        "outer limits",
        "Models default 2.0.0; criteria version 0123456789abcdef",
        "not about a person",
    ):
        assert part in words
    assert "Nothing in this period calls for a talk" not in words
    assert "The mix of exams explains it" in words
    assert "does not explain it" not in words


def test_the_mix_of_exams_is_named_only_where_it_brings_the_share_nearer() -> None:
    body = flagged_body()
    body["subjects"][0]["measures"][2]["adjusted"] |= {"value": 0.55}
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert "The mix of exams explains it" not in words
    assert "The mix of exams does not explain it" in words


def test_a_note_is_said_with_its_rule_and_calls_nobody() -> None:
    body = audit_json(COUNTS)
    standard = body["subjects"][0]["measures"][0]
    standard |= {"flag": "note", "rule": "beyond-limit"}
    standard["unadjusted"] = {"p": 0.0001, "flag": "alarm"}
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert "note (beyond the outer limit, as one of many comparisons may be)" in words
    assert "Nothing in this period calls for a talk" in words
    assert "What stands above is worth a look, and no more." in words
    assert "Every share lies where chance" not in words
    # It is beyond the limit with the mix of exams taken out, too.
    assert "Without adjustment this would have been called" not in words


def test_a_criterion_that_is_flagged_says_what_to_change() -> None:
    body = audit_json(COUNTS)
    measures = body["subjects"][0]["measures"]
    failure = next(each for each in measures if each["name"] == "failure:CRIT-GAIN")
    failure |= {"flag": "alarm", "rule": "false-discovery"}
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert "What to change: Adjust the overall gain." in words


def test_a_measure_that_nobody_is_judged_by_has_no_benchmark_and_says_so() -> None:
    body = audit_json(COUNTS)
    measures = body["subjects"][0]["measures"]
    seconds = next(each for each in measures if each["name"] == "seconds-per-view")
    seconds |= {"judged": False}
    document = person_report(composer(body, "person", "p00"), CREATED)
    rows = [row for b in document.blocks if isinstance(b, TableBlock) for row in b.table.rows]
    assert next(row for row in rows if row[0] == "Seconds per view")[3:] == ("–", "not judged")
    few = of_person("p01")
    assert "not assessable (n below 30)" in report_html(few)
    assert not any("benchmark" in block.chart.table.columns for block in few.charts())


def test_a_history_of_one_period_is_no_chart() -> None:
    body = audit_json(COUNTS)
    standard = body["subjects"][0]["measures"][0]
    del standard["history"][1:]
    standard |= {"cusum": None, "signals": []}
    document = person_report(composer(body, "person", "p00"), CREATED)
    assert "standard" not in {block.name for block in document.charts()}
    words = Page(report_html(document)).words
    [week] = standard["history"]
    assert f"Standard views by period: {week['x']}/{week['n']} = " in words
    assert "A trend needs more than one period." in words


def test_below_thirty_nothing_is_judged_and_pictures_are_shown() -> None:
    document = of_person("p01")
    words = Page(report_html(document)).words
    assert "Not assessable in this period" in words
    assert "Not compared" in words
    assert "Finding 17" in words
    assert "outer limits" not in words
    names = {block.name for block in document.charts()}
    assert not names & {"funnel", "strip", "standard-cusum"}


def test_nobody_else_is_in_the_report_of_a_person() -> None:
    text = report_html(of_person())
    for id in COUNTS:
        assert id not in text


def test_a_funnel_shows_a_person_alone_and_a_device_among_others() -> None:
    def markers(document: Document) -> int:
        funnel = next(b for b in document.charts() if b.name == "funnel").chart
        in_the_plot = [m for m in funnel.drawing.shapes if isinstance(m, Marker) and m.note]
        assert len(in_the_plot) == len(funnel.table.rows)
        return len(in_the_plot)

    assert markers(of_person()) == 1
    device = composer(audit_json(COUNTS), "device", "d1", "Room 2")
    assert markers(place_report(device, CREATED)) == 2


def test_others_are_those_with_enough_pictures_to_be_judged() -> None:
    strip = next(b for b in of_person().charts() if b.name == "strip").chart
    enough = sum(n >= 30 for n in COUNTS.values()) - 1
    assert strip.table.rows[0][3] == str(enough)


def test_agreement_and_dispute_stand_on_the_same_page() -> None:
    words = Page(report_html(of_person())).words
    assert "50 pictures of 25 exams, 86\N{NO-BREAK SPACE}% agree; kappa 0.66 (0.41 – 0.85)" in words
    assert "qc-daemon review dispute 17 --reason criterion" in words
    assert "Next audit: 2026-06-29" in words
    assert "3 are left out" in words


def test_without_blinded_readings_the_agreement_is_not_known() -> None:
    body = audit_json(COUNTS, agreement={"model_first": None, "first_second": None})
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert "is not known" in words


def test_report_of_a_device_tells_its_drift_and_names_nobody() -> None:
    document = place_report(composer(audit_json(COUNTS), "device", "d1", "Room 2"), CREATED)
    words = Page(report_html(document)).words
    assert "Image quality of the device Room 2" in words
    assert "0.310" in words
    assert "new site calibration" in words
    assert "What the models see of these pictures has moved" in words
    assert "Nothing in this period calls for a talk" not in words
    assert not re.search(r"\bp\d\d\b", words)
    report_pdf(document)


def test_an_alarm_of_the_own_chart_that_goes_on_is_said_first() -> None:
    body = audit_json(COUNTS)
    standard = body["subjects"][0]["measures"][0]
    last = len(standard["history"]) - 1
    standard["signals"] = [
        {"at": at, "rule": rule}
        for at, rule in ((2, "beyond-limit"), (last - 1, "eight-on-one-side"),
                         (last, "eight-on-one-side"))
    ]  # fmt: skip
    since = standard["history"][last - 1]["from"]
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert f"Standard views, own trend: 8 periods in a row on one side, since {since}" in words
    standard["signals"] = [{"at": last - 1, "rule": "eight-on-one-side"}]
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert "own trend:" not in words


def drift_of_pictures(kind: str, id: str) -> list[dict[str, Any]]:
    """An alarm of the mean grey level, and one of the embeddings."""
    months = [
        {
            "from": f"2026-0{month}-01",
            "n": 80,
            "value": 41 + 14 * (month > 3),
            "low": 40,
            "high": 57,
        }
        for month in range(1, 7)
    ]
    common = {"kind": kind, "id": id, "n": 200, "reference_n": 900, "q": 0.0001}
    common |= {"since": "2026-03-03", "flag": "alarm", "rule": "3-of-5", "calibrate": False}
    mean = {"feature": "image:mean", "value": 0.8, "before": 41.2, "after": 55.0, "months": months}
    embedding = {"feature": "embedding", "value": 0.777, "energy": 0.2, "months": []}
    quiet = {"feature": "image:colour", "value": 0.01, "flag": None, "since": None}
    quiet |= {"before": 0.012, "after": 0.013}
    return [common | each for each in (mean, embedding, quiet)]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ("mean grey level 41 → 55", "embeddings of the pictures", "1.2 % → 1.3 %")),
        ("de", ("mittlerer Grauwert 41 → 55", "Einbettungen der Bilder", "1,2 % → 1,3 %")),
        ("zh", ("平均灰度 41 → 55", "图像嵌入向量", "1.2% → 1.3%")),
    ],
)
def test_the_report_of_a_device_says_what_changed_in_its_pictures_and_since_when(
    language: str, expected: tuple[str, ...]
) -> None:
    body = audit_json(COUNTS, drift=drift_of_pictures("device", "d1"))
    document = place_report(composer(body, "device", "d1", "Room 2", language), CREATED)
    words = Page(report_html(document)).words.replace("\u00a0", " ")
    for each in (*expected, "2026-03-03"):
        assert each in words
    # PSI is no measure of embeddings.
    assert "0.777" not in words
    charts = [chart for chart in document.charts() if chart.name == "image-mean"]
    assert len(charts) == 1
    check_chart(charts[0].chart)
    report_pdf(document)


def test_the_report_of_a_new_device_compares_it_with_the_bundles_pictures() -> None:
    drift = [
        each | {"compared_with": "bundle", "since": None}
        for each in drift_of_pictures("device", "d1")
    ]
    body = audit_json(COUNTS, drift=drift)
    words = Page(report_html(place_report(composer(body, "device", "d1"), CREATED))).words
    assert "These pictures are unlike those that the bundle knows" in words
    assert "unlike those that the bundle was calibrated on: mean grey level 41 → 55" in words
    assert "changed since" not in words
    assert "alarm, bundle" in words
    assert "< 0.001" in words


def test_the_report_of_a_person_has_one_sentence_on_her_machines_pictures() -> None:
    body = audit_json(COUNTS, drift=drift_of_pictures("device", "d1"))
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert words.count("the pictures themselves changed since 2026-03-03") == 1


def test_points_of_an_own_trend_say_how_many_pictures_they_are_of() -> None:
    body = audit_json(COUNTS)
    own = next(each for each in body["subjects"] if each["id"] == "p00")
    standard = next(each for each in own["measures"] if each["name"] == "standard")
    point = {"x": 18, "n": 22, "value": 18 / 22, "low": 0.6, "high": 0.9, "centre": 0.8}
    point |= {"low_limit": 0.5, "high_limit": 1.0, "model_id": None}
    standard["own_trend"] = {
        "weeks": 4,
        "least": 20,
        "left_out": 3,
        "points": [
            point | {"from": "2026-04-06", "to": "2026-05-03"},
            point | {"from": "2026-05-04", "to": "2026-05-31"},
        ],
        "signals": [],
    }
    document = person_report(composer(body, "person", "p00"), CREATED)
    words = Page(report_html(document)).words
    assert "Each point is four weeks, with at least 20 pictures or views." in words
    assert "Points not drawn, for there are fewer: 3." in words
    [chart] = [chart for chart in document.charts() if chart.name == "standard"]
    assert len(chart.chart.table.rows) == 2
    assert "own trend:" not in words
    # What is said first is what the chart shows, and not of the weeks that it does not draw.
    standard["own_trend"]["signals"] = [{"at": 1, "rule": "beyond-limit"}]
    standard["signals"] = []
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert re.search(r"Standard views, own trend: .*, since 2026-05-04", words)
    standard["signals"] = [{"at": len(standard["history"]) - 1, "rule": "beyond-limit"}]
    standard["own_trend"]["signals"] = []
    words = Page(report_html(person_report(composer(body, "person", "p00"), CREATED))).words
    assert "own trend:" not in words


def test_an_audit_with_the_least_of_keys_can_be_reported() -> None:
    body = {
        "date": "2026-06-28",
        "window": {"from": "2026-06-01", "to": "2026-06-28"},
        "subjects": [{"kind": "person", "id": "p1", "measures": [{"name": "standard", "n": 0}]}],
    }
    document = person_report(composer(body, "person", "p1"), CREATED)
    assert not list(document.charts())
    assert "Not assessable" in report_html(document)
    report_pdf(document)


def test_limits_at_another_n_are_those_of_the_audit() -> None:
    exact = Limits(0.8, 100, funnel_limits(0.8, 100), 0.0)
    assert exact.at(50, 0.7) == funnel_limits(0.7, 50)
    # In log odds, with variation between subjects: what the audit says of another subject.
    wide = Limits.from_json(limits_json(0.8, 100), 100)
    other = Limits.from_json(limits_json(0.7, 400), 400)
    at_own = vars_of(wide.at(100, 0.8))
    assert at_own == pytest.approx(vars_of(wide.at_n), abs=1e-6)
    scaled = vars_of(Limits.from_json(limits_json(0.8, 400), 400).at_n)
    assert vars_of(wide.at(400, 0.8)) == pytest.approx(scaled, abs=1e-6)
    assert other.at(400, 0.8).low_alarm < 0.8 < other.at(400, 0.8).high_alarm


def test_what_was_expected_is_a_share_of_the_pictures() -> None:
    document = of_person("p00")
    table = next(
        b.table
        for b in document.blocks
        if isinstance(b, TableBlock) and b.table.caption.startswith("Adjusted for")
    )
    own = next(s for s in audit_json(COUNTS)["subjects"] if s["id"] == "p00")["measures"][0]
    expected = own["adjusted"]["expected"] / own["n"]
    assert table.rows[0][3] == Wording().percent(expected)


def test_the_funnel_has_the_case_mix_taken_out() -> None:
    funnel = next(b for b in of_person().charts() if b.name == "funnel").chart
    assert "adjusted" in funnel.drawing.title
    own = next(s for s in audit_json(COUNTS)["subjects"] if s["id"] == "p00")["measures"][0]
    marked = next(m for m in funnel.drawing.shapes if isinstance(m, Marker) and m.radius > 6)
    assert funnel.table.rows[0][4] == Wording().percent(own["adjusted"]["value"])
    assert marked.note.startswith("Anna Berg 2")


def test_machines_are_in_the_order_of_their_part() -> None:
    words = Page(report_html(of_person())).words
    assert words.index("50/70 = 71") < words.index("24/30 = 80")
    assert "430/600" not in words


def test_a_sum_that_is_no_count_is_a_mean() -> None:
    words = Page(report_html(of_person())).words
    assert "Mean probability of a standard view" in words
    assert "198.01" not in words


def vars_of(limits: Any) -> list[float]:
    return [limits.low_alarm, limits.low_warning, limits.high_warning, limits.high_alarm]


def exam_picture(number: int, view: str, verdict: str, **values: Any) -> ExamPicture:
    return ExamPicture(number, view, verdict, 0.7, (), ("CRIT-GAIN", "CRIT-NECK"), **values)


@pytest.mark.parametrize("language", LANGUAGES)
def test_report_of_an_exam(language: str) -> None:
    pictures = (
        exam_picture(4, "NT", NON_STANDARD),
        exam_picture(5, "NT", REVIEW, by_person=True),
        exam_picture(6, "CRL", STANDARD),
    )
    pictures = tuple(replace(each, unmet=("CRIT-NECK",)) for each in pictures)
    exam = ExamFacts(12, CREATED, "Room 2", "default 2.0.0", pictures, 1)
    views = [View.NT, View.CRL, View.HEAD]
    document = exam_report(exam, views, Names({}, {}), Wording(language), None, GOOD, TO_LEARN)
    report_pdf(document)
    page = Page(report_html(document))
    if language == "en":
        assert "Missing: HEAD." in page.words
        assert "A person has to judge: NT." in page.words
        assert "Neck bent or stretched: in every picture" in page.words
        assert "1 object could not be judged." in page.words
        assert "review dispute 4" in page.words
    chart = next(b for b in document.blocks if isinstance(b, ChartBlock)).chart
    assert chart.table.rows[0][1] == "3/3"


def test_an_exam_with_all_views_has_nothing_to_do() -> None:
    exam = ExamFacts(12, CREATED, None, "", (exam_picture(6, "CRL", STANDARD),), 0)
    text = report_html(exam_report(exam, [View.CRL], Names({}, {}), Wording()))
    assert "Every expected view is there and standard" in text

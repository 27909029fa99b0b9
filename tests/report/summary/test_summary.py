"""The exam summary: what stands where, in words and on paper."""

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from detector.errors import ErrorCode, Flag, QCError
from model.criteria.rules import RULES
from model.finding import NON_STANDARD, REVIEW, STANDARD, Criterion
from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.encapsulated_pdf import build_pdf
from qc_daemon.report.objects.overlay import render_frame
from qc_daemon.report.summary.html import summary_html
from qc_daemon.report.summary.pdf import Pictures, summary_pdf
from qc_daemon.report.summary.summary import ExamSummary, SummaryImage, ViewStatus, summarise
from qc_daemon.report.summary.text import Page, compose_page, format_person
from tests.support import pdf

Make = Callable[..., Any]
CREATED = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)
VIEWS = (View.NT, View.CRL, View.HEAD, View.ABDOMEN)


@pytest.fixture
def an_image(a_source: Make, a_finding: Make) -> Callable[..., SummaryImage]:
    """A finding on an instance of this number."""

    def make(
        number: int, view: View, quality: str, probability: float | None = 0.5, **changes: Any
    ) -> SummaryImage:
        header = {"SOPInstanceUID": f"1.2.826.0.1.3680043.10.9.{number}", "InstanceNumber": number}
        source = a_source(sha256=f"{number:064x}", **header | changes.pop("header", {}))
        values = {"view": view, "quality": quality, "probability": probability, **changes}
        return SummaryImage(source, a_finding(source, **values))

    return make


def summary(images: list[SummaryImage], **changes: Any) -> ExamSummary:
    values = {"revision": 1, "created": CREATED, **changes}
    return summarise(images, values.pop("expected", VIEWS), **values)


def pictures(summary: ExamSummary) -> Pictures:
    pixels = np.random.default_rng(1).integers(0, 90, (480, 640, 3), dtype=np.uint8)
    best = [row.best for row in summary.rows if row.best is not None]
    return {image.key: render_frame(pixels, image.finding) for image in best}


def everything(page: Page) -> str:
    """All its words."""
    cells = [
        (c.view, c.verdict, c.caption, *((p.text, p.fix) for p in c.points)) for c in page.cells
    ]
    return repr((page.title, page.facts, page.tasks, cells, page.notes))


def test_each_view_stands_as_its_best_picture(an_image: Make) -> None:
    exam_summary = summary(
        [
            an_image(1, View.NT, NON_STANDARD, 0.4),
            an_image(2, View.NT, STANDARD, 0.9),
            an_image(3, View.NT, STANDARD, 0.95),
            an_image(4, View.HEAD, NON_STANDARD, 0.3),
            an_image(5, View.HEAD, REVIEW, 0.2),
            an_image(6, View.ABDOMEN, NON_STANDARD, 0.1),
            an_image(7, View.OTHER, REVIEW, None),
        ]
    )
    stands = {row.view: (row.status, row.count) for row in exam_summary.rows}
    assert stands == {
        View.NT: (ViewStatus.STANDARD, 3),
        View.CRL: (ViewStatus.MISSING, 0),
        # A doubtful picture may still be the one: a person decides before it is taken again.
        View.HEAD: (ViewStatus.REVIEW, 2),
        View.ABDOMEN: (ViewStatus.NON_STANDARD, 1),
    }
    numbers = [row.best and row.best.source.header.InstanceNumber for row in exam_summary.rows]
    assert numbers == [3, None, 5, 6]
    assert (exam_summary.others, exam_summary.pictures) == (1, 7)


def test_views_not_expected_are_never_missing_and_still_listed(an_image: Make) -> None:
    exam_summary = summary([an_image(1, View.HEAD, STANDARD)], expected=[View.NT])
    assert [row.view for row in exam_summary.rows] == [View.NT, View.HEAD]


def test_a_rejected_picture_stands_for_no_view(an_image: Make) -> None:
    best, second = an_image(1, View.NT, STANDARD, 0.9), an_image(2, View.NT, NON_STANDARD, 0.2)
    exam_summary = summary([best, second], rejected={best.source.sop_instance_uid})
    assert (exam_summary.rows[0].status, exam_summary.rows[0].best) == (
        ViewStatus.NON_STANDARD,
        second,
    )
    assert (exam_summary.rejected, exam_summary.pictures) == (1, 2)
    assert "Pictures that a person rejected: 1 of 2." in compose_page(exam_summary, "en").notes


def test_frames_and_regions_of_one_instance_are_one_picture(an_image: Make) -> None:
    cine = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "NumberOfFrames": 9}
    images = [an_image(1, View.NT, STANDARD, 0.5 + n / 20, frame=n, header=cine) for n in (1, 4, 7)]
    (row,) = summary(images, expected=[View.NT]).rows
    assert row.count == 1
    assert row.best is images[2]
    page = compose_page(summary(images), "en")
    assert "frame 7" in page.cells[0].caption


def test_words_say_what_is_missing_and_how_to_fix_it(an_image: Make) -> None:
    unmet = (
        Criterion("CRIT-NASAL", False, None, "1", ()),
        Criterion("CRIT-GAIN", True, None, "1", ()),
    )
    page = compose_page(
        summary([
            an_image(1, View.NT, NON_STANDARD, criteria=unmet),
            an_image(2, View.HEAD, REVIEW, flags=(Flag.NO_REAL_EVIDENCE,), criteria=()),
            an_image(3, View.ABDOMEN, NON_STANDARD, criteria=()),
        ]),
        "en",
    )  # fmt: skip
    assert page.tasks == (
        "Missing, still to be taken: Crown-rump length.",
        "Better pictures wanted: Nuchal translucency, mid-sagittal; Abdomen, axial.",
        "A person has to judge: Head, axial.",
    )
    nt, crl, head, abdomen = (
        [(point.mark, point.text, point.fix) for point in cell.points] for cell in page.cells
    )
    assert nt == [
        ("✗", "Nasal bone not visible", "Insonate the nose at 45 degrees"),
        ("✓", "1 criterion met", ""),
    ]
    assert crl == [("•", "No picture shows this view.", "Take one")]
    assert head == [("•", "View learned from simulations only", "")]
    assert abdomen[0][1].startswith("No single criterion fails")


def test_patient_stands_on_the_page_as_in_the_header(an_image: Make) -> None:
    image = an_image(
        1, View.NT, STANDARD, header={"PatientName": "Wang^XiaoDong=王^小东", "StationName": "V3"}
    )
    facts = dict(compose_page(summary([image]), "en").facts)
    assert facts == {
        "Patient": "Wang, XiaoDong / 王, 小东",
        "Patient ID": "4711",
        "Born": "1990-01-02",
        "Accession number": "A1",
        "Exam": "2026-01-02",
        "Station": "V3",
    }


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("Müller^Änne^Maria", "Müller, Änne Maria"),
        ("Doe", "Doe"),
        ("", ""),
        ("Hong^Gildong=洪^吉洞=홍^길동", "Hong, Gildong / 洪, 吉洞"),
        ("Kim=\U0001f9ff", "Kim"),
        ("אברהם^שרה=", "אברהם, שרה"),
    ],
)  # fmt: skip
def test_names_are_printed_as_far_as_there_are_letters(name: str, printed: str) -> None:
    assert format_person(name) == printed


@pytest.mark.parametrize("name", ["홍^길동", "אברהם^שרה", "فاطمة"])
def test_a_name_in_letters_without_a_font_is_replaced_by_a_note(an_image: Make, name: str) -> None:
    """Hebrew and Arabic would be printed backwards."""
    image = an_image(1, View.NT, STANDARD, header={"PatientName": name})
    assert "cannot be printed" in dict(compose_page(summary([image]), "en").facts)["Patient"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_html_loads_nothing_and_escapes(an_image: Make, language: str) -> None:
    evil = an_image(1, View.NT, STANDARD, header={"PatientName": "<script>alert(1)</script>"})
    exam_summary = summary([evil, an_image(2, View.HEAD, REVIEW)])
    page = compose_page(exam_summary, language)
    html = summary_html(page, pictures(exam_summary))
    assert f'<html lang="{language}">' in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count('<img src="data:image/png;base64,') == 2
    assert not re.search(r"https?://|url\(|@import", html)
    assert all(cell.verdict in html for cell in page.cells)


def an_exam(an_image: Make, seed: int) -> ExamSummary:
    """A random exam, from one picture to many, with few or all criteria unmet."""
    rng = random.Random(seed)
    images = []
    for number in range(1, rng.choice([2, 6, 12])):
        view = rng.choice([*VIEWS, View.OTHER])
        quality = REVIEW if view is View.OTHER else rng.choice([STANDARD, NON_STANDARD, REVIEW])
        outcomes = rng.choice([(True,), (False,), (None,), (True, False, None)])
        images.append(
            an_image(
                number,
                view,
                quality,
                None if view is View.OTHER else rng.random(),
                criteria=tuple(
                    Criterion(rule.code, rng.choice(outcomes), None, "1", ())
                    for rule in RULES[view]
                ),
                detections=tuple(_box(rng) for _ in range(rng.choice([0, 3, 32]))),
                flags=rng.choice([(), tuple(Flag)]),
                header={
                    "PatientName": rng.choice(["Doe^Jane", "M" * 60, "王^小东"]),
                    "StudyDescription": rng.choice(["", "First trimester " * 4]),
                },
            )
        )
    return summary(images, revision=rng.choice([1, 3]))


def _box(rng: random.Random) -> Detection:
    x, y = rng.uniform(0, 560), rng.uniform(0, 420)
    size = rng.uniform(4, 60)
    label = rng.choice([label.code for label in LABELS if label.code != "UNKNOWN"])
    return Detection(label, (x, y, x + size, y + size), rng.random())


@pytest.mark.parametrize("seed", range(20))
def test_on_paper_nothing_is_lost_cut_off_or_overlaps(
    tmp_path: Path, an_image: Make, seed: int
) -> None:
    exam = an_exam(an_image, seed)
    page = compose_page(exam, LANGUAGES[seed % len(LANGUAGES)])
    path = tmp_path / "summary.pdf"
    path.write_bytes(summary_pdf(page, pictures(exam), CREATED))
    sheets = pdf.pages(path)
    assert len(pdf.render_pages(path, tmp_path / "page")) == len(sheets)
    assert {font["embedded"] for font in pdf.fonts(path)} == {"yes"}
    assert sum(len(sheet.pictures) for sheet in sheets) == len(pictures(exam))
    page_text = pdf.text(path)
    for cell in page.cells:
        for words in (cell.view, cell.verdict, cell.caption, *(p.text for p in cell.points)):
            assert re.sub(r"\s+", "", words) in page_text
    for sheet in sheets:
        width, height = sheet.size
        boxes = [*(box for _, box in sheet.words), *sheet.pictures]
        for x0, y0, x1, y1 in boxes:
            assert min(x0, y0) > 20
            assert x1 < width - 20
            assert y1 < height - 20
        for number, one in enumerate(boxes):
            for another in boxes[number + 1 :]:
                assert _shared(one, another) < 0.5, (sheet.words, one, another)


def _shared(a: pdf.Rectangle, b: pdf.Rectangle) -> float:
    """How deep two places lie in each other, in points; the font's own boxes touch by a hair."""
    return min(min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1]) - 1.5)


def test_same_exam_same_bytes(an_image: Make) -> None:
    exam = an_exam(an_image, 1)
    page = compose_page(exam, "zh")
    assert summary_pdf(page, pictures(exam), CREATED) == summary_pdf(page, pictures(exam), CREATED)


def test_pdf_is_a_valid_object(
    tmp_path: Path, an_image: Make, dciodvfy: Callable[[Path], list[str]]
) -> None:
    images = [an_image(1, View.NT, STANDARD), an_image(2, View.HEAD, REVIEW)]
    exam = summary(images)
    page = compose_page(exam, "en")
    document = summary_pdf(page, pictures(exam), CREATED)

    def build(revision: int = 1) -> bytes:
        sources, findings = [s.source for s in images], [s.finding for s in images]
        return to_bytes(
            build_pdf(sources, findings, document, page.title, revision=revision, created=CREATED)
        )

    assert build() == build()
    path = tmp_path / "summary.dcm"
    path.write_bytes(build())
    assert dciodvfy(path) == []
    dataset = dcmread(BytesIO(build()))
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength] == document
    assert dataset.PatientName == images[0].source.header.PatientName
    assert dataset.BurnedInAnnotation == "YES"
    exam_summary = [item.ReferencedSOPInstanceUID for item in dataset.SourceInstanceSequence]
    assert exam_summary == [image.source.sop_instance_uid for image in images]
    assert dcmread(BytesIO(build(2))).SOPInstanceUID != dataset.SOPInstanceUID


def test_sources_of_two_studies_make_no_object(an_image: Make) -> None:
    another = an_image(2, View.NT, STANDARD, header={"StudyInstanceUID": "1.2.3"})
    images = [an_image(1, View.NT, STANDARD), another]
    with pytest.raises(QCError) as refused:
        build_pdf(
            [s.source for s in images], [s.finding for s in images], b"%PDF", "t",
            revision=1, created=CREATED,
        )  # fmt: skip
    assert refused.value.code is ErrorCode.REPORT_INVALID

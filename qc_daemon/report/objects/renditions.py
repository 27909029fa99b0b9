"""A report in another form, for a destination that does not take Comprehensive 3D SR.

As Comprehensive SR it is the same content: a class and UIDs of its own, for nothing in it is three-
dimensional. As a Secondary Capture it is one page of the findings in words. Made from the report's
stored bytes alone: the same bytes make the same rendition.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Pixels
from model.finding import Finding
from qc_daemon.language.catalogues import ENGLISH, translations
from qc_daemon.language.fonts import load_font, wrap_text
from qc_daemon.records.results.renditions import Rendition, RenditionReference
from qc_daemon.report.derived_uids import derived_uid
from qc_daemon.report.equipment import (
    to_bytes,
)
from qc_daemon.report.objects.overlay import (
    BLACK,
    NO_VIEW_COLOURS,
    VERDICT_COLOURS,
    WHITE,
    Colour,
)
from qc_daemon.report.objects.secondary_capture import build_secondary_capture, source_image
from qc_daemon.report.person_verdict import apply_review, review_rank
from qc_daemon.report.sr.parse import parse_findings, parse_reviews
from qc_daemon.report.sr.reviews import ReportedReview
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import Decision

SERIES_NUMBER = 9906
SERIES_DESCRIPTION = "Ultrasound image quality, report as a page (machine-made)"
DERIVATION = "Findings of a structured report written as text"

_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""The UIDs of the SR classes begin with this."""
GREY: Colour = (190, 190, 190)
AMBER: Colour = (255, 170, 90)
_COLUMN, _MARGIN, _GAP = 820, 30, 14
_LARGE, _REGULAR, _SMALL = 34, 24, 20
# The page's height is at most so many times its width, so columns are added until it is.
_MOST_PER_WIDTH = 1.2


def render_report(
    payload: bytes, sop_class_uid: str, held_references: Mapping[str, RenditionReference]
) -> Rendition:
    """The report of a stored PS3.10 file as an object of another class.

    `held_references`: by SOP Instance UID of an earlier report, the object that the destination
    holds instead; the rendition names these as its predecessors. Raises QCError REPORT_INVALID.
    """
    report = dcmread(BytesIO(payload))
    if sop_class_uid == SecondaryCaptureImageStorage:
        dataset = _page(report)
    else:
        dataset = _document(report, sop_class_uid, held_references)
    reference = RenditionReference(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
    )
    return Rendition(reference, to_bytes(dataset))


def _document(
    report: Dataset, sop_class_uid: str, held_references: Mapping[str, RenditionReference]
) -> Dataset:
    """The same content as another class of SR, with the predecessors that the destination holds."""
    if any(item.ValueType == "SCOORD3D" for item in _items(report)):
        raise QCError(
            ErrorCode.REPORT_INVALID, "three-dimensional coordinates fit no other class of report"
        )
    amended = [uid for uid in _predecessors(report) if uid in held_references]
    if str(report.SOPClassUID) != sop_class_uid or amended:
        replacements = [held_references[uid].sop_instance_uid for uid in amended]
        uid = derived_uid("rendition", sop_class_uid, str(report.SOPInstanceUID), *replacements)
        report.SOPClassUID, report.SOPInstanceUID = sop_class_uid, uid
    for study in report.get("PredecessorDocumentsSequence", []):
        study.ReferencedSeriesSequence = list(
            _replace_instances(study.ReferencedSeriesSequence, held_references)
        )
    return report


def _items(item: Dataset) -> Iterator[Dataset]:
    """The content item and all below it."""
    yield item
    for child in item.get("ContentSequence", []):
        yield from _items(child)


def _predecessors(report: Dataset) -> Iterator[str]:
    for study in report.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            for instance in series.ReferencedSOPSequence:
                yield str(instance.ReferencedSOPInstanceUID)


def _replace_instances(
    series: Iterable[Dataset], held_references: Mapping[str, RenditionReference]
) -> Iterator[Dataset]:
    """Referenced series whose instances are replaced by those that the destination holds."""
    by_series: dict[str, list[Dataset]] = {}
    for each in series:
        for instance in each.ReferencedSOPSequence:
            own = RenditionReference(
                str(instance.ReferencedSOPClassUID),
                str(instance.ReferencedSOPInstanceUID),
                str(each.SeriesInstanceUID),
            )
            target = held_references.get(own.sop_instance_uid, own)
            item = Dataset()
            item.ReferencedSOPClassUID = target.sop_class_uid
            item.ReferencedSOPInstanceUID = target.sop_instance_uid
            by_series.setdefault(target.series_instance_uid, []).append(item)
    for uid, instances in by_series.items():
        one = Dataset()
        one.SeriesInstanceUID = uid
        one.ReferencedSOPSequence = instances
        yield one


def _page(report: Dataset) -> Dataset:
    """One page with the findings in words, as a Secondary Capture."""
    study, number = str(report.StudyInstanceUID), int(report.InstanceNumber)
    return build_secondary_capture(
        draw_page(parse_findings(report), number, parse_reviews(report)),
        report,
        series=(
            derived_uid("page-series", study, str(report.SeriesInstanceUID)),
            SERIES_NUMBER,
            SERIES_DESCRIPTION,
        ),
        sop_instance_uid=derived_uid(
            "rendition", SecondaryCaptureImageStorage, str(report.SOPInstanceUID)
        ),
        number=number,
        derivation=DERIVATION,
        sources=list(_sources(report)),
        burned_in=False,
        # Made when the report was: nothing of the page is newer.
        moment=datetime.strptime(f"{report.ContentDate}{report.ContentTime}", "%Y%m%d%H%M%S.%f"),
    )


def _sources(report: Dataset) -> Iterator[Dataset]:
    """Source Image items of the images that were judged."""
    for study in report.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            for instance in series.ReferencedSOPSequence:
                sop_class_uid = str(instance.ReferencedSOPClassUID)
                # A machine's own report is evidence too, and no image.
                if not sop_class_uid.startswith(_REPORTS):
                    yield source_image(sop_class_uid, str(instance.ReferencedSOPInstanceUID))


@dataclass(frozen=True, slots=True)
class PageFinding:
    """A finding on the page, the best of `frames` frames of its image and view; with a person's
    verdict where there is one, and `decision` that says whose."""

    finding: Finding
    frames: int
    decision: Decision | None = None


def best_findings(
    findings: Sequence[Finding], reviews: Sequence[ReportedReview] = ()
) -> list[PageFinding]:
    """The best finding of each view of each image: a person's standard view, then what is most
    probably standard, then surest. `reviews` count the findings from 1."""
    states = {review.number: review.state for review in reviews}
    groups: dict[tuple[str | None, str], list[tuple[tuple[float, float], PageFinding]]] = {}
    for number, finding in enumerate(findings, start=1):
        state = states.get(number)
        effective = apply_review(finding, state)
        outcome = None if state is None else state.outcome
        decision = None if outcome is None else Decision(outcome, finding.judgement)
        entry = PageFinding(effective, 1, decision)
        key = (finding.sop_instance_uid, effective.judgement.view)
        groups.setdefault(key, []).append((review_rank(finding, state), entry))
    return [
        replace(
            max(of_view, key=lambda each: each[0])[1],
            frames=len({entry.finding.frame for _, entry in of_view}),
        )
        for of_view in groups.values()
    ]


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    size: int
    colour: Colour = WHITE

    @property
    def height(self) -> int:
        return int(self.size * 1.4)


def draw_page(
    findings: Sequence[Finding], revision: int, reviews: Sequence[ReportedReview] = ()
) -> Pixels:
    """The page: a heading, then the findings in columns; RGB."""
    blocks = [(each, list(_lines(each))) for each in best_findings(findings, reviews)]
    heights = [_height(lines) for _, lines in blocks]
    columns = _columns(heights)
    width = max(len(columns), 1) * (_COLUMN + _MARGIN) + _MARGIN
    heading = list(_heading(findings, revision, width - 2 * _MARGIN, has_decision=bool(reviews)))
    top = _MARGIN + sum(line.height for line in heading) + _GAP
    tallest = max((sum(heights[index] for index in column) for column in columns), default=0)
    page = Image.new("RGB", (width, top + tallest + _MARGIN), BLACK)
    canvas = ImageDraw.Draw(page)
    _write(canvas, heading, _MARGIN, _MARGIN)
    for number, column in enumerate(columns):
        x, y = _MARGIN + number * (_COLUMN + _MARGIN), top
        for index in column:
            entry, lines = blocks[index]
            _tag(canvas, entry, x, y)
            _write(canvas, lines, x, y + _tag_height() + 4)
            y += heights[index]
    return np.asarray(page).copy()


def _columns(heights: Sequence[int]) -> list[list[int]]:
    """The indices of the blocks of each column, so that the page is not much higher than wide."""
    count, total = 1, sum(heights)
    while total / count > _MOST_PER_WIDTH * count * _COLUMN:
        count += 1
    columns: list[list[int]] = [[]]
    for index, height in enumerate(heights):
        filled = sum(heights[each] for each in columns[-1])
        if columns[-1] and filled + height / 2 > total / count and len(columns) < count:
            columns.append([])
        columns[-1].append(index)
    return columns


def _heading(
    findings: Sequence[Finding], revision: int, width: int, *, has_decision: bool = False
) -> Iterator[_Line]:
    again = "" if revision == 1 else f" (report {revision}, replaces the one before)"
    bundle = findings[0].bundle
    clinical = all(finding.bundle.clinical_use for finding in findings)
    for text, size, colour in (
        (f"Quality of the ultrasound images{again}", _LARGE, WHITE),
        *(() if clinical else ((words.NOT_FOR_CLINICAL_USE, _LARGE, AMBER),)),
        (words.disclaimer(has_decision=has_decision), _REGULAR, GREY),
        (f"Models: {words.models_line(bundle)}", _SMALL, GREY),
    ):
        yield from _wrap_lines(text, size, width, colour)


def _lines(entry: PageFinding) -> Iterator[_Line]:
    """The lines below the verdict."""
    judgement = entry.finding.judgement
    if Flag.OTHER_PATIENT_IN_STUDY in judgement.flags:
        yield from _wrap_lines(words.OTHER_PATIENT, _REGULAR, _COLUMN, AMBER)
    t = translations(ENGLISH)
    is_decided = entry.decision is not None
    view = words.view_line(judgement, t, is_decided=is_decided)
    yield from _wrap_lines(view, _REGULAR, _COLUMN, WHITE)
    if entry.decision is not None:
        # The page is made from the report alone, which has moments in UTC.
        line = words.decision_line(entry.decision, t, UTC)
        yield from _wrap_lines(line, _REGULAR, _COLUMN, WHITE)
    for line in words.fault_lines(judgement, t):
        yield from _wrap_lines(line, _REGULAR, _COLUMN, AMBER)
    unchecked = ", ".join(words.unchecked(judgement))
    if unchecked:
        yield from _wrap_lines(f"{words.CANNOT_TELL}: {unchecked}", _SMALL, _COLUMN, GREY)
    uid = entry.finding.sop_instance_uid or ""
    yield from _wrap_lines(f"Image UID …{uid[-12:]}", _SMALL, _COLUMN, GREY)


def _tag(canvas: ImageDraw.ImageDraw, entry: PageFinding, x: int, y: int) -> None:
    """The verdict on its colour, and the frame beside it."""
    judgement = entry.finding.judgement
    background, letters = VERDICT_COLOURS[judgement.quality]
    verdict, bold = words.VERDICTS[judgement.quality], load_font(_REGULAR, bold=True)
    if entry.decision is not None and entry.decision.outcome.verdict is None:
        verdict, (background, letters) = words.NO_VIEW, NO_VIEW_COLOURS
    right = x + canvas.textlength(verdict, font=bold) + 20
    canvas.rectangle((x, y, right, y + _tag_height()), fill=background)
    middle = y + _tag_height() / 2
    canvas.text((x + 10, middle), verdict, letters, bold, anchor="lm")
    canvas.text((right + 12, middle), _frame_words(entry), WHITE, load_font(_REGULAR), anchor="lm")


def _frame_words(entry: PageFinding) -> str:
    """Which frame of a cine it is, in words; empty for a single frame."""
    if entry.frames == 1:
        return ""
    return f"frame {entry.finding.frame}, the best of {entry.frames}"


def _tag_height() -> int:
    return int(_REGULAR * 1.5)


def _height(lines: Sequence[_Line]) -> int:
    return _tag_height() + 4 + sum(line.height for line in lines) + _GAP


def _write(canvas: ImageDraw.ImageDraw, lines: Iterable[_Line], x: int, y: int) -> None:
    for line in lines:
        middle = (x, y + line.height / 2)
        canvas.text(middle, line.text, line.colour, load_font(line.size), anchor="lm")
        y += line.height


def _wrap_lines(text: str, size: int, width: int, colour: Colour) -> Iterator[_Line]:
    return (_Line(line, size, colour) for line in wrap_text(text, load_font(size), width))

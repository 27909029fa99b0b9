"""Composes the words of the summary in one language; HTML and PDF draw them.

They say what is missing and how to fix it. Patient and study are those of the source's header.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from gettext import NullTranslations

from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from detector.errors import ErrorCode, Flag
from qc_daemon.language.catalogues import translations
from qc_daemon.language.fonts import is_drawable
from qc_daemon.language.person_names import name_groups
from qc_daemon.report.equipment import software_version
from qc_daemon.report.sr.codes import FLAGS, VIEWS
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import ExamSummary, SummaryImage, ViewRow, ViewStatus

_REVIEW_FLAGS = (
    Flag.NOT_ULTRASOUND,
    Flag.OUT_OF_DISTRIBUTION,
    Flag.NO_REAL_EVIDENCE,
    Flag.VIEW_DISAGREEMENT,
)
MET, UNMET, UNDECIDED, NOTE = "✓", "✗", "?", "•"


@dataclass(frozen=True, slots=True)
class Point:
    """A line of a cell: its mark, a statement, and what to do about it ("": nothing)."""

    mark: str
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A view's cell: name, verdict, its best image, and the points."""

    view: str
    status: ViewStatus
    verdict: str
    image: SummaryImage | None
    caption: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All words of a summary in their order; `facts` are labels and values."""

    language: str
    title: str
    facts: tuple[tuple[str, str], ...]
    tasks: tuple[str, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    page_of: str
    """Names a page: `{page}` and `{pages}` stand for the numbers."""
    banner: str = ""
    """Says for what the models are not meant; empty where all bundles are for clinical use."""


def compose_page(summary: ExamSummary, language: str, zone: tzinfo | None = None) -> Page:
    """The summary in a language of `language.LANGUAGES`, times in this zone, else in this
    machine's."""
    t = translations(language)
    is_clinical = all(bundle.clinical_use for bundle in summary.bundles)
    return Page(
        language=language,
        title=t.gettext("Ultrasound image quality: exam summary"),
        facts=tuple(_facts(summary.first.header, t)),
        tasks=tuple(_tasks(summary, t)),
        cells=tuple(_cell(row, summary, t, zone) for row in summary.rows),
        notes=tuple(_notes(summary, t, zone)),
        page_of=t.gettext("Page {page} of {pages}"),
        banner="" if is_clinical else t.gettext(words.NOT_FOR_CLINICAL_USE),
    )


def _facts(header: Dataset, t: NullTranslations) -> Iterator[tuple[str, str]]:
    date = header.get("StudyDate")
    for label, value in (
        (t.gettext("Patient"), format_person(header.get("PatientName"))),
        (t.gettext("Patient ID"), header.get("PatientID")),
        (t.gettext("Born"), _date(header.get("PatientBirthDate"))),
        (t.gettext("Accession number"), header.get("AccessionNumber")),
        (t.gettext("Exam"), " ".join(filter(None, (_date(date), header.get("StudyDescription"))))),
        (t.gettext("Station"), header.get("StationName")),
    ):
        text = str(value or "").strip()
        if text and is_drawable(text):
            yield label, text
        elif text:
            yield label, t.gettext(words.NOT_PRINTABLE)


def format_person(name: PersonName | str | None) -> str:
    """Family name, given names: the ideographic group beside the alphabetic one if printable."""
    names = name_groups(name)
    printable = [text for text in names if text and is_drawable(text)]
    # Where no group can be printed the caller has to say so.
    return " / ".join(printable or [text for text in names if text][:1])


def _date(value: str | None) -> str:
    """DA as ISO 8601; anything else as it is."""
    text = str(value or "")
    if len(text) == 8 and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text


def _tasks(summary: ExamSummary, t: NullTranslations) -> Iterator[str]:
    """Sentences on what is to be done, the most urgent first."""
    if summary.is_study_shared:
        yield t.gettext(words.OTHER_PATIENT)
    for status, sentence in (
        (ViewStatus.MISSING, t.gettext("Missing, still to be taken: {views}.")),
        (ViewStatus.NON_STANDARD, t.gettext("Better pictures wanted: {views}.")),
        (ViewStatus.REVIEW, t.gettext("A person has to judge: {views}.")),
    ):
        views = [_name(row, t) for row in summary.rows if row.status is status]
        if views:
            yield sentence.format(views="; ".join(views))
    yield from _omission_sentences(summary, t)
    if all(row.status is ViewStatus.STANDARD for row in summary.rows):
        best = [row.best for row in summary.rows if row.best is not None]
        if any(words.unchecked(image.finding.judgement) for image in best):
            yield t.gettext(
                "Every view is there and standard; look yourself at what could not be checked."
            )
        else:
            yield t.gettext("Nothing to do: every view is there and standard.")


def _omission_sentences(summary: ExamSummary, t: NullTranslations) -> Iterator[str]:
    """Sentences on objects that could not be judged or reported, one a reason."""
    by_reason: dict[str, int] = {}
    for code, count in summary.omitted:
        reason = t.gettext(words.OMISSIONS.get(ErrorCode(code), words.OTHER_OMISSION))
        by_reason[reason] = by_reason.get(reason, 0) + count
    for reason, count in by_reason.items():
        sentence = t.ngettext(
            "{count} object of this exam is not in this report: {reason}.",
            "{count} objects of this exam are not in this report: {reason}.",
            count,
        )
        yield sentence.format(count=count, reason=reason)


def _name(row: ViewRow, t: NullTranslations) -> str:
    return t.gettext(VIEWS[row.view].meaning)


def _not_drawable(
    image: SummaryImage | None, summary: ExamSummary, t: NullTranslations
) -> Iterator[Point]:
    if (
        image is not None
        and summary.drawn_images is not None
        and image.key not in summary.drawn_images
    ):
        yield Point(NOTE, t.gettext("The picture cannot be shown: its file cannot be decoded."))


def _cell(row: ViewRow, summary: ExamSummary, t: NullTranslations, zone: tzinfo | None) -> Cell:
    verdicts = {
        ViewStatus.STANDARD: t.gettext("Standard view"),
        ViewStatus.NON_STANDARD: t.gettext("Not a standard view"),
        ViewStatus.REVIEW: t.gettext("For a person to judge"),
        ViewStatus.MISSING: t.gettext("Missing"),
    }
    return Cell(
        view=_name(row, t),
        status=row.status,
        verdict=verdicts[row.status],
        image=row.best,
        caption="" if row.best is None else _caption(row, row.best, t),
        points=(
            *_not_drawable(row.best, summary, t),
            *_decision(row.best, t, zone),
            *_points(row, t),
        ),
    )


def _decision(
    image: SummaryImage | None, t: NullTranslations, zone: tzinfo | None
) -> Iterator[Point]:
    if image is not None and image.decision is not None:
        yield Point(NOTE, words.decision_line(image.decision, t, zone))


def _caption(row: ViewRow, image: SummaryImage, t: NullTranslations) -> str:
    """Image and frame number, number of pictures, and probability of a standard view."""
    header, finding = image.source.header, image.finding
    number = header.get("InstanceNumber")
    parts = [t.gettext("image {number}").format(number=number)] if number is not None else []
    if finding.frame > 1 or image.source.is_multi_frame:
        parts.append(t.gettext("frame {number}").format(number=finding.frame))
    if row.count > 1:
        sentence = t.ngettext("best of {count} picture", "best of {count} pictures", row.count)
        parts.append(sentence.format(count=row.count))
    if finding.judgement.probability is not None:
        parts.append(words.standard_line(finding.judgement, t))
    return " · ".join(parts)


def _points(row: ViewRow, t: NullTranslations) -> Iterator[Point]:
    if row.best is None:
        yield Point(NOTE, t.gettext("No picture shows this view."), t.gettext("Take one"))
        return
    judgement = row.best.finding.judgement
    if row.status is ViewStatus.REVIEW:
        yield from _review_reasons(row.best, t)
    faults = words.faults(judgement)
    for fault in faults:
        statement = words.statement(fault, t)
        if row.status is ViewStatus.STANDARD:
            # A cross under a standard verdict would contradict it.
            sentence = t.gettext(words.STILL_STANDARD).format(fault=statement)
            yield Point(NOTE, sentence, words.fix(fault, t))
        else:
            yield Point(UNMET, statement, words.fix(fault, t))
    if row.status is ViewStatus.NON_STANDARD and not faults and not row.best.decision:
        yield Point(
            NOTE,
            t.gettext("No single criterion fails, but the picture as a whole is not standard."),
            t.gettext("Compare it with a standard picture of this view"),
        )
    unchecked = [t.gettext(topic) for topic in words.unchecked(judgement)]
    if unchecked:
        yield Point(UNDECIDED, f"{t.gettext(words.CANNOT_TELL)}: {'; '.join(unchecked)}")
    met = sum(criterion.met is True for criterion in judgement.criteria)
    if met:
        sentence = t.ngettext("{count} criterion met", "{count} criteria met", met)
        yield Point(MET, sentence.format(count=met))


def _review_reasons(image: SummaryImage, t: NullTranslations) -> Iterator[Point]:
    """The reasons why a person has to judge."""
    flags = [flag for flag in _REVIEW_FLAGS if flag in image.finding.judgement.flags]
    for flag in flags:
        yield Point(NOTE, t.gettext(FLAGS[flag].meaning))
    if Flag.VIEW_DISAGREEMENT in flags:
        judgement = image.finding.judgement
        for opinion in judgement.opinions:
            if opinion.agrees_with(judgement.view) is False:
                yield Point(NOTE, words.opinion_line(opinion, t))
    if not flags:
        yield Point(NOTE, t.gettext("The models are not sure enough of this picture."))


def _notes(summary: ExamSummary, t: NullTranslations, zone: tzinfo | None) -> Iterator[str]:
    legend = words.legend([r.best.finding for r in summary.rows if r.best is not None], t)
    if legend:
        yield t.gettext("Letters in the pictures: {legend}.").format(legend=legend)
    yield t.gettext(
        "Twins are not told apart: of each view the best picture counts, whichever fetus it shows."
    )
    if summary.others:
        sentence = t.gettext("Pictures of none of the assessed views: {count} of {all}.")
        yield sentence.format(count=summary.others, all=summary.pictures)
    if summary.rejected:
        sentence = t.gettext("Pictures that a person rejected: {count} of {all}.")
        yield sentence.format(count=summary.rejected, all=summary.pictures)
    if summary.revision > 1:
        sentence = t.gettext("Version {number} of this summary, in place of earlier ones.")
        yield sentence.format(number=summary.revision)
    has_decision = any(r.best is not None and r.best.decision is not None for r in summary.rows)
    yield t.gettext(words.disclaimer(has_decision=has_decision))
    models = ", ".join(map(words.models_line, summary.bundles))
    yield t.gettext("Made by qc-daemon {version} with models {models} on {moment}.").format(
        version=software_version(), models=models, moment=format_moment(summary.created, zone)
    )


def format_moment(moment: datetime, zone: tzinfo | None) -> str:
    """`2026-01-02 10:30 CET (Europe/Berlin)`; in this machine's zone, by its letters, for None."""
    local = moment.astimezone(zone)
    name = f" ({zone})" if zone is not None and str(zone) != local.tzname() else ""
    return f"{local:%Y-%m-%d %H:%M %Z}{name}"

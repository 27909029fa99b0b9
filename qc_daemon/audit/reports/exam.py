"""The report of one exam: which views it has, what fails in all of its pictures, how to dispute."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from detector.anatomy import View
from model.finding import NON_STANDARD, REVIEW, STANDARD
from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.charts.rows import ForestRow, forest_chart
from qc_daemon.audit.reports.document import (
    Block,
    Callout,
    ChartBlock,
    Document,
    Heading,
    Items,
    Paragraph,
    Picture,
    Pictures,
    TableBlock,
)
from qc_daemon.audit.reports.facts import AuditFacts
from qc_daemon.audit.reports.sections.agreement import agreement_section
from qc_daemon.audit.reports.sections.method import dispute_section
from qc_daemon.audit.reports.words import Names, criterion_words
from qc_daemon.audit.statistics.proportions import Proportion
from qc_daemon.language.wording import Wording


@dataclass(frozen=True, slots=True)
class ExamPicture:
    """The best finding of one picture: its number, view and verdict as they stand, the codes of the
    criteria that are not met, and of those that were checked. `by_person`: a person decided."""

    finding_id: int
    view: str
    verdict: str
    probability: float | None
    unmet: tuple[str, ...]
    checked: tuple[str, ...]
    by_person: bool = False


@dataclass(frozen=True, slots=True)
class ExamFacts:
    """An exam without anything of its patient; `device` is what the machine is called."""

    exam_id: int
    received: datetime
    device: str | None
    models: str
    pictures: tuple[ExamPicture, ...]
    left_out: int


def exam_report(
    exam: ExamFacts,
    expected: Sequence[View],
    names: Names,
    w: Wording,
    audit: AuditFacts | None = None,
    good: Sequence[Picture] = (),
    instructive: Sequence[Picture] = (),
) -> Document:
    """What is known of the exam's pictures. `good` and `instructive` ones are shown;
    the newest audit says how far the models agree with human readers."""
    assessed = [p for p in exam.pictures if p.view != View.OTHER]
    missing = [view for view in expected if all(p.view != view for p in assessed)]
    codes = list(dict.fromkeys([*expected, *(p.view for p in assessed)]))
    blocks: list[Block] = [Heading(w.gettext("In short")), _in_short(assessed, missing, names, w)]
    rows = tuple(_row(code, assessed, names, w) for code in codes)
    columns = (
        w.gettext("View"),
        w.gettext("Pictures"),
        w.gettext("Standard"),
        w.gettext("Best picture"),
        w.gettext("Finding"),
    )
    blocks += [Heading(w.gettext("Views")), TableBlock(Table("", columns, rows))]
    if exam.left_out:
        blocks.append(
            Paragraph(
                w.ngettext(
                    "{count} object could not be judged.",
                    "{count} objects could not be judged.",
                    exam.left_out,
                ).format(count=exam.left_out),
                is_small=True,
            )
        )
    blocks += _criteria(assessed, w)
    if good:
        blocks += [Heading(w.gettext("Good pictures")), Pictures(tuple(good))]
    if instructive:
        blocks += [Heading(w.gettext("Pictures to learn from")), Pictures(tuple(instructive))]
    if audit is not None:
        blocks += agreement_section(audit, w)
    first = next((p.finding_id for p in assessed if p.verdict != STANDARD), None)
    blocks += dispute_section(w, first)
    facts = [
        (w.gettext("Exam"), str(exam.exam_id)),
        (w.gettext("Received"), exam.received.date().isoformat()),
        (w.gettext("Device"), exam.device or "–"),
        (w.gettext("Models"), exam.models or "–"),
        (w.gettext("Pictures"), str(len(exam.pictures))),
    ]
    return Document(
        title=w.gettext("Image quality of exam {number}").format(number=exam.exam_id),
        language=w.language,
        notice=w.gettext("For the lab's quality control. It judges pictures, not the fetus."),
        facts=tuple(facts),
        blocks=tuple(blocks),
        created=exam.received,
        page_of=w.gettext("Page {page} of {pages}"),
        numbers=w.gettext("Numbers of the charts"),
    )


def _in_short(
    pictures: Sequence[ExamPicture], missing: Sequence[View], names: Names, w: Wording
) -> Callout:
    lines = []
    if missing:
        absent = "; ".join(names.view(view) for view in missing)
        lines.append(w.gettext("Missing: {views}.").format(views=absent))
    for verdict, sentence in (
        (NON_STANDARD, w.gettext("Not standard in any picture: {views}.")),
        (REVIEW, w.gettext("A person has to judge: {views}.")),
    ):
        views = [
            names.view(code)
            for code in dict.fromkeys(p.view for p in pictures)
            if _best(code, pictures).verdict == verdict
        ]
        if views:
            lines.append(sentence.format(views="; ".join(views)))
    if lines:
        return Callout(w.gettext("The exam is not complete and standard"), tuple(lines))
    return Callout(w.gettext("Every expected view is there and standard"))


def _best(code: str, pictures: Sequence[ExamPicture]) -> ExamPicture:
    order = (STANDARD, REVIEW, NON_STANDARD)
    of_view = [picture for picture in pictures if picture.view == code]
    return min(of_view, key=lambda p: (order.index(p.verdict), -(p.probability or 0.0)))


def _row(
    code: str, pictures: Sequence[ExamPicture], names: Names, w: Wording
) -> tuple[str, str, str, str, str]:
    of_view = [picture for picture in pictures if picture.view == code]
    if not of_view:
        return names.view(code), "0", "–", w.gettext("missing"), "–"
    best = _best(code, pictures)
    verdicts = {
        STANDARD: w.gettext("standard"),
        NON_STANDARD: w.gettext("non-standard"),
        REVIEW: w.gettext("for a person to judge"),
    }
    words = verdicts[best.verdict]
    if best.by_person:
        words = w.gettext("{verdict} (a person decided)").format(verdict=words)
    elif best.probability is not None:
        words = f"{words} ({w.percent(best.probability)})"
    standard = sum(picture.verdict == STANDARD for picture in of_view)
    count = f"{standard}/{len(of_view)}"
    return names.view(code), str(len(of_view)), count, words, str(best.finding_id)


def _criteria(pictures: Sequence[ExamPicture], w: Wording) -> list[Block]:
    """Criteria that fail, and those that fail in every picture: of the set, no longer of one."""
    unmet = Counter(code for picture in pictures for code in picture.unmet)
    checked = Counter(code for picture in pictures for code in picture.checked)
    if not unmet:
        return []
    ordered = sorted(unmet, key=lambda code: (-unmet[code] / checked[code], code))
    rows = [
        ForestRow(criterion_words(code, w), Proportion(unmet[code], checked[code]))
        for code in ordered
    ]
    title = w.gettext("Criteria that are not met, of the pictures that were checked")
    blocks: list[Block] = [
        Heading(w.gettext("What fails most")),
        ChartBlock("criteria", forest_chart(rows, title, w)),
    ]
    in_all = [code for code in ordered if unmet[code] == checked[code] and checked[code] > 1]
    if in_all:
        lines = [
            w.gettext("{fault}: in every picture").format(fault=criterion_words(code, w))
            for code in in_all
        ]
        blocks.append(Items(tuple(lines)))
    return blocks

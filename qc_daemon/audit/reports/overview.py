"""The report of an audit as a whole: whom and what it is about, and what changed for everybody."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.reports.document import (
    Block,
    Document,
    Heading,
    Items,
    Paragraph,
    TableBlock,
)
from qc_daemon.language.wording import Wording


def audit_report(
    content: Mapping[str, Any],
    subjects: Sequence[Mapping[str, Any]],
    agreement: Sequence[Block],
    created: datetime,
    w: Wording,
) -> Document:
    """`content` is the audit's, `subjects` are rows with `name`, `kind`, `findings`, `exams` and
    `flags` (words), of those that the reader may see; `agreement` is the section on readers."""
    columns = (
        w.gettext("Name"),
        w.gettext("Kind"),
        w.gettext("Findings"),
        w.gettext("Exams"),
        w.gettext("Remark"),
    )
    rows = tuple(
        (
            str(row["name"]),
            w.gettext(kind),
            str(row["findings"] or 0),
            str(row["exams"] or 0),
            "; ".join(row["flags"]),
        )
        for row, kind in ((row, str(row["kind"])) for row in subjects)
    )
    blocks: list[Block] = [Heading(w.gettext("Whom and what it is about"))]
    if rows:
        blocks.append(TableBlock(Table("", columns, rows)))
    else:
        words = w.gettext("This audit has nothing about whom or what you may see.")
        blocks.append(Paragraph(words))
    changes = tuple(
        f"{each['date']}: {each.get('words') or each['kind']}"
        for each in content.get("changes") or ()
    )
    if changes:
        blocks += [Heading(w.gettext("What changed for everybody")), Items(changes)]
    window = content.get("window") or {}
    counts = content.get("counts") or {}
    facts = [(w.gettext("Period"), f"{window['from']} – {window['to']}")] if window else []
    for key, title in (("findings", w.gettext("Findings")), ("exams", w.gettext("Exams"))):
        if key in counts:
            facts.append((title, str(counts[key])))
    return Document(
        title=w.gettext("Audit of {day}").format(day=content["date"]),
        language=w.language,
        notice=w.gettext("For the lab's quality control. It judges pictures, not people."),
        facts=tuple(facts),
        blocks=(*blocks, *agreement),
        created=created,
        page_of=w.gettext("Page {page} of {pages}"),
        numbers=w.gettext("Numbers of the charts"),
    )

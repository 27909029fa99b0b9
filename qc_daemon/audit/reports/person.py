"""The private report of a person: own trend first, machines before people, peers as a band."""

from collections.abc import Sequence
from datetime import datetime

from qc_daemon.audit.reports import measure_facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, Document, Heading, Paragraph, Picture
from qc_daemon.audit.reports.sections.agreement import agreement_section
from qc_daemon.audit.reports.sections.comparison import comparison_section, devices_section
from qc_daemon.audit.reports.sections.method import dispute_section, method_section
from qc_daemon.audit.reports.sections.nuchal import nuchal_section
from qc_daemon.audit.reports.sections.summary import summary_section
from qc_daemon.audit.reports.sections.trend import trend_section
from qc_daemon.audit.reports.sections.views import examples_section, views_section


def person_report(
    composer: Composer,
    created: datetime,
    good: Sequence[Picture] = (),
    instructive: Sequence[Picture] = (),
    example: int | None = None,
    left_out: int = 0,
    *,
    has_examples: bool = True,
) -> Document:
    """What the audit says of the person, with up to three good and three instructive pictures,
    unless they are shown elsewhere.

    `example` is the number of a finding, for the command that disputes it; `left_out` is how many
    pictures may not be shown.
    """
    w, subject = composer.w, composer.subject
    blocks: list[Block] = [*summary_section(composer), Heading(w.gettext("Own trend"))]
    trend = list(
        trend_section(
            composer, measure_facts.STANDARD, w.gettext("Standard views by period"), "standard"
        )
    )
    blocks += trend or [Paragraph(w.gettext("There are no pictures to draw a trend of."))]
    completeness = list(
        trend_section(
            composer,
            measure_facts.COMPLETION,
            w.gettext("Expected views present, by period"),
            "complete",
        )
    )
    if completeness:
        blocks += [Heading(w.gettext("Completeness, apart from quality")), *completeness]
    blocks += devices_section(composer)
    blocks += comparison_section(composer, w.gettext("Among all who scan here"))
    general = [m for m in subject.measures if _is_general(m.kind) and m.n]
    if general:
        blocks += [Heading(w.gettext("Other numbers")), composer.values(general)]
    blocks += views_section(composer)
    blocks += nuchal_section(composer)
    if has_examples:
        blocks += examples_section(composer.w, good, instructive, left_out)
    blocks += agreement_section(composer.audit, composer.w)
    blocks += dispute_section(composer.w, example)
    blocks += method_section(composer)
    return document(
        composer,
        w.gettext("Image quality: {name}").format(name=composer.name),
        w.gettext("Private: for the person it is about. It judges pictures, not people."),
        blocks,
        created,
    )


def document(
    composer: Composer, title: str, notice: str, blocks: Sequence[Block], created: datetime
) -> Document:
    """The blocks under a title, with the facts of the audit."""
    w, audit = composer.w, composer.audit
    facts_of_audit = [
        (w.gettext("Period"), composer.period()),
        (w.gettext("Audit"), audit.day.isoformat()),
        (w.gettext("Models"), audit.models or "–"),
        (w.gettext("Pictures"), str(composer.subject.findings)),
    ]
    if composer.next_audit is not None:
        facts_of_audit.append((w.gettext("Next audit"), composer.next_audit.isoformat()))
    return Document(
        title=title,
        language=w.language,
        notice=notice,
        facts=tuple(facts_of_audit),
        blocks=tuple(blocks),
        created=created,
        page_of=w.gettext("Page {page} of {pages}"),
        numbers=w.gettext("Numbers of the charts"),
    )


def _is_general(kind: str) -> bool:
    return kind in (measure_facts.SCORE, "probability", "seconds-per-view", "trend")

"""The report of a device or site: its trend, drift and place among others; nobody is named."""

from datetime import datetime

from qc_daemon.audit.reports import facts, measure_facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, Document, Heading, Paragraph
from qc_daemon.audit.reports.person import document
from qc_daemon.audit.reports.sections.agreement import agreement_section
from qc_daemon.audit.reports.sections.comparison import comparison_section
from qc_daemon.audit.reports.sections.drift import drift_section
from qc_daemon.audit.reports.sections.method import dispute_section, method_section
from qc_daemon.audit.reports.sections.summary import summary_section
from qc_daemon.audit.reports.sections.trend import trend_section
from qc_daemon.audit.reports.sections.views import views_section


def place_report(composer: Composer, created: datetime) -> Document:
    """What the audit says of the device or site."""
    w, subject = composer.w, composer.subject
    is_device = subject.kind == facts.DEVICE
    blocks: list[Block] = [*summary_section(composer), Heading(w.gettext("Own trend"))]
    trend = list(
        trend_section(
            composer, measure_facts.STANDARD, w.gettext("Standard views by period"), "standard"
        )
    )
    blocks += trend or [Paragraph(w.gettext("There are no pictures to draw a trend of."))]
    blocks += trend_section(
        composer,
        measure_facts.COMPLETION,
        w.gettext("Expected views present, by period"),
        "complete",
    )
    blocks += drift_section(composer)
    blocks += comparison_section(
        composer, w.gettext("Among all devices") if is_device else w.gettext("Among all sites")
    )
    general = [
        m
        for m in subject.measures
        if m.n
        and m.kind not in (measure_facts.STANDARD, measure_facts.FAILURE, measure_facts.SET_FAILURE)
    ]
    if general:
        blocks += [Heading(w.gettext("Other numbers")), composer.values(general)]
    blocks += views_section(composer)
    blocks += agreement_section(composer.audit, composer.w)
    blocks += dispute_section(composer.w, None)
    blocks += method_section(composer)
    title = (
        w.gettext("Image quality of the device {name}")
        if is_device
        else w.gettext("Image quality at the site {name}")
    )
    notice = w.gettext("For the lab's quality control. It judges pictures, not people.")
    return document(composer, title.format(name=composer.name), notice, blocks, created)

"""The report of a device or site: its trend, drift and place among others; nobody is named."""

from datetime import datetime

from qc_daemon.audit.reports import facts
from qc_daemon.audit.reports.document import Block, Document, Heading, Paragraph
from qc_daemon.audit.reports.person import document
from qc_daemon.audit.reports.sections import Composer


def place_report(composer: Composer, created: datetime) -> Document:
    """What the audit says of the device or site."""
    w, subject = composer.w, composer.subject
    is_device = subject.kind == facts.DEVICE
    blocks: list[Block] = [*composer.in_short(), Heading(w.gettext("Own trend"))]
    trend = list(composer.trend(facts.STANDARD, w.gettext("Standard views by period"), "standard"))
    blocks += trend or [Paragraph(w.gettext("There are no pictures to draw a trend of."))]
    blocks += composer.trend(
        facts.COMPLETION, w.gettext("Expected views present, by period"), "complete"
    )
    blocks += composer.drift()
    blocks += composer.among_others(
        w.gettext("Among all devices") if is_device else w.gettext("Among all sites")
    )
    general = [
        m
        for m in subject.measures
        if m.n and m.kind not in (facts.STANDARD, facts.FAILURE, facts.SET_FAILURE)
    ]
    if general:
        blocks += [Heading(w.gettext("Other numbers")), composer.values(general)]
    blocks += composer.views()
    blocks += composer.agreement()
    blocks += composer.dispute(None)
    blocks += composer.method()
    title = (
        w.gettext("Image quality of the device {name}")
        if is_device
        else w.gettext("Image quality at the site {name}")
    )
    notice = w.gettext("For the lab's quality control. It judges pictures, not people.")
    return document(composer, title.format(name=composer.name), notice, blocks, created)

"""How far the models agree with human readers, and these with each other."""

import math
from collections.abc import Iterator

from qc_daemon.audit.charts.agreement_table import agreement_chart
from qc_daemon.audit.reports.document import Block, ChartBlock, Heading, Paragraph
from qc_daemon.audit.reports.facts import AgreementFacts, AuditFacts
from qc_daemon.audit.reports.words import answer_words
from qc_daemon.language.wording import Wording


def agreement_section(audit: AuditFacts, w: Wording) -> Iterator[Block]:
    """The audit of the auditor: the models' agreement with human readers in this period."""
    yield Heading(w.gettext("How far the models agree with human readers"))
    model = audit.model_and_reader
    if model is None:
        yield Paragraph(
            w.gettext(
                "There are no blinded readings in this period: how far the models agree with human"
                " readers is not known."
            )
        )
    else:
        answers = [answer_words(answer, w) for answer in model.answers]
        chart = agreement_chart(
            model.table,
            answers,
            w.gettext("Models"),
            w.gettext("Reader"),
            w.gettext("Models and first readers, blinded readings"),
            w,
        )
        yield ChartBlock("agreement", chart)
        yield Paragraph(_agreement_words(model, w))
    if audit.two_readers is not None:
        yield Paragraph(
            w.gettext("Two human readers of the same picture: {words}").format(
                words=_agreement_words(audit.two_readers, w)
            )
        )
    left_out = 0 if model is None else model.left_out
    yield Paragraph(
        w.ngettext(
            "A reading by somebody who saw the models' answer is no evidence: {count} is left out.",
            "Readings by people who saw the models' answer are no evidence: {count} are left out.",
            left_out,
        ).format(count=left_out),
        is_small=True,
    )


def _agreement_words(agreement: AgreementFacts, w: Wording) -> str:
    def figure(values: tuple[float, float, float]) -> str:
        value, low, high = values
        if math.isnan(low) or math.isnan(high):
            return w.decimal(value)
        return f"{w.decimal(value)} ({w.decimal(low)} – {w.decimal(high)})"

    prevalence = agreement.prevalence[0] if agreement.prevalence else None
    return w.gettext(
        "{n} pictures of {exams} exams, {observed} agree; kappa {kappa}, AC1 {ac1}; {share} are"
        " called {answer}."
    ).format(
        n=agreement.n,
        exams=agreement.exams,
        observed=w.percent(agreement.observed),
        kappa=figure(agreement.kappa),
        ac1=figure(agreement.ac1),
        share=w.percent(prevalence),
        answer=answer_words(agreement.answers[0], w),
    )

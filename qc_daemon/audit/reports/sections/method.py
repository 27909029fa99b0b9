"""How a finding is disputed, how the numbers were computed, and what is next."""

from collections.abc import Iterator

from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, Heading, Items, Paragraph
from qc_daemon.audit.statistics.control_charts import RUN
from qc_daemon.audit.statistics.proportions import MIN_JUDGED
from qc_daemon.language.wording import Wording


def dispute_section(w: Wording, example: int | None) -> Iterator[Block]:
    """How a finding is disputed, and what comes of it."""
    yield Heading(w.gettext("If a finding is wrong"))
    number = "NUMBER" if example is None else str(example)
    yield Paragraph(
        w.gettext(
            "Anybody may dispute a finding; its number stands below its picture, and review list"
            " --all has them all. Another person then reads the picture without the models' answer,"
            " and that reading stands. The next night's audit counts it; both answers are kept."
        )
    )
    yield Items(
        (f'qc-daemon review dispute {number} --reason criterion --reader "…" --remark "…"',),
        is_command=True,
    )


def method_section(composer: Composer) -> Iterator[Block]:
    """What was computed from what, and when it will be again."""
    w, audit = composer.w, composer.audit
    yield Heading(w.gettext("How this was computed, and what is next"))
    lines = [
        w.gettext(
            "Judged: {start} to {end} ({zone}); findings: {findings}, exams: {exams}."
        ).format(
            start=audit.start.isoformat(),
            end=audit.end.isoformat(),
            zone=audit.timezone,
            findings=composer.subject.findings,
            exams=composer.subject.exams,
        ),
        w.gettext(
            "Nobody is judged by fewer than {least} pictures. A share is called where its exact"
            " binomial tail lies beyond 99.8 %, at a false discovery rate of {rate} over all"
            " comparisons; a person is left out of her own benchmark."
        ).format(least=MIN_JUDGED, rate=w.percent(audit.false_discovery_rate)),
        w.gettext(
            "Control charts alarm beyond 3 sigma or at {run} periods in a row on one side: in"
            " control once in 153 periods on average. Limits are those stored with each period."
        ).format(run=RUN),
        w.gettext("Models {models}; criteria version {criteria}; data {data}.").format(
            models=audit.models or "–",
            criteria=audit.criteria_version or "–",
            data=audit.data_sha256[:16] or "–",
        ),
        w.gettext(
            "Steps, where there is something to do: advice on the pictures; three to five new"
            " pictures; the next audit."
        ),
    ]
    if composer.next_audit is not None:
        lines.append(w.gettext("Next audit: {day}.").format(day=composer.next_audit.isoformat()))
    yield Items(tuple(lines))

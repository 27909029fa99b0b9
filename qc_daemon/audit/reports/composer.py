"""What the sections of a report are composed of: an audit, its subject, names and words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.charts.time_charts import ChartEvent
from qc_daemon.audit.reports import facts, measure_facts
from qc_daemon.audit.reports.document import TableBlock
from qc_daemon.audit.reports.facts import AuditFacts, Subject
from qc_daemon.audit.reports.measure_facts import Measure
from qc_daemon.audit.reports.words import (
    Names,
    benchmark_words,
    flag_words,
    measure_words,
    value_words,
)
from qc_daemon.audit.statistics.proportions import MIN_JUDGED
from qc_daemon.language.wording import Wording

Link = Callable[[date, date], str]
"""Where a point leads, by the first and the last day of its period."""


@dataclass(frozen=True, slots=True)
class Composer:
    """Makes blocks of what an audit says of a subject, in one language. Points lead to their row in
    the table of numbers, or where `link` says."""

    audit: AuditFacts
    subject: Subject
    name: str
    names: Names
    w: Wording
    next_audit: date | None = None
    link: Link | None = None

    def measure(self, name: str) -> Measure | None:
        """The subject's measure; None where it has none or no pictures."""
        measure = self.subject.measure(name)
        return measure if measure is not None and measure.n else None

    def period(self) -> str:
        """The judged period."""
        return f"{self.audit.start.isoformat()} – {self.audit.end.isoformat()}"

    def own_drift(self) -> list[facts.Drift]:
        """Each feature of the subject's pictures that drift is looked for in."""
        return [
            d
            for d in self.audit.drift
            if (d.kind, d.id) == (self.subject.kind, self.subject.id)
            # Of pictures without statistics there is nothing to say.
            and (d.n or not d.is_of_pictures)
        ]

    def title(self, measure: Measure) -> str:
        """What the measure counts, as the beginning of a line."""
        words = measure_words(measure, self.names, self.w)
        if measure.kind == measure_facts.STANDARD and measure.code:
            return self.w.gettext("Standard views, {view}").format(view=words)
        if measure.kind == measure_facts.FAILURE:
            return self.w.gettext("Criterion, {fault}").format(fault=words)
        if measure.kind == measure_facts.SET_FAILURE:
            return self.w.gettext("In every picture of an exam, {fault}").format(fault=words)
        return words

    def href(self, chart_name: str, index: int, first: date, last: date) -> str:
        """Where a point of a chart leads."""
        return f"#{chart_name}-{index}" if self.link is None else self.link(first, last)

    def events(self) -> list[ChartEvent]:
        """What changed for everybody, for the axes of time."""
        w = self.w
        words = {
            "bundle": w.gettext("other models: {name}"),
            "model": w.gettext("the models' answers shifted for everybody"),
            "service": w.gettext("service: {name}"),
            "probe": w.gettext("other probe: {name}"),
            "software": w.gettext("other software: {name}"),
            "criteria": w.gettext("other criteria: {name}"),
        }
        return [
            ChartEvent(change.day, words.get(change.kind, change.kind).format(name=change.name))
            for change in self.audit.changes
        ]

    def values(self, measures: Sequence[Measure]) -> TableBlock:
        """A row a measure: x/n, value with interval, benchmark, and what it is flagged as."""
        w = self.w
        columns = (
            w.gettext("What"),
            "x/n",
            w.gettext("Value (95 % interval)"),
            w.gettext("Benchmark"),
            w.gettext("Remark"),
        )
        rows = tuple(
            (
                self.title(m),
                f"{m.x}/{m.n}" if m.x is not None else f"n = {m.n}",
                value_words(m, w),
                benchmark_words(m, w),
                self._remark(m),
            )
            for m in measures
        )
        return TableBlock(Table("", columns, rows))

    def _remark(self, measure: Measure) -> str:
        """A flag, or why there is none."""
        if measure.is_judged:
            return flag_words(measure.flag, self.w)
        if measure.n < MIN_JUDGED:
            return self.w.gettext("not assessable (n below {least})").format(least=MIN_JUDGED)
        return self.w.gettext("not judged")

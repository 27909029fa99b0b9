"""The sections that reports share: trend, devices, others, views, criteria, agreement, method."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import takewhile

from model.criteria.faults import capitalise
from qc_daemon.audit.charts.agreement_table import agreement_chart
from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.charts.funnel import FunnelUnit, funnel_chart
from qc_daemon.audit.charts.rows import ForestRow, StripRow, forest_chart, strip_chart
from qc_daemon.audit.charts.time_charts import (
    ChartEvent,
    SumPoint,
    TimePoint,
    control_chart,
    cusum_chart,
)
from qc_daemon.audit.drift.image_drift import EMBEDDING
from qc_daemon.audit.reports import facts
from qc_daemon.audit.reports.document import (
    Block,
    Callout,
    ChartBlock,
    Heading,
    Items,
    Paragraph,
    Picture,
    Pictures,
    TableBlock,
)
from qc_daemon.audit.reports.facts import AgreementFacts, AuditFacts, Measure, Subject
from qc_daemon.audit.reports.words import (
    SHARE_FEATURES,
    Names,
    adjustment_words,
    answer_words,
    benchmark_words,
    change_words,
    feature_words,
    flag_words,
    measure_words,
    range_words,
    rule_words,
    value_words,
)
from qc_daemon.audit.statistics.control_charts import ALARMS
from qc_daemon.audit.statistics.proportions import MIN_JUDGED, Proportion
from qc_daemon.language.wording import Wording

MAX_CRITERIA = 12
"""At most so many criteria stand in a chart; all of them in the audit."""
_MOST_DRIFT_CHARTS = 3
_POWER_DIFFERENCE = 0.15
_LEAST_Q = 0.001
"""The audit's power is the chance to call a share that is worse than the benchmark by this."""


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

    def in_short(self) -> Iterator[Block]:
        """What there is to say, or that nothing can be said."""
        w = self.w
        yield Heading(w.gettext("In short"))
        if not self.subject.is_assessable:
            yield Callout(
                w.gettext("Not assessable in this period"),
                (
                    w.gettext(
                        "There are fewer than {least} pictures of every kind. No share is judged"
                        " and none is compared; the numbers below are there to be seen, and the"
                        " pictures to learn from."
                    ).format(least=MIN_JUDGED),
                ),
            )
            return
        flagged = [m for m in self.subject.measures if m.flag is not None and m.is_judged]
        alarms = [m for m in flagged if m.flag in (facts.ALARMED, facts.DECLINING)]
        for measure in alarms:
            yield Callout(self._flag_title(measure), tuple(self._flag_lines(measure)))
        drifts = [drift for drift in self._own_drift() if drift.is_alarm]
        if drifts:
            title = w.gettext("What the models see of these pictures has moved")
            if all(drift.is_against_bundle for drift in drifts):
                title = w.gettext("These pictures are unlike those that the bundle knows")
            yield Callout(title, tuple(self._drift_lines(drifts)))
        others = [
            f"{self._flag_title(m)} ({rule_words(m.rule, w)})" for m in flagged if m not in alarms
        ]
        others += self._trend_alarms(flagged)
        if others:
            yield Items(tuple(others))
        if not alarms and not drifts:
            yield Callout(
                w.gettext("Nothing in this period calls for a talk"),
                (w.gettext("Every share lies where chance and the mix of exams may put it."),),
            )
        yield Paragraph(
            w.gettext(
                "A flag is about this period's numbers, not about a person: look at the machine's"
                " settings, the mix of exams and the models first."
            ),
            is_small=True,
        )

    def _own_drift(self) -> list[facts.Drift]:
        return [
            d
            for d in self.audit.drift
            if (d.kind, d.id) == (self.subject.kind, self.subject.id)
            # Of pictures without statistics there is nothing to say.
            and (d.n or not d.is_of_pictures)
        ]

    def _trend_alarms(self, flagged: Sequence[Measure]) -> Iterator[str]:
        """Of each measure that has no flag: the alarm of its own chart that goes on till now."""
        for name in (facts.STANDARD, facts.COMPLETION):
            measure = self.measure(name)
            if measure is None or measure in flagged or not measure.periods:
                continue
            last = measure.periods[-1]
            rule = next((rule for rule in last.rules if rule in ALARMS), None)
            if rule is None:
                continue
            run = takewhile(lambda p: set(p.rules) & set(ALARMS), reversed(measure.periods))
            yield self.w.gettext("{measure}, own trend: {rule}, since {day}").format(
                measure=self._title(measure),
                rule=rule_words(rule, self.w),
                day=list(run)[-1].start.isoformat(),
            )

    def _flag_title(self, measure: Measure) -> str:
        return f"{self._title(measure)}: {value_words(measure, self.w)}, " + flag_words(
            measure.flag, self.w
        )

    def _title(self, measure: Measure) -> str:
        words = measure_words(measure, self.names, self.w)
        if measure.kind == facts.STANDARD and measure.code:
            return self.w.gettext("Standard views, {view}").format(view=words)
        if measure.kind == facts.FAILURE:
            return self.w.gettext("Criterion, {fault}").format(fault=words)
        if measure.kind == facts.SET_FAILURE:
            return self.w.gettext("In every picture of an exam, {fault}").format(fault=words)
        return words

    def _flag_lines(self, measure: Measure) -> Iterator[str]:
        """Period, rule, limit, models and criteria that the flag was raised by."""
        w = self.w
        counted = f"{measure.x}/{measure.n}" if measure.x is not None else f"n = {measure.n}"
        yield w.gettext("Period {period}: {counted}.").format(period=self.period(), counted=counted)
        limit = "–"
        if measure.limits is not None:
            at_n = measure.limits.at_n
            limit = w.gettext("benchmark {target}, outer limits {limits}").format(
                target=benchmark_words(measure, w),
                limits=range_words(measure, at_n.low_alarm, at_n.high_alarm, w),
            )
        yield w.gettext("Rule: {rule}; {limit}.").format(
            rule=rule_words(measure.rule, w), limit=limit
        )
        yield w.gettext("Models {models}; criteria version {criteria}.").format(
            models=self.audit.models or "–", criteria=self.audit.criteria_version or "–"
        )

    def trend(self, name: str, title: str, chart_name: str) -> Iterator[Block]:
        """A measure along time, with its limits as they were, and its CUSUM."""
        w, measure = self.w, self.subject.measure(name)
        if measure is None or not measure.periods:
            return
        is_share = measure.unit == "1"
        own = measure.own_trend
        periods = measure.periods if own is None or not own.periods else own.periods
        points = [
            TimePoint(
                period.start,
                period.value,
                period.centre,
                period.low,
                period.high,
                period.rules,
                period.x,
                period.n if period.x is not None else None,
                self._href(chart_name, index, period.start, period.end),
            )
            for index, period in enumerate(periods)
        ]
        chart = control_chart(points, self.events(), title, w, is_share=is_share)
        yield ChartBlock(chart_name, chart)
        if own is not None:
            yield Paragraph(self._points_words(own, is_share=is_share), is_small=True)
        if measure.cusum is not None and measure.is_judged:
            sums = [
                SumPoint(
                    day,
                    upper,
                    lower,
                    self._href(f"{chart_name}-cusum", index, day, day + timedelta(days=6)),
                )
                for index, (day, upper, lower) in enumerate(measure.cusum.sums)
            ]
            cusum_title = w.gettext("{title}: small steady changes (CUSUM)").format(title=title)
            yield ChartBlock(
                f"{chart_name}-cusum",
                cusum_chart(sums, measure.cusum.limit, self.events(), cusum_title, w),
            )

    def _href(self, chart_name: str, index: int, first: date, last: date) -> str:
        return f"#{chart_name}-{index}" if self.link is None else self.link(first, last)

    def _points_words(self, own: facts.OwnTrend, *, is_share: bool) -> str:
        """Of how long and how much each point is."""
        w = self.w
        if not own.periods:
            return w.gettext(
                "Each point is a week: even a quarter of a year has fewer than {least}, so single"
                " points say little."
            ).format(least=own.least)
        lengths = {4: w.gettext("four weeks"), 13: w.gettext("a quarter of a year (13 weeks)")}
        length = lengths.get(own.weeks, w.gettext("{weeks} weeks").format(weeks=own.weeks))
        counted = w.gettext("pictures or views") if is_share else w.gettext("exams")
        words = w.gettext("Each point is {length}, with at least {least} {counted}.").format(
            length=length, least=own.least, counted=counted
        )
        if own.left_out:
            words += " " + w.gettext("Not drawn, for there are fewer: {count} points.").format(
                count=own.left_out
            )
        return words

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
                self._title(m),
                f"{m.x}/{m.n}" if m.x is not None else f"n = {m.n}",
                value_words(m, w),
                benchmark_words(m, w),
                flag_words(m.flag, w)
                if m.is_judged
                else w.gettext("not assessable (n below {least})").format(least=MIN_JUDGED),
            )
            for m in measures
        )
        return TableBlock(Table("", columns, rows))

    def devices(self) -> Iterator[Block]:
        """The person's machines, and how much of a difference is theirs."""
        w = self.w
        if not self.subject.devices:
            return
        yield Heading(w.gettext("The machines first"))
        rows = tuple(
            (
                self.names.device(each.id),
                w.percent(each.part),
                f"{each.own.x}/{each.own.n} = {w.percent(each.own.value)}",
                f"{each.everybody.x}/{each.everybody.n} = {w.percent(each.everybody.value)}",
                "–" if each.effect is None else _points(each.effect, w),
            )
            for each in self.subject.devices
        )
        columns = (
            w.gettext("Device"),
            w.gettext("Part of these pictures"),
            w.gettext("Own standard views on it"),
            w.gettext("Everybody's"),
            w.gettext("Device against the lab"),
        )
        yield TableBlock(Table("", columns, rows))
        yield Paragraph(
            w.gettext(
                "What a machine takes from everybody's pictures is no one person's: comparisons"
                " below are adjusted for the device where that could be computed."
            ),
            is_small=True,
        )
        mine = {device.id for device in self.subject.devices}
        alarms = [
            d for d in self.audit.drift if d.is_alarm and d.kind == facts.DEVICE and d.id in mine
        ]
        yield from map(Paragraph, self._drift_lines(alarms))

    def among_others(self, kind_words: str) -> Iterator[Block]:
        """Own shares within the band of the others', the funnel, and what the case mix explains."""
        w = self.w
        yield Heading(kind_words)
        if not self.subject.is_assessable:
            yield Paragraph(
                w.gettext("Not compared: fewer than {least} pictures of every kind.").format(
                    least=MIN_JUDGED
                )
            )
            return
        rows = []
        for measure in self.subject.measures:
            if measure.kind not in (facts.STANDARD, facts.COMPLETION) or measure.share is None:
                continue
            if measure.is_judged:
                shares = tuple(self._others(measure.name))
                label = measure_words(measure, self.names, w)
                rows.append(StripRow(label, measure.share, shares))
        if rows:
            yield ChartBlock("strip", strip_chart(rows, w.gettext("Own shares and others'"), w))
        yield from self._funnel()
        yield from self._case_mix()
        yield from self._power()

    def _others(self, name: str) -> Iterator[float]:
        for other in self.audit.others(self.subject):
            measure = other.measure(name)
            if measure is not None and measure.is_judged and measure.value is not None:
                yield measure.value

    def _funnel(self) -> Iterator[Block]:
        """All shares of standard views by the number of pictures; with the case mix taken out where
        the audit could, as then one benchmark is everybody's."""
        w, own = self.w, self.measure(facts.STANDARD)
        if own is None or own.limits is None or own.share is None:
            return
        limits, centre, title = (
            own.limits,
            own.limits.target,
            w.gettext("Standard views by the number of pictures"),
        )
        is_adjusted = own.adjusted is not None and own.adjusted.overall is not None
        if own.adjusted is not None and own.adjusted.overall is not None:
            centre = own.adjusted.overall
            title = w.gettext("Standard views by the number of pictures, adjusted")
        if not 0 < centre < 1:
            return
        units = []
        for each in [*self.audit.others(self.subject), self.subject]:
            measure = each.measure(own.name)
            if measure is None or measure.share is None:
                continue
            if is_adjusted and measure.adjusted is None:
                continue
            is_own = each is self.subject
            units.append(
                FunnelUnit(
                    measure.share,
                    self.name if is_own else "",
                    is_own,
                    measure.flag == facts.ALARMED,
                    adjusted=measure.adjusted.value if is_adjusted and measure.adjusted else None,
                )
            )
        chart = funnel_chart(units, centre, lambda n: limits.at(n, centre), title, w)
        yield ChartBlock("funnel", chart)

    def _case_mix(self) -> Iterator[Block]:
        w = self.w
        kinds = (facts.STANDARD, facts.COMPLETION)
        adjusted = [
            m
            for m in self.subject.measures
            if m.adjusted is not None and m.is_judged and m.kind in kinds
        ]
        if not adjusted:
            return
        rows = []
        for measure in adjusted:
            assert measure.adjusted is not None
            interval = (
                w.interval(measure.adjusted.low, measure.adjusted.high)
                if measure.adjusted.low is not None and measure.adjusted.high is not None
                else "–"
            )
            rows.append(
                (
                    self._title(measure),
                    value_words(measure, w),
                    f"{w.percent(measure.adjusted.value)} ({interval})",
                    w.percent(measure.adjusted.expected),
                )
            )
        columns = (
            w.gettext("What"),
            w.gettext("As it is"),
            w.gettext("Adjusted"),
            w.gettext("Expected of these exams"),
        )
        by = dict.fromkeys(each for m in adjusted if m.adjusted for each in m.adjusted.by)
        caption = w.gettext("Adjusted for {facts}").format(facts=adjustment_words(tuple(by), w))
        yield TableBlock(Table(caption, columns, tuple(rows)))
        cleared = [m for m in adjusted if m.unadjusted_flag == "alarm" and m.flag != "alarm"]
        explained = [m for m in cleared if _is_explained(m)]
        if explained:
            yield Paragraph(
                w.gettext(
                    "Without adjustment this would have been called: {measures}. The mix of exams"
                    " explains it."
                ).format(measures="; ".join(map(self._title, explained)))
            )
        within = [m for m in cleared if m not in explained]
        if within:
            yield Paragraph(
                w.gettext(
                    "Without adjustment this would have been called: {measures}. The mix of exams"
                    " does not explain it, but others differ from each other as much."
                ).format(measures="; ".join(map(self._title, within)))
            )

    def _power(self) -> Iterator[Block]:
        w = self.w
        parts = [
            f"{self._title(m)} {w.percent(m.power)}"
            for m in self.subject.measures
            if m.power is not None and m.is_judged and m.kind in (facts.STANDARD, facts.COMPLETION)
        ]
        if parts:
            yield Paragraph(
                w.gettext(
                    "Power: a true share {points} points worse than the benchmark would be called"
                    " with a probability of: {parts}. Else it passes."
                ).format(points=round(100 * _POWER_DIFFERENCE), parts="; ".join(parts)),
                is_small=True,
            )

    def views(self) -> Iterator[Block]:
        """Standard rate of each view, then which criteria fail."""
        w = self.w
        rows = [
            ForestRow(
                self.names.view(m.code),
                m.share,
                None if m.limits is None else m.limits.target,
            )
            for m in self.subject.measures
            if m.kind == facts.STANDARD and m.code and m.share is not None
        ]
        if any(row.share.n for row in rows):
            yield Heading(w.gettext("Views"))
            title = w.gettext("Standard pictures of each view")
            chart = forest_chart(rows, title, w, reference_words=w.gettext("benchmark"))
            yield ChartBlock("views", chart)
        failures = [m for m in self.subject.measures if m.kind == facts.FAILURE and m.x and m.share]
        failures.sort(key=lambda m: (-(m.value or 0.0), m.name))
        if failures:
            yield Heading(w.gettext("What fails most"))
            chosen = [
                ForestRow(
                    measure_words(m, self.names, w),
                    m.share or Proportion(0, 0),
                    None if m.limits is None else m.limits.target,
                )
                for m in failures[:MAX_CRITERIA]
            ]
            title = w.gettext("Criteria that are not met, of the pictures that were checked")
            chart = forest_chart(chosen, title, w, reference_words=w.gettext("benchmark"))
            yield ChartBlock("criteria", chart)
        sets = [m for m in self.subject.measures if m.kind == facts.SET_FAILURE and m.x]
        if sets:
            lines = [
                w.gettext("{fault}: in every picture of {x} of {n} exams").format(
                    fault=measure_words(m, self.names, w), x=m.x, n=m.n
                )
                for m in sets
            ]
            yield Items(tuple(lines))

    def nuchal(self) -> Iterator[Block]:
        """Measuring NT and CRL: bias apart from spread."""
        w = self.w
        kinds = ("nt-bias", "nt-spread", "nt-digits", "crl-range")
        chosen = [m for m in self.subject.measures if m.kind in kinds and m.n]
        if not chosen:
            return
        yield Heading(w.gettext("Measuring NT and CRL"))
        yield self.values(chosen)
        title = w.gettext("NT: bias against the curve, by period")
        yield from self.trend("nt-bias", title, "nt-bias")
        bias = self.measure("nt-bias")
        if bias is not None and bias.ewma:
            points = [TimePoint(a.day, a.value, a.centre, a.low, a.high) for a in bias.ewma]
            title = w.gettext("NT: bias against the curve, weighted average (EWMA)")
            chart = control_chart(points, self.events(), title, w, is_share=False)
            yield ChartBlock("nt-ewma", chart)
        if bias is not None and bias.power is not None and bias.is_judged:
            yield Paragraph(
                w.gettext(
                    "Power: of {n} exams a true bias of 10 % would be named with a probability of"
                    " {power} at least. Else it passes."
                ).format(n=bias.n, power=w.percent(bias.power)),
                is_small=True,
            )
        citation = self.audit.nt_citation or w.gettext("the lab's own curve")
        yield Paragraph(
            w.gettext(
                "Curve: {citation}. This judges measuring, not the fetus; bias and spread are"
                " judged apart."
            ).format(citation=citation),
            is_small=True,
        )

    def drift(self) -> Iterator[Block]:
        """Of a device or site: which features of its pictures have moved."""
        w = self.w
        own = self._own_drift()
        if not own:
            return
        yield Heading(w.gettext("Drift of the pictures"))
        rows = tuple(
            (
                feature_words(d.feature, w),
                str(d.n),
                # Of an embedding it is another distance.
                "–" if d.feature == EMBEDDING else w.decimal(d.value, 3),
                change_words(d, w),
                _q_words(d.q, w),
                "–" if d.since is None else d.since.isoformat(),
                w.join(self._drift_remarks(d)),
            )
            for d in own
        )
        columns = (
            w.gettext("Feature"),
            "n",
            w.gettext("Stability index (PSI)"),
            w.gettext("Mean before → now"),
            "q",
            w.gettext("Since"),
            w.gettext("Remark"),
        )
        yield TableBlock(Table("", columns, rows))
        if any(d.is_against_bundle for d in own):
            yield Paragraph(
                w.gettext(
                    "There are no pictures of half a year yet to compare with: rows that say bundle"
                    " compare with the pictures that calibrated the bundle, and before is their"
                    " mean."
                ),
                is_small=True,
            )
        alarms = [d for d in own if d.is_alarm and d.months]
        alarms.sort(key=lambda d: -(d.value or 0.0))
        for each in alarms[:_MOST_DRIFT_CHARTS]:
            yield self._drift_chart(each)
        if any(d.calls_for_calibration for d in own):
            yield Paragraph(
                w.gettext("The drift calls for a new site calibration: see qc-daemon site list.")
            )

    def _drift_remarks(self, drift: facts.Drift) -> list[str]:
        remarks = [self.w.gettext("alarm")] if drift.is_alarm else []
        return remarks + ([self.w.gettext("bundle")] if drift.is_against_bundle else [])

    def _drift_chart(self, drift: facts.Drift) -> ChartBlock:
        """The feature's means by four weeks, with where chance puts them about the reference."""
        centre = drift.before
        points = [
            TimePoint(
                month.day,
                month.value,
                centre,
                None if centre is None else centre - (month.value - month.low),
                None if centre is None else centre + (month.high - month.value),
                href=""
                if self.link is None
                else self.link(month.day, month.day + timedelta(days=27)),
            )
            for month in drift.months
        ]
        chart = control_chart(
            points,
            self.events(),
            capitalise(feature_words(drift.feature, self.w)),
            self.w,
            is_share=drift.feature in SHARE_FEATURES,
            limit_words=self.w.gettext("where chance puts it (95 %)"),
        )
        return ChartBlock(drift.feature.replace(":", "-"), chart)

    def _drift_lines(self, alarms: Sequence[facts.Drift]) -> Iterator[str]:
        """A sentence for each answer of the models that moved, and one a device for all that moved
        in its pictures."""
        yield from (self._drift_words(d) for d in alarms if not d.is_of_pictures)
        of_pictures = [d for d in alarms if d.is_of_pictures]
        for device in sorted({d.id for d in of_pictures}):
            for is_against_bundle in (False, True):
                moved = [
                    d
                    for d in of_pictures
                    if d.id == device and d.is_against_bundle == is_against_bundle
                ]
                if moved:
                    yield self._pictures_words(device, moved, is_against_bundle=is_against_bundle)

    def _pictures_words(
        self, device: str, moved: Sequence[facts.Drift], *, is_against_bundle: bool
    ) -> str:
        """What has moved in the pictures themselves, since when."""
        w = self.w
        since = min((d.since for d in moved if d.since is not None), default=None)
        changes = [
            f"{feature_words(d.feature, w)} {change_words(d, w)}"
            if d.before is not None
            else feature_words(d.feature, w)
            for d in sorted(moved, key=lambda d: (d.before is None, -(d.value or 0.0)))
        ]
        if is_against_bundle:
            return w.gettext(
                "{device}: the pictures are unlike those that the bundle was calibrated on:"
                " {changes}. Calibrate its site before its probabilities are relied on."
            ).format(device=self.names.device(device), changes="; ".join(changes))
        return w.gettext(
            "{device}: the pictures themselves changed since {since}: {changes}. Compare gain,"
            " presets, probe and software with what they were before."
        ).format(
            device=self.names.device(device),
            since="–" if since is None else since.isoformat(),
            changes="; ".join(changes),
        )

    def _drift_words(self, drift: facts.Drift) -> str:
        since = "–" if drift.since is None else drift.since.isoformat()
        return self.w.gettext("{device}: drift of the {feature} since {since}.").format(
            device=self.names.device(drift.id), feature=feature_words(drift.feature, self.w),
            since=since,
        )  # fmt: skip

    def examples(
        self, good: Sequence[Picture], instructive: Sequence[Picture], left_out: int
    ) -> Iterator[Block]:
        """Good pictures, then instructive ones with what to change; how many may not be shown."""
        w = self.w
        yield Heading(w.gettext("Good pictures"))
        if good:
            yield Pictures(tuple(good))
        else:
            yield Paragraph(w.gettext("No standard picture of this period can be shown."))
        yield Heading(w.gettext("Pictures to learn from"))
        if instructive:
            yield Pictures(tuple(instructive))
        else:
            yield Paragraph(w.gettext("No such picture of this period can be shown."))
        if left_out:
            sentence = w.ngettext(
                "{count} picture is not shown: its file is gone, text may be burned into it, or"
                " somebody is still to read it blinded.",
                "{count} pictures are not shown: their files are gone, text may be burned into"
                " them, or somebody is still to read them blinded.",
                left_out,
            )
            yield Paragraph(sentence.format(count=left_out), is_small=True)

    def agreement(self) -> Iterator[Block]:
        """How far the models agree with human readers, and these with each other."""
        yield from agreement_section(self.audit, self.w)

    def dispute(self, example: int | None) -> Iterator[Block]:
        """How a finding is disputed, and what comes of it."""
        yield from dispute_section(self.w, example)

    def method(self) -> Iterator[Block]:
        """What was computed from what, and when it will be again."""
        w, audit = self.w, self.audit
        yield Heading(w.gettext("How this was computed, and what is next"))
        lines = [
            w.gettext(
                "Judged: {start} to {end} ({zone}), {findings} findings of {exams} exams."
            ).format(
                start=audit.start.isoformat(),
                end=audit.end.isoformat(),
                zone=audit.timezone,
                findings=self.subject.findings,
                exams=self.subject.exams,
            ),
            w.gettext(
                "Nobody is judged by fewer than {least} pictures. A share is called where its exact"
                " binomial tail lies beyond 99.8 %, at a false discovery rate of {rate} over all"
                " comparisons; a person is left out of her own benchmark."
            ).format(least=MIN_JUDGED, rate=w.percent(audit.false_discovery_rate)),
            w.gettext(
                "Control charts alarm beyond 3 sigma or at {run} periods in a row on one side: in"
                " control once in 153 periods on average. Limits are those stored with each period."
            ).format(run=8),
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
        if self.next_audit is not None:
            lines.append(w.gettext("Next audit: {day}.").format(day=self.next_audit.isoformat()))
        yield Items(tuple(lines))


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


def _is_explained(measure: Measure) -> bool:
    """Whether the measure, with the case mix taken out, comes nearer to what all have of all."""
    adjusted = measure.adjusted
    if adjusted is None or adjusted.overall is None or measure.value is None:
        return False
    return abs(adjusted.value - adjusted.overall) < abs(measure.value - adjusted.overall)


def _q_words(q: float | None, w: Wording) -> str:
    """An adjusted p-value; none is 0."""
    return f"< {w.decimal(_LEAST_Q, 3)}" if q is not None and q < _LEAST_Q else w.decimal(q, 3)


def _points(effect: float, w: Wording) -> str:
    sign = "+" if effect > 0 else "−" if effect < 0 else ""
    return w.gettext("{sign}{value} points").format(
        sign=sign, value=w.decimal(abs(100 * effect), 1)
    )

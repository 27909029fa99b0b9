"""A measure of an audit's subject, typed: its value, limits, history and charts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from scipy import stats

from qc_daemon.audit.statistics.proportions import (
    ALARM,
    MIN_JUDGED,
    WARNING,
    FunnelLimits,
    Proportion,
    funnel_limits,
)

COMPLETION, STANDARD, SCORE = "completion", "standard", "exam-score"
FAILURE, SET_FAILURE = "failure", "set-failure"
FLAG_ALARM, FLAG_DECLINING = "alarm", "declining"


@dataclass(frozen=True, slots=True)
class Limits:
    """The benchmark and the limits at the measure's own n; `between` is the standard deviation
    between units in log odds."""

    target: float
    n: int
    at_n: FunnelLimits
    between: float

    @classmethod
    def from_json(cls, body: Mapping[str, Any], n: int) -> "Limits":
        names = ("low_alarm", "low_warning", "high_warning", "high_alarm")
        at_n = FunnelLimits(*(float(body[name]) for name in names))
        return cls(float(body["target"]), n, at_n, float(body.get("between") or 0.0))

    def at(self, n: int, centre: float) -> FunnelLimits:
        """The limits about a centre (0 < centre < 1) at another n, for a curve.

        Exact and interpolated where the audit's own are; else in log odds, with a standard error
        that falls with the root of n and the variation between units, as the audit's.
        """
        if self._is_exact:
            return funnel_limits(centre, max(1, n))
        error = max(0.0, self._reach**2 - self.between**2) * self.n / max(1, n)
        reach = math.sqrt(error + self.between**2)
        bounds = [
            _expit(_logit(centre) + float(stats.norm.ppf(probability)) * reach)
            for probability in (ALARM, WARNING, 1 - WARNING, 1 - ALARM)
        ]
        return FunnelLimits(*bounds)

    @property
    def _is_exact(self) -> bool:
        if self.between or not 0 < self.target < 1 or self.n < 1:
            return not self.between
        exact = funnel_limits(self.target, self.n)
        return math.isclose(exact.low_warning, self.at_n.low_warning, abs_tol=1e-4)

    @property
    def _reach(self) -> float:
        """How far the inner limits lie from the benchmark, in log odds, a standard deviation."""
        low, high = (_logit(each) for each in (self.at_n.low_warning, self.at_n.high_warning))
        return (high - low) / 2 / float(stats.norm.ppf(1 - WARNING))


def _logit(share: float) -> float:
    within = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(within / (1 - within))


def _expit(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A value with the case mix taken out, and what it was adjusted by; `expected` is what others
    would have had of the same exams, `overall` what all have of all."""

    value: float
    low: float | None
    high: float | None
    expected: float | None
    overall: float | None
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Period:
    """A point of a measure's history, with the limits that were used then."""

    start: date
    end: date
    x: int | None
    n: int
    value: float
    centre: float | None
    low: float | None
    high: float | None
    rules: tuple[str, ...]
    model_id: str | None


@dataclass(frozen=True, slots=True)
class OwnTrend:
    """A person's points of so many weeks each, of at least `least` pictures or exams; `left_out`
    have fewer."""

    weeks: int
    least: int
    left_out: int
    periods: tuple[Period, ...]


@dataclass(frozen=True, slots=True)
class CusumFacts:
    """Day, upper and lower sum of each period of the history, and where they signal."""

    limit: float
    sums: tuple[tuple[date, float, float], ...]


@dataclass(frozen=True, slots=True)
class Average:
    """A point of an exponentially weighted moving average, with its limits."""

    day: date
    value: float
    centre: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of a subject in the audit's window."""

    name: str
    view: str | None
    unit: str
    x: int | None
    n: int
    value: float | None
    low: float | None
    high: float | None
    is_judged: bool
    limits: Limits | None
    power: float | None
    flag: str | None
    rule: str | None
    adjusted: Adjusted | None
    unadjusted_flag: str | None
    periods: tuple[Period, ...]
    cusum: CusumFacts | None
    ewma: tuple[Average, ...]
    own_trend: OwnTrend | None = None

    @property
    def points(self) -> tuple[Period, ...]:
        """What a chart along time draws: a person's longer periods, where there are any."""
        return self.own_trend.periods if self.own_trend and self.own_trend.periods else self.periods

    @property
    def kind(self) -> str:
        """The name without its view or criterion."""
        return self.name.partition(":")[0]

    @property
    def code(self) -> str:
        """The view or criterion in the name; empty for none."""
        return self.name.partition(":")[2]

    @property
    def share(self) -> Proportion | None:
        """x of n, where the measure counts."""
        return None if self.x is None else Proportion(self.x, self.n)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Measure":
        limits, cusum, unadjusted = body.get("limits"), body.get("cusum"), body.get("unadjusted")
        history, own_trend = list(body.get("history") or ()), body.get("own_trend")
        n, unit = int(body.get("n") or 0), str(body.get("unit") or "1")
        return cls(
            name=str(body["name"]),
            view=body.get("view"),
            unit=unit,
            x=_count(body.get("x")),
            n=n,
            value=body.get("value"),
            low=body.get("low"),
            high=body.get("high"),
            is_judged=bool(body.get("judged", n >= MIN_JUDGED)),
            limits=None if limits is None else Limits.from_json(limits, n),
            power=body.get("power"),
            flag=body.get("flag"),
            rule=body.get("rule"),
            adjusted=_adjusted(body.get("adjusted"), n if unit == "1" else 1),
            unadjusted_flag=None if unadjusted is None else unadjusted.get("flag"),
            periods=_periods(history, body.get("signals") or ()),
            cusum=None if cusum is None else _cusum(cusum, history),
            ewma=tuple(_average(each) for each in (body.get("ewma") or {}).get("points") or ()),
            own_trend=None
            if own_trend is None
            else OwnTrend(
                int(own_trend["weeks"]),
                int(own_trend["least"]),
                int(own_trend["left_out"]),
                _periods(own_trend["points"], own_trend["signals"]),
            ),
        )


def _count(x: float | None) -> int | None:
    """x of a share; None for a sum that is no count, as of probabilities."""
    return int(x) if x is not None and float(x).is_integer() else None


def _average(body: Mapping[str, Any]) -> Average:
    names = ("value", "centre", "low", "high")
    return Average(date.fromisoformat(body["date"]), *(float(body[name]) for name in names))


def _adjusted(body: Mapping[str, Any] | None, n: int) -> Adjusted | None:
    """`n` divides what was expected, which an audit counts."""
    if body is None or body.get("value") is None:
        return None
    expected = body.get("expected")
    return Adjusted(
        float(body["value"]),
        body.get("low"),
        body.get("high"),
        None if expected is None or not n else float(expected) / n,
        body.get("overall"),
        tuple(map(str, body.get("by") or ())),
    )


def _periods(
    points: Iterable[Mapping[str, Any]], signals: Iterable[Mapping[str, Any]]
) -> tuple[Period, ...]:
    rules: dict[int, list[str]] = {}
    for signal in signals:
        rules.setdefault(int(signal["at"]), []).append(str(signal["rule"]))
    return tuple(
        _period(each, tuple(rules.get(index, ())))
        for index, each in enumerate(points)
        if each.get("value") is not None
    )


def _period(body: Mapping[str, Any], rules: tuple[str, ...]) -> Period:
    return Period(
        start=date.fromisoformat(body["from"]),
        end=date.fromisoformat(body["to"]),
        x=body.get("x"),
        n=int(body.get("n") or 0),
        value=float(body["value"]),
        centre=body.get("centre"),
        low=body.get("low_limit"),
        high=body.get("high_limit"),
        rules=rules,
        model_id=body.get("model_id"),
    )


def _cusum(body: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> CusumFacts:
    """Raises ValueError where the sums are not as many as the periods."""
    sums = zip(history, body["upper"], body["lower"], strict=True)
    return CusumFacts(
        float(body["limit"]),
        tuple(
            (date.fromisoformat(each["from"]), float(upper), float(lower))
            for each, upper, lower in sums
        ),
    )

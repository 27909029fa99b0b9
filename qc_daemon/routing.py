"""Routing: which objects go to which destinations, and why.

The rules of the settings are tried in their order. For each kind of object the first rule that
lists it and whose conditions all hold decides; if there is none, the destinations' own `objects`
do. Originals are routed once, at receipt, by sender and header. What is made of an exam is routed
when it is made, by its findings: the conditions must hold for one and the same finding.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cache

from qc_daemon.settings import RuleSettings, Settings

SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Traits:
    """The properties of an object that rules test. Absent texts are empty; `view` and `verdict` are
    None for an object without findings."""

    calling_ae: str = ""
    station: str = ""
    study: str = ""
    view: str | None = None
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that did not match, and why; the reason quotes no study description, which is text
    about a patient."""

    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where an object goes. `rule` decided (None: the destinations' own `objects`), after the
    `earlier` ones did not match."""

    rule: str | None
    to: tuple[str, ...]
    earlier: tuple[Miss, ...] = ()


class Routes:
    """Rules and, by kind of object, the destinations that take it by themselves."""

    def __init__(
        self, rules: Sequence[RuleSettings] = (), own: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.own = {kind: tuple(names) for kind, names in (own or {}).items()}
        self._rules: dict[str, list[RuleSettings]] = {}
        for rule in rules:
            for kind in dict.fromkeys(rule.objects):
                self._rules.setdefault(kind, []).append(rule)

    @classmethod
    def of(cls, settings: Settings) -> "Routes":
        own: dict[str, list[str]] = {}
        for destination in settings.destination:
            for kind in dict.fromkeys(destination.objects):
                own.setdefault(kind, []).append(destination.name)
        return cls(settings.rule, own)

    @property
    def needs_findings(self) -> bool:
        """Whether a rule asks for view or verdict."""
        return any(rule.needs_findings for rules in self._rules.values() for rule in rules)

    def possible(self, kind: str) -> tuple[str, ...]:
        """Every destination that an object of this kind may go to."""
        named = [name for rule in self._rules.get(kind, ()) for name in rule.to]
        return tuple(dict.fromkeys((*self.own.get(kind, ()), *named)))

    def certain(self, kind: str) -> tuple[str, ...]:
        """The destinations that each object of this kind goes to, whichever rule decides."""
        ends: list[Sequence[str]] = []
        for rule in self._rules.get(kind, ()):
            ends.append(rule.to)
            if not _conditions(rule):
                break
        else:
            ends.append(self.own.get(kind, ()))
        return tuple(name for name in dict.fromkeys(ends[0]) if all(name in to for to in ends))

    def route(self, kind: str, traits: Iterable[Traits]) -> Route:
        """An object's destinations by the first rule that fits; a `Traits` for each finding."""
        all_traits = list(traits) or [Traits()]
        earlier: list[Miss] = []
        for rule in self._rules.get(kind, ()):
            reasons = [_mismatch(rule, each) for each in all_traits]
            if None in reasons:
                return Route(rule.name, tuple(dict.fromkeys(rule.to)), tuple(earlier))
            distinct_reasons = dict.fromkeys(reason for reason in reasons if reason is not None)
            earlier.append(Miss(rule.name, "; ".join(distinct_reasons)))
        return Route(None, self.own.get(kind, ()), tuple(earlier))


def _conditions(rule: RuleSettings) -> list[object]:
    conditions = (rule.calling_ae, rule.station, rule.study, rule.view, rule.verdict)
    return [each for each in conditions if each is not None]


def _mismatch(rule: RuleSettings, traits: Traits) -> str | None:
    """Why the rule does not match; None if it does."""
    for patterns, text, description in (
        (rule.calling_ae, traits.calling_ae, f"calling AE {traits.calling_ae or '(unknown)'}"),
        (rule.station, traits.station, f"station {traits.station or '(none)'}"),
        (rule.study, traits.study, "study description" if traits.study else "study (none)"),
    ):
        if patterns is not None and not _like(text, patterns):
            return f"{description} is not like {' or '.join(patterns)}"
    for allowed, value, noun in (
        (rule.view, traits.view, "view"),
        (rule.verdict, traits.verdict, "verdict"),
    ):
        if allowed is not None and value not in allowed:
            return f"{noun} {value or '(unknown)'} is not {' or '.join(allowed)}"
    return None


def _like(text: str, patterns: Iterable[str]) -> bool:
    plain = text.strip().casefold()
    return any(_matcher(pattern)(plain) is not None for pattern in patterns)


@cache
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern.strip().casefold())).match

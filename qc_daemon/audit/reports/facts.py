"""What an audit's JSON says, typed: measures of subjects with what they were judged by.

Keys that an audit lacks are None or empty, so that a report leaves the section out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from qc_daemon.audit.drift.drift_windows import BUNDLE
from qc_daemon.audit.drift.image_drift import EMBEDDING, STATISTIC
from qc_daemon.audit.reports.measure_facts import FLAG_ALARM, Measure
from qc_daemon.audit.statistics.proportions import Proportion

PERSON, DEVICE, SITE = "person", "device", "site"
_VERSION_DIGITS = 16


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A device of a person: its part of her pictures, her standard views on it and everybody's, and
    by how much the device's rate differs from the lab's (shares)."""

    id: str
    part: float
    own: Proportion
    everybody: Proportion
    effect: float | None


@dataclass(frozen=True, slots=True)
class Example:
    """A finding that a report shows."""

    finding_id: int
    view: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A person, device or site with its measures; `name` is a site's, as headers write it."""

    kind: str
    id: str
    findings: int
    exams: int
    measures: tuple[Measure, ...]
    name: str | None = None
    devices: tuple[DeviceShare, ...] = ()
    good: tuple[Example, ...] = ()
    instructive: tuple[Example, ...] = ()

    def measure(self, name: str) -> Measure | None:
        """The measure of this name; None where there is none."""
        return next((each for each in self.measures if each.name == name), None)

    @property
    def is_assessable(self) -> bool:
        """Whether any measure has enough pictures to be judged."""
        return any(measure.is_judged for measure in self.measures)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Subject":
        examples = body.get("examples") or {}
        return cls(
            kind=str(body["kind"]),
            id=str(body["id"]),
            findings=int(body.get("findings") or 0),
            exams=int(body.get("exams") or 0),
            measures=tuple(Measure.from_json(each) for each in body.get("measures") or ()),
            name=body.get("name"),
            devices=tuple(
                sorted(
                    (_device(each) for each in body.get("devices") or ()),
                    key=lambda device: (-device.part, device.id),
                )
            ),
            good=_examples(examples.get("good")),
            instructive=_examples(examples.get("instructive")),
        )


@dataclass(frozen=True, slots=True)
class AgreementFacts:
    """How two readers' answers agree, with 95 % intervals; NaN where it cannot be said."""

    answers: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    n: int
    exams: int
    observed: float
    kappa: tuple[float, float, float]
    ac1: tuple[float, float, float]
    prevalence: tuple[float, ...]
    left_out: int

    @classmethod
    def from_json(cls, body: Mapping[str, Any] | None) -> "AgreementFacts | None":
        if body is None or not body.get("n"):
            return None
        return cls(
            answers=tuple(map(str, body["answers"])),
            table=tuple(tuple(map(int, row)) for row in body["table"]),
            n=int(body["n"]),
            exams=int(body.get("exams") or 0),
            observed=_float(body.get("observed")),
            kappa=_three(body, "kappa"),
            ac1=_three(body, "ac1"),
            prevalence=tuple(_float(each) for each in body.get("prevalence") or ()),
            left_out=int(body.get("left_out") or 0),
        )


@dataclass(frozen=True, slots=True)
class MonthlyMean:
    """A feature's mean in the four weeks from `day` on, with its 95 % interval."""

    day: date
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Drift:
    """A feature of a device's or site's pictures that has moved; `before` and `after` are the means
    of an image statistic, `months` those of an alarm. `is_against_bundle`: it is compared with the
    pictures that calibrated the bundle, not with what it was."""

    kind: str
    id: str
    feature: str
    n: int
    value: float | None
    q: float | None
    since: date | None
    is_alarm: bool
    calls_for_calibration: bool
    is_against_bundle: bool = False
    before: float | None = None
    after: float | None = None
    months: tuple[MonthlyMean, ...] = ()

    @property
    def is_of_pictures(self) -> bool:
        """Whether the pictures moved, and not what the models answer."""
        return self.feature == EMBEDDING or self.feature.startswith(STATISTIC)


@dataclass(frozen=True, slots=True)
class Change:
    """A day on which something changed for all: other models, other answers of the same models."""

    day: date
    kind: str
    name: str
    shift: float | None = None


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """An audit of a local date: whom it judged, by what."""

    day: date
    start: date
    end: date
    timezone: str
    models: str
    model_id: str | None
    criteria_version: str
    data_sha256: str
    false_discovery_rate: float | None
    expected_views: tuple[str, ...]
    nt_citation: str | None
    subjects: tuple[Subject, ...]
    changes: tuple[Change, ...]
    drift: tuple[Drift, ...]
    model_and_reader: AgreementFacts | None
    two_readers: AgreementFacts | None
    next_audit: date | None

    def subject(self, kind: str, id: str) -> Subject | None:
        """The subject, None where the audit has no picture of it."""
        return next((s for s in self.subjects if (s.kind, s.id) == (kind, id)), None)

    def others(self, subject: Subject) -> list[Subject]:
        """All other subjects of its kind."""
        return [s for s in self.subjects if s.kind == subject.kind and s.id != subject.id]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "AuditFacts":
        bundle = body.get("bundle") or {}
        rules = body.get("rules") or {}
        agreement = body.get("agreement") or {}
        return cls(
            day=date.fromisoformat(body["date"]),
            start=date.fromisoformat(body["window"]["from"]),
            end=date.fromisoformat(body["window"]["to"]),
            timezone=str(body.get("timezone") or "UTC"),
            models=" ".join(str(bundle[key]) for key in ("name", "version") if bundle.get(key)),
            model_id=bundle.get("model_id"),
            # Criteria have their thresholds in the bundle.
            criteria_version=str(
                body.get("criteria_version") or (bundle.get("model_id") or "")[:_VERSION_DIGITS]
            ),
            data_sha256=str(body.get("data_sha256") or ""),
            false_discovery_rate=rules.get("false_discovery_rate"),
            expected_views=tuple(rules.get("expected_views") or ()),
            nt_citation=(rules.get("nt_curve") or {}).get("citation"),
            subjects=tuple(Subject.from_json(each) for each in body.get("subjects") or ()),
            changes=tuple(_changes(body)),
            drift=tuple(_drift(each) for each in body.get("drift") or ()),
            model_and_reader=AgreementFacts.from_json(agreement.get("model_first")),
            two_readers=AgreementFacts.from_json(agreement.get("first_second")),
            next_audit=_day(body.get("next_audit")),
        )


def _changes(body: Mapping[str, Any]) -> Iterable[Change]:
    """Other bundles after the first, and shifts of the models' answers."""
    bundles = list(body.get("bundles") or ())
    for each in bundles[1:]:
        name = " ".join(str(each[key]) for key in ("name", "version") if each.get(key))
        yield Change(date.fromisoformat(each["from"]), "bundle", name)
    for each in body.get("changes") or ():
        yield Change(
            date.fromisoformat(each["date"]),
            str(each["kind"]),
            str(each.get("name") or ""),
            each.get("shift"),
        )


def _day(value: str | None) -> date | None:
    return None if value is None else date.fromisoformat(value)


def _drift(body: Mapping[str, Any]) -> Drift:
    return Drift(
        kind=str(body["kind"]),
        id=str(body["id"]),
        feature=str(body["feature"]),
        n=int(body.get("n") or 0),
        value=body.get("value"),
        q=body.get("q"),
        since=_day(body.get("since")),
        is_alarm=body.get("flag") == FLAG_ALARM,
        calls_for_calibration=bool(body.get("calibrate")),
        is_against_bundle=body.get("compared_with") == BUNDLE,
        before=body.get("before"),
        after=body.get("after"),
        months=tuple(
            MonthlyMean(
                date.fromisoformat(each["from"]),
                int(each["n"]),
                *(float(each[name]) for name in ("value", "low", "high")),
            )
            for each in body.get("months") or ()
        ),
    )


def _examples(bodies: Iterable[Mapping[str, Any]] | None) -> tuple[Example, ...]:
    return tuple(Example(int(b["finding_id"]), str(b.get("view") or "")) for b in bodies or ())


def _device(body: Mapping[str, Any]) -> DeviceShare:
    return DeviceShare(
        id=str(body["id"]),
        part=float(body["share"]),
        own=Proportion(int(body.get("x") or 0), int(body.get("n") or 0)),
        everybody=Proportion(int(body.get("device_x") or 0), int(body.get("device_n") or 0)),
        effect=body.get("effect"),
    )


def _three(body: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    return (
        _float(body.get(name)),
        _float(body.get(f"{name}_low")),
        _float(body.get(f"{name}_high")),
    )


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)

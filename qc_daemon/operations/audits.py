"""Audits: run one, list them, show what they found, and stop and go on.

One audit reads the findings of its window and of the history before it, hands the rows to
`audit.make_audit`, and stores what that says as it will be printed.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.process_id import lease_owner
from model.finding import NON_STANDARD, STANDARD
from qc_daemon.audit.audit import Audit, AuditRules, make_audit
from qc_daemon.audit.nuchal import NuchalCurve
from qc_daemon.audit.readings import ReadingPair, Readings
from qc_daemon.audit.rows import AuditFinding, BundleKey, Rows, RowsBuilder
from qc_daemon.audit.statistics.history import LimitKey, PointLimits
from qc_daemon.operations.bundles import image_references
from qc_daemon.operations.online_work import AUDIT_SECONDS, OnlineWork
from qc_daemon.operations.shadow_audits import (
    KIND,
    EngineMaker,
    Step,
    compare_in_shadow,
    describe_comparison,
    engine_here,
    open_shadow,
)
from qc_daemon.operations.shared import open_store
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.results import audit_rows, audits
from qc_daemon.records.results.audit_rows import AuditedFinding
from qc_daemon.records.results.audits import LEASE_SECONDS, NIGHTLY, ClaimedAudit, StoredLimits
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AuditState
from qc_daemon.review.events import Event
from qc_daemon.settings import Settings

_READING = 0.5
"""The share of an audit that goes to reading."""
_STEP = 2000
LIST_COLUMNS = ("date", "audit", "state", "progress", "from", "data_sha256", "reason", "updated")

Progress = Callable[[float], None]
"""Told how far an audit is, 0 to 1."""


class AuditInterruptedError(Exception):
    """The audit was paused or cancelled, or another process has taken it over."""


@dataclass(frozen=True, slots=True)
class Period:
    """The days that are judged, both included."""

    first: date
    last: date


def today(settings: Settings, clock: Clock = utc_now) -> date:
    """The local date."""
    return clock().astimezone(settings.schedule.local_zone).date()


# Run.


def run_audit(
    settings: Settings,
    day: str | None = None,
    since: str | None = None,
    until: str | None = None,
    *,
    bundle: str | None = None,
    progress: Progress = lambda _: None,
    clock: Clock = utc_now,
    make_engine: EngineMaker = engine_here,
) -> dict[str, Any]:
    """Run the audit of a day, again if there is one: the last one with images that is over, where
    none is named. With `since` it is an audit of its own, of the days from then on; with `bundle`
    (a name or folder) one that scores the images again with that bundle, and compares.

    Returns what it found. Raises UsageError for a date that is none or not over, and QCError for a
    bundle that is missing or damaged, and where another process runs the audit, or it was paused or
    cancelled.
    """
    store = open_store(settings)
    period = parse_period(settings, day, since, until, store, clock)
    shadow = None if bundle is None else open_shadow(bundle)
    first = None if since is None and shadow is None else period.first.isoformat()
    name, local_date = NIGHTLY, period.last.isoformat()
    if shadow is not None:
        name = audits.shadow_name(shadow.model_id)
    elif first is not None:
        name = audits.period_name(first)
    with store.begin() as session:
        started = audits.restart(session, name, local_date, first, clock(), shadow)
        claimed = None
        if started:
            owner = lease_owner("audit", os.getpid())
            only = (name, local_date)
            claimed = audits.claim(session, owner, clock(), LEASE_SECONDS, only=only)
    if claimed is None:
        raise QCError(
            ErrorCode.STORAGE,
            f"the audit of {local_date} is run by another process; if that has ended, try again in"
            f" {LEASE_SECONDS / 60:.0f} minutes",
        )
    try:
        return perform(
            settings, store, claimed, progress=progress, clock=clock, make_engine=make_engine
        )
    except AuditInterruptedError:
        raise QCError(
            ErrorCode.CANCELLED,
            f"the audit of {local_date} was paused or cancelled; see audit list",
        ) from None
    except KeyboardInterrupt:
        if name != NIGHTLY:
            # Else the service would go on with what a person has just ended.
            with store.begin() as session:
                audits.release(session, claimed, AuditState.PAUSED, clock())
        raise


def parse_period(
    settings: Settings,
    day: str | None,
    since: str | None,
    until: str | None,
    store: Store,
    clock: Clock,
) -> Period:
    """The days that options name. Raises UsageError."""
    if day is not None and until is not None and day != until:
        raise UsageError(f"--date {day} and --to {until}: an audit has the date of its last day")
    named = day or until
    open_day = today(settings, clock)
    if named is None:
        with store.read() as session:
            newest = audit_rows.last_day(session, open_day.isoformat())
        # Nothing is stored yet: the day before says so.
        last = open_day - timedelta(days=1) if newest is None else date.fromisoformat(newest)
    else:
        last = _parse_day(named, "--to" if day is None else "--date")
    if last >= open_day:
        raise UsageError(
            f"{last} is not over in {settings.schedule.local_zone}: give a day before {open_day}"
        )
    if since is None:
        return Period(last - timedelta(days=settings.audit.window_days - 1), last)
    first = _parse_day(since, "--from")
    if first > last:
        raise UsageError(f"--from {since}: give a day that is not after {last}")
    return Period(first, last)


def _parse_day(value: str, option: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UsageError(f"{option} {value}: give a date, as 2026-11-01") from None


def perform(
    settings: Settings,
    store: Store,
    claimed: ClaimedAudit,
    *,
    progress: Progress = lambda _: None,
    clock: Clock = utc_now,
    make_engine: EngineMaker = engine_here,
    is_nightly_first: bool = False,
) -> dict[str, Any]:
    """Do the audit that this process has claimed, and store it; returns what it found.

    Between its steps it waits while online work does (`OnlineWork`). With `is_nightly_first` one in
    shadow is left to wait as soon as a nightly one does. Raises AuditInterruptedError where it is
    no longer this process's. Other failures are stored with the audit, and raised.
    """
    online = OnlineWork(store, None if claimed.bundle else AUDIT_SECONDS, clock=clock)

    def step(part: float, *, has_stored: bool = False) -> None:
        with store.begin() as session:
            now, share = clock(), round(part, 4)
            is_ours = audits.renew(
                session, claimed, share, now, LEASE_SECONDS, has_stored=has_stored
            )
            if is_ours and claimed.bundle is not None and is_nightly_first:
                is_ours = not audits.has_nightly_waiting(session, now) or not audits.release(
                    session, claimed, AuditState.WAITING, now
                )
        if not is_ours:
            raise AuditInterruptedError
        progress(part)
        online.wait()

    try:
        content, limits = _content(settings, store, claimed, step, clock, make_engine)
        with store.begin() as session:
            if not audits.finish(session, claimed, content, clock()):
                raise AuditInterruptedError
            audits.add_limits(session, claimed.name, claimed.local_date, limits)
    except AuditInterruptedError:
        raise
    except Exception as error:
        code = error.code.value if isinstance(error, QCError) else ErrorCode.INTERNAL.value
        # Another error's words may quote data.
        words = error.message if isinstance(error, QCError) else type(error).__name__
        with store.begin() as session:
            audits.fail(session, claimed, code, words, clock())
        raise
    progress(1.0)
    return content


def _content(
    settings: Settings,
    store: Store,
    claimed: ClaimedAudit,
    step: Step,
    clock: Clock,
    make_engine: EngineMaker,
) -> tuple[dict[str, Any], list[StoredLimits]]:
    last = date.fromisoformat(claimed.local_date)
    window = settings.audit.window_days
    first = last - timedelta(days=window - 1)
    if claimed.first_day is not None:
        first = date.fromisoformat(claimed.first_day)
    head = {
        "date": claimed.local_date,
        "audit": claimed.name,
        "timezone": str(settings.schedule.local_zone),
    }
    if claimed.bundle is not None:
        compared = compare_in_shadow(
            settings, store, claimed.bundle, first, last, step, clock, make_engine
        )
        return head | compared, []
    audit, limits = _audit_content(settings, store, claimed, first, last, step)
    return head | audit, limits


def _audit_content(
    settings: Settings, store: Store, claimed: ClaimedAudit, first: date, last: date, step: Step
) -> tuple[dict[str, Any], list[StoredLimits]]:
    """What it says of persons, devices and sites, and the limits that it judged by."""
    start = min(first, last - timedelta(days=settings.audit.history_days - 1))
    zone = settings.schedule.local_zone
    with store.read() as session:
        reader = _Reader(session, zone, first, step)
        rows = reader.read(start, last)
        names = audit_rows.site_names(session)
        # A week that a nightly audit has judged keeps its limits in every other audit too.
        stored = audits.stored_limits(session, NIGHTLY, claimed.local_date)
        if claimed.name != NIGHTLY:
            stored += audits.stored_limits(session, claimed.name, claimed.local_date)
    curve = settings.audit.nt_curve
    rules = AuditRules(
        first_day=first.toordinal(),
        last_day=last.toordinal(),
        views=tuple(settings.report.views),
        curve=None if curve is None else NuchalCurve(**curve.model_dump()),
    )
    audit = make_audit(
        rows,
        rules,
        stored={
            LimitKey(each.kind, each.subject_id, each.measure, each.starts_on): PointLimits(
                each.centre, each.low, each.high
            )
            for each in stored
        },
        readings=reader.readings(),
        references=image_references(store, [each.model_id for each in rows.bundles]),
        step=lambda part: step(_READING + (1 - _READING) * part),
    )
    with store.read() as session:
        _fill_examples(session, audit)
    for subject in audit.content["subjects"]:
        if subject["kind"] == "site":
            subject["name"] = names.get(subject["id"], subject["id"])
    content = {
        **audit.content,
        "second_readings": reader.second_readings,
    }
    limits = [
        StoredLimits(
            key.kind, key.subject, key.measure, key.starts_on, each.centre, each.low, each.high
        )
        for key, each in audit.limits.items()
    ]
    return content, limits


def _fill_examples(session: Session, audit: Audit) -> None:
    """Say of each example where its picture is."""
    subjects = [each for each in audit.content["subjects"] if "examples" in each]
    ids = {
        id for each in subjects for finding_ids in each["examples"].values() for id in finding_ids
    }
    addresses = audit_rows.addresses(session, ids)
    for subject in subjects:
        subject["examples"] = {
            name: [_address(addresses[id]) for id in finding_ids]
            for name, finding_ids in subject["examples"].items()
        }


def _address(finding: audit_rows.FindingAddress) -> dict[str, Any]:
    return {
        "finding_id": finding.finding_id,
        "study_instance_uid": finding.study_instance_uid,
        "sop_instance_uid": finding.sop_instance_uid,
        "frame": finding.frame,
        "region": finding.region,
        "view": finding.view,
        "probability": finding.probability,
        "reasons": list(finding.reasons),
    }


class _Reader:
    """Reads findings into rows, and notes what readers said of those in the window."""

    def __init__(self, session: Session, zone: ZoneInfo, first: date, step: Progress) -> None:
        self._session, self._zone, self._step = session, zone, step
        self._first_day = first.toordinal()
        self._model_first: list[ReadingPair] = []
        self._first_second: list[ReadingPair] = []
        self._unblinded = 0
        self.second_readings: list[dict[str, Any]] = []

    def read(self, start: date, last: date) -> Rows:
        end = (last + timedelta(days=1)).isoformat()
        total = max(1, audit_rows.count_findings(self._session, start.isoformat(), end))
        builder = RowsBuilder()
        last_day = last.toordinal()
        findings = audit_rows.iter_audited(self._session, start.isoformat(), end)
        for count, finding in enumerate(findings):
            if count % _STEP == 0:
                self._step(_READING * min(1.0, count / total))
            day, second = moment_of(finding, self._zone)
            if start.toordinal() <= day <= last_day:
                builder.add(row_of(finding, day, second))
                if day >= self._first_day and finding.review is not None:
                    self._note_readings(finding)
        self.second_readings.sort(key=lambda each: each["finding_id"])
        return builder.build()

    def readings(self) -> Readings:
        """What readers said, in an order of its own."""

        def ordered(pairs: list[ReadingPair]) -> list[ReadingPair]:
            return sorted(pairs, key=lambda pair: (pair.exam, pair.first, pair.second))

        return Readings(ordered(self._model_first), ordered(self._first_second), self._unblinded)

    def _note_readings(self, finding: AuditedFinding) -> None:
        state = finding.review
        assert state is not None
        model = str(finding.body["quality"]["label"])
        view = finding.body["view"]["code"]
        for reading in state.readings:
            if not reading.is_blinded:
                self._unblinded += 1
            elif model in (STANDARD, NON_STANDARD) and reading.view == view and reading.verdict:
                self._model_first.append(ReadingPair(model, reading.verdict, finding.exam_id))
        if len(state.readings) > 1:
            first, second = state.readings[:2]
            if second.is_blinded and first.verdict and second.verdict:
                pair = ReadingPair(first.verdict, second.verdict, finding.exam_id)
                self._first_second.append(pair)
        first_reading = next((each for each in state.readings if each.second is not None), None)
        if first_reading is not None and first_reading.second is not None:
            self.second_readings.append(
                {
                    "finding_id": finding.finding_id,
                    "drawn": ",".join(first_reading.second.rules),
                    "at": first_reading.at.isoformat(timespec="seconds"),
                    "status": state.status.value,
                }
            )


def moment_of(finding: AuditedFinding, zone: ZoneInfo) -> tuple[int, int | None]:
    """Local day (ordinal), and the second of that day; None where only the receipt is known."""
    if finding.acquired is None:
        return finding.received_at.astimezone(zone).date().toordinal(), None
    moment = datetime.fromisoformat(finding.acquired)
    second = moment.hour * 3600 + moment.minute * 60 + moment.second
    return moment.date().toordinal(), second


def row_of(finding: AuditedFinding, day: int, second: int | None) -> AuditFinding:
    """The row of a finding; a person's verdict stands for the models'."""
    body = finding.body
    outcome: Event | None = None if finding.review is None else finding.review.outcome
    view, verdict = body["view"]["code"], body["quality"]["label"]
    criteria = {each["code"]: each["met"] for each in body["criteria"]}
    if outcome is not None and outcome.view is not None:
        view, verdict = outcome.view.value, outcome.verdict
        criteria |= dict(outcome.criteria)
    bundle, quality = body["bundle"], body["quality"]
    key = (body["sop_instance_uid"], body["revision"], body["frame"], body["region"]["index"])
    return AuditFinding(
        key=repr(key),
        finding_id=finding.finding_id,
        exam_id=finding.exam_id,
        persons=finding.persons,
        device=finding.device,
        site=finding.site,
        bundle=BundleKey(bundle["name"], bundle["version"], bundle["model_id"]),
        view=view,
        view_probability=body["view"]["probability"],
        verdict=verdict if view != View.OTHER else None,
        is_reviewed=outcome is not None,
        probability=quality["probability"],
        raw_probability=quality["raw_probability"],
        confidences=[each["confidence"] for each in body["detections"]],
        criteria=criteria,
        day=day,
        second=second,
        gestation=finding.gestation,
        bmi=finding.bmi,
        crl=finding.crl,
        nt=finding.nt,
        statistics=finding.statistics,
        embedding=finding.embedding,
    )


# List, show, pause, resume, cancel.


def list_audits(settings: Settings) -> list[dict[str, Any]]:
    """All audits, the newest date first."""
    with open_store(settings).read() as session:
        return [
            {
                "date": each.local_date,
                "audit": each.name,
                "state": each.state,
                "progress": each.progress,
                "from": each.first_day,
                "data_sha256": each.data_sha256,
                "reason": each.error_message,
                "updated": each.updated_at.isoformat(timespec="seconds"),
            }
            for each in audits.every(session)
        ]


def read_audit(
    settings: Settings, day: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """What the audit of that date found, of the newest one without a date; without a name the
    nightly one, or the only one of the date. Raises UsageError where there is none."""
    if day is not None:
        _parse_day(day, "DATE")
    with open_store(settings).read() as session:
        if name is None and day is not None:
            name = _only_name(session, day)
        content = audits.read(session, name, local_date=day)
    if content is None:
        which = "audit" if name in (None, NIGHTLY) else f"audit {name}"
        words = f"no {which} is done yet" if day is None else f"there is no {which} of {day}"
        raise UsageError(f"{words}; see audit list, or run it with audit run")
    return content


def _only_name(session: Session, day: str) -> str | None:
    """The name of the audit of a date that is meant without one. Raises UsageError where several
    may be."""
    names = audits.names_of(session, day)
    if len(names) > 1 and names[0] != NIGHTLY:
        raise UsageError(f"{day} has several audits: give --audit {' or --audit '.join(names)}")
    return names[0] if names else None


def newest_audit(settings: Settings, since: str, until: str) -> dict[str, Any] | None:
    """What the newest audit with a date of this period (both days included) found."""
    with open_store(settings).read() as session:
        return audits.read(session, NIGHTLY, since=since, until=until)


_VERBS = {
    AuditState.PAUSED: "paused",
    AuditState.WAITING: "resumed",
    AuditState.CANCELLED: "cancelled",
}


def change_audit(
    settings: Settings,
    day: str,
    state: AuditState,
    name: str | None = None,
    clock: Clock = utc_now,
) -> str:
    """Pause, resume or cancel the audit of a date; without a name the nightly one, or the only one.
    Returns a line that says so. Raises UsageError for a date without one, QCError where its state
    does not allow it."""
    _parse_day(day, "DATE")
    with open_store(settings).begin() as session:
        audit_name = name or _only_name(session, day) or NIGHTLY
        stays = audits.change_state(session, audit_name, day, state, clock())
    which = f"audit of {day}" if audit_name == NIGHTLY else f"audit {audit_name} of {day}"
    if stays is None:
        return f"{which} {_VERBS[state]}"
    if not stays:
        raise UsageError(f"there is no {which}; see audit list")
    raise QCError(ErrorCode.STORAGE, f"the {which} is {stays}: it cannot be {_VERBS[state]}")


# As tables and CSV.

MEASURE_COLUMNS = (
    "kind",
    "id",
    "measure",
    "view",
    "x",
    "n",
    "value",
    "low",
    "high",
    "target",
    "low_alarm",
    "high_alarm",
    "adjusted",
    "adjusted_low",
    "adjusted_high",
    "p",
    "q",
    "power",
    "judged",
    "flag",
    "rule",
    "unit",
)
FLAG_COLUMNS = ("kind", "id", "flag", "measure", "q", "words")


def measure_rows(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each measure of each subject."""
    for subject in content["subjects"]:
        for measure in subject["measures"]:
            limits, adjusted = measure["limits"] or {}, measure["adjusted"] or {}
            yield {
                "kind": subject["kind"],
                "id": subject["id"],
                "measure": measure["name"],
                **{name: limits.get(name) for name in ("target", "low_alarm", "high_alarm")},
                "adjusted": adjusted.get("value"),
                "adjusted_low": adjusted.get("low"),
                "adjusted_high": adjusted.get("high"),
                "p": adjusted.get("p"),
                "q": adjusted.get("q"),
                **{
                    name: measure[name]
                    for name in ("view", "x", "n", "value", "low", "high", "power", "judged")
                },
                **{name: measure[name] for name in ("flag", "rule", "unit")},
            }


def flag_rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What the audit names, for a table: changes of the models first, then drift, devices, sites
    and persons; of each the worst few. Notes are left out."""
    rows = [
        {"kind": each["kind"], "id": each["date"], "flag": "change", "words": each["words"]}
        for each in content["changes"]
    ]
    rows += [
        {
            "kind": each["kind"],
            "id": each["id"],
            "flag": "drift",
            "measure": each["feature"],
            "q": each["q"],
            "words": each["words"],
        }
        for each in content["drift"]
        if each["flag"]
    ]
    order = {"device": 0, "site": 1, "person": 2}
    for subject in sorted(content["subjects"], key=lambda each: order[each["kind"]]):
        named = [each for each in subject["flags"] if each["flag"] != "note"]
        rows += [{"kind": subject["kind"], "id": subject["id"], **each} for each in named[:_WORST]]
    return [{column: row.get(column) for column in FLAG_COLUMNS} for row in rows]


_WORST = 3


def describe(content: dict[str, Any]) -> list[str]:
    """Lines that stand before the table."""
    if content.get("kind") == KIND:
        return describe_comparison(content)
    window, counts = content["window"], content["counts"]
    judged = sum(each["assessable"] for each in content["subjects"] if each["kind"] == "person")
    persons = sum(each["kind"] == "person" for each in content["subjects"])
    return [
        f"audit of {content['date']}: {window['from']} to {window['to']} ({content['timezone']})",
        f"{counts['findings']} findings of {counts['exams']} exams,"
        f" {counts['reviewed']} reviewed, {counts['undecided']} undecided",
        f"{judged} of {persons} persons have enough images to be judged"
        f" ({content['rules']['min_judged']} or more)",
    ]

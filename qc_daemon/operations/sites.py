"""Sites for an operator: calibrate from what is stored, activate, retire, waive, and their history.

`propose` is what happens each night.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.finding import NON_STANDARD, STANDARD
from model.site.calibrate import calibrate_site
from model.site.names import UNNAMED, site_of
from model.site.promise import Promise, PromiseCheck, Tolerance, check_promise, one_of_each_exam
from model.site.record import SiteRecord, read_record
from model.site.samples import Samples, SiteSample
from model.site.use import SiteUse
from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.observe import log
from qc_daemon.operations.identity_names import resolve_identity
from qc_daemon.operations.review_lists import key_of
from qc_daemon.operations.shared import open_store, parse_person
from qc_daemon.operations.site_files import Choice, has_evidence, make_question, make_sample
from qc_daemon.operations.site_words import describe_worse, record_row
from qc_daemon.records.acquisition import identities
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.results import bundles, findings, reviews, sites
from qc_daemon.records.results.bundles import ActiveBundle
from qc_daemon.records.results.sites import ActiveSite, SiteEvent
from qc_daemon.records.store import Store
from qc_daemon.records.tables import IdentityKind, SiteAction
from qc_daemon.settings import Settings

HISTORY_COLUMNS = (
    "site",
    "action",
    "calibration",
    "kind",
    "findings",
    "reviews",
    "shift",
    "promised",
    "decided_by",
    "decided_at",
    "model_id",
)
LIST_COLUMNS = (
    "site",
    "state",
    "images",
    "calibrations",
    "shift",
    "reviews",
    "promised",
    "proposed_at",
)
_log = log.get(role="schedule")


def fit_stored(
    settings: Settings,
    site: str | None,
    choice: Choice,
    tolerance: Tolerance,
    clock: Clock = utc_now,
) -> SiteRecord:
    """The calibration that the stored findings of a site and their reviews make, for the active
    bundle; proposed, unless it makes its own figures worse. Raises UsageError where there are no
    findings, or several sites and none is named."""
    store = open_store(settings)
    with store.read() as session:
        bundle = _active_bundle(session)
        choice = _resolve_device(session, choice)
        by_site = read_samples(session, settings, bundle, choice)
        name = _choose_site(by_site, site)
        written = _written_name(session, settings, name)
    question = make_question(bundle.path, written, choice, tolerance, clock)
    record = calibrate_site(by_site[name], question)
    if not record.makes_worse:
        with store.begin() as session:
            _propose(session, record, clock())
    return record


def _resolve_device(session: Session, choice: Choice) -> Choice:
    """The choice with the id of the device that the named one counts for. Raises QCError STORAGE,
    UsageError."""
    if choice.device is None:
        return choice
    return replace(choice, device=resolve_identity(session, IdentityKind.DEVICE, choice.device))


def read_samples(
    session: Session, settings: Settings, bundle: ActiveBundle, choice: Choice
) -> dict[str, list[SiteSample]]:
    """The samples of each site: what the bundle scored, with what people say of it."""
    answers = {
        reviewed.key: (reviewed.state.outcome.verdict, reviewed.weight or 1.0)
        for reviewed in reviews.reviewed_findings(session)
        if reviewed.state.outcome is not None
        and reviewed.state.outcome.verdict in (STANDARD, NON_STANDARD)
    }
    places = sites.places(session)
    by_site: dict[str, list[SiteSample]] = {}
    window = Window(choice.since, None, None)
    for stored in findings.iter_findings(session, ExamFilter(), window, all_revisions=False):
        body = stored.body
        if not has_evidence(body) or body["bundle"]["model_id"] != bundle.model_id:
            continue
        place, device = places.get(stored.revision.revision_id, (UNNAMED, None))
        if choice.view is not None and body["view"]["code"] != choice.view:
            continue
        if choice.device is not None and device != choice.device:
            continue
        key = key_of(stored)
        verdict, weight = answers.get(key, (None, 1.0))
        sample = make_sample(
            body,
            key=str(key),
            exam=stored.exam_id,
            device=device,
            is_standard=None if verdict is None else verdict == STANDARD,
            weight=weight,
        )
        by_site.setdefault(_site(settings, place), []).append(sample)
    return by_site


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on a site: the site as people write it, and a line that says what holds now."""

    site: str
    line: str


def activate(
    settings: Settings,
    source: str,
    by: str,
    clock: Clock = utc_now,
    *,
    even_if_worse: bool = False,
) -> Decided:
    """Make a calibration (a file, or the id of a proposed one) the one that new findings get; where
    it is so already nothing is added.

    Raises UsageError or QCError where there is none, it is of another bundle, or it makes its own
    figures worse, but for `even_if_worse`.
    """
    person = parse_person(by, "--by")
    with open_store(settings).begin() as session:
        record = _find_record(session, source)
        if not record.is_calibrated:
            raise UsageError(
                f"calibration {record.id} changes nothing ({record.reason}): see waive"
            )
        bundle = _active_bundle(session)
        if record.bundle.model_id != bundle.model_id:
            raise UsageError(
                f"calibration {record.id} was fitted on another bundle"
                f" ({record.bundle.model_id[:12]}) than the active one: fit it again"
            )
        name = site_of(record.site)
        if _is_active(session, record, name):
            return Decided(
                record.site, f"site {record.site}: calibration {record.id} is active already"
            )
        if record.makes_worse and not even_if_worse:
            raise UsageError(
                f"calibration {record.id} is not activated: {describe_worse(record)}; review more"
                " findings and fit it again, or say site activate --even-if-worse"
            )
        sites.append(
            session,
            name,
            bundle.model_id,
            SiteAction.ACTIVATED,
            clock(),
            record=record,
            decided_by=person,
        )
    objects = {"site": name, "calibration": record.id}
    recorder.record(
        settings, AuditKind.SITE_CHANGED, objects=objects, detail={"what": "activated"}, clock=clock
    )
    return Decided(
        record.site, f"site {record.site}: calibration {record.id} is active for new findings"
    )


def _is_active(session: Session, record: SiteRecord, site: str) -> bool:
    """Whether the calibration is the one that counts for its view and its device, by devices as
    they are merged now."""
    roots = identities.roots(session, IdentityKind.DEVICE)

    def about(each: SiteRecord) -> tuple[View | None, str | None]:
        device = each.device
        return each.view, None if device is None else roots.get(device, device)

    records = sites.active(session, site, record.bundle.model_id).records
    newest = next((each for each in records if about(each) == about(record)), None)
    return newest is not None and newest.id == record.id


def decide(
    settings: Settings, site: str, action: SiteAction, by: str, clock: Clock = utc_now
) -> Decided:
    """Retire what is active at the site for the active bundle, or waive calibration there; where it
    is waived already nothing is added. Raises UsageError on a site with nothing to retire."""
    person, name = parse_person(by, "--by"), site_of(site)
    with open_store(settings).begin() as session:
        bundle = _active_bundle(session)
        current = sites.active(session, name, bundle.model_id)
        if action is SiteAction.WAIVED:
            _require_images(session, settings, name)
        if action is SiteAction.RETIRED and not current.records and not current.is_waived:
            raise UsageError(f"site {site.strip()} has nothing active; see site history")
        written = _written_name(session, settings, name)
        if action is SiteAction.WAIVED and current.is_waived:
            return Decided(written, f"site {written}: calibration is waived already")
        sites.append(session, name, bundle.model_id, action, clock(), decided_by=person)
    recorder.record(
        settings,
        AuditKind.SITE_CHANGED,
        objects={"site": name},
        detail={"what": action},
        clock=clock,
    )
    if action is SiteAction.WAIVED:
        return Decided(
            written, f"site {written}: new findings are no longer flagged not-commissioned"
        )
    return Decided(
        written, f"site {written}: nothing is active; new findings are flagged not-commissioned"
    )


def _require_images(session: Session, settings: Settings, name: str) -> None:
    """Raises UsageError where other sites have images and this one has none: a slip of the pen."""
    if others := _sites_instead(session, settings, name):
        raise UsageError(f"no image is of site {name}; there are: {', '.join(others)}")


def sites_instead(settings: Settings, site: str) -> list[str]:
    """The sites that images name where none is of this one; empty where one is, or there are no
    images."""
    with open_store(settings).read() as session:
        return _sites_instead(session, settings, site_of(site))


def _sites_instead(session: Session, settings: Settings, name: str) -> list[str]:
    site_names = {_site(settings, place) for place in sites.names(session)}
    if name in site_names:
        return []
    return sorted(_written_name(session, settings, each) for each in site_names)


def list_history(settings: Settings, site: str | None) -> list[dict[str, Any]]:
    """A row of HISTORY_COLUMNS for each event, the newest last."""
    with open_store(settings).read() as session:
        events = sites.history(session, None if site is None else site_of(site))
        written = {
            name: _written_name(session, settings, name) for name in {each.site for each in events}
        }
    return [_history_row(event, written[event.site]) for event in events]


def list_sites(settings: Settings) -> list[dict[str, Any]]:
    """A row of LIST_COLUMNS for each site with images: what counts there for the active bundle.

    `shift` and `reviews` are of the calibration of all views and devices, else of the newest one;
    `proposed_at` is when a newer one was proposed than is active.
    """
    with open_store(settings).read() as session:
        bundle = _active_bundle(session)
        counts: dict[str, int] = {}
        for name, count in sites.images(session).items():
            site = _site(settings, name)
            counts[site] = counts.get(site, 0) + count
        return [
            _list_row(session, settings, site, bundle.model_id, count)
            for site, count in sorted(counts.items())
        ]


def _list_row(
    session: Session, settings: Settings, site: str, model_id: str, images: int
) -> dict[str, Any]:
    active = sites.active(session, site, model_id)
    # The general one stands last; it counts where no other one is about the view and device.
    facts = record_row(active.records[-1]) if active.records else {}
    events = [event for event in sites.history(session, site) if event.model_id == model_id]
    is_proposed = bool(events) and events[-1].action is SiteAction.PROPOSED
    return {
        "site": _written_name(session, settings, site),
        "state": _state(active),
        "images": images,
        "calibrations": [each.id for each in active.records],
        "shift": facts.get("shift"),
        "reviews": facts.get("reviews"),
        "promised": facts.get("promised") or [],
        "proposed_at": events[-1].decided_at.isoformat(timespec="seconds") if is_proposed else None,
    }


def find_record(settings: Settings, source: str) -> SiteRecord:
    """The calibration of a file, or a stored one by its id."""
    if Path(source).exists():
        return read_record(Path(source))
    with open_store(settings).read() as session:
        return _find_record(session, source)


def propose_all(settings: Settings, store: Store, clock: Clock = utc_now) -> int:
    """Fit each site anew from what is stored; returns how many proposals were added.

    With `[score] site_calibration = "auto"` one that is calibrated is also activated. One that
    makes its own figures worse is not even proposed. Promises are compared with the reviews made
    since; a broken one is logged.
    """
    added = 0
    with store.read() as session:
        bundle = bundles.active(session)
        if bundle is None:
            return 0
        by_site = read_samples(session, settings, bundle, Choice())
        written = {name: _written_name(session, settings, name) for name in by_site}
    for name, rows in by_site.items():
        question = make_question(bundle.path, written[name], Choice(), Tolerance(), clock)
        record = calibrate_site(rows, question)
        if record.makes_worse:
            continue
        with store.begin() as session:
            if not _propose(session, record, clock()):
                continue
            added += 1
            if settings.score.site_calibration == "auto" and record.is_calibrated:
                sites.append(
                    session, name, bundle.model_id, SiteAction.ACTIVATED, clock(), record=record
                )
    for broken in broken_promises(settings, store):
        _log.error("promise broken", count=broken.wrong, findings=broken.called)
    return added


def broken_promises(settings: Settings, store: Store) -> list[PromiseCheck]:
    """The promises of active calibrations that reviews made since speak against."""
    return [check for _, check in check_promises(settings, store) if not check.is_consistent]


def check_promises(settings: Settings, store: Store) -> list[tuple[str, PromiseCheck]]:
    """Each promise of an active calibration ("site: side") against the reviews since then."""
    checks: list[tuple[str, PromiseCheck]] = []
    with store.read() as session:
        bundle = bundles.active(session)
        if bundle is None:
            return []
        since: dict[tuple[str, str], datetime] = {}
        for event in sites.history(session):
            if event.action is SiteAction.ACTIVATED and event.calibration is not None:
                since[event.site, event.calibration] = event.decided_at
        for site in dict.fromkeys(name for name, _ in since):
            records = sites.active(session, site, bundle.model_id).records
            for record in records:
                if record.promise is None:
                    continue
                begin = since[site, record.id]
                samples = _reviewed_since(session, settings, site, record, begin, records)
                checks += [
                    (f"{_written_name(session, settings, site)}: {side}", check)
                    for side, check in _check(record, record.promise, samples).items()
                ]
    return checks


CALIBRATED, WAIVED, COMMISSIONING = SITE_STATES = ("calibrated", "waived", "commissioning")
"""What a site with findings may be for the active bundle."""


def site_states(settings: Settings, store: Store) -> dict[str, str]:
    """One of SITE_STATES for each site with findings, by its name; empty without a bundle."""
    with store.read() as session:
        bundle = bundles.active(session)
        if bundle is None:
            return {}
        return {
            _written_name(session, settings, site): _state(
                sites.active(session, site, bundle.model_id)
            )
            for site in sorted({_site(settings, name) for name in sites.names(session)})
        }


def _state(active: ActiveSite) -> str:
    if active.is_commissioning:
        return COMMISSIONING
    return CALIBRATED if any(each.is_calibrated for each in active.records) else WAIVED


def commissioning_sites(settings: Settings, store: Store) -> list[str]:
    """Sites with findings of the active bundle that neither are calibrated nor waived."""
    states = site_states(settings, store)
    return [site for site, state in states.items() if state == COMMISSIONING]


def _check(record: SiteRecord, promise: Promise, samples: Samples) -> Mapping[str, PromiseCheck]:
    per_exam = one_of_each_exam(samples)
    probabilities = [
        float(record.map.probability(s, row.view, row.device))
        for s, row in zip(per_exam.log_odds, per_exam.rows, strict=True)
    ]
    return check_promise(promise, probabilities, per_exam.labels(), per_exam.review_weights())


def _reviewed_since(
    session: Session,
    settings: Settings,
    site: str,
    record: SiteRecord,
    since: datetime,
    records: tuple[SiteRecord, ...],
) -> Samples:
    """The reviewed findings of the site whose first reading came after the activation, and for
    which this one of the active `records` counts."""
    places, aliases = sites.places(session), sites.aliases(session)
    rows = []
    for reviewed in reviews.reviewed_findings(session, Window(since, None, None)):
        outcome, body = reviewed.state.outcome, reviewed.body
        place, device = places.get(reviewed.file.revision_id, (UNNAMED, None))
        use = SiteUse(site, records, device, aliases=aliases.get(device or "", ()))
        if (
            outcome is not None
            and outcome.verdict in (STANDARD, NON_STANDARD)
            and _site(settings, place) == site
            and has_evidence(body)
            and body["bundle"]["model_id"] == record.bundle.model_id
            and use.applied(View(body["view"]["code"])) is record
            and (record.promise is None or record.promise.is_about(View(body["view"]["code"])))
        ):
            rows.append(
                make_sample(
                    body,
                    key=str(reviewed.finding_id),
                    exam=reviewed.exam_id,
                    device=use.device_in(record),
                    is_standard=outcome.verdict == STANDARD,
                    weight=reviewed.weight or 1.0,
                )
            )
    return Samples.of(rows)


def _site(settings: Settings, place: str) -> str:
    """The site that the settings name for all images, else the image's own."""
    return site_of(settings.score.site) if settings.score.site else place


def _written_name(session: Session, settings: Settings, site: str) -> str:
    """The site as people write it: as the settings do, else as its first image has it."""
    own = settings.score.site
    return own if own and site_of(own) == site else sites.written_name(session, site)


def _propose(session: Session, record: SiteRecord, now: datetime) -> bool:
    """Add the proposal unless the last one rests on the same data; whether it was added."""
    name = site_of(record.site)
    proposed = [
        event.record
        for event in sites.history(session, name)
        if event.action is SiteAction.PROPOSED and event.record is not None
    ]
    if any(
        (each.data_sha256, each.bundle, each.view, each.device)
        == (record.data_sha256, record.bundle, record.view, record.device)
        for each in proposed[-1:]
    ):
        return False
    model_id = record.bundle.model_id
    sites.append(session, name, model_id, SiteAction.PROPOSED, now, record=record)
    return True


def _find_record(session: Session, source: str) -> SiteRecord:
    if Path(source).exists():
        return read_record(Path(source))
    for event in reversed(sites.history(session)):
        if event.calibration == source and event.record is not None:
            return event.record
    raise UsageError(f"{source}: no file, and no calibration with this id; see site history")


def _choose_site(by_site: Mapping[str, object], site: str | None) -> str:
    if site is not None:
        name = site_of(site)
        if name not in by_site:
            raise UsageError(f"no findings of site {site.strip()} that match; see site list")
        return name
    if not by_site:
        raise UsageError("no stored findings of the active bundle that match")
    if len(by_site) > 1:
        raise UsageError(f"findings of {len(by_site)} sites: name one with --site")
    return next(iter(by_site))


def _active_bundle(session: Session) -> ActiveBundle:
    bundle = bundles.active(session)
    if bundle is None:
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, "no bundle is active yet; start the service")
    return bundle


def _history_row(event: SiteEvent, site: str) -> dict[str, Any]:
    facts = {} if event.record is None else record_row(event.record)
    return {
        "site": site,
        "action": event.action.value,
        "calibration": event.calibration,
        "kind": facts.get("kind"),
        "findings": facts.get("findings"),
        "reviews": facts.get("reviews"),
        "shift": facts.get("shift"),
        "promised": facts.get("promised") or [],
        "decided_by": event.decided_by,
        "decided_at": event.decided_at.isoformat(timespec="seconds"),
        "model_id": event.model_id,
    }

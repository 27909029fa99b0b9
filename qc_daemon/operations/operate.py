"""What an operator asks of the stored state: results, queue, quarantine, bundles."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydicom.uid import UID

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import visible
from model.bundle.bundle import MANIFEST, locate, model_id_of, shipped, verify
from model.finding import BundleId
from qc_daemon.operations.listing import Listing
from qc_daemon.records import listings, schema
from qc_daemon.records.commitment import scp
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import revisions
from qc_daemon.records.results import bundles, destinations, findings
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState, CommitmentSupport, JobKind, JobState
from qc_daemon.settings import DestinationSettings, Settings

OPEN_STATES = (*jobs.PENDING, *jobs.GIVEN_UP)


def open_store(settings: Settings) -> Store:
    """The store, if its tables are this version's; else one line that says what to do."""
    problem = schema.check(settings.store.url)
    if problem:
        raise QCError(ErrorCode.STORAGE, problem)
    return Store(settings.store.url)


def parse_window(since: str | None, until: str | None, limit: int | None = None) -> Window:
    """The window that `--since`, `--until` and `--limit` (0: none) name.

    Moments are ISO 8601, UTC where they name no zone; a day alone counts whole. Raises UsageError.
    """
    start = None if since is None else _moment(since, "--since")
    end = None if until is None else _moment(until, "--until")
    if end is not None and until is not None and len(until) <= _DAY:
        end = None if end.date() == date.max else end + timedelta(days=1)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--until {until}: give a moment after --since {since}")
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: give 0 (all) or more")
    return Window(start, end, limit or None)


_DAY = len("2026-11-01")


def _moment(value: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {value}: give ISO 8601, as 2026-11-01T08:00") from None


def stored_findings(
    settings: Settings, study: str | None, since: str | None
) -> list[dict[str, Any]]:
    """Finding and error objects of a study, or received since a moment (ISO 8601, UTC)."""
    moment = None if since is None else _moment(since, "--since")
    with open_store(settings).read() as session:
        return findings.query(session, study=study, since=moment)


JOB_COLUMNS = (
    "id",
    "kind",
    "subject",
    "revision",
    "destination",
    "state",
    "attempts",
    "not before",
    "code",
    "message",
    "created",
    "exam id",
    "study instance uid",
    "sop instance uid",
)
JOB_TABLE = JOB_COLUMNS[:10]


def list_jobs(
    settings: Settings,
    states: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    destinations: Sequence[str] = (),
    window: Window = ALL,
) -> Listing:
    """Jobs in the states, by default those not done; the window is about when they were made."""
    chosen_states = _choices(JobState, states, "--state") or list(OPEN_STATES)
    of_kinds = _choices(JobKind, kinds, "--kind")
    with open_store(settings).read() as session:
        rows, total = listings.jobs(session, chosen_states, of_kinds, destinations, window)
    return Listing(
        (
            {
                "id": job.id,
                "kind": job.kind,
                "subject": job.subject,
                "revision": job.revision,
                "destination": job.destination,
                "state": job.state,
                "attempts": job.attempts,
                "not before": job.not_before.isoformat(timespec="seconds"),
                "code": job.error_code,
                "message": job.error_message,
                "created": job.created_at.isoformat(timespec="seconds"),
                "exam id": job.exam_id,
                "study instance uid": job.study_instance_uid,
                "sop instance uid": job.sop_instance_uid,
            }
            for job in rows
        ),
        total,
    )


Choice = TypeVar("Choice", bound=StrEnum)


def _choices(kind: type[Choice], values: Sequence[str], option: str) -> list[Choice]:
    try:
        return [kind(value) for value in values]
    except ValueError:
        raise UsageError(f"{option}: give one of {', '.join(kind)}") from None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many things were changed, and a line for each id that was not."""

    count: int
    problems: tuple[str, ...] = ()


def retry_jobs(settings: Settings, ids: Sequence[int]) -> Outcome:
    with open_store(settings).begin() as session:
        states = listings.job_states(session, ids)
        count = jobs.retry(session, ids, datetime.now(UTC))
    fit = {JobState.READY, JobState.SENT, JobState.DEAD, JobState.QUARANTINED}
    return Outcome(count, _unfit(ids, states, fit, "job"))


def cancel_jobs(settings: Settings, ids: Sequence[int]) -> Outcome:
    with open_store(settings).begin() as session:
        states = listings.job_states(session, ids)
        count = jobs.cancel(session, ids, datetime.now(UTC))
    return Outcome(count, _unfit(ids, states, set(jobs.PENDING), "job"))


def _unfit(
    ids: Sequence[int], states: Mapping[int, str], fit: Collection[str], noun: str
) -> tuple[str, ...]:
    """What is said of the ids that are unknown or in no state to be changed."""
    return tuple(
        f"no {noun} {id}" if id not in states else f"{noun} {id} is {states[id]}"
        for id in dict.fromkeys(ids)
        if states.get(id) not in fit
    )


DESTINATION_COLUMNS = (
    "name",
    "state",
    "failing since",
    "last error",
    "waiting",
    "not committed",
    "given up",
    "delivered",
    "commitment",
    "does not take",
)
"""What a table shows of a destination."""


def list_destinations(settings: Settings) -> list[dict[str, Any]]:
    """Destinations of the settings, and those no longer there that jobs still name."""
    known = {each.name: each for each in settings.destination}
    with open_store(settings).read() as session:
        found = destinations.deliveries(session)
        refused = {name: destinations.refused(session, name) for name in known}
        conditions = {name: destinations.condition(session, name) for name in {*known, *found}}
    rows = []
    for name in [*known, *sorted(set(found) - set(known))]:
        count = found.get(name, {})
        each = known.get(name)
        rows.append(
            {
                "name": name,
                "kind": "not in the settings" if each is None else each.kind,
                "objects": "" if each is None else ", ".join(each.objects),
                "does not take": "; ".join(
                    f"{UID(uid).name} ({since:%Y-%m-%d %H:%M} UTC)"
                    for uid, since in refused.get(name, {}).items()
                ),
                "waiting": sum(count.get(state, 0) for state in jobs.TO_DO),
                "not committed": count.get(JobState.SENT, 0),
                "given up": sum(count.get(state, 0) for state in jobs.GIVEN_UP),
                "delivered": count.get(JobState.DONE, 0),
                **_condition(each, conditions[name]),
            }
        )
    return rows


def _condition(
    destination: DestinationSettings | None, condition: destinations.Condition
) -> dict[str, Any]:
    """How a destination is: whether it is reached, the last error, and whether it commits."""
    if destination is None:
        state = "not in the settings"
    else:
        state = "ok" if condition.failing_since is None else "failing"
    return {
        "state": state,
        "failing since": _iso(condition.failing_since),
        "last error code": condition.error_code,
        "last error": condition.error_message,
        "last error at": _iso(condition.failed_at),
        "commitment": "" if destination is None else commitment_words(destination, condition),
    }


def commitment_words(destination: DestinationSettings, condition: destinations.Condition) -> str:
    """What there is to know of a destination's storage commitment, in words."""
    if destination.kind != "dicom":
        return ""
    if destination.commitment == "off":
        return "off: stored counts as delivered"
    moment = condition.commitment_since
    since = "" if moment is None else f" since {moment:%Y-%m-%d %H:%M} UTC"
    unsafe = "stored counts as delivered"
    if destination.commitment == "required":
        unsafe = "objects stay sent"
    match condition.commitment:
        case CommitmentSupport.TAKEN:
            return f"takes requests{since}"
        case CommitmentSupport.OFFERED:
            return f"offered{since}, no request answered yet"
        case CommitmentSupport.REFUSED:
            return f"refused{since}: {condition.commitment_message}; {unsafe}"
        case CommitmentSupport.LOST:
            why = f": {condition.commitment_message}" if condition.commitment_message else ""
            return f"taken no more{since}{why}; objects stay sent"
        case CommitmentSupport.NOT_OFFERED:
            return f"not offered{since}; {unsafe}"
        case _:
            return "not known yet"


def commitment_fault(
    destination: DestinationSettings, condition: destinations.Condition
) -> str | None:
    """What someone has to fix so that the destination commits to what it is sent; None if nothing
    is known to be wrong."""
    if destination.kind != "dicom" or destination.commitment == "off":
        return None
    never = condition.commitment == CommitmentSupport.NOT_OFFERED
    faulty = condition.commitment in (CommitmentSupport.REFUSED, CommitmentSupport.LOST)
    if not faulty and not (never and destination.commitment == "required"):
        return None
    return (
        f"storage commitment is {commitment_words(destination, condition)};"
        " have our AE title, host and port entered there,"
        ' or set commitment = "off" if it shall not commit'
    )


def destination_condition(settings: Settings, name: str) -> destinations.Condition:
    """What the service has last seen of a destination."""
    with open_store(settings).read() as session:
        return destinations.condition(session, name)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def retry_destination(settings: Settings, name: str) -> int:
    """Make all that was given up for a destination ready again; how many jobs."""
    _known(settings, name)
    with open_store(settings).begin() as session:
        ids = destinations.given_up(session, name)
        return jobs.retry(session, ids, datetime.now(UTC))


def relearn_destination(settings: Settings, name: str) -> int:
    """Forget what a destination does not take; how many SOP classes."""
    _known(settings, name)
    with open_store(settings).begin() as session:
        return destinations.forget(session, name)


def _known(settings: Settings, name: str) -> None:
    if name not in [each.name for each in settings.destination]:
        raise UsageError(f"there is no destination {name}; see destination list")


COMMITMENT_COLUMNS = (
    "id",
    "requested by",
    "transaction",
    "state",
    "attempts",
    "requested",
    "reason",
)


def list_commitments(settings: Settings, states: Sequence[str], window: Window = ALL) -> Listing:
    """Storage commitment requests in the states, by default those not reported; the window is
    about when they were made."""
    chosen = _choices(CommitmentState, states, "--state")
    chosen = chosen or [state for state in CommitmentState if state != CommitmentState.REPORTED]
    with open_store(settings).read() as session:
        rows, total = listings.commitments(session, chosen, window)
    return Listing(
        (
            {
                "id": row.id,
                "requested by": row.requested_by,
                "transaction": row.transaction_uid,
                "state": row.state,
                "attempts": row.attempts,
                "requested": row.requested_at.isoformat(timespec="seconds"),
                "reason": row.error_message,
            }
            for row in rows
        ),
        total,
    )


def retry_commitments(settings: Settings, ids: Sequence[int]) -> Outcome:
    with open_store(settings).begin() as session:
        states = listings.commitment_states(session, ids)
        count = scp.requeue(session, ids, datetime.now(UTC))
    return Outcome(count, _unfit(ids, states, {CommitmentState.DEAD}, "commitment request"))


QUARANTINE_COLUMNS = (
    "id",
    "sop_instance_uid",
    "revision",
    "code",
    "message",
    "since",
    "study_instance_uid",
    "exam_id",
    "calling_ae",
)
QUARANTINE_TABLE = QUARANTINE_COLUMNS[:6]


def quarantined(settings: Settings, codes: Sequence[str] = (), window: Window = ALL) -> Listing:
    """Objects that could not be scored, newest last; the window is about since when."""
    chosen = _choices(ErrorCode, codes, "--code")
    with open_store(settings).read() as session:
        rows, total = listings.quarantined(session, chosen, window)
    return Listing(
        (
            {
                "id": row.revision_id,
                "sop_instance_uid": row.sop_instance_uid,
                "revision": row.number,
                "code": row.reason_code,
                "message": row.reason_message,
                "since": row.reason_at.isoformat(timespec="seconds"),
                "study_instance_uid": row.study_instance_uid,
                "exam_id": row.exam_id,
                "calling_ae": row.calling_ae,
            }
            for row in rows
        ),
        total,
    )


def show_quarantined(settings: Settings, id: int) -> dict[str, Any]:
    for row in quarantined(settings):
        if row["id"] == id:
            with open_store(settings).read() as session:
                facts = revisions.facts(session, id)
            return row | {
                "transfer_syntax_uid": facts.transfer_syntax_uid,
                "bytes": facts.size,
                "file": str(settings.store.spool / facts.path),
            }
    raise QCError(ErrorCode.STORAGE, f"nothing quarantined has id {id}; see quarantine list")


def release(settings: Settings, ids: Sequence[int]) -> Outcome:
    wanted = dict.fromkeys(ids)
    with open_store(settings).begin() as session:
        now = datetime.now(UTC)
        released = [id for id in wanted if revisions.release(session, id, now)]
    remaining = [id for id in wanted if id not in released]
    problems = (f"nothing quarantined has id {id}; see quarantine list" for id in remaining)
    return Outcome(len(released), tuple(problems))


def bundle_folder(name: str) -> Path:
    """A shipped bundle by name, else the folder itself; raises QCError if there is neither."""
    folder = locate(name).resolve()
    if not folder.is_dir():
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"no bundle {name}; see bundle list")
    return folder


def list_bundles(settings: Settings) -> list[dict[str, Any]]:
    """The shipped bundles and those that were ever active here."""
    rows = {
        model_id_of(name): {"name": name, "path": str(locate(name)), "state": "shipped"}
        for name in shipped()
    }
    if schema.check(settings.store.url) is None:
        with Store(settings.store.url).read() as session:
            for place, known in enumerate(bundles.known(session)):
                rows[known.model_id] = {
                    "name": known.name,
                    "path": known.path,
                    "state": "active" if place == 0 else "was active",
                }
    return [row | {"model_id": model_id} for model_id, row in rows.items()]


def show_bundle(name: str) -> dict[str, Any]:
    """Name, version, model id, manifest (an object) and model card (Markdown) of a bundle."""
    folder = bundle_folder(name)
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    card = folder / "MODEL_CARD.md"
    return {
        "name": manifest.get("name"),
        "version": manifest.get("version"),
        "model_id": model_id_of(folder),
        "path": str(folder),
        "manifest": manifest,
        "card": card.read_text(encoding="utf-8") if card.is_file() else None,
    }


def describe_bundle(name: str) -> str:
    """Manifest and model card as text."""
    details = show_bundle(name)
    manifest = json.dumps(details["manifest"], indent=1)
    lines = [f"model_id: {details['model_id']}", manifest, details["card"] or ""]
    return "\n".join("\n".join(map(visible, text.splitlines())) for text in lines)


def activate_bundle(settings: Settings, name: str) -> str:
    """Verify the bundle and make it the active one; returns its model id."""
    folder = bundle_folder(name)
    problems = verify(folder)
    if problems:
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"not activated: {problems[0]}")
    model_id = model_id_of(folder)
    with open_store(settings).begin() as session:
        bundles.activate(session, folder.name, str(folder), model_id, datetime.now(UTC))
    return model_id


def active_bundle(store: Store) -> BundleId | None:
    """Name, version and model id of the bundle that new exams are fixed to; None before the first.

    The version is empty where the bundle's folder is not there to say it.
    """
    with store.read() as session:
        active = bundles.active(session)
    if active is None:
        return None
    try:
        manifest = json.loads((Path(active.path) / MANIFEST).read_text(encoding="utf-8"))
        version = str(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError):
        version = ""
    return BundleId(active.name, version, active.model_id)


def seed_bundle(settings: Settings, store: Store) -> None:
    """Make the settings' bundle the active one if none has been; called once at start."""
    folder = bundle_folder(settings.score.bundle)
    with store.begin() as session:
        bundles.seed(session, folder.name, str(folder), model_id_of(folder), datetime.now(UTC))

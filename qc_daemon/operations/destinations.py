"""Destinations for an operator: their condition, their jobs, retrying what was given up."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydicom.uid import UID

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import open_store
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.order import TO_DO
from qc_daemon.records.results import destinations
from qc_daemon.records.tables import CommitmentSupport, JobState
from qc_daemon.settings import DestinationSettings, Settings

DESTINATION_COLUMNS = (
    "name",
    "state",
    "waiting",
    "not committed",
    "given up",
    "delivered",
    "commitment",
)
"""The columns of a table of destinations; `destination_notes` has what does not fit in one."""

# What the commitment is, before since when and what follows from it.
_COMMITMENT = re.compile(r"(.*?)(?: since |[:;,]|$)")
# These need no note.
_PLAIN_COMMITMENTS = ("", "off", "takes requests", "not known yet")


def list_destinations(settings: Settings) -> list[dict[str, Any]]:
    """Destinations of the settings, and those no longer there that jobs still name."""
    configured = {destination.name: destination for destination in settings.destination}
    with open_store(settings).read() as session:
        job_counts = destinations.count_deliveries(session)
        aborted = destinations.count_aborted(session)
        refused_classes = {name: destinations.refused_classes(session, name) for name in configured}
        conditions = {
            name: destinations.condition(session, name) for name in {*configured, *job_counts}
        }
    rows = []
    for name in [*configured, *sorted(set(job_counts) - set(configured))]:
        count = job_counts.get(name, {})
        destination = configured.get(name)
        rows.append(
            {
                "name": name,
                "kind": "not in the settings" if destination is None else destination.kind,
                "objects": "" if destination is None else ", ".join(destination.objects),
                "does not take": "; ".join(
                    f"{UID(uid).name} ({since:%Y-%m-%d %H:%M} UTC)"
                    for uid, since in refused_classes.get(name, {}).items()
                ),
                "waiting": sum(count.get(state, 0) for state in TO_DO),
                "aborted": aborted.get(name, 0),
                "not committed": count.get(JobState.SENT, 0),
                "given up": sum(count.get(state, 0) for state in jobs.FAILED_STATES),
                "delivered": count.get(JobState.DONE, 0),
                **_condition(destination, conditions[name]),
            }
        )
    return rows


def destination_table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A destination as a table shows it, with its commitment in a word or two."""
    return {**row, "commitment": _commitment_word(row)}


def destination_notes(row: Mapping[str, Any]) -> Iterator[str]:
    """The lines below a table that say what is wrong with a destination, or should be known.

    An error is among them only if the destination has not answered since.
    """
    name = row["name"]
    if row["failing since"] is not None:
        yield (
            f"{name}: failing since {_minute(row['failing since'])}; last error at"
            f" {_minute(row['last error at'])}:"
            f" {str(row['last error']).removeprefix(f'destination {name}').lstrip(': ')}"
        )
    if row["aborted"]:
        yield (
            f"{name}: gave no answer for {row['aborted']} of the objects that wait;"
            f" see queue list --destination {name}"
        )
    if _commitment_word(row) not in _PLAIN_COMMITMENTS:
        yield f"{name}: storage commitment {row['commitment']}"
    if row["does not take"]:
        yield f"{name}: does not take {row['does not take']}"


def _commitment_word(row: Mapping[str, Any]) -> str:
    match = _COMMITMENT.match(row["commitment"])
    assert match is not None
    return match[1]


def _minute(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def _condition(
    destination: DestinationSettings | None, condition: destinations.Condition
) -> dict[str, Any]:
    """The condition of a destination: whether it is reached, its last error, its commitment."""
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
    """The state of a destination's storage commitment, in words."""
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
    """What a person has to fix so that the destination commits to its objects; None if no fault is
    known."""
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
    """The condition of a destination at the service's last contact."""
    with open_store(settings).read() as session:
        return destinations.condition(session, name)


def unknown_destinations(settings: Settings) -> dict[str, int]:
    """How many objects wait for destinations that are not in the settings, by name."""
    configured = {destination.name for destination in settings.destination}
    with open_store(settings).read() as session:
        job_counts = destinations.count_deliveries(session)
    waiting = {
        name: sum(count.get(state, 0) for state in jobs.PENDING)
        for name, count in sorted(job_counts.items())
        if name not in configured
    }
    return {name: count for name, count in waiting.items() if count}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def retry_destination(settings: Settings, name: str, clock: Clock = utc_now) -> int:
    """Make all jobs that were given up for a destination ready again; returns how many."""
    _require_destination(settings, name)
    with open_store(settings).begin() as session:
        ids = destinations.failed_jobs(session, name)
        count = jobs.retry(session, ids, clock())
    objects, detail = {"destination": name}, {"what": "tried again", "count": count}
    record(settings, AuditKind.QUEUE_CHANGED, objects=objects, detail=detail, clock=clock)
    return count


def relearn_destination(settings: Settings, name: str) -> int:
    """Forget which SOP classes a destination does not take; returns how many."""
    _require_destination(settings, name)
    with open_store(settings).begin() as session:
        return destinations.reset_refused_classes(session, name)


def _require_destination(settings: Settings, name: str) -> None:
    if name not in [each.name for each in settings.destination]:
        raise QCError(ErrorCode.STORAGE, f"there is no destination {name}; see destination list")

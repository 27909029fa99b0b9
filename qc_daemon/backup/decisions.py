"""What people decided after a backup was made: the old database compared with the restored one.

A restore brings rows back as they were saved, and what came later stands in the old database alone.
Objects that came later are found in the spool; what a person ordered by command is in no file. Each
decision is named with the command that repeats it.

Queries ask only for columns that a database has, since the two may be of different versions. Rows
are compared by what they stand for (AE title, UID), not by their numbers alone.

Not compared, as nothing of it stands in a database or needs to be repeated: a retry of a job that
waited anyway, `destination relearn` (a class that a destination does not take is offered again
after a day), `spool discard`.
"""

import json
import shlex
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from detector.errors import ErrorCode, QCError
from model.site.record import SiteRecord
from qc_daemon.backup.account_decisions import (
    account_decisions,
    revoked_tokens,
    unlinked_and_linked,
)
from qc_daemon.backup.decision import Comparison, Decision, DecisionKind
from qc_daemon.backup.patient_decisions import undone_changes, undone_erasures
from qc_daemon.backup.rows import Row, Tables, arguments, is_same, iso, option
from qc_daemon.records import integrity, schema
from qc_daemon.records.store import parse
from qc_daemon.records.tables import (
    ClosedBy,
    CommitmentState,
    ExamState,
    IdentityAction,
    IdentityKind,
    JobKind,
    JobState,
    RevisionState,
    SiteAction,
)
from qc_daemon.review.events import SAID_COLUMNS, EventKind

# A large old database is checked for so long and no longer: the service stands still.
_CHECK_SECONDS = 60.0


def compare(url: str, old_database: str | None, default_bundle: Path) -> Comparison:
    """Compare the database that was moved aside (a folder, or a PostgreSQL schema) with `url`'s.

    `default_bundle` is the folder of the settings' bundle, which a service activates by itself.
    Changes neither database.
    """
    if old_database is None:
        return Comparison((), "there was no old database to compare with")
    file = schema.file_of(url)
    if file is None:
        engine, old_schema = create_engine(parse(url)), old_database
        old_engine, problem = engine, None
    else:
        engine, old_schema = create_engine(f"sqlite:///{file}"), None
        old_file = Path(old_database) / file.name
        old_engine, problem = _read_only(old_file), _damage(old_file)
    try:
        with engine.connect() as connection, old_engine.connect() as old_connection:
            restored, old = Tables(connection), Tables(old_connection, old_schema)
            if not old.names:
                return Comparison((), "the old database has no tables")
            decisions, unread = _decisions(restored, old, default_bundle)
    except SQLAlchemyError as error:
        return Comparison((), f"the old database cannot be read: {_words(error)}")
    finally:
        engine.dispose()
        old_engine.dispose()
    return Comparison(tuple(decisions), problem or unread)


def _decisions(
    restored: Tables, old: Tables, default_bundle: Path
) -> tuple[list[Decision], str | None]:
    """The decisions, and why some could not be read."""
    questions: tuple[Callable[[], Iterable[Decision]], ...] = (
        lambda: _peers(restored, old),
        lambda: _rejections(restored, old),
        lambda: _bundle(restored, old, default_bundle),
        lambda: _closed_exams(restored, old),
        lambda: _repeated_jobs(restored, old),
        lambda: _dismissals(restored, old),
        lambda: _cancelled_jobs(restored, old),
        lambda: _commitments(restored, old),
        lambda: _identity_changes(restored, old),
        lambda: _reviews(restored, old),
        lambda: _sites(restored, old),
        lambda: _teaching_releases(restored, old),
        lambda: account_decisions(restored, old),
        lambda: unlinked_and_linked(restored, old),
        lambda: revoked_tokens(restored, old),
        lambda: undone_changes(restored, old),
        lambda: undone_erasures(restored, old),
    )
    decisions: list[Decision] = []
    problem = None
    for question in questions:
        try:
            decisions += question()
        except (SQLAlchemyError, TypeError, ValueError) as error:
            # A damaged database may be readable in part, and a damaged value may be of any type.
            problem = f"the old database cannot be read in whole: {_words(error)}"
    return decisions, problem


def _peers(restored: Tables, old: Tables) -> Iterator[Decision]:
    columns = ("ae_title", "address", "certificate", "approved_at")
    before = {(row["ae_title"], row["address"]): row for row in restored.rows("peer", columns)}
    after = {(row["ae_title"], row["address"]): row for row in old.rows("peer", columns)}
    for (title, address), row in after.items():
        earlier = before.get((title, address))
        if earlier is None or earlier["certificate"] != row["certificate"]:
            options = ["--address", address]
            if row["certificate"] is not None:
                options += ["--certificate", row["certificate"]]
            yield Decision(
                DecisionKind.PEER_APPROVED,
                f"{title} at {address}",
                iso(row["approved_at"]),
                "peer add",
                arguments(title, options),
            )
    for title, address in before.keys() - after.keys():
        yield Decision(
            DecisionKind.PEER_REMOVED,
            f"{title} at {address}",
            None,
            "peer remove",
            arguments(title, ["--address", address]),
        )


def _rejections(restored: Tables, old: Tables) -> list[Decision]:
    """In the order in which they were made, as an image may be rejected again."""
    before, after = _rejections_of(restored), _rejections_of(old)
    uids = sorted({uid for uid, _ in after})
    known = {
        row["sop_instance_uid"]
        for row in restored.rows_of("instance", ("sop_instance_uid",), "sop_instance_uid", uids)
    }
    decisions = []
    for (uid, number), row in after.items():
        earlier = before.get((uid, number))
        if earlier is None:
            options = ["--reason", row["reason"], "--by", row["confirmed_by"]]
            decisions.append(
                Decision(
                    DecisionKind.IMAGE_REJECTED,
                    uid,
                    iso(row["confirmed_at"]),
                    "rejection confirm",
                    arguments(uid, options),
                    uid not in known,
                )
            )
        if row["retracted_at"] is not None and (earlier is None or earlier["retracted_at"] is None):
            options = ["--reason", row["retraction_reason"], "--by", row["retracted_by"]]
            decisions.append(
                Decision(
                    DecisionKind.REJECTION_RETRACTED,
                    uid,
                    iso(row["retracted_at"]),
                    "rejection retract",
                    arguments(uid, options),
                    uid not in known,
                )
            )
    return sorted(decisions, key=lambda decision: decision.at or "")


def _rejections_of(tables: Tables) -> dict[tuple[str, int], Row]:
    """Rejections by SOP Instance UID and number."""
    columns = (
        "instance_id",
        "number",
        "reason",
        "confirmed_by",
        "confirmed_at",
        "retraction_reason",
        "retracted_by",
        "retracted_at",
    )
    rows = tables.rows("rejection", columns)
    ids = sorted({row["instance_id"] for row in rows})
    uids = {
        row["id"]: row["sop_instance_uid"]
        for row in tables.rows_of("instance", ("id", "sop_instance_uid"), "id", ids)
    }
    # Before a rejection could be retracted, an image had one at most.
    return {(uids[row["instance_id"]], row["number"] or 1): row for row in rows}


def _bundle(restored: Tables, old: Tables, default_bundle: Path) -> Iterator[Decision]:
    columns = ("model_id", "name", "path", "activated_at")
    before = sorted(restored.rows("active_bundle", columns), key=_activation)
    after = sorted(old.rows("active_bundle", columns), key=_activation)
    if not after or (before and before[-1]["model_id"] == after[-1]["model_id"]):
        return
    active = after[-1]
    if not before and len(after) == 1 and Path(active["path"]) == default_bundle:
        return
    yield Decision(
        DecisionKind.BUNDLE_ACTIVATED,
        f"{active['name']} ({active['model_id']})",
        iso(active["activated_at"]),
        "bundle activate",
        arguments(active["path"]),
    )


def _teaching_releases(restored: Tables, old: Tables) -> Iterator[Decision]:
    """What left the house cannot be taken back: it is named, and no command repeats it."""
    columns = ("preparation", "number", "action", "decided_by", "decided_at")
    known = {
        (row["preparation"], row["number"]) for row in restored.rows("teaching_release", columns)
    }
    for row in old.rows("teaching_release", columns):
        if (row["preparation"], row["number"]) not in known:
            subject = f"image {row['number']} of {row['preparation']}, {row['action']}"
            yield Decision(
                DecisionKind.TEACHING_DECIDED,
                f"{subject} by {row['decided_by']}",
                iso(row["decided_at"]),
            )


def _activation(row: Row) -> Any:
    return row["activated_at"]


def _closed_exams(restored: Tables, old: Tables) -> Iterator[Decision]:
    # Its Patient ID may have been corrected since; the one of the headers does not change.
    patient = "received_patient_id"
    columns = ("id", "study_instance_uid", patient, "state", "closed_at", "closed_by")
    closed = old.rows_of("exam", columns, "closed_by", [ClosedBy.PERSON])
    before = restored.by_id("exam", columns, closed)
    for row in closed:
        earlier = before.get(row["id"])
        if earlier is not None and not is_same(earlier, row, "study_instance_uid", patient):
            earlier = None
        if earlier is not None and earlier["closed_at"] == row["closed_at"]:
            continue
        study = row["study_instance_uid"]
        argument = str(row["id"]) if earlier is not None else study
        yield Decision(
            DecisionKind.EXAM_CLOSED,
            f"exam {row['id']}, study {study}",
            iso(row["closed_at"]),
            "exam close" if argument else "",
            arguments(argument) if argument else "",
            # One that was closed in the backup opens again only by what came later.
            earlier is None or earlier["state"] != ExamState.OPEN,
        )


_JOBS = (
    "id",
    "kind",
    "subject",
    "revision",
    "destination",
    "exam_id",
    "revision_id",
    "object_id",
    "state",
    "error_code",
    "updated_at",
)
_ENDED = (JobState.DEAD, JobState.QUARANTINED)


def _repeated_jobs(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Retried jobs and released objects: what has ended changes only by a person's order."""
    ended = restored.rows_of("job", _JOBS, "state", _ENDED)
    quarantined = {
        row["id"]
        for row in restored.rows_of("revision", ("id",), "state", [RevisionState.QUARANTINED])
    }
    # A job may be done whose object was quarantined afterwards.
    done = [
        row
        for row in restored.rows_of("job", _JOBS, "revision_id", sorted(quarantined))
        if row["kind"] == JobKind.SCORE and row["state"] == JobState.DONE
    ]
    rows = [*ended, *done]
    after = old.by_id("job", _JOBS, rows)
    subjects, subjects_after = _subjects(restored, rows), _subjects(old, after.values())
    for row in rows:
        later = after.get(row["id"])
        if later is None or subjects[row["id"]] != subjects_after[later["id"]]:
            continue
        if later["updated_at"] == row["updated_at"]:
            continue
        if row["kind"] == JobKind.SCORE and row["revision_id"] in quarantined:
            kind, verb, number = (
                DecisionKind.OBJECT_RELEASED,
                "quarantine release",
                row["revision_id"],
            )
        else:
            kind, verb, number = DecisionKind.JOB_RETRIED, "queue retry", row["id"]
        yield Decision(kind, subjects[row["id"]], None, verb, str(number))


def _dismissals(restored: Tables, old: Tables) -> Iterator[Decision]:
    columns = (
        "id",
        "instance_id",
        "number",
        "sha256",
        "dismissed_at",
        "dismissed_by",
        "dismissal_reason",
    )
    quarantined = old.rows_of("revision", columns, "state", [RevisionState.QUARANTINED])
    dismissed = [row for row in quarantined if row["dismissed_at"] is not None]
    before = restored.by_id("revision", columns, dismissed)
    instances = old.by_id("instance", ("id", "sop_instance_uid"), dismissed, "instance_id")
    for row in dismissed:
        earlier = before.get(row["id"])
        if earlier is not None and not is_same(earlier, row, "sha256"):
            earlier = None
        if earlier is not None and earlier["dismissed_at"] == row["dismissed_at"]:
            continue
        options = ["--reason", row["dismissal_reason"], "--by", row["dismissed_by"]]
        # A later object gets another number when it is taken in.
        is_later = earlier is None
        uid = instances.get(row["instance_id"], {}).get("sop_instance_uid", "")
        yield Decision(
            DecisionKind.OBJECT_DISMISSED,
            f"object {uid}, revision {row['number']}",
            iso(row["dismissed_at"]),
            "" if is_later else "quarantine dismiss",
            "" if is_later else arguments(str(row["id"]), options),
            is_later,
        )


def _cancelled_jobs(restored: Tables, old: Tables) -> Iterator[Decision]:
    cancelled = old.rows_of("job", _JOBS, "error_code", [ErrorCode.CANCELLED])
    before = restored.by_id("job", _JOBS, cancelled)
    subjects, subjects_before = _subjects(old, cancelled), _subjects(restored, before.values())
    for row in cancelled:
        if row["state"] != JobState.DEAD:
            continue
        earlier = before.get(row["id"])
        if earlier is not None and subjects_before[earlier["id"]] != subjects[row["id"]]:
            earlier = None
        if earlier is not None and earlier["updated_at"] == row["updated_at"]:
            continue
        yield Decision(
            DecisionKind.JOB_CANCELLED,
            subjects[row["id"]],
            iso(row["updated_at"]),
            # A job of a later object gets another number when the object is taken in.
            "" if earlier is None else "queue cancel",
            "" if earlier is None else str(row["id"]),
            earlier is None,
        )


def _commitments(restored: Tables, old: Tables) -> Iterator[Decision]:
    columns = ("id", "transaction_uid", "requested_by", "state", "requested_at", "not_before")
    ended = restored.rows_of("commitment", columns, "state", [CommitmentState.DEAD])
    after = old.by_id("commitment", columns, ended)
    for row in ended:
        later = after.get(row["id"])
        # A requester who asks again makes a report due without any person.
        if later is None or not is_same(
            later, row, "transaction_uid", "requested_by", "requested_at"
        ):
            continue
        if (later["state"], later["not_before"]) != (row["state"], row["not_before"]):
            yield Decision(
                DecisionKind.COMMITMENT_RETRIED,
                f"transaction {row['transaction_uid']} of {row['requested_by']}",
                None,
                "commitment retry",
                str(row["id"]),
            )


def _identity_changes(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Merges, splits and names of persons and devices, in the order in which they were made."""
    columns = (
        "kind",
        "action",
        "subject_id",
        "other_id",
        "after",
        "changed_by",
        "changed_at",
    )
    before = [tuple(row.values()) for row in restored.rows("identity_change", columns)]
    known = {row["id"] for kind in IdentityKind for row in restored.rows(kind.value, ("id",))}
    for row in old.rows("identity_change", columns):
        if tuple(row.values()) in before:
            continue
        kind, action, id, other = (
            row[name] for name in ("kind", "action", "subject_id", "other_id")
        )
        is_rename = action == IdentityAction.RENAME
        verb = "name" if is_rename and kind == IdentityKind.DEVICE else action
        options = ["--by", row["changed_by"]]
        if action == IdentityAction.MERGE:
            options += ["--into", other]
        # One that came after the backup gets another id when its objects are taken in.
        is_later = not known >= {id, *([] if other is None else [other])}
        command = shlex.join([*options, "--", id, *([row["after"]] if is_rename else [])])
        yield Decision(
            _IDENTITY_DECISIONS[IdentityAction(action)],
            f"{kind} {id}" + ("" if other is None else f", {other}"),
            iso(row["changed_at"]),
            "" if is_later else f"{kind} {verb}",
            "" if is_later else command,
            is_later,
        )


_IDENTITY_DECISIONS = {
    IdentityAction.MERGE: DecisionKind.IDENTITY_MERGED,
    IdentityAction.SPLIT: DecisionKind.IDENTITY_SPLIT,
    IdentityAction.RENAME: DecisionKind.IDENTITY_RENAMED,
}


_EVENT = (
    "finding_id",
    *SAID_COLUMNS,
    "is_blinded",
    "seconds",
)


def _reviews(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Events of reviews, in the order in which they were made."""
    events = old.rows("review", _EVENT)
    before = {(row["finding_id"], row["number"]): row for row in restored.rows("review", _EVENT)}
    later = [row for row in events if before.get((row["finding_id"], row["number"])) != row]
    known = restored.by_id("finding", ("id",), later, "finding_id")
    for row in later:
        # One that came after the backup gets another number when its object is taken in.
        is_later = row["finding_id"] not in known
        verb, argument = _review_command(row)
        yield Decision(
            DecisionKind.FINDING_REVIEWED,
            f"finding {row['finding_id']}, event {row['number']}",
            iso(row["at"]),
            "" if is_later else verb,
            "" if is_later else argument,
            is_later,
        )


def _review_command(row: Row) -> tuple[str, str]:
    """The verb and the arguments that add the event again."""
    finding, kind = str(row["finding_id"]), row["kind"]
    reader = ["--reader", row["reader"]]
    if kind == EventKind.UNBLIND:
        return "review show", shlex.join([finding, "--unblind", *reader])
    if kind == EventKind.REMARK:
        return "review remark", shlex.join([*reader, "--", finding, row["remark"]])
    options = [*reader]
    is_blinded = bool(row["is_blinded"])
    if kind != EventKind.ACCEPT or is_blinded:
        criteria = row["criteria"]
        outcomes = _as_json(criteria) or {}
        options += option("--view", row["view"]) + option("--verdict", row["verdict"])
        for code, met in outcomes.items():
            options += ["--criterion", f"{code}={_OUTCOMES[met]}"]
    if not is_blinded:
        options += option("--reason", row["reason"])
    options += option("--remark", row["remark"])
    if row["seconds"] is not None:
        options += ["--seconds", repr(float(row["seconds"]))]
    return f"review {'read' if is_blinded else kind}", shlex.join([*options, "--", finding])


_OUTCOMES = {True: "met", False: "not-met", None: "cannot-tell"}


def _sites(restored: Tables, old: Tables) -> Iterator[Decision]:
    """What persons decided of sites' calibrations, in the order in which they did.

    A calibration that came after the backup comes with its record, and has no command before that
    is in a file.
    """
    columns = ("site", "model_id", "action", "calibration", "decided_by", "decided_at")
    rows = restored.rows("site_calibration", columns)
    before = [tuple(row.values()) for row in rows]
    known = {row["calibration"] for row in rows}
    records = {
        row["calibration"]: row["record"]
        for row in old.rows("site_calibration", ("calibration", "record"))
    }
    for row in old.rows("site_calibration", columns):
        kind = _SITE_DECISIONS.get(row["action"])
        if kind is None or row["decided_by"] is None or tuple(row.values()) in before:
            continue
        site, calibration = row["site"], row["calibration"]
        is_activation = kind is DecisionKind.SITE_ACTIVATED
        is_lost = is_activation and calibration not in known
        what = [] if is_lost else [calibration if is_activation else site]
        option = ["--even-if-worse"] if is_activation and _is_worse(records[calibration]) else []
        yield Decision(
            kind,
            f"site {site}" + (f", calibration {calibration}" if is_activation else ""),
            iso(row["decided_at"]),
            "" if is_lost else f"site {_SITE_VERBS[kind]}",
            shlex.join(["--by", row["decided_by"], *option, "--", *what]),
            record=_as_json(records[calibration]) if is_lost else None,
        )


def _is_worse(record: Any) -> bool:
    """Whether a calibration was activated although its figures are worse than the bundle's."""
    try:
        return SiteRecord.from_json(_as_json(record)).makes_worse
    except ValueError:
        # Of a schema that is not read any more.
        return False


def _as_json(value: Any) -> Any:
    """A JSON column's value, which SQLite has as a text."""
    return json.loads(value) if isinstance(value, str) else value


_SITE_DECISIONS = {
    SiteAction.ACTIVATED.value: DecisionKind.SITE_ACTIVATED,
    SiteAction.RETIRED.value: DecisionKind.SITE_RETIRED,
    SiteAction.WAIVED.value: DecisionKind.SITE_WAIVED,
}
_SITE_VERBS = {
    DecisionKind.SITE_ACTIVATED: "activate",
    DecisionKind.SITE_RETIRED: "retire",
    DecisionKind.SITE_WAIVED: "waive",
}


def _subjects(tables: Tables, jobs: Iterable[Row]) -> dict[int, str]:
    """What each job is about, by UIDs, which are the same in both databases."""
    rows = list(jobs)
    revisions = tables.by_id("revision", ("id", "instance_id"), rows, "revision_id")
    instances = tables.by_id(
        "instance", ("id", "sop_instance_uid"), revisions.values(), "instance_id"
    )
    objects = tables.by_id("report_object", ("id", "sop_instance_uid"), rows, "object_id")
    exams = tables.by_id("exam", ("id", "study_instance_uid"), rows, "exam_id")
    subjects = {}
    for row in rows:
        revision = revisions.get(row["revision_id"])
        instance = None if revision is None else instances.get(revision["instance_id"])
        of_object = instance or objects.get(row["object_id"])
        if of_object is not None:
            what = f"object {of_object['sop_instance_uid']}"
        else:
            what = f"study {exams.get(row['exam_id'], {}).get('study_instance_uid', '')}"
        to = f" to {row['destination']}" if row["destination"] else ""
        subjects[row["id"]] = f"{row['kind']} of {what}, revision {row['revision']}{to}"
    return subjects


def _read_only(file: Path) -> Engine:
    """An engine that leaves a SQLite database and its write-ahead log as they are."""
    address = f"file:{quote(str(file))}?mode=ro"
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool
    )


def _damage(file: Path) -> str | None:
    """The first fault of the old database, None if it is sound."""
    try:
        result = integrity.examine_file(file, read_only=True, seconds=_CHECK_SECONDS)
    except QCError as error:
        return f"the old database cannot be read: {_words(error)}"
    return None if result.is_sound else f"the old database is damaged: {result.faults[0]}"


def _words(error: Exception) -> str:
    """An error's first line, without the statement and its values."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

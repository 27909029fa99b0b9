"""Objects that could not be scored, for an operator: list, show, score again, dismiss."""

from collections.abc import Sequence
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind, listed
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import (
    Listing,
    Outcome,
    open_store,
    parse_choices,
    parse_person,
)
from qc_daemon.records import listings
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, ANY_ID, IdChoice, Window
from qc_daemon.records.received import revisions
from qc_daemon.settings import Settings

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
    "dismissed",
    "dismissed_by",
    "dismissal_reason",
)

QUARANTINE_TABLE = QUARANTINE_COLUMNS[:6]
DISMISSED_TABLE = (*QUARANTINE_TABLE, *QUARANTINE_COLUMNS[-3:])
_MAX_REASON_LETTERS = 200


def list_quarantined(
    settings: Settings,
    codes: Sequence[str] = (),
    window: Window = ALL,
    choice: IdChoice = ANY_ID,
    *,
    with_dismissed: bool = False,
) -> Listing:
    """Objects that could not be scored, newest last; the window is about since when."""
    error_codes = parse_choices(ErrorCode, codes, "--code")
    with open_store(settings).read() as session:
        rows, total = listings.quarantined(
            session, error_codes, window, choice, with_dismissed=with_dismissed
        )
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
                "dismissed": None
                if row.dismissed_at is None
                else row.dismissed_at.isoformat(timespec="seconds"),
                "dismissed_by": row.dismissed_by,
                "dismissal_reason": row.dismissal_reason,
            }
            for row in rows
        ),
        total,
    )


def show_quarantined(settings: Settings, id: int) -> dict[str, Any]:
    """One quarantined object, with its file. Raises QCError STORAGE for an unknown id."""
    for row in list_quarantined(settings, with_dismissed=True):
        if row["id"] == id:
            with open_store(settings).read() as session:
                facts = revisions.facts(session, id)
            return row | {
                "transfer_syntax_uid": facts.transfer_syntax_uid,
                "bytes": facts.size,
                "file": str(settings.store.spool / facts.path),
            }
    raise QCError(ErrorCode.STORAGE, f"nothing quarantined has id {id}; see quarantine list")


def release_quarantined(settings: Settings, ids: Sequence[int], clock: Clock = utc_now) -> Outcome:
    """Queue quarantined objects to be scored again."""
    unique_ids = dict.fromkeys(ids)
    with open_store(settings).begin() as session:
        now = clock()
        released = [id for id in unique_ids if revisions.release(session, id, now)]
    if released:
        record(settings, AuditKind.RELEASED, objects={"quarantined": listed(released)}, clock=clock)
    remaining = [id for id in unique_ids if id not in released]
    problems = (f"nothing quarantined has id {id}; see quarantine list" for id in remaining)
    return Outcome(len(released), tuple(problems))


def dismiss_quarantined(
    settings: Settings,
    ids: Sequence[int],
    reason: str,
    dismissed_by: str,
    clock: Clock = utc_now,
) -> Outcome:
    """Record that this person wants nothing more done about quarantined objects, and why.

    They stay in quarantine and can be released, but no list or count names them unless asked.
    Raises UsageError for no reason or no name.
    """
    name = parse_person(dismissed_by, "--by")
    words = reason.strip()
    if not words or len(words) > _MAX_REASON_LETTERS or not words.isprintable():
        raise UsageError(f"--reason: say why on one line, in 1 to {_MAX_REASON_LETTERS} letters")
    unique_ids = dict.fromkeys(ids)
    with open_store(settings).begin() as session:
        now = clock()
        dismissed = [
            id
            for id in unique_ids
            if revisions.dismiss(session, id, reason=words, dismissed_by=name, now=now)
        ]
    if dismissed:
        objects = {"quarantined": listed(dismissed)}
        record(settings, AuditKind.DISMISSED, objects=objects, clock=clock)
    remaining = [id for id in unique_ids if id not in dismissed]
    problems = (
        f"nothing quarantined has id {id}, or it is dismissed already;"
        " see quarantine list --dismissed"
        for id in remaining
    )
    return Outcome(len(dismissed), tuple(problems))

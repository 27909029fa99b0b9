"""Objects that could not be scored, for an operator: list, show, score again."""

from collections.abc import Sequence
from typing import Any

from detector.errors import ErrorCode, QCError
from qc_daemon.operations.shared import Listing, Outcome, open_store, parse_choices
from qc_daemon.records import listings
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, Window
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
)

QUARANTINE_TABLE = QUARANTINE_COLUMNS[:6]


def list_quarantined(
    settings: Settings, codes: Sequence[str] = (), window: Window = ALL
) -> Listing:
    """Objects that could not be scored, newest last; the window is about since when."""
    chosen = parse_choices(ErrorCode, codes, "--code")
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
    """One quarantined object, with its file. Raises QCError STORAGE for an unknown id."""
    for row in list_quarantined(settings):
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
    remaining = [id for id in unique_ids if id not in released]
    problems = (f"nothing quarantined has id {id}; see quarantine list" for id in remaining)
    return Outcome(len(released), tuple(problems))

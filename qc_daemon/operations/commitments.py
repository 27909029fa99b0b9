"""Storage commitment requests made to us (PS3.4 J), for an operator: list them, report again."""

from collections.abc import Sequence

from qc_daemon.operations.shared import (
    Listing,
    Outcome,
    describe_unchanged,
    open_store,
    parse_choices,
)
from qc_daemon.records import listings
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.commitment import scp
from qc_daemon.records.listings import ALL, ANY_ID, IdChoice, Window
from qc_daemon.records.tables import CommitmentState
from qc_daemon.settings import Settings

COMMITMENT_COLUMNS = (
    "id",
    "requested by",
    "transaction",
    "state",
    "attempts",
    "requested",
    "reason",
)


def list_commitments(
    settings: Settings,
    states: Sequence[str],
    window: Window = ALL,
    choice: IdChoice = ANY_ID,
) -> Listing:
    """Storage commitment requests in the states, by default those not reported; the window is
    about when they were made."""
    commitment_states = parse_choices(CommitmentState, states, "--state")
    commitment_states = commitment_states or [
        state for state in CommitmentState if state != CommitmentState.REPORTED
    ]
    with open_store(settings).read() as session:
        rows, total = listings.commitments(session, commitment_states, window, choice)
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


def retry_commitments(settings: Settings, ids: Sequence[int], clock: Clock = utc_now) -> Outcome:
    """Report dead requests again."""
    with open_store(settings).begin() as session:
        states = listings.commitment_states(session, ids)
        count = scp.requeue(session, ids, clock())
    return Outcome(
        count,
        describe_unchanged(
            ids, states, {CommitmentState.DEAD}, "commitment request", "commitment list"
        ),
    )

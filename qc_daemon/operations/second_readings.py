"""Findings that wait for a blinded reading: the queue, and whether an account may be the reader.

Nothing here has a model's or a reader's answer, nor what would tell it.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.operations.finding_lists import Entry, read_entries
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.reviews import blinded_refusal, prepare, require_finding
from qc_daemon.operations.shared import open_store
from qc_daemon.records.results import reviews
from qc_daemon.settings import Settings

_READS = 5


@dataclass(frozen=True, slots=True)
class SecondReading:
    """A finding that waits, since when, and the number of its frame."""

    finding_id: int
    exam_id: int
    received_at: datetime
    asked_at: datetime
    frame: int


@dataclass(frozen=True, slots=True)
class SecondReadingPage:
    """Those that the account may read, the longest waiting first; `others` counts those of this
    page that another person has to read; `cursor` is where the next page begins."""

    rows: list[SecondReading]
    others: int
    cursor: int | None


def list_second_readings(
    settings: Settings, principal: Principal, limit: int, after: int | None = None
) -> SecondReadingPage:
    """A page of what waits for a blinded reading, of the images that the account may see."""
    store = open_store(settings)
    prepare(store)
    rows: list[SecondReading] = []
    others = 0
    with store.read() as session:
        for _ in range(_READS):
            waiting = reviews.waiting_for_second_reading(session, limit + 1, after or 0)
            for event_id, finding_id in waiting[:limit]:
                if len(rows) == limit:
                    return SecondReadingPage(rows, others, after)
                after = event_id
                for entry in read_entries(session, settings, principal, [finding_id]):
                    if not entry.is_hidden:
                        continue
                    if _refusal(session, settings, principal, finding_id) is None:
                        rows.append(_row(entry))
                    else:
                        others += 1
            if len(waiting) <= limit:
                return SecondReadingPage(rows, others, None)
    return SecondReadingPage(rows, others, after)


def reading_refusal(settings: Settings, principal: Principal, finding_id: int) -> str | None:
    """Why the account cannot read the finding blinded; None if it can."""
    with open_store(settings).read() as session:
        return _refusal(session, settings, principal, finding_id)


def _refusal(
    session: Session, settings: Settings, principal: Principal, finding_id: int
) -> str | None:
    try:
        finding = require_finding(session, finding_id)
    except QCError as error:
        return error.message
    return blinded_refusal(session, settings, finding, principal.account.full_name)


def _row(entry: Entry) -> SecondReading:
    stored, state = entry.stored, entry.state
    assert state is not None
    asked = state.dispute or state.readings[-1]
    return SecondReading(
        stored.finding_id or 0,
        stored.exam_id,
        stored.revision.received_at,
        asked.at,
        int(stored.body["frame"]),
    )

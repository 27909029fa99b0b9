"""Who logged in, and who looked at what."""

from typing import Any

from qc_daemon.operations.accounts import parse_account_name
from qc_daemon.operations.shared import Listing, open_store, parse_window
from qc_daemon.records.accounts import access_log
from qc_daemon.records.accounts.access_log import AccessFilter
from qc_daemon.settings import Settings

ACCESS_COLUMNS = (
    "id",
    "at",
    "account",
    "token",
    "action",
    "exam_id",
    "finding",
    "subject",
    "address",
)


def parse_access_filter(
    account: str | None,
    exam_id: int | None = None,
    since: str | None = None,
    until: str | None = None,
    before: int | None = None,
) -> AccessFilter:
    """The filter that options name. Raises UsageError."""
    window = parse_window(since, until)
    name = None if account is None else parse_account_name(account)
    return AccessFilter(name, exam_id, window.since, window.until, before)


def list_access(settings: Settings, access_filter: AccessFilter, limit: int) -> Listing:
    """Rows of ACCESS_COLUMNS, the last first; `limit` 0: all."""
    with open_store(settings).read() as session:
        rows = access_log.listing(session, access_filter, limit + 1 if limit else None)
    page = rows[:limit] if limit else rows
    return Listing(map(_row, page), None if len(page) < len(rows) else len(rows))


def _row(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": row.at.isoformat(timespec="seconds"),
        "account": row.account,
        "token": row.token,
        "action": row.action,
        "exam_id": row.exam_id,
        "finding": row.finding_id,
        "subject": row.subject,
        "address": row.address,
    }

"""Filters of the worklist that an account keeps under a name."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from detector.console import UsageError
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.shared import open_store
from qc_daemon.records.accounts import saved_views
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings

FILTERS = (
    "state",
    "view",
    "verdict",
    "since",
    "until",
    "person",
    "device",
    "site",
    "made_from",
    "made_to",
)
"""What of a worklist's URL is kept; its cursor is not."""
MAX_VIEWS = 50
_MAX_NAME, _MAX_QUERY, _MAX_FIELDS = 64, 2000, 100


@dataclass(frozen=True, slots=True)
class SavedView:
    """A name and the query of a worklist's URL."""

    name: str
    query: str


def list_views(settings: Settings, principal: Principal) -> list[SavedView]:
    """The account's views, by name."""
    with open_store(settings).read() as session:
        rows = saved_views.every(session, principal.account.id)
    return [SavedView(row.name, row.query) for row in rows]


def save_view(
    settings: Settings, principal: Principal, name: str, query: str, clock: Clock = utc_now
) -> SavedView:
    """Keep the filters of this query, in the place of a view with the same name. Raises UsageError
    for no name, and for more views than MAX_VIEWS."""
    clean = " ".join(name.split())
    if not clean or len(clean) > _MAX_NAME or not clean.isprintable():
        raise UsageError(f"name: give 1 to {_MAX_NAME} letters on one line")
    filters = _filters(query)
    account = principal.account.id
    with open_store(settings).begin() as session:
        names = [row.name for row in saved_views.every(session, account)]
        if clean not in names and len(names) >= MAX_VIEWS:
            raise UsageError(f"there are {MAX_VIEWS} saved views already; remove one")
        saved_views.put(session, account, clean, filters, clock())
    return SavedView(clean, filters)


def _filters(query: str) -> str:
    try:
        pairs = parse_qsl(query[:_MAX_QUERY], max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise UsageError("query: too many filters") from None
    return urlencode([(name, value) for name, value in pairs if name in FILTERS])


def remove_view(settings: Settings, principal: Principal, name: str) -> None:
    """Forget a view; nothing happens where there is none."""
    with open_store(settings).begin() as session:
        saved_views.remove(session, principal.account.id, name)

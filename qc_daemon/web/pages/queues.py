"""What waits and what was set aside: jobs, quarantined objects, storage commitment requests."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from qc_daemon.operations.commitments import list_commitments
from qc_daemon.operations.quarantine import list_quarantined
from qc_daemon.operations.queue import OPEN_STATES, list_jobs
from qc_daemon.operations.shared import Listing
from qc_daemon.records.listings import IdChoice, Window
from qc_daemon.records.tables import CommitmentState, JobKind, JobState
from qc_daemon.web.context import context_of
from qc_daemon.web.pages.operations import Sees
from qc_daemon.web.rendering import render

router = APIRouter(include_in_schema=False)
_ROWS = 100
_PAGE = Window(limit=_ROWS)
_Texts = Annotated[list[str], Query()]
_After = Annotated[int, Query(ge=0, le=2**63 - 1)]


def _following(rows: Listing) -> int | None:
    """The id that the next page goes on after; None at the end."""
    is_last = len(rows) < _ROWS or rows.total == len(rows)
    return None if is_last else int(rows[-1]["id"])


@router.get("/operations/queue")
def queue_page(
    request: Request,
    principal: Sees,
    state: _Texts = [],  # noqa: B006  (FastAPI copies it)
    kind: _Texts = [],  # noqa: B006
    destination: str = "",
    after: _After = 0,
) -> Response:
    """Jobs, the oldest first."""
    settings = context_of(request).settings
    states = state or [str(each) for each in OPEN_STATES]
    rows = list_jobs(
        settings,
        states,
        kinds=kind,
        destinations=[destination] if destination else (),
        window=_PAGE,
        choice=IdChoice(after=after),
    )
    values = {
        "rows": rows,
        "asked": {"state": state, "kind": kind, "destination": destination},
        "chosen_states": states,
        "states": list(JobState),
        "kinds": list(JobKind),
        "destinations": [each.name for each in settings.destination],
        "following": _following(rows),
        "after": after,
    }
    return render(request, "queue.html", principal, values)


@router.get("/operations/quarantine")
def quarantine_page(
    request: Request,
    principal: Sees,
    code: _Texts = [],  # noqa: B006
    dismissed: bool = False,
    after: _After = 0,
) -> Response:
    """Objects that could not be scored, the first received first."""
    settings = context_of(request).settings
    rows = list_quarantined(settings, code, _PAGE, IdChoice(after=after), with_dismissed=dismissed)
    values = {
        "rows": rows,
        "asked": {"code": code, "dismissed": "true" if dismissed else ""},
        "following": _following(rows),
        "after": after,
    }
    return render(request, "quarantine.html", principal, values)


@router.get("/operations/commitments")
def commitments_page(
    request: Request,
    principal: Sees,
    state: _Texts = [],  # noqa: B006
    after: _After = 0,
) -> Response:
    """Requests for storage commitment that were made to us, the oldest first."""
    rows = list_commitments(context_of(request).settings, state, _PAGE, IdChoice(after=after))
    values = {
        "rows": rows,
        "asked": {"state": state},
        "states": list(CommitmentState),
        "following": _following(rows),
        "after": after,
    }
    return render(request, "commitments.html", principal, values)

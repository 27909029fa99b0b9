"""Who looked at whom."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from qc_daemon.operations.access_log import list_access, parse_access_filter
from qc_daemon.operations.principals import Principal, record_access
from qc_daemon.records.tables import AccessAction
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import render

router = APIRouter(include_in_schema=False)
_ROWS = 100


@router.get("/access")
def access_page(
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.SEE_ACCESS))],
    account: str = "",
    exam: Annotated[str, Query(pattern="^[0-9]{0,18}$")] = "",
    since: str = "",
    until: str = "",
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """The log, the last entry first."""
    context = context_of(request)
    access_filter = parse_access_filter(
        account or None, int(exam) if exam else None, since or None, until or None, before
    )
    rows = list_access(context.settings, access_filter, _ROWS)
    record_access(context.settings, principal, AccessAction.ACCESS_LOG, clock=context.clock)
    filters = {"account": account, "exam": exam, "since": since, "until": until}
    following = rows[-1]["id"] if rows.total is None else None
    values = {"rows": rows, "asked": filters, "following": following}
    return render(request, "access.html", principal, values)

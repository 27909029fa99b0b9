"""What the service does: queue, quarantine and destinations, without patients."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from qc_daemon.operations.destinations import list_destinations
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.queue import count_problems
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/operations")
def operations_page(
    request: Request, principal: Annotated[Principal, Depends(Access(Verb.SEE_OPERATIONS))]
) -> Response:
    """What waits, what failed and where it goes."""
    settings = context_of(request).settings
    values = {
        "destinations": list_destinations(settings),
        "problems": count_problems(settings),
    }
    return render(request, "operations.html", principal, values)

"""The own account: sessions, which can be ended, and the password."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from qc_daemon.operations.accounts import end_sessions, list_sessions
from qc_daemon.operations.principals import Principal
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import render

router = APIRouter(include_in_schema=False)
_Anybody = Annotated[Principal, Depends(Access())]


@router.get("/account")
def account_page(request: Request, principal: _Anybody) -> Response:
    """The account and its sessions."""
    context = context_of(request)
    sessions = list_sessions(context.settings, principal.account.name, context.clock)
    return render(request, "account.html", principal, {"sessions": sessions})


@router.post("/account/sessions/end")
def end_session(
    request: Request, principal: _Anybody, session: Annotated[int, Form(ge=1, le=2**63 - 1)]
) -> Response:
    """End one of the own sessions."""
    context = context_of(request)
    end_sessions(context.settings, principal.account.name, [session], context.clock)
    return RedirectResponse("/account", 303)

"""What is done with a worklist: saved views, and many findings accepted at once."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from detector.console import UsageError
from qc_daemon.operations.bulk_accept import accept_many, plan_accept
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.review_lists import Answers
from qc_daemon.operations.saved_views import remove_view, save_view
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import is_own_path, render
from qc_daemon.web.words import finding_line

router = APIRouter(include_in_schema=False)
_ID = 2**63 - 1
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN))]
_Reviews = Annotated[Principal, Depends(Access(Verb.REVIEW))]
_Name = Annotated[str, Form(max_length=200)]


@router.post("/worklist/views")
def save(
    request: Request,
    principal: _Sees,
    name: _Name,
    query: Annotated[str, Form(max_length=4000)] = "",
) -> Response:
    """Keep the filters of this worklist under a name."""
    context = context_of(request)
    view = save_view(context.settings, principal, name, query, context.clock)
    return RedirectResponse(f"/worklist?{view.query}", 303)


@router.post("/worklist/views/remove")
def remove(request: Request, principal: _Sees, name: _Name) -> Response:
    """Forget a view."""
    remove_view(context_of(request).settings, principal, name)
    return RedirectResponse("/worklist", 303)


@router.get("/worklist/accept")
def confirm(
    request: Request,
    principal: _Reviews,
    finding: Annotated[list[Annotated[int, Query(ge=1, le=_ID)]], Query()] = [],  # noqa: B006
    back: Annotated[str, Query(max_length=4000)] = "",
) -> Response:
    """The findings that would be accepted, with their answers, and those that would not."""
    items = plan_accept(context_of(request).settings, principal, finding)
    lines = [(finding_line(item.entry, Answers.ASKED_FOR), item) for item in items]
    values = {
        "lines": [(line, item.version) for line, item in lines if not item.reason],
        "left": [(line, item.reason) for line, item in lines if item.reason],
        "back": back if is_own_path(back) else "/worklist",
        "accepted": None,
    }
    return render(request, "accept.html", principal, values)


@router.post("/worklist/accept")
async def accept(request: Request, principal: _Reviews) -> Response:
    """Accept what was shown."""
    form = await request.form()
    return await run_in_threadpool(_accept, request, principal, form)


def _accept(request: Request, principal: Principal, form: FormData) -> Response:
    context = context_of(request)
    versions = dict(_parse_shown(str(each)) for each in form.getlist("shown"))
    accepted = accept_many(context.settings, principal, versions, context.clock)
    back = str(form.get("back", ""))
    values = {"accepted": accepted, "back": back if is_own_path(back) else "/worklist"}
    return render(request, "accept.html", principal, values)


def _parse_shown(value: str) -> tuple[int, int]:
    """Number and version of a finding, as `12:3`."""
    id, _, version = value.partition(":")
    if not (id.isdecimal() and version.isdecimal() and value.isascii() and len(value) <= 40):
        raise UsageError("shown: give NUMBER:VERSION")
    return min(int(id), _ID), min(int(version), _ID)

"""What an account would change, on a page of its own, and changing it."""

from dataclasses import fields
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.responses import Response

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.operations.changes.account_changes import CHANGES, make_change, plan_change
from qc_daemon.operations.changes.change import Choice
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import is_own_path, render

router = APIRouter(include_in_schema=False)
_ID = 2**63 - 1
_MAX_LETTERS = 400
_WORDS = tuple(field.name for field in fields(Choice) if field.name != "ids")
_Ids = Annotated[list[Annotated[int, Query(ge=1, le=_ID)]], Query()]
_Word = Annotated[str, Query(max_length=_MAX_LETTERS)]


def _add_routes(area: str, verb: Verb) -> None:
    """`/AREA/confirm` shows what would change, `/AREA/change` changes it."""

    @router.get(f"/{area}/confirm")
    def confirm(
        request: Request,
        principal: Annotated[Principal, Depends(Access(verb))],
        change: _Word = "",
        id: _Ids = [],  # noqa: B006  (FastAPI copies it)
        name: _Word = "",
        into: _Word = "",
        address: _Word = "",
        network: _Word = "",
        certificate: _Word = "",
        reason: _Word = "",
        back: _Word = "",
    ) -> Response:
        choice = Choice(tuple(dict.fromkeys(id)), name, into, address, network, certificate, reason)
        return _page(request, principal, area, change, choice, back)

    @router.post(f"/{area}/change")
    async def change(
        request: Request, principal: Annotated[Principal, Depends(Access(verb))]
    ) -> Response:
        form = await request.form()
        return await run_in_threadpool(_change, request, principal, area, form)


for _area, _verb in (
    ("operations", Verb.OPERATE),
    ("identities", Verb.MANAGE_IDENTITIES),
    ("models", Verb.ACTIVATE_MODELS),
):
    _add_routes(_area, _verb)


def _page(
    request: Request,
    principal: Principal,
    area: str,
    name: str,
    choice: Choice,
    back: str,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    settings = context_of(request).settings
    plan = plan_change(settings, principal, name, choice)
    values = {
        "area": area,
        "change": name,
        "rule": CHANGES[name],
        "choice": choice,
        "plan": plan,
        "back": back if is_own_path(back) else "/",
        "problem": problem,
        "made": None,
    }
    return render(request, "change.html", principal, values, status)


def _change(request: Request, principal: Principal, area: str, form: FormData) -> Response:
    context = context_of(request)
    words = {name: str(form.get(name, ""))[:_MAX_LETTERS].strip() for name in _WORDS}
    name, back = str(form.get("change", "")), str(form.get("back", ""))
    ids = tuple(dict.fromkeys(_parse_id(str(each)) for each in form.getlist("id")))
    choice = Choice(ids, **words)
    try:
        outcome = make_change(context.settings, principal, name, choice, context.clock)
    except (UsageError, QCError) as error:
        if error.__cause__ is not None or name not in CHANGES:
            raise
        problem = str(error).replace("--", "")
        return _page(request, principal, area, name, choice, back, problem, 409)
    values = {"made": outcome, "change": name, "back": back if is_own_path(back) else "/"}
    return render(request, "change.html", principal, values)


def _parse_id(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= len(value) <= len(str(_ID)):
        raise UsageError("id: give numbers of rows")
    return min(int(value), _ID)

"""Audits: lists, what each found, pause, resume and cancel."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from qc_daemon.operations.audit_pages import read_visible_audit
from qc_daemon.operations.audits import list_audits
from qc_daemon.operations.changes.change import Choice
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.api.shared import (
    ERRORS,
    Body,
    ChangeAnswer,
    Key,
    Limit,
    Page,
    change_once,
)
from qc_daemon.web.context import context_of

router = APIRouter(prefix="/api/v1/audits", tags=["audits"])
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN, Verb.SEE_OPERATIONS))]
_Operates = Annotated[Principal, Depends(Access(Verb.OPERATE))]
_NAME = "^[a-z0-9-]{1,64}$"


class AuditRequest(Body):
    """An audit by its date; without a name the nightly one, or the only one."""

    date: date
    name: Annotated[str, Field(pattern=_NAME)] | None = None


@router.get("", responses=ERRORS)
def audits(
    request: Request,
    principal: _Sees,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(pattern="^[0-9]{1,9}$", description="`cursor` of the page before")
    ] = None,
) -> Page:
    """All audits, the newest date first."""
    rows = list_audits(context_of(request).settings)
    start = int(cursor or 0)
    page = rows[start : start + limit]
    is_last = start + limit >= len(rows)
    return Page(items=page, cursor=None if is_last else str(start + limit))


@router.get("/{day}", responses=ERRORS)
def audit(
    request: Request,
    principal: _Sees,
    day: date,
    name: Annotated[str | None, Query(pattern=_NAME)] = None,
) -> dict[str, Any]:
    """What an audit found, as `audit show --format json` prints it, of the persons, devices and
    sites that the account may see."""
    settings = context_of(request).settings
    return read_visible_audit(settings, principal, day.isoformat(), name)


def _change(
    request: Request, principal: Principal, key: str | None, name: str, body: AuditRequest
) -> ChangeAnswer:
    choice = Choice(name=body.date.isoformat(), into=body.name or "")
    return change_once(request, principal, key, name, body, choice)


@router.post("/pause", responses=ERRORS)
def pause(
    request: Request, principal: _Operates, body: AuditRequest, key: Key = None
) -> ChangeAnswer:
    """Have an audit wait until somebody resumes it."""
    return _change(request, principal, key, "audit-pause", body)


@router.post("/resume", responses=ERRORS)
def resume(
    request: Request, principal: _Operates, body: AuditRequest, key: Key = None
) -> ChangeAnswer:
    """Have a paused audit go on."""
    return _change(request, principal, key, "audit-resume", body)


@router.post("/cancel", responses=ERRORS)
def cancel(
    request: Request, principal: _Operates, body: AuditRequest, key: Key = None
) -> ChangeAnswer:
    """Give an audit up."""
    return _change(request, principal, key, "audit-cancel", body)

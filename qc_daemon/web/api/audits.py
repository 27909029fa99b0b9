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
    ChangeBody,
    Limit,
    Page,
    add_change,
    operation_id,
)
from qc_daemon.web.context import context_of

router = APIRouter(
    prefix="/api/v1/audits", tags=["audits"], generate_unique_id_function=operation_id
)
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN, Verb.SEE_OPERATIONS))]
_NAME = "^[a-z0-9-]{1,64}$"


class AuditRequest(ChangeBody):
    """An audit by its date; without a name the nightly one, or the only one."""

    date: date
    name: Annotated[str, Field(pattern=_NAME)] | None = None

    def choice(self) -> Choice:
        return Choice(name=self.date.isoformat(), into=self.name or "")


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


for _verb, _words in (
    ("pause", "Have an audit wait until somebody resumes it."),
    ("resume", "Have a paused audit go on."),
    ("cancel", "Give an audit up."),
):
    add_change(router, f"/{_verb}", f"audit-{_verb}", AuditRequest, _words)

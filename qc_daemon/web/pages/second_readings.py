"""Blinded second readings: the queue, the picture alone with the form, and what came of it.

No page here has a model's answer, or one of a reader, in any of its bytes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import QCError
from model.criteria.rules import RULES
from qc_daemon.operations.account_reviews import ReviewVerb, say_review
from qc_daemon.operations.finding_lists import NotVisibleError, read_entry
from qc_daemon.operations.principals import Principal, record_access
from qc_daemon.operations.reviews import OUTCOMES
from qc_daemon.operations.second_readings import list_second_readings, reading_refusal
from qc_daemon.records.tables import AccessAction
from qc_daemon.review.reasons import REASONS
from qc_daemon.review.state import VERDICTS, ReviewStatus
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import render
from qc_daemon.web.words import criterion_topic

router = APIRouter(include_in_schema=False)
_ROWS = 50
_MAX_SECONDS = 3600.0
_Reads = Annotated[Principal, Depends(Access(Verb.REVIEW))]
_Id = Annotated[int | None, Query(ge=1, le=2**63 - 1)]


@router.get("/second-readings")
def second_readings_page(
    request: Request, principal: _Reads, read: _Id = None, after: _Id = None
) -> Response:
    """What this account may read; `read` is a finding that it has just read."""
    settings = context_of(request).settings
    page = list_second_readings(settings, principal, _ROWS, after)
    values = {
        "rows": page.rows,
        "others": page.others,
        "following": page.cursor,
        "is_continued": after is not None,
        "read": None if read is None else _outcome(request, principal, read),
    }
    return render(request, "second_readings.html", principal, values)


def _outcome(request: Request, principal: Principal, finding_id: int) -> dict[str, Any] | None:
    """What came of a reading; None for a finding that one may not see, or still waits."""
    try:
        entry = read_entry(context_of(request).settings, principal, finding_id)
    except NotVisibleError:
        return None
    if entry.state is None or entry.is_hidden:
        return None
    status = entry.state.status
    return {
        "finding": finding_id,
        "exam": entry.stored.exam_id,
        "differ": status is ReviewStatus.DISAGREEMENT,
        "stands": status is ReviewStatus.RESOLVED,
    }


@router.get("/second-readings/{finding_id}")
def second_reading_page(finding_id: int, request: Request, principal: _Reads) -> Response:
    """The picture and the form; of a finding that waits for no blinded reading its exam."""
    return _page(request, principal, finding_id)


def _page(
    request: Request,
    principal: Principal,
    finding_id: int,
    form: Mapping[str, str] | None = None,
    problem: str | None = None,
) -> Response:
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    if not entry.is_hidden:
        return RedirectResponse(f"/findings/{finding_id}", 303)
    record_access(
        context.settings,
        principal,
        AccessAction.EXAM,
        exam_id=entry.stored.exam_id,
        finding_id=finding_id,
        clock=context.clock,
    )
    assert entry.state is not None
    values = {
        "finding": finding_id,
        "version": entry.state.version,
        "refusal": reading_refusal(context.settings, principal, finding_id),
        "views": list(View),
        "verdicts": VERDICTS,
        "reasons": REASONS,
        "outcomes": OUTCOMES,
        "rules": {
            view: [(rule.code, criterion_topic(view, rule)) for rule in RULES[view]]
            for view in View
        },
        "shown": (form or {}).get("shown") or f"{context.clock().timestamp():.0f}",
        "form": form or {},
        "problem": problem,
    }
    status = 409 if problem else 200
    return render(request, "second_reading.html", principal, values, status)


@router.post("/second-readings/{finding_id}")
async def read_second(finding_id: int, request: Request, principal: _Reads) -> Response:
    """Keep the reading; what cannot be is said beside the form, with what was typed."""
    form = await request.form()
    typed = {name: value for name, value in form.items() if isinstance(value, str)}
    return await run_in_threadpool(_read, request, principal, finding_id, typed)


def _read(
    request: Request, principal: Principal, finding_id: int, typed: Mapping[str, str]
) -> Response:
    context = context_of(request)
    view = typed.get("view") or None
    try:
        say_review(
            context.settings,
            principal,
            finding_id,
            ReviewVerb.READ,
            view=view,
            verdict=None if view == View.OTHER else typed.get("verdict") or None,
            criteria=[
                f"{name.partition(':')[2]}={value}"
                for name, value in typed.items()
                if name.startswith(f"{view}:") and value
            ],
            reason=typed.get("reason") or None,
            remark=typed.get("remark") or None,
            seconds=_seconds(typed.get("shown", ""), context.clock().timestamp()),
            version=typed.get("version", ""),
            clock=context.clock,
        )
    except (UsageError, QCError) as error:
        if error.__cause__ is not None:
            raise
        problem = str(error).replace("--", "")
        return _page(request, principal, finding_id, typed, problem)
    return RedirectResponse(f"/second-readings?read={finding_id}", 303)


def _seconds(shown: str, now: float) -> float | None:
    """How long the page was open; None where that cannot be told, or it was left open."""
    if not (shown.isascii() and shown.isdecimal() and len(shown) < 16):
        return None
    seconds = now - int(shown)
    return seconds if 0 <= seconds <= _MAX_SECONDS else None

"""An exam: its findings, one of them with picture, criteria, history and the form to review it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import QCError
from model.criteria.rules import RULES
from qc_daemon.operations.account_reviews import ReviewVerb, allowed_verbs, say_review
from qc_daemon.operations.exam_details import exam_details, image_contents, scored_frames
from qc_daemon.operations.exams import exam_progress
from qc_daemon.operations.finding_lists import (
    Entry,
    NotVisibleError,
    exam_entries,
    read_entry,
    read_exam,
)
from qc_daemon.operations.principals import Principal, record_access
from qc_daemon.operations.review_lists import Answers, show_review
from qc_daemon.operations.reviews import OUTCOMES
from qc_daemon.records.tables import AccessAction
from qc_daemon.review.reasons import REASONS
from qc_daemon.review.state import VERDICTS
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import language_of, render
from qc_daemon.web.words import criterion_topic, finding_line, finding_text, frame_points

router = APIRouter(include_in_schema=False)
_ID = 2**63 - 1
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN))]
_Word = Annotated[str, Form(max_length=2000)]
_Id = Annotated[int, Query(ge=1, le=_ID)]


@router.get("/exams/{exam_id}")
def exam_page(
    exam_id: int, request: Request, principal: _Sees, finding: _Id | None = None
) -> Response:
    """The exam, with one of its findings: the one asked for, else the first."""
    return _exam_page(request, principal, exam_id, finding)


@router.get("/findings/{finding_id}")
def finding_page(finding_id: int, request: Request, principal: _Sees) -> Response:
    """The exam page of a finding."""
    entry = read_entry(context_of(request).settings, principal, finding_id)
    return RedirectResponse(f"/exams/{entry.stored.exam_id}?finding={finding_id}", 303)


def _exam_page(
    request: Request,
    principal: Principal,
    exam_id: int,
    finding_id: int | None,
    form: Mapping[str, Any] | None = None,
    problem: str | None = None,
) -> Response:
    context = context_of(request)
    settings = context.settings
    exam = read_exam(settings, principal, exam_id)
    entries = exam_entries(settings, principal, exam_id)
    current = _choose(settings, principal, exam_id, entries, finding_id)
    record_access(
        settings,
        principal,
        AccessAction.EXAM,
        exam_id=exam_id,
        finding_id=None if current is None else current.stored.finding_id,
        clock=context.clock,
    )
    values: dict[str, Any] = {
        "exam": exam,
        "lines": [finding_line(entry, Answers.ASKED_FOR) for entry in entries],
        "chosen": None,
        "progress": exam_progress(settings, exam_id),
        "details": exam_details(settings, exam_id),
        "viewer": _viewer_link(settings.web.viewer, exam["study_instance_uid"]),
        "problem": problem,
        "form": form or {},
    }
    if current is not None:
        values |= _entry_values(request, principal, current)
    return render(request, "exam.html", principal, values, 409 if problem else 200)


def _choose(
    settings: Settings,
    principal: Principal,
    exam_id: int,
    entries: Sequence[Entry],
    finding_id: int | None,
) -> Entry | None:
    if finding_id is None:
        return entries[0] if entries else None
    for entry in entries:
        if entry.stored.finding_id == finding_id:
            return entry
    # A frame of a cine that is not the best of its view.
    entry = read_entry(settings, principal, finding_id)
    if entry.stored.exam_id != exam_id:
        raise NotVisibleError
    return entry


def _entry_values(request: Request, principal: Principal, entry: Entry) -> dict[str, Any]:
    settings = context_of(request).settings
    number = entry.stored.finding_id or 0
    language = language_of(request, principal)
    is_reviewable = entry.stored.quarantine is None and not entry.stored.is_superseded
    verbs = allowed_verbs(principal, entry.state) if is_reviewable else ()
    history = show_review(settings, number) if number else None
    view = None if entry.is_hidden else View(entry.stored.body["view"]["code"])
    return {
        "chosen": entry,
        "text": None
        if entry.is_hidden
        else finding_text(entry, language, settings.schedule.local_zone),
        "history": history,
        "contents": image_contents(settings, entry),
        "frames": frame_points(scored_frames(settings, entry)),
        # A blinded reading has a page of its own, without the exam's other findings.
        "verbs": [verb for verb in verbs if verb is not ReviewVerb.READ],
        "may_read": ReviewVerb.READ in verbs,
        "views": list(View),
        "verdicts": VERDICTS,
        "reasons": REASONS,
        "outcomes": OUTCOMES,
        "rules": [] if view is None else [(r.code, criterion_topic(view, r)) for r in RULES[view]],
    }


def _viewer_link(template: str | None, study: str) -> str | None:
    """The link of the settings for this study; None where its UID is no UID."""
    is_uid = bool(study) and set(study) <= set("0123456789.")
    return template.format(study=study) if template and is_uid else None


@router.post("/findings/{finding_id}/review")
async def review(
    finding_id: int,
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.REVIEW, Verb.DISPUTE))],
) -> Response:
    """Say what was typed into the form; what cannot be is shown beside it, with what was typed."""
    from starlette.concurrency import run_in_threadpool

    form = await request.form()
    typed = {name: value for name, value in form.items() if isinstance(value, str)}
    return await run_in_threadpool(_review, request, principal, finding_id, typed)


def _review(
    request: Request, principal: Principal, finding_id: int, typed: Mapping[str, str]
) -> Response:
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    exam_id = entry.stored.exam_id
    try:
        say_review(
            context.settings,
            principal,
            finding_id,
            typed.get("verb", ""),
            view=typed.get("view") or None,
            verdict=typed.get("verdict") or None,
            criteria=[
                f"{name}={value}"
                for name, value in typed.items()
                if name.startswith("CRIT-") and value
            ],
            reason=typed.get("reason") or None,
            remark=typed.get("remark") or None,
            version=typed.get("version", ""),
            clock=context.clock,
        )
    except (UsageError, QCError) as error:
        if error.__cause__ is not None:
            raise
        problem = str(error).replace("--", "")
        return _exam_page(request, principal, exam_id, finding_id, typed, problem)
    return RedirectResponse(f"/exams/{exam_id}?finding={finding_id}", 303)


@router.get("/findings/{finding_id}/{picture}.png")
def picture(
    finding_id: int,
    picture: str,
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.SEE_PATIENTS))],
) -> Response:
    """`frame`, as it was stored, or `boxes`, the frame with its boxes: machines write names into
    pictures, so that who may see none gets no picture."""
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    if picture == "frame":
        content = context.pictures.frame(entry)
    elif picture == "boxes":
        content = context.pictures.boxes(entry)
    else:
        raise NotVisibleError
    headers = {"cache-control": "private, no-store"}
    return Response(content, media_type="image/png", headers=headers)


@router.get("/findings/{finding_id}/frame-time")
def frame_time(
    finding_id: int,
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.SEE_PATIENTS))],
) -> dict[str, float | None]:
    """Milliseconds from a frame of the cine to the next, null where its header has none."""
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    return {"milliseconds": context.pictures.frame_time(entry)}

"""Findings, their pictures and reviews."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.operations.account_reviews import ReviewVerb, say_review
from qc_daemon.operations.finding_lists import (
    entry_json,
    list_entries,
    parse_question,
    read_entry,
)
from qc_daemon.operations.principals import Principal, record_access
from qc_daemon.operations.review_lists import show_review
from qc_daemon.records.tables import AccessAction
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.api.shared import (
    ERRORS,
    LARGEST,
    Body,
    Id,
    Key,
    Limit,
    Sees,
    Texts,
    once,
    operation_id,
)
from qc_daemon.web.context import context_of

router = APIRouter(prefix="/api/v1", tags=["findings"], generate_unique_id_function=operation_id)


class FindingPage(BaseModel):
    """Findings, the last received first; `cursor` asks for the next page, null at the end."""

    items: list[dict[str, Any]] = Field(
        description="finding objects as `results --format json` prints them; with `answers_hidden`"
        " true those that somebody is still to read blinded, without their answer"
    )
    cursor: str | None


class ReviewRequest(Body):
    """What the account says of a finding."""

    verb: ReviewVerb
    version: int = Field(ge=0, description="`version` of the reviews that were read before")
    view: str | None = Field(default=None, max_length=64)
    verdict: str | None = Field(default=None, max_length=64)
    criteria: dict[str, Literal["met", "not-met", "cannot-tell"]] = Field(
        default={}, max_length=100
    )
    reason: str | None = Field(default=None, max_length=64)
    remark: str | None = Field(default=None, max_length=2000)


class ReviewAnswer(BaseModel):
    """What came of it, in words."""

    line: str


@router.get("/findings", responses=ERRORS)
def findings(
    request: Request,
    principal: Sees,
    exam: Annotated[int | None, Query(ge=1, le=LARGEST)] = None,
    study: str | None = None,
    view: Texts = None,
    verdict: Texts = None,
    state: Texts = None,
    since: str | None = None,
    until: str | None = None,
    person: Annotated[str, Query(max_length=64)] = "",
    device: Annotated[str, Query(max_length=64)] = "",
    site: Annotated[str, Query(max_length=200)] = "",
    made_from: Annotated[str, Query(max_length=10, description="day, as 2026-11-28")] = "",
    made_to: Annotated[str, Query(max_length=10, description="day, included")] = "",
    frames: Literal["best", "all"] = "best",
    limit: Limit = 50,
    cursor: str | None = None,
) -> FindingPage:
    """A page of findings. It may have fewer than `limit` and still not be the last."""
    settings = context_of(request).settings
    question = parse_question(
        exam=exam,
        study=study,
        views=view or (),
        verdicts=verdict or (),
        states=state or (),
        since=since,
        until=until,
        all_frames=frames == "all",
        person=person,
        device=device,
        site=site,
        made_from=made_from,
        made_to=made_to,
    )
    page = list_entries(settings, principal, question, limit, cursor)
    return FindingPage(items=[entry_json(entry) for entry in page.entries], cursor=page.cursor)


@router.get("/findings/{finding_id}", responses=ERRORS)
def finding(request: Request, principal: Sees, finding_id: Id) -> dict[str, Any]:
    """A finding object."""
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    record_access(
        context.settings,
        principal,
        AccessAction.EXAM,
        exam_id=entry.stored.exam_id,
        finding_id=finding_id,
        clock=context.clock,
    )
    return entry_json(entry)


_PNG: dict[int | str, dict[str, Any]] = ERRORS | {
    200: {"description": "the picture", "content": {"image/png": {}}}
}


@router.get("/findings/{finding_id}/frame.png", responses=_PNG, response_class=Response)
def frame(
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.SEE_PATIENTS))],
    finding_id: Id,
) -> Response:
    """The frame as it was stored; a machine may have written a name into it."""
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    content = context.pictures.frame(entry)
    _record_picture(request, principal, entry.stored.exam_id, finding_id)
    return Response(content, media_type="image/png")


@router.get("/findings/{finding_id}/overlay.png", responses=_PNG, response_class=Response)
def overlay(
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.SEE_PATIENTS))],
    finding_id: Id,
    language: str = "en",
) -> Response:
    """The frame with its boxes, and a panel with the verdict."""
    if language not in LANGUAGES:
        raise HTTPException(422, f"language: give one of {', '.join(LANGUAGES)}")
    context = context_of(request)
    entry = read_entry(context.settings, principal, finding_id)
    content = context.pictures.overlay(entry, language)
    _record_picture(request, principal, entry.stored.exam_id, finding_id)
    return Response(content, media_type="image/png")


def _record_picture(request: Request, principal: Principal, exam_id: int, finding_id: int) -> None:
    context = context_of(request)
    record_access(
        context.settings,
        principal,
        AccessAction.PICTURE,
        exam_id=exam_id,
        finding_id=finding_id,
        clock=context.clock,
    )


@router.get("/findings/{finding_id}/reviews", responses=ERRORS)
def reviews(request: Request, principal: Sees, finding_id: Id) -> dict[str, Any]:
    """What persons said of the finding, in order, and where that leaves it."""
    settings = context_of(request).settings
    read_entry(settings, principal, finding_id)
    return show_review(settings, finding_id)


@router.post("/findings/{finding_id}/reviews", responses=ERRORS, status_code=201)
def review(
    request: Request,
    principal: Annotated[Principal, Depends(Access(Verb.REVIEW, Verb.DISPUTE))],
    finding_id: Id,
    said: ReviewRequest,
    key: Key = None,
) -> ReviewAnswer:
    """Say something of the finding. Sent twice without a key, the second is refused by its
    `version`."""
    context = context_of(request)

    def say() -> ReviewAnswer:
        line = say_review(
            context.settings,
            principal,
            finding_id,
            said.verb,
            view=said.view,
            verdict=said.verdict,
            criteria=[f"{code}={outcome}" for code, outcome in said.criteria.items()],
            reason=said.reason,
            remark=said.remark,
            version=said.version,
            clock=context.clock,
        )
        return ReviewAnswer(line=line)

    return once(request, principal, key, said, ReviewAnswer, say)

"""Lists: findings that wait for a person, and exams. All that was chosen stands in the URL."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from detector.anatomy import View
from model.finding import QUALITY_LABELS
from qc_daemon.operations.exams import parse_day
from qc_daemon.operations.finding_lists import (
    list_entries,
    list_visible_exams,
    parse_question,
)
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.review_lists import WAITING, Answers
from qc_daemon.operations.saved_views import list_views
from qc_daemon.operations.visible_identities import list_names
from qc_daemon.records.listings import ExamFilter
from qc_daemon.records.tables import ExamState, IdentityKind
from qc_daemon.review.state import ReviewStatus
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import build_url, render
from qc_daemon.web.words import finding_line

router = APIRouter(include_in_schema=False)
_ROWS = 50
_Texts = Annotated[list[str], Query()]
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN))]


@router.get("/worklist")
def worklist_page(
    request: Request,
    principal: _Sees,
    state: _Texts = [],  # noqa: B006  (FastAPI copies it)
    view: _Texts = [],  # noqa: B006
    verdict: _Texts = [],  # noqa: B006
    since: str = "",
    until: str = "",
    person: str = "",
    device: str = "",
    site: str = "",
    made_from: str = "",
    made_to: str = "",
    cursor: str = "",
) -> Response:
    """Findings that wait for a person, or in the states that are asked for."""
    settings = context_of(request).settings
    states = state or [str(each) for each in WAITING]
    images = {
        "person": person,
        "device": device,
        "site": site,
        "made_from": made_from,
        "made_to": made_to,
    }
    question = parse_question(
        states=states,
        views=view,
        verdicts=verdict,
        since=since,
        until=until,
        person=person,
        device=device,
        site=site,
        made_from=made_from,
        made_to=made_to,
    )
    page = list_entries(settings, principal, question, _ROWS, cursor or None)
    filters = {"state": state, "view": view, "verdict": verdict, "since": since, "until": until}
    filters |= images
    values = {
        # Whoever comes upon an answer in a list cannot be the blinded reader any more.
        "lines": [finding_line(entry, Answers.OPEN) for entry in page.entries],
        "asked": filters,
        "following": page.cursor,
        "states": list(ReviewStatus),
        "chosen_states": states,
        "views": [each.value for each in View],
        "verdicts": list(QUALITY_LABELS),
        "persons": list_names(settings, principal, IdentityKind.PERSON),
        "devices": list_names(settings, principal, IdentityKind.DEVICE),
        "is_continued": bool(cursor),
        "saved_views": list_views(settings, principal),
        "query": build_url("", filters).lstrip("?"),
    }
    return render(request, "worklist.html", principal, values)


@router.get("/exams")
def exams_page(
    request: Request,
    principal: _Sees,
    text: str = "",
    day: str = "",
    state: Annotated[str, Query(pattern="^(open|closed|)$")] = "",
    cursor: str = "",
) -> Response:
    """Exams, the last opened first."""
    settings = context_of(request).settings
    exam_filter = ExamFilter(
        states=[state] if state else (),
        text=text.strip() or None,
        day=parse_day(day) if day else None,
    )
    page = list_visible_exams(settings, principal, exam_filter, _ROWS, cursor or None)
    values = {
        "rows": page.rows,
        "asked": {"text": text, "day": day, "state": state},
        "following": page.cursor,
        "states": list(ExamState),
        "is_continued": bool(cursor),
    }
    return render(request, "exams.html", principal, values)

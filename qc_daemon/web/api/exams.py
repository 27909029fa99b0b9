"""Exams, and the description of this API."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from qc_daemon.operations.finding_lists import list_visible_exams, read_exam
from qc_daemon.operations.principals import Principal
from qc_daemon.records.listings import ExamFilter
from qc_daemon.records.tables import ExamState
from qc_daemon.web.access import Access
from qc_daemon.web.api.shared import ERRORS, Id, Limit, Sees, operation_id
from qc_daemon.web.context import context_of

router = APIRouter(prefix="/api/v1", tags=["exams"], generate_unique_id_function=operation_id)


class ExamPage(BaseModel):
    """Exams, the last opened first; `cursor` asks for the next page, null at the end."""

    items: list[dict[str, Any]] = Field(
        description="rows as `exam list --format json` prints them; without patients for who may"
        " not see them"
    )
    cursor: str | None


@router.get("/exams", responses=ERRORS)
def exams(
    request: Request,
    principal: Sees,
    study: str | None = None,
    patient: Annotated[str | None, Query(max_length=200)] = None,
    accession: Annotated[str | None, Query(max_length=200)] = None,
    day: date | None = None,
    state: ExamState | None = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> ExamPage:
    """A page of exams."""
    exam_filter = ExamFilter(
        states=[state] if state else (),
        study=study,
        patient=patient,
        accession=accession,
        day=day,
    )
    settings = context_of(request).settings
    page = list_visible_exams(settings, principal, exam_filter, limit, cursor)
    return ExamPage(items=page.rows, cursor=page.cursor)


@router.get("/exams/{exam_id}", responses=ERRORS)
def exam(
    request: Request,
    principal: Sees,
    exam_id: Id,
) -> dict[str, Any]:
    """An exam."""
    return read_exam(context_of(request).settings, principal, exam_id)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, principal: Annotated[Principal, Depends(Access())]) -> dict[str, Any]:
    """This API, described (OpenAPI 3.1)."""
    schema: dict[str, Any] = request.app.openapi()
    return schema

"""Persons and devices: lists, merge, split, rename, and their reports."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from qc_daemon.audit.reports.facts import DEVICE, PERSON
from qc_daemon.operations.audit_pages import record_reading
from qc_daemon.operations.audit_reports import ReportPeriod, Target, make_report
from qc_daemon.operations.changes.change import Choice
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.visible_identities import (
    list_visible_devices,
    list_visible_persons,
    read_visible,
)
from qc_daemon.records.tables import IdentityKind
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.api.shared import (
    ERRORS,
    ChangeBody,
    Limit,
    Page,
    Sees,
    Word,
    add_change,
    operation_id,
)
from qc_daemon.web.context import context_of

router = APIRouter(
    prefix="/api/v1", tags=["people and devices"], generate_unique_id_function=operation_id
)
_SeesDevices = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OPERATIONS))]
_Id = Annotated[str, Path(min_length=1, max_length=64, description="as in a list")]
_Cursor = Annotated[str | None, Query(max_length=64, description="`cursor` of the page before")]
_Language = Annotated[Literal["en", "de", "zh"] | None, Query()]
_Kind = Literal["json", "html", "pdf"]
_FILES: dict[int | str, dict[str, Any]] = ERRORS | {
    200: {
        "description": "the report",
        "content": {"application/json": {}, "text/html": {}, "application/pdf": {}},
    }
}


class MergeRequest(ChangeBody):
    """Which one counts as which other from now on."""

    id: Word
    into: Word

    def choice(self) -> Choice:
        return Choice(name=self.id, into=self.into)


class SplitRequest(ChangeBody):
    """Which one counts as its own again."""

    id: Word

    def choice(self) -> Choice:
        return Choice(name=self.id)


class RenameRequest(ChangeBody):
    """What it is called from now on."""

    id: Word
    name: Word

    def choice(self) -> Choice:
        return Choice(name=self.id, into=self.name)


def _page(rows: Sequence[dict[str, Any]], limit: int, cursor: str | None) -> Page:
    """Rows by id, after that of the cursor."""
    rest = [row for row in rows if cursor is None or row["id"] > cursor]
    is_last = len(rest) <= limit
    return Page(items=rest[:limit], cursor=None if is_last else rest[limit - 1]["id"])


@router.get("/people", responses=ERRORS)
def people(request: Request, principal: Sees, limit: Limit = 50, cursor: _Cursor = None) -> Page:
    """Persons; who sees only own images finds herself. Images are counted once a minute."""
    context = context_of(request)
    counts = context.image_counts.of(IdentityKind.PERSON).images
    rows = list_visible_persons(context.settings, principal, counts)
    return _page(rows, limit, cursor)


@router.get("/people/{person_id}", responses=ERRORS)
def person(request: Request, principal: Sees, person_id: _Id) -> dict[str, Any]:
    """A person."""
    settings = context_of(request).settings
    return read_visible(settings, principal, IdentityKind.PERSON, person_id)


@router.get("/people/{person_id}/report", responses=_FILES, response_class=Response)
def person_report(
    request: Request,
    principal: Sees,
    person_id: _Id,
    format: _Kind = "json",
    day: date | None = None,
    language: _Language = None,
) -> Response:
    """The report that an audit makes of a person: of this day, else the newest. It is recorded, and
    the person sees by whom it was read."""
    context = context_of(request)
    read_visible(context.settings, principal, IdentityKind.PERSON, person_id)
    record_reading(context.settings, principal, person_id, context.clock)
    return _report(request, Target(PERSON, person_id), format, day, language)


@router.get("/devices", responses=ERRORS)
def devices(
    request: Request, principal: _SeesDevices, limit: Limit = 50, cursor: _Cursor = None
) -> Page:
    """Devices. Images are counted once a minute."""
    context = context_of(request)
    counts = context.image_counts.of(IdentityKind.DEVICE).images
    rows = list_visible_devices(context.settings, principal, counts)
    return _page(rows, limit, cursor)


@router.get("/devices/{device_id}", responses=ERRORS)
def device(request: Request, principal: _SeesDevices, device_id: _Id) -> dict[str, Any]:
    """A device."""
    settings = context_of(request).settings
    return read_visible(settings, principal, IdentityKind.DEVICE, device_id)


@router.get("/devices/{device_id}/report", responses=_FILES, response_class=Response)
def device_report(
    request: Request,
    principal: _SeesDevices,
    device_id: _Id,
    format: _Kind = "json",
    day: date | None = None,
    language: _Language = None,
) -> Response:
    """The report that an audit makes of a device: of this day, else the newest."""
    read_visible(context_of(request).settings, principal, IdentityKind.DEVICE, device_id)
    return _report(request, Target(DEVICE, device_id), format, day, language)


for _path, _kind in (("/people", "person"), ("/devices", "device")):
    for _verb, _body, _words in (
        ("merge", MergeRequest, f"Count a {_kind} as another."),
        ("split", SplitRequest, "Undo a merge."),
        ("rename", RenameRequest, f"Give a {_kind} a name."),
    ):
        add_change(
            router,
            f"{_path}/{_verb}",
            f"{_kind}-{_verb}",
            _body,
            _words,
        )

_MEDIA_TYPES = {"pdf": "application/pdf", "html": "text/html", "json": "application/json"}


def _report(
    request: Request, target: Target, format: str, day: date | None, language: str | None
) -> Response:
    settings = context_of(request).settings
    content = make_report(settings, target, ReportPeriod(day, day), format, language)
    return Response(content, media_type=_MEDIA_TYPES[format])

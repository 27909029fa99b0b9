"""Audits: all of them, one of them, and the reports of persons, devices and sites that it makes."""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from detector.errors import QCError
from qc_daemon.audit.reports.facts import DEVICE, PERSON, SITE
from qc_daemon.operations.audit_pages import (
    SubjectReport,
    audit_document,
    audit_file,
    has_audit,
    read_visible_audit,
    record_reading,
    report_subject,
    subject_rows,
)
from qc_daemon.operations.audit_reports import FORMATS, ReportPeriod, Target, make_report
from qc_daemon.operations.audits import list_audits
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.visible_identities import (
    list_readers,
    list_visible_devices,
    list_visible_persons,
    read_visible,
)
from qc_daemon.records.tables import IdentityKind
from qc_daemon.review.state import ReviewStatus
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import build_url, language_of, render
from qc_daemon.web.report_parts import report_values

router = APIRouter(include_in_schema=False)
SeesAudits = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN, Verb.SEE_OPERATIONS))]
SeesPersons = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN))]
SeesDevices = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OPERATIONS))]
_READERS = 20
_MEDIA_TYPES = {
    "pdf": "application/pdf",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
}
_TYPES = {PERSON: "people", DEVICE: "devices"}


@router.get("/audits")
def audits_page(request: Request, principal: SeesAudits) -> Response:
    """All audits, the newest date first."""
    rows = list_audits(context_of(request).settings)
    return render(request, "audits.html", principal, {"rows": rows})


@router.get("/audits/{day}")
def audit_page(
    day: date, request: Request, principal: SeesAudits, name: str | None = None
) -> Response:
    """What an audit found, and whom it is about."""
    settings = context_of(request).settings
    content = read_visible_audit(settings, principal, day.isoformat(), name)
    document = audit_document(settings, content, language_of(request, principal))
    values = {
        "day": day.isoformat(),
        "name": name,
        "content": content,
        "subjects": subject_rows(settings, content) if "subjects" in content else [],
        **report_values(document),
    }
    return render(request, "audit.html", principal, values)


@router.get("/audits/{day}/report.{format}")
def audit_report(
    day: date,
    format: str,
    request: Request,
    principal: SeesAudits,
    name: str | None = None,
) -> Response:
    """An audit as a file."""
    if format not in FORMATS:
        raise HTTPException(404)
    language = language_of(request, principal)
    settings = context_of(request).settings
    content = audit_file(settings, principal, day.isoformat(), name, format, language)
    return _download(content, format)


@router.get("/people")
def people_page(request: Request, principal: SeesPersons) -> Response:
    """Persons, and which of them may be one."""
    context = context_of(request)
    counted = context.image_counts.of(IdentityKind.PERSON)
    rows = list_visible_persons(context.settings, principal, counted.images)
    values = {"rows": rows, "kind": PERSON, "counted_at": counted.at}
    return render(request, "people.html", principal, values)


@router.get("/devices")
def devices_page(request: Request, principal: SeesDevices) -> Response:
    """Devices, and which of them may be one."""
    context = context_of(request)
    counted = context.image_counts.of(IdentityKind.DEVICE)
    rows = list_visible_devices(context.settings, principal, counted.images)
    values = {"rows": rows, "kind": DEVICE, "counted_at": counted.at}
    return render(request, "people.html", principal, values)


@router.get("/people/{person_id}")
def person_page(
    person_id: str, request: Request, principal: SeesPersons, day: date | None = None
) -> Response:
    """A person: her report, and who has read it."""
    settings = context_of(request).settings
    row = read_visible(settings, principal, IdentityKind.PERSON, person_id)
    values = {"row": row, "readers": list_readers(settings, principal, person_id, _READERS)}
    return _subject_page(request, principal, PERSON, person_id, day, values)


@router.get("/devices/{device_id}")
def device_page(
    device_id: str, request: Request, principal: SeesDevices, day: date | None = None
) -> Response:
    """A device and its report."""
    settings = context_of(request).settings
    row = read_visible(settings, principal, IdentityKind.DEVICE, device_id)
    return _subject_page(request, principal, DEVICE, device_id, day, {"row": row, "readers": None})


@router.get("/sites")
def site_page(
    request: Request,
    principal: SeesDevices,
    site: Annotated[str, Query(min_length=1, max_length=200)],
    day: date | None = None,
) -> Response:
    """The report of a site."""
    values = {"row": {"id": site, "name": site}, "readers": None}
    return _subject_page(request, principal, SITE, site, day, values)


@router.get("/sites/report.{format}")
def site_report(
    format: str,
    request: Request,
    principal: SeesDevices,
    site: Annotated[str, Query(min_length=1, max_length=200)],
    day: date | None = None,
) -> Response:
    """A site's report as a file."""
    return _file(request, principal, Target(SITE, site), day, format)


@router.get("/people/{person_id}/report.{format}")
def person_report(
    person_id: str,
    format: str,
    request: Request,
    principal: SeesPersons,
    day: date | None = None,
) -> Response:
    """A person's report as a file."""
    context = context_of(request)
    read_visible(context.settings, principal, IdentityKind.PERSON, person_id)
    record_reading(context.settings, principal, person_id, context.clock)
    return _file(request, principal, Target(PERSON, person_id), day, format)


@router.get("/devices/{device_id}/report.{format}")
def device_report(
    device_id: str,
    format: str,
    request: Request,
    principal: SeesDevices,
    day: date | None = None,
) -> Response:
    """A device's report as a file."""
    read_visible(context_of(request).settings, principal, IdentityKind.DEVICE, device_id)
    return _file(request, principal, Target(DEVICE, device_id), day, format)


def _subject_page(
    request: Request,
    principal: Principal,
    kind: str,
    id: str,
    day: date | None,
    values: Mapping[str, object],
) -> Response:
    context = context_of(request)
    report: SubjectReport | None = None
    problem: str | None = None
    if has_audit(context.settings):
        try:
            report = report_subject(
                context.settings,
                principal,
                Target(kind, id),
                day,
                language_of(request, principal),
                _link(kind, id) if principal.may_see_findings else _no_link,
                context.clock,
            )
        except QCError as error:
            if error.__cause__ is not None:
                raise
            problem = error.message
    every = {
        **values,
        "kind": kind,
        "id": id,
        "day": None if report is None else report.day.isoformat(),
        "report": report,
        "problem": problem,
        "file": f"/{_TYPES[kind]}/{id}/report" if kind in _TYPES else "/sites/report",
        "file_query": {"site": id} if kind == SITE else {},
        **(report_values(report.document) if report is not None else {}),
    }
    return render(request, "subject.html", principal, every, 404 if problem else 200)


def _link(kind: str, id: str) -> Callable[[date, date], str]:
    """Where a point leads: the worklist with the findings of that period."""

    def link(first: date, last: date) -> str:
        days = {"made_from": first.isoformat(), "made_to": last.isoformat()}
        return build_url("/worklist", {kind: id, "state": list(ReviewStatus)}, **days)

    return link


def _no_link(_first: date, _last: date) -> str:
    return ""


def _file(
    request: Request, principal: Principal, target: Target, day: date | None, format: str
) -> Response:
    if format not in FORMATS:
        raise HTTPException(404)
    settings, language = context_of(request).settings, language_of(request, principal)
    content = make_report(settings, target, ReportPeriod(day, day), format, language)
    return _download(content, format)


def _download(content: bytes, format: str) -> Response:
    headers = {
        "content-disposition": f'attachment; filename="report.{format}"',
        "cache-control": "private, no-store",
    }
    return Response(content, media_type=_MEDIA_TYPES[format], headers=headers)

"""Audits as pages and API show them: what an account may see of one, and reports as documents."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from qc_daemon.audit.reports.bundle import bundle_report
from qc_daemon.audit.reports.composer import Link
from qc_daemon.audit.reports.document import Document
from qc_daemon.audit.reports.facts import PERSON, AuditFacts, Example
from qc_daemon.audit.reports.overview import audit_report
from qc_daemon.audit.reports.person import person_report
from qc_daemon.audit.reports.place import place_report
from qc_daemon.audit.reports.sections.agreement import agreement_section
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import enqueue
from qc_daemon.language.right_to_left import is_printable
from qc_daemon.language.wording import Wording
from qc_daemon.operations.audit_reports import (
    ReportPeriod,
    Target,
    created_at,
    load_composer,
    report_names,
    write_document,
)
from qc_daemon.operations.audits import flag_rows, read_audit
from qc_daemon.operations.finding_lists import NotVisibleError, read_entry
from qc_daemon.operations.identity_names import identity_names
from qc_daemon.operations.principals import Principal, actor_of, record_access, scope_of
from qc_daemon.operations.shadow_audits import KIND
from qc_daemon.operations.shared import open_store
from qc_daemon.operations.visible_identities import may_see_devices
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.results import audits
from qc_daemon.records.tables import AccessAction, IdentityKind
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb


@dataclass(frozen=True, slots=True)
class SubjectReport:
    """A report for a page; its pictures stand beside it, by their findings."""

    document: Document
    day: date
    good: tuple[int, ...]
    instructive: tuple[int, ...]


def has_audit(settings: Settings) -> bool:
    """Whether any audit is done, of which there are reports."""
    with open_store(settings).read() as session:
        return audits.read(session, audits.NIGHTLY) is not None


def report_subject(
    settings: Settings,
    principal: Principal,
    target: Target,
    day: date | None,
    language: str,
    link: Link,
    clock: Clock = utc_now,
) -> SubjectReport:
    """The report of a person, device or site of the audit of this day, else of the newest one.

    Whether the account may see the subject is asked before. That it read a person's is recorded.
    Raises UsageError, QCError STORAGE as `make_report`.
    """
    period = ReportPeriod(day, day)
    composer, _ = load_composer(settings, open_store(settings), target, period, language, link)
    created = created_at(composer)
    if target.kind != PERSON:
        return SubjectReport(place_report(composer, created), composer.audit.day, (), ())
    record_reading(settings, principal, composer.subject.id, clock)
    good = _visible(settings, principal, composer.subject.good)
    instructive = _visible(settings, principal, composer.subject.instructive)
    example = instructive[0] if instructive else None
    document = person_report(composer, created, example=example, has_examples=False)
    return SubjectReport(document, composer.audit.day, good, instructive)


def record_reading(
    settings: Settings, principal: Principal, person: str, clock: Clock = utc_now
) -> None:
    """Record that the account read the person's report: she can see it."""
    record_access(settings, principal, AccessAction.REPORT, subject=person, clock=clock)


_MAX_EXAMPLES = 3


def _visible(
    settings: Settings, principal: Principal, examples: tuple[Example, ...]
) -> tuple[int, ...]:
    """The findings that the account may see with their answers."""
    ids = []
    for each in examples[:_MAX_EXAMPLES]:
        try:
            entry = read_entry(settings, principal, each.finding_id)
        except NotVisibleError:
            continue
        if not entry.is_hidden and not entry.is_rejected:
            ids.append(each.finding_id)
    return tuple(ids)


def read_visible_audit(
    settings: Settings, principal: Principal, day: str, name: str | None
) -> dict[str, Any]:
    """What the audit found, of the persons, devices and sites that the account may see.

    Raises UsageError where there is none.
    """
    content = read_audit(settings, day, name)
    if content.get("kind") == KIND:
        if not may_see_devices(principal):
            raise NotVisibleError
        return content
    with open_store(settings).read() as session:
        own = scope_of(session, principal).persons
    sees_devices = may_see_devices(principal)

    def is_visible(row: dict[str, Any]) -> bool:
        if row["kind"] == PERSON:
            return own is None or row["id"] in own
        return sees_devices

    subjects = [each for each in content["subjects"] if is_visible(each)]
    drift = [each for each in content.get("drift") or () if is_visible(each)]
    visible = content | {"subjects": subjects, "drift": drift}
    if not principal.may(Verb.SEE_ALL):
        visible.pop("second_readings", None)
    return visible


def subject_rows(settings: Settings, content: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each subject of an audit with what it is called and how it is flagged."""
    with open_store(settings).read() as session:
        names = identity_names(session, IdentityKind.PERSON)
        names |= identity_names(session, IdentityKind.DEVICE)
    flags: dict[tuple[str, str], list[str]] = {}
    for flag in flag_rows(content):
        if flag["words"]:
            flags.setdefault((flag["kind"], flag["id"]), []).append(flag["words"])
    return [
        {
            "kind": each["kind"],
            "id": each["id"],
            "name": each.get("name") or names.get(each["id"]) or each["id"],
            "findings": each.get("findings"),
            "exams": each.get("exams"),
            "flags": flags.get((each["kind"], each["id"]), []),
        }
        for each in content["subjects"]
    ]


def audit_document(settings: Settings, content: dict[str, Any], language: str) -> Document:
    """What an audit says of all: agreement with readers; of a bundle in shadow, the comparison."""
    wording = Wording(language)
    created = datetime.combine(date.fromisoformat(content["date"]), datetime.min.time(), UTC)
    with open_store(settings).read() as session:
        devices = identity_names(session, IdentityKind.DEVICE)
    if content.get("kind") == KIND:
        names = report_names(language, devices)
        return bundle_report(content, names, created, [], wording)
    audit = AuditFacts.from_json(content)
    return Document(
        title=wording.gettext("Audit"),
        language=language,
        notice="",
        facts=(),
        blocks=tuple(agreement_section(audit, wording)),
        created=created,
        page_of="",
        numbers=wording.gettext("Numbers of the charts"),
    )


def audit_file(
    settings: Settings,
    principal: Principal,
    day: str,
    name: str | None,
    format: str,
    language: str,
) -> bytes:
    """The audit as a file of this format, of what the account may see of it.

    Raises UsageError where there is none.
    """
    content = read_visible_audit(settings, principal, day, name)
    enqueue(
        settings,
        AuditKind.EXPORTED,
        actor=actor_of(principal),
        objects={"audit": content["date"]},
        detail={"what": "report of an audit", "format": format},
    )
    if format == "json":
        return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
    document = audit_document(settings, content, language)
    if "subjects" in content:
        rows = subject_rows(settings, content)
        if format == "pdf":
            # Fonts of some scripts are too large to come along.
            rows = [
                row | {"name": row["name"] if is_printable(row["name"]) else row["id"]}
                for row in rows
            ]
        document = audit_report(content, rows, document.blocks, document.created, Wording(language))
    return write_document(document, format)

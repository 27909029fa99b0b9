"""Reports of audits for people: by person, device, site or exam, as HTML, PDF or JSON.

A report is made of one stored audit and computes nothing again, so that it says tomorrow what it
says today. Of an exam it is made of the exam's findings as they stand.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import fold
from model.bundle.bundle import read_model_id
from qc_daemon.audit.reports.bundle import bundle_report, change_lines
from qc_daemon.audit.reports.composer import Composer, Link
from qc_daemon.audit.reports.document import Document, Picture
from qc_daemon.audit.reports.exam import ExamFacts, ExamPicture, exam_report
from qc_daemon.audit.reports.facts import PERSON, SITE, AuditFacts, Example, Subject
from qc_daemon.audit.reports.person import person_report
from qc_daemon.audit.reports.place import place_report
from qc_daemon.audit.reports.words import Names
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import enqueue
from qc_daemon.language.catalogues import check_language
from qc_daemon.language.right_to_left import is_printable
from qc_daemon.language.wording import Wording
from qc_daemon.operations.bundles import bundle_folder
from qc_daemon.operations.example_pictures import load_pictures
from qc_daemon.operations.identity_names import identity_names, resolve_identity
from qc_daemon.operations.shared import open_store
from qc_daemon.records.acquisition import identities
from qc_daemon.records.received import exams
from qc_daemon.records.results import audits, rejections
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AcquisitionRow, IdentityKind
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

FORMATS = ("html", "pdf", "json")
BUNDLE = "bundle"
MAX_EXAMPLES = 3
"""Good pictures, and instructive ones, in a report."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a report is about: the value of the one option that was given."""

    kind: str
    value: str

    @classmethod
    def of(cls, **values: str | None) -> "Target":
        """The one subject that the options name. Raises UsageError for none and for several."""
        subjects = [(kind, value) for kind, value in values.items() if value is not None]
        if len(subjects) != 1:
            options = ", ".join(f"--{kind}" for kind in values)
            raise UsageError(f"give one of {options}")
        kind, value = subjects[0]
        if not value.strip():
            raise UsageError(f"--{kind}: give which one, as in {kind} list")
        return cls(kind, value.strip())


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """The newest audit of a local date within these days, both included, is reported."""

    start: date | None = None
    end: date | None = None

    @classmethod
    def parse(cls, start: str | None, end: str | None) -> "ReportPeriod":
        """Days in ISO 8601. Raises UsageError."""
        period = cls(_parse_day(start, "--from"), _parse_day(end, "--to"))
        if period.start is not None and period.end is not None and period.end < period.start:
            raise UsageError(f"--to {end} lies before --from {start}; give the earlier day first")
        return period

    def as_text(self) -> dict[str, str | None]:
        """The days in ISO 8601, as audits are read by."""
        return {
            "since": None if self.start is None else self.start.isoformat(),
            "until": None if self.end is None else self.end.isoformat(),
        }

    @property
    def words(self) -> str:
        """` from 2026-01-01 to 2026-06-30`; empty for any time."""
        start = "" if self.start is None else f" from {self.start.isoformat()}"
        return start + ("" if self.end is None else f" to {self.end.isoformat()}")


def _parse_day(value: str | None, option: str) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UsageError(f"{option} {value}: give a day as 2026-11-28") from None


def choose_format(value: str | None, out: Path | None) -> str:
    """The format that is asked for, else that of the file's suffix, else html. Raises UsageError
    where both are given and differ, and for a suffix of something else."""
    suffix = "" if out is None else out.suffix.lower().removeprefix(".")
    if value is None:
        if suffix and suffix not in FORMATS:
            endings = ", ".join(f".{each}" for each in FORMATS)
            raise UsageError(f"--out {out}: give a name that ends in {endings}, or --format")
        return suffix or "html"
    if value not in FORMATS:
        raise UsageError(f"--format {value}: give one of {', '.join(FORMATS)}")
    if suffix in FORMATS and suffix != value:
        raise UsageError(f"--format {value} does not go with --out {out}; give one of them")
    return value


def make_report(
    settings: Settings,
    target: Target,
    period: ReportPeriod,
    format: str,
    language: str | None = None,
) -> bytes:
    """The report as the bytes of a file of this format.

    Raises UsageError for a language that there is not and a name that several have, QCError STORAGE
    for what there is not, or of which no audit in the period has anything.
    """
    report_language = check_language(language or settings.report.language)
    store = open_store(settings)
    # A target is given by a name or an id; which is for the report to find out.
    enqueue(settings, AuditKind.EXPORTED, detail={"what": f"report of a {target.kind}"})
    if target.kind == "exam":
        return _of_exam(settings, store, target.value, format, report_language)
    if target.kind == BUNDLE:
        return _of_bundle(settings, store, target.value, period, format, report_language)
    composer, body = load_composer(settings, store, target, period, report_language)
    subject, created = composer.subject, created_at(composer)
    if format == "json":
        return _as_json(target.kind, subject.id, composer.name, body)
    if format == "pdf" and not is_printable(composer.name):
        # Fonts of some scripts are too large to come along.
        composer = replace(composer, name=subject.id)
    if target.kind != PERSON:
        return write_document(place_report(composer, created), format)
    examples = [*subject.good[:MAX_EXAMPLES], *subject.instructive[:MAX_EXAMPLES]]
    loaded = load_pictures(settings, store, [each.finding_id for each in examples], report_language)

    def pictures(of: Sequence[Example]) -> list[Picture]:
        ids = [each.finding_id for each in of[:MAX_EXAMPLES]]
        return [loaded.pictures[id] for id in ids if id in loaded.pictures]

    first = next((each.finding_id for each in subject.instructive), None)
    document = person_report(
        composer, created, pictures(subject.good), pictures(subject.instructive), first,
        loaded.left_out,
    )  # fmt: skip
    return write_document(document, format)


def load_composer(
    settings: Settings,
    store: Store,
    target: Target,
    period: ReportPeriod,
    language: str,
    link: Link | None = None,
) -> tuple[Composer, dict[str, Any]]:
    """What writes the report of a person, device or site, and the audit that it is of.

    Raises UsageError, QCError STORAGE as `make_report`.
    """
    with store.read() as session:
        id, name = _identify(session, target)
        body = audits.read(session, None, **period.as_text())
        devices = identity_names(session, IdentityKind.DEVICE)
    if body is None:
        raise QCError(
            ErrorCode.STORAGE,
            f"there is no audit{period.words}; see audit list, or make one with audit run",
        )
    audit = AuditFacts.from_json(body)
    subject = _subject(audit, target.kind, id)
    if subject is None:
        # She exists, but has no picture in the audit's window: that is a report too.
        subject = Subject(target.kind, id, 0, 0, ())
    composer = Composer(
        audit,
        subject,
        subject.name or name,
        report_names(language, devices),
        Wording(language),
        _next_audit(settings, audit),
        link,
    )
    return composer, body


def created_at(composer: Composer) -> datetime:
    """The moment that a report says it was made: that of its audit."""
    return datetime.combine(composer.audit.day, datetime.min.time(), UTC)


def _of_bundle(
    settings: Settings,
    store: Store,
    value: str,
    period: ReportPeriod,
    format: str,
    language: str,
) -> bytes:
    """The newest audit that tried the bundle in shadow. Raises QCError."""
    name = audits.shadow_name(read_model_id(bundle_folder(value)))
    with store.read() as session:
        content = audits.read(session, name, **period.as_text())
        devices = identity_names(session, IdentityKind.DEVICE)
    if content is None:
        raise QCError(
            ErrorCode.STORAGE,
            f"there is no audit of bundle {value}{period.words}; make one with audit run --bundle",
        )
    if format == "json":
        return (json.dumps(content, ensure_ascii=False) + "\n").encode()
    names, w = report_names(language, devices), Wording(language)
    loaded = load_pictures(settings, store, content["largest"], language, is_spool_only=True)
    changes = {each["finding_id"]: each for each in content["changes"]}
    pictures = [
        replace(loaded.pictures[id], lines=change_lines(changes[id], names, w))
        for id in content["largest"]
        if id in loaded.pictures
    ]
    day = date.fromisoformat(content["date"])
    created = datetime.combine(day, datetime.min.time(), UTC)
    return write_document(bundle_report(content, names, created, pictures, w), format)


def _next_audit(settings: Settings, audit: AuditFacts) -> date | None:
    """The local date of the audit after this one; None where no audit is scheduled."""
    if audit.next_audit is not None or settings.schedule.audit_time is None:
        return audit.next_audit
    return audit.day + timedelta(days=1)


def write_report(out: Path, content: bytes) -> None:
    """The file as a whole, or as it was before. Raises QCError STORAGE."""
    try:
        with private_files.replacing(out) as file:
            file.write(content)
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{out} cannot be written: {error.strerror}") from error


def _identify(session: Session, target: Target) -> tuple[str, str]:
    """The id that an audit has, and what the subject is called. Raises UsageError, QCError."""
    if target.kind == SITE:
        return fold(target.value), target.value
    kind = IdentityKind(target.kind)
    id = resolve_identity(session, kind, target.value)
    return id, identity_names(session, kind)[id]


def report_names(language: str, devices: Mapping[str, str]) -> Names:
    """What views and devices are called in a report."""
    from qc_daemon.report.sr.codes import VIEWS

    w = Wording(language)
    return Names({view: w.gettext(code.meaning) for view, code in VIEWS.items()}, devices)


def _subject(audit: AuditFacts, kind: str, id: str) -> Subject | None:
    """The subject of this id; a site by its name without case, accents and punctuation.

    Raises QCError STORAGE for a site that the audit does not know.
    """
    if kind != SITE:
        return audit.subject(kind, id)
    site = next((s for s in audit.subjects if s.kind == SITE and fold(s.id) == id), None)
    if site is None:
        names = sorted(s.name or s.id for s in audit.subjects if s.kind == SITE) or ["none"]
        raise QCError(
            ErrorCode.STORAGE,
            f"the audit of {audit.day.isoformat()} has no such site; it has: {', '.join(names)}",
        )
    return site


def write_document(document: Document, format: str) -> bytes:
    """The document as HTML or PDF."""
    # Fonts and page layout take a second to load.
    if format == "pdf":
        from qc_daemon.audit.reports.pdf import report_pdf

        return report_pdf(document)
    from qc_daemon.audit.reports.html import report_html

    return report_html(document).encode()


_SHARED_KEYS = (
    "date",
    "audit",
    "timezone",
    "window",
    "history",
    "bundle",
    "criteria_version",
    "data_sha256",
    "rules",
    "changes",
    "agreement",
    "next_audit",
)


def _as_json(kind: str, id: str, name: str, body: Mapping[str, Any]) -> bytes:
    """What the report is made of: the subject's part of the audit and what holds for all."""
    subject = next((s for s in body["subjects"] if s["kind"] == kind and str(s["id"]) == id), None)
    if subject is not None and kind == PERSON:
        subject = _without_counts_of_others(subject)
    report = {
        "kind": kind,
        "id": id,
        "name": name,
        **{key: body[key] for key in _SHARED_KEYS if key in body},
        "subject": subject,
        "drift": [d for d in body.get("drift") or () if d["kind"] == kind and d["id"] == id],
    }
    return (json.dumps(report, ensure_ascii=False) + "\n").encode()


def _without_counts_of_others(person: Mapping[str, Any]) -> dict[str, Any]:
    """The person's part without the numbers of pictures that, where two work, are the other's."""
    values = dict(person)
    values["measures"] = [
        measure | {"limits": {k: v for k, v in measure["limits"].items() if k != "others"}}
        if measure.get("limits")
        else measure
        for measure in person["measures"]
    ]
    if person.get("devices"):
        values["devices"] = [_with_share(device) for device in person["devices"]]
    return values


def _with_share(device: Mapping[str, Any]) -> dict[str, Any]:
    """A person's device with everybody's share of standard views there, not their count."""
    values = {key: value for key, value in device.items() if key not in ("device_x", "device_n")}
    x, n = device.get("device_x"), device.get("device_n")
    return values | {"device_value": round(x / n, 6) if x is not None and n else None}


def _of_exam(settings: Settings, store: Store, value: str, format: str, language: str) -> bytes:
    facts, body = _exam_facts(store, value)
    if format == "json":
        return (json.dumps(_exam_json(facts)) + "\n").encode()
    expected = [View(name) for name in settings.report.views]
    audit = None if body is None else AuditFacts.from_json(body)
    good = [p.finding_id for p in facts.pictures if p.verdict == "standard"][:MAX_EXAMPLES]
    instructive = [p.finding_id for p in facts.pictures if p.verdict == "non-standard"]
    instructive = instructive[:MAX_EXAMPLES]
    loaded = load_pictures(settings, store, [*good, *instructive], language).pictures
    document = exam_report(
        facts,
        expected,
        report_names(language, {}),
        Wording(language),
        audit,
        [loaded[id] for id in good if id in loaded],
        [loaded[id] for id in instructive if id in loaded],
    )
    return write_document(document, format)


def _exam_facts(store: Store, value: str) -> tuple[ExamFacts, dict[str, Any] | None]:
    """What stands of the exam, and the newest audit. Raises UsageError, QCError STORAGE."""
    from model.finding import Finding
    from qc_daemon.report.person_verdict import apply_review

    if not (value.isascii() and value.isdecimal() and len(value) <= _MAX_ID_DIGITS):
        raise UsageError(f"--exam {value}: give the exam's id, as in exam list")
    with store.read() as session:
        try:
            content = exams.exam_content(session, int(value))
        except LookupError:
            raise QCError(ErrorCode.STORAGE, f"there is no exam {value}; see exam list") from None
        rejected = rejections.of_exam(session, content.exam_id)
        left_out = len(exams.omissions(session, content.exam_id))
        body = audits.read(session, audits.NIGHTLY)
        device = _device(session, [each.revision.revision_id for each in content.findings])
    if not content.findings:
        raise QCError(
            ErrorCode.NOT_AVAILABLE,
            f"exam {value} has no findings to report; see results --exam {value}",
        )
    by_image: dict[tuple[str, str], tuple[tuple[float, float], ExamPicture]] = {}
    models: dict[str, None] = {}
    for scored in content.findings:
        if scored.revision.sop_instance_uid in rejected:
            continue
        state = content.reviews.get(scored.finding_id)
        finding = Finding.from_json(scored.finding)
        effective = apply_review(finding, state)
        judgement = effective.judgement
        models[f"{finding.bundle.name} {finding.bundle.version}"] = None
        picture = ExamPicture(
            scored.finding_id,
            judgement.view,
            judgement.quality,
            judgement.probability,
            tuple(c.code for c in judgement.criteria if c.met is False),
            tuple(c.code for c in judgement.criteria if c.met is not None),
            by_person=state is not None and state.outcome is not None,
        )
        # A cine is one picture of each view that it shows, by its best frame.
        key = (scored.revision.sop_instance_uid, judgement.view)
        if key not in by_image or judgement.rank > by_image[key][0]:
            by_image[key] = (judgement.rank, picture)
    received = max(each.revision.received_at for each in content.findings)
    pictures = tuple(picture for _, picture in by_image.values())
    return (
        ExamFacts(content.exam_id, received, device, ", ".join(models), pictures, left_out),
        body,
    )


_MAX_ID_DIGITS = 18


def _device(session: Session, revision_ids: Sequence[int]) -> str | None:
    """What the machine of these images is called; None for several, or none that is known."""
    ids = set(
        session.scalars(
            select(AcquisitionRow.device_id).where(AcquisitionRow.revision_id.in_(revision_ids))
        )
    )
    roots = identities.roots(session, IdentityKind.DEVICE)
    devices = {roots.get(id, id) for id in ids if id is not None}
    if len(devices) != 1:
        return None
    (id,) = devices
    return identity_names(session, IdentityKind.DEVICE).get(id)


def _exam_json(exam: ExamFacts) -> dict[str, Any]:
    return {
        "kind": "exam",
        "id": exam.exam_id,
        "received": exam.received.isoformat(timespec="seconds"),
        "device": exam.device,
        "models": exam.models,
        "left_out": exam.left_out,
        "pictures": [
            {
                "finding_id": picture.finding_id,
                "view": picture.view,
                "verdict": picture.verdict,
                "probability": picture.probability,
                "unmet": list(picture.unmet),
                "checked": list(picture.checked),
                "by_person": picture.by_person,
            }
            for picture in exam.pictures
        ],
    }

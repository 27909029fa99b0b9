"""Report jobs: build the exam's objects, store them with their deliver jobs, finish."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from qc_daemon.job_runner import JobHandler
from qc_daemon.observe import log
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease
from qc_daemon.records.received import exams, revisions
from qc_daemon.records.received.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.results import rejections, reports
from qc_daemon.records.results.reports import ReportObject, StoredReport
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, ObjectKind
from qc_daemon.report.exam import (
    FrameReader,
    ReportedFinding,
    SourceCache,
    build_report,
    build_summary,
    destinations,
    find_faulty_objects,
    load_findings,
    render_pictures,
    select_key_objects,
    summarise_exam,
)
from qc_daemon.report.omission import Omission, is_final
from qc_daemon.routing import Routes
from qc_daemon.settings import Settings

_log = log.get(role="work")


class ReportHandler(JobHandler):
    """Builds the objects of one exam after another; `frames` decodes, `originals` finds files."""

    kind = JobKind.REPORT
    activity = "reporting"
    failed_event = "report failed"

    def __init__(
        self, settings: Settings, frames: FrameReader, originals: Originals | None = None
    ) -> None:
        self.settings = settings
        self.frames = frames
        self.originals = originals or in_spool(settings.store.spool)

    def run(self, lease: Lease) -> None:
        _report(lease, self.settings, *_with_lease(lease, self.frames, self.originals))


def _with_lease(
    lease: Lease, frames: FrameReader, originals: Originals
) -> tuple[FrameReader, Originals]:
    """Both functions, with a check of the lease first: no file is read once it is lost."""

    def leased_frames(path: Path, numbers: Sequence[int]) -> Iterable[Frame]:
        lease.check()
        return frames(path, numbers)

    def leased_originals(facts: RevisionFacts) -> Path:
        lease.check()
        return originals(facts)

    return leased_frames, leased_originals


def _report(lease: Lease, settings: Settings, frames: FrameReader, originals: Originals) -> None:
    store, job, now = lease.store, lease.job, lease.clock()
    with store.read() as session:
        latest = reports.latest_sr(session, job.exam_id, before=job.revision)
        before = reports.sr_destinations(session, job.exam_id)
        rejected = rejections.of_exam(session, job.exam_id)
        is_published = reports.has_sr(session, job)
    routes = Routes.of(settings)
    if is_published:
        with store.read() as session:
            content = exams.exam_content(session, job.exam_id)
        findings, missing = load_findings(content, originals)
        # The published report contains them; only their pictures are left out.
        undrawn = _final_omissions(missing, findings, job)
    else:
        findings, report = _report_sound_objects(lease, now, latest, originals)
        undrawn = []
        if report is None:
            with store.begin() as session:
                exams.record_no_report(session, job.exam_id, job.revision)
                lease.finish(session)
            _log.warning("nothing to report", job=job.id, exam=job.exam_id)
            return
        # The report is published at once, because drawing its pictures takes as long again. It also
        # goes to the destinations of the report that it amends.
        still_possible = [name for name in before if name in routes.possible(ObjectKind.SR)]
        to = tuple(dict.fromkeys((*destinations(ObjectKind.SR, findings, routes), *still_possible)))
        with store.begin() as session:
            reports.publish(session, job, [report], {ObjectKind.SR: to}, lease.clock())
            lease.renew(session)
    with_summary = bool(destinations(ObjectKind.PDF, findings, routes))
    summary = None
    if with_summary:
        with store.read() as session:
            omissions = exams.omissions(session, job.exam_id)
        codes = [each.code for each in omissions]
        summary = summarise_exam(findings, settings.report, job.revision, now, rejected, codes)
    objects: list[ReportObject] = []
    published = 0
    by_finding = {each.finding_id: each for each in findings}

    def publish(overlays: Sequence[ReportObject]) -> None:
        nonlocal published
        with store.begin() as session:
            for each in overlays:
                # What shows one finding goes where that one sends it.
                to = destinations(each.kind, [by_finding[each.finding_id or 0]], routes)
                reports.publish(session, job, [each], {each.kind: to}, lease.clock())
            lease.renew(session)
        published += len(overlays)

    pictures, failed = render_pictures(
        findings, summary, job.revision, now, frames, routes, settings.report, publish
    )
    has_pictures = bool(published or pictures)
    waiting = [e for e in failed if not is_final(e.error, job, are_others_sound=has_pictures)]
    undrawn += [each for each in failed if each not in waiting]
    if summary is not None and not waiting:
        summary = replace(summary, drawn_images=frozenset(pictures))
        objects.append(build_summary(findings, summary, pictures, settings))
    if destinations(ObjectKind.KEY_OBJECTS, findings, routes):
        selections, unselected = select_key_objects(findings, job.revision, now)
        objects += selections
        undrawn += unselected
    with store.begin() as session:
        moment = lease.clock()
        for report_object in objects:
            kind = report_object.kind
            to = destinations(kind, findings, routes)
            reports.publish(session, job, [report_object], {kind: to}, moment)
        for each in undrawn:
            _note_reason(session, each, moment)
        if not waiting:
            lease.finish(session)
    for each in undrawn:
        _log_omission("picture left out", job, each)
    if waiting:
        raise waiting[0].error
    count = published + len(objects) + 1
    _log.info("reported", job=job.id, findings=len(findings), objects=count)


def _report_sound_objects(
    lease: Lease, now: datetime, latest: StoredReport | None, originals: Originals
) -> tuple[list[ReportedFinding], ReportObject | None]:
    """The findings that can be reported, and their report; None without findings.

    Each object that cannot be reported is quarantined with its reason, and an earlier content of
    it, if there is one, reported in its place. Raises QCError for what may pass.
    """
    store, job = lease.store, lease.job
    sources: SourceCache = {}
    has_omissions = False
    while True:
        with store.read() as session:
            content = exams.exam_content(session, job.exam_id)
        findings, missing = load_findings(content, originals, sources)
        omissions = _final_omissions(missing, findings, job)
        report = None
        if not omissions and findings:
            try:
                report = build_report(findings, job.revision, now, latest, content.measured)
            except QCError:
                omissions = find_faulty_objects(findings, content, job.revision, now)
                if not omissions:
                    raise
        if not omissions:
            break
        has_omissions = True
        _omit(store, job, omissions, now)
    if has_omissions:
        with store.begin() as session:
            exams.record_content(session, job.exam_id, job.revision, content.fingerprint)
    return findings, report


_FILE_GONE = (ErrorCode.SPOOL_MISSING, ErrorCode.SPOOL_DAMAGED)


def _final_omissions(
    missing: Sequence[Omission], findings: Sequence[ReportedFinding], job: Job
) -> list[Omission]:
    """The omissions to report without; raises the error of one that is worth waiting for."""
    final = []
    for each in missing:
        # A file that is gone while others are there does not come back by waiting.
        is_file_gone = each.error.code in _FILE_GONE and bool(findings)
        if not is_file_gone and not is_final(each.error, job, are_others_sound=bool(findings)):
            raise each.error
        final.append(each)
    return final


def _note_reason(session: Session, omission: Omission, now: datetime) -> None:
    error = omission.error
    revisions.record_missing_overlay(
        session, omission.facts.revision_id, error.code, error.message, now
    )


def _omit(store: Store, job: Job, omissions: Iterable[Omission], now: datetime) -> None:
    with store.begin() as session:
        for each in omissions:
            error = each.error
            revisions.quarantine_scored(
                session, each.facts.revision_id, error.code, error.message, now
            )
    for each in omissions:
        _log_omission("left out of the report", job, each)


def _log_omission(event: str, job: Job, omission: Omission) -> None:
    _log.warning(
        event,
        job=job.id,
        exam=job.exam_id,
        sop_instance=omission.facts.sop_instance_uid,
        code=omission.error.code.value,
        reason=omission.error.message,
    )

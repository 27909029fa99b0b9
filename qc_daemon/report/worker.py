"""Report jobs: claim one, build the exam's objects, store them with their deliver jobs, finish."""

import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease, LeaseLostError
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import exams, revisions
from qc_daemon.records.received.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.results import rejections, reports
from qc_daemon.records.results.reports import ReportObject, StoredReport
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState, ObjectKind
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

log = structlog.get_logger(__name__)


def run_one(
    store: Store,
    settings: Settings,
    owner: str,
    frames: FrameReader,
    originals: Originals | None = None,
    clock: Clock = utc_now,
    stop: threading.Event | None = None,
) -> bool:
    """Do one due report job; False if there is none. Raises QCError STORAGE.

    `stop` ends the wait for a database that is away.
    """
    originals = originals or in_spool(settings.store.spool)
    with store.begin() as session:
        job = jobs.claim(
            session,
            [JobKind.REPORT],
            owner,
            clock(),
            settings.jobs.lease_seconds,
            settings.jobs.max_deaths,
        )
    if job is None:
        return False
    with Lease(store, job, settings.jobs.lease_seconds, clock) as lease:
        try:
            _report(lease, settings, *_with_lease(lease, frames, originals))
        except LeaseLostError:
            log.warning("lease lost", job=job.id, kind=job.kind.value)
        except Exception as error:
            # Whatever a header or a library threw concerns this job only; the queue must go on.
            _fail(lease, settings, failure_of(error, "reporting"), stop)
    return True


def _with_lease(
    lease: Lease, frames: FrameReader, originals: Originals
) -> tuple[FrameReader, Originals]:
    """Both, checking the lease first: no file is read once it is lost."""

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
            log.warning("nothing to report", job=job.id, exam=job.exam_id)
            return
        # The report goes out at once: to draw its pictures takes as long again.
        # Whoever has the report that this one amends must not stay with it.
        known = [name for name in before if name in routes.possible(ObjectKind.SR)]
        to = tuple(dict.fromkeys((*destinations(ObjectKind.SR, findings, routes), *known)))
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
    any_drawn = bool(published or pictures)
    waiting = [e for e in failed if not is_final(e.error, job, are_others_sound=any_drawn)]
    undrawn += [each for each in failed if each not in waiting]
    if summary is not None and not waiting:
        summary = replace(summary, drawn=frozenset(pictures))
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
    log.info("reported", job=job.id, findings=len(findings), objects=count)


def _report_sound_objects(
    lease: Lease, now: datetime, latest: StoredReport | None, originals: Originals
) -> tuple[list[ReportedFinding], ReportObject | None]:
    """The findings that can be reported, and their report; None without findings.

    Each object that cannot be reported is quarantined with its reason, and an earlier content of
    it, if there is one, reported in its place. Raises QCError for what may pass.
    """
    store, job = lease.store, lease.job
    sources: SourceCache = {}
    are_left_out = False
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
        are_left_out = True
        _leave_out(store, job, omissions, now)
    if are_left_out:
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
        is_gone = each.error.code in _FILE_GONE and bool(findings)
        if not is_gone and not is_final(each.error, job, are_others_sound=bool(findings)):
            raise each.error
        final.append(each)
    return final


def _note_reason(session: Session, omission: Omission, now: datetime) -> None:
    error = omission.error
    revisions.note_reason(session, omission.facts.revision_id, error.code, error.message, now)


def _leave_out(store: Store, job: Job, omissions: Iterable[Omission], now: datetime) -> None:
    with store.begin() as session:
        for each in omissions:
            error = each.error
            revisions.leave_out(session, each.facts.revision_id, error.code, error.message, now)
    for each in omissions:
        _log_omission("left out of the report", job, each)


def _log_omission(event: str, job: Job, omission: Omission) -> None:
    log.warning(
        event,
        job=job.id,
        exam=job.exam_id,
        sop_instance=omission.facts.sop_instance_uid,
        code=omission.error.code.value,
        reason=omission.error.message,
    )


def _fail(lease: Lease, settings: Settings, error: QCError, stop: threading.Event | None) -> None:
    policy = RetryPolicy.of(settings.jobs)

    def write(session: Session) -> JobState | None:
        # Jitter only spreads load; it guards nothing.
        return jobs.fail(session, lease.job, error, lease.clock(), policy, random.Random())

    state = lease.settle(write, stop)
    log.warning(
        "report failed", job=lease.job.id, code=error.code.value, reason=error.message, state=state
    )

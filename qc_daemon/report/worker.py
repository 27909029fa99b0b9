"""Report jobs: claim one, build the exam's objects, store them with their deliver jobs, finish."""

import random
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import groupby
from pathlib import Path

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from sqlalchemy.orm import Session

from detector.codes import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels
from detector.vocabulary import View
from model.finding import Finding
from qc_daemon.records import exams, jobs, rejections, reports
from qc_daemon.records.exams import ScoredFinding
from qc_daemon.records.failures import failure_of
from qc_daemon.records.jobs import RetryPolicy
from qc_daemon.records.leases import Clock, Lease, LeaseLostError, utc_now
from qc_daemon.records.measurements import MeasuredReport
from qc_daemon.records.reports import ReportObject, StoredReport
from qc_daemon.records.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState, ObjectKind
from qc_daemon.report.biometry import MachineReport, MachineValue
from qc_daemon.report.encapsulated import build_pdf
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.key_objects import build_key_objects
from qc_daemon.report.overlay import build_overlay, render_frame
from qc_daemon.report.page import compose
from qc_daemon.report.pdf import summary_pdf
from qc_daemon.report.source import Source
from qc_daemon.report.sr import Reference, build_sr
from qc_daemon.report.summary import Key, Shot, Summary, rank, summarise
from qc_daemon.routing import Routes, Traits
from qc_daemon.settings import ReportSettings, Settings

log = structlog.get_logger(__name__)

FrameReader = Callable[[Path, Sequence[int]], Iterable[Frame]]
"""Decodes these frames (from 1) of the file at the path; raises QCError."""


@dataclass(frozen=True, slots=True)
class Told:
    """A stored finding as a report tells it, with its source and the file that holds its pixels."""

    finding: Finding
    finding_id: int
    source: Source
    path: Path
    calling_ae: str = ""

    @property
    def shot(self) -> Shot:
        """It as a summary takes it."""
        return Shot(self.source, self.finding)

    @property
    def traits(self) -> Traits:
        """What routing rules can ask of it."""
        return Traits(
            self.calling_ae,
            self.source.station_name,
            self.source.study_description,
            self.finding.judgement.view,
            self.finding.judgement.quality,
        )


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
            _report(lease, settings, *_leased(lease, frames, originals))
        except LeaseLostError:
            log.warning("lease lost", job=job.id, kind=job.kind.value)
        except Exception as error:
            # Whatever a header or a library threw concerns this job only; the queue must go on.
            _fail(lease, settings, failure_of(error, "reporting"), stop)
    return True


def _leased(
    lease: Lease, frames: FrameReader, originals: Originals
) -> tuple[FrameReader, Originals]:
    """Both, so that no further file is read once the lease is lost."""

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
        content = exams.exam_content(session, job.exam_id)
        latest = reports.latest_sr(session, job.exam_id, before=job.revision)
        before = reports.sr_destinations(session, job.exam_id)
        rejected = rejections.of_exam(session, job.exam_id)
        is_out = reports.has_sr(session, job)
    routes = Routes.of(settings)
    told = told_of(content.findings, originals)
    if not is_out:
        # The report goes out at once: to draw its pictures takes as long again.
        report = _sr(told, job.revision, now, latest, content.measured)
        # Whoever has the report that this one amends must not stay with it.
        known = [name for name in before if name in routes.possible(ObjectKind.SR)]
        to = tuple(dict.fromkeys((*_to(ObjectKind.SR, told, routes), *known)))
        with store.begin() as session:
            reports.publish(session, job, [report], {ObjectKind.SR: to}, lease.clock())
            lease.renew(session)
    with_summary = bool(_to(ObjectKind.PDF, told, routes))
    summary = (
        summary_of(told, settings.report, job.revision, now, rejected) if with_summary else None
    )
    objects, pictures = drawn(told, summary, job.revision, now, frames, routes, settings.report)
    if summary is not None:
        objects.append(_pdf(told, summary, pictures, settings.report.language))
    if _to(ObjectKind.KEY_OBJECTS, told, routes):
        objects += _key_objects(told, job.revision, now)
    with store.begin() as session:
        published = lease.clock()
        for made in objects:
            # What shows one finding goes where that one sends it.
            shows = [each for each in told if made.finding_id in (None, each.finding_id)]
            reports.publish(
                session, job, [made], {made.kind: _to(made.kind, shows, routes)}, published
            )
        lease.finish(session)
    log.info("reported", job=job.id, findings=len(told), objects=len(objects) + 1)


def _to(kind: ObjectKind, told: Iterable[Told], routes: Routes) -> tuple[str, ...]:
    """The destinations of an object that tells of these findings."""
    return routes.route(kind, [each.traits for each in told]).to


def shown(told: Iterable[Told]) -> list[Told]:
    """The findings of one instance worth an overlay: the best of each view.

    Best is the most probably standard, then the surest view. Frames of no assessed view are shown
    only where there is nothing else.
    """
    best: dict[View, Told] = {}
    for each in told:
        view = each.finding.judgement.view
        if view not in best or rank(each.finding) > rank(best[view].finding):
            best[view] = each
    assessed = [each for view, each in best.items() if view is not View.OTHER]
    return sorted(assessed or best.values(), key=lambda each: each.finding.frame)


def told_of(findings: Iterable[ScoredFinding], originals: Originals) -> list[Told]:
    """Each finding with the source it is told of; raises QCError if a file cannot be read."""
    sources: dict[int, tuple[Source, Path]] = {}
    told = []
    for scored in findings:
        facts = scored.revision
        if facts.revision_id not in sources:
            path = originals(facts)
            sources[facts.revision_id] = (Source.of(header_of(path), facts.sha256), path)
        source, path = sources[facts.revision_id]
        finding = as_told(Finding.from_json(scored.finding), source)
        told.append(Told(finding, scored.finding_id, source, path, facts.calling_ae))
    # As they were taken, as far as the headers say it.
    return sorted(told, key=lambda each: (*each.source.place, each.source.sop_instance_uid))


def header_of(path: Path) -> Dataset:
    """A received file's header. Raises QCError: SPOOL_MISSING, UNREADABLE."""
    try:
        return dcmread(path, stop_before_pixels=True, force=True)
    except FileNotFoundError:
        raise QCError(ErrorCode.SPOOL_MISSING, "the received file is gone from the spool") from None
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise QCError(ErrorCode.UNREADABLE, "the received file cannot be read again") from error


def as_told(finding: Finding, source: Source) -> Finding:
    """The finding under the UIDs of the header it is told of, flagged if that lost values."""
    judgement = finding.judgement
    if source.lost and Flag.HEADER_NORMALISED not in judgement.flags:
        judgement = replace(judgement, flags=(*judgement.flags, Flag.HEADER_NORMALISED))
    return replace(
        finding,
        judgement=judgement,
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=source.series_instance_uid,
        sop_instance_uid=source.sop_instance_uid,
    )


def _sr(
    told: Sequence[Told],
    revision: int,
    now: datetime,
    latest: StoredReport | None,
    measured: Iterable[MeasuredReport],
) -> ReportObject:
    report = build_sr(
        _sources(told),
        [each.finding for each in told],
        revision=revision,
        created=now,
        previous=[] if latest is None else [_reference(latest)],
        measured=[_machine_report(each) for each in measured],
    )
    return _object(ObjectKind.SR, report, None)


def _machine_report(measured: MeasuredReport) -> MachineReport:
    facts = measured.revision
    reference = Reference(
        facts.study_instance_uid,
        facts.series_instance_uid,
        facts.sop_class_uid,
        facts.sop_instance_uid,
    )
    values = (MachineValue(v.fetus, v.concept, v.value, v.unit) for v in measured.values)
    return MachineReport(reference, tuple(values), facts.sha256)


def _key_objects(told: Sequence[Told], revision: int, now: datetime) -> Iterator[ReportObject]:
    # A cine with one good frame needs no attention for its others.
    telling = [each for _, of_instance in _by_instance(told) for each in shown(of_instance)]
    findings = [each.finding for each in telling]
    for selection in build_key_objects(_sources(told), findings, revision=revision, created=now):
        yield _object(ObjectKind.KEY_OBJECTS, selection, None)


def _by_instance(told: Iterable[Told]) -> Iterator[tuple[Path, list[Told]]]:
    for path, of_instance in groupby(told, key=lambda each: each.path):
        yield path, list(of_instance)


def _sources(told: Iterable[Told]) -> list[Source]:
    """One an instance, in the findings' order."""
    return list({each.source.sop_instance_uid: each.source for each in told}.values())


def _reference(latest: StoredReport) -> Reference:
    header = dcmread(
        BytesIO(latest.payload), specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]
    )
    return Reference(
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        sop_class_uid=latest.sop_class_uid,
        sop_instance_uid=latest.sop_instance_uid,
    )


def drawn(
    told: Sequence[Told],
    summary: Summary | None,
    revision: int,
    now: datetime,
    frames: FrameReader,
    routes: Routes,
    settings: ReportSettings,
) -> tuple[list[ReportObject], dict[Key, Pixels]]:
    """The overlays, and the pictures that the summary shows; each frame is decoded once."""
    overlays: list[ReportObject] = []
    pictures: dict[Key, Pixels] = {}
    for path, of_instance in _by_instance(told):
        chosen = [each for each in shown(of_instance) if _to(ObjectKind.OVERLAY, [each], routes)]
        best = [] if summary is None else [e for e in of_instance if summary.shows(e.shot)]
        numbers = sorted({each.finding.frame for each in (*chosen, *best)})
        pixels = {f.number: f.pixels for f in frames(path, numbers)} if numbers else {}
        for each in chosen:
            overlay = build_overlay(
                each.source,
                pixels[each.finding.frame],
                each.finding,
                revision=revision,
                created=now,
                language=settings.language,
            )
            overlays.append(_object(ObjectKind.OVERLAY, overlay, each.finding_id))
        for each in best:
            pictures[each.shot.key] = render_frame(pixels[each.finding.frame], each.finding)
    return overlays, pictures


def summary_of(
    told: Sequence[Told],
    settings: ReportSettings,
    revision: int,
    now: datetime,
    rejected: Collection[str],
) -> Summary:
    """The exam at a glance."""
    expected = [View(name) for name in settings.views]
    return summarise(
        [each.shot for each in told], expected, revision=revision, created=now, rejected=rejected
    )


def _pdf(
    told: Sequence[Told],
    summary: Summary,
    pictures: Mapping[Key, Pixels],
    language: str,
) -> ReportObject:
    page = compose(summary, language)
    made = build_pdf(
        _sources(told),
        [each.finding for each in told],
        summary_pdf(page, pictures, summary.created),
        page.title,
        revision=summary.revision,
        created=summary.created,
    )
    return _object(ObjectKind.PDF, made, None)


def _object(kind: ObjectKind, dataset: Dataset, finding_id: int | None) -> ReportObject:
    return ReportObject(
        kind=kind,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        payload=to_bytes(dataset),
        finding_id=finding_id,
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

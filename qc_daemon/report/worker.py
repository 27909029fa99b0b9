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
from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels
from model.finding import Finding
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job, RetryPolicy
from qc_daemon.records.queue.leases import Clock, Lease, LeaseLostError, utc_now
from qc_daemon.records.received import exams, revisions
from qc_daemon.records.received.exams import ExamContent
from qc_daemon.records.received.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.results import rejections, reports
from qc_daemon.records.results.measurements import MeasuredReport
from qc_daemon.records.results.reports import ReportObject, StoredReport
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState, ObjectKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.encapsulated_pdf import build_pdf
from qc_daemon.report.objects.key_objects import build_key_objects
from qc_daemon.report.objects.overlay import build_overlay, render_frame
from qc_daemon.report.omission import Omission, check_identity, find_faults, is_final
from qc_daemon.report.source import Source
from qc_daemon.report.source_file import read_header
from qc_daemon.report.sr.biometry import MachineReport, MachineValue
from qc_daemon.report.sr.document import Reference, build_sr
from qc_daemon.report.summary.pdf import summary_pdf
from qc_daemon.report.summary.summary import Key, Shot, Summary, rank, summarise
from qc_daemon.report.summary.text import compose
from qc_daemon.routing import Routes, Traits
from qc_daemon.settings import ReportSettings, Settings
from qc_daemon.spool.verification import content_hash, verified

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
    facts: RevisionFacts | None = None

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
        latest = reports.latest_sr(session, job.exam_id, before=job.revision)
        before = reports.sr_destinations(session, job.exam_id)
        rejected = rejections.of_exam(session, job.exam_id)
        is_out = reports.has_sr(session, job)
    routes = Routes.of(settings)
    if is_out:
        with store.read() as session:
            content = exams.exam_content(session, job.exam_id)
        told, missing = load_findings(content, originals)
        # The report that is out tells of them; only their pictures are left out.
        undrawn = _final(missing, told, job)
    else:
        told, report = _sr_of_the_sound(lease, now, latest, originals)
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
        to = tuple(dict.fromkeys((*_to(ObjectKind.SR, told, routes), *known)))
        with store.begin() as session:
            reports.publish(session, job, [report], {ObjectKind.SR: to}, lease.clock())
            lease.renew(session)
    with_summary = bool(_to(ObjectKind.PDF, told, routes))
    summary = None
    if with_summary:
        with store.read() as session:
            omissions = exams.omissions(session, job.exam_id)
        codes = [each.code for each in omissions]
        summary = summary_of(told, settings.report, job.revision, now, rejected, codes)
    objects: list[ReportObject] = []
    published = 0
    by_finding = {each.finding_id: each for each in told}

    def publish(overlays: Sequence[ReportObject]) -> None:
        nonlocal published
        with store.begin() as session:
            for made in overlays:
                # What shows one finding goes where that one sends it.
                to = _to(made.kind, [by_finding[made.finding_id or 0]], routes)
                reports.publish(session, job, [made], {made.kind: to}, lease.clock())
            lease.renew(session)
        published += len(overlays)

    pictures, failed = drawn(
        told, summary, job.revision, now, frames, routes, settings.report, publish
    )
    any_drawn = bool(published or pictures)
    waiting = [e for e in failed if not is_final(e.error, job, are_others_sound=any_drawn)]
    undrawn += [each for each in failed if each not in waiting]
    if summary is not None and not waiting:
        summary = replace(summary, drawn=frozenset(pictures))
        objects.append(_pdf(told, summary, pictures, settings))
    if _to(ObjectKind.KEY_OBJECTS, told, routes):
        selections, unselected = _key_objects_of_the_sound(told, job.revision, now)
        objects += selections
        undrawn += unselected
    with store.begin() as session:
        moment = lease.clock()
        for made in objects:
            reports.publish(session, job, [made], {made.kind: _to(made.kind, told, routes)}, moment)
        for each in undrawn:
            _note_reason(session, each, moment)
        if not waiting:
            lease.finish(session)
    for each in undrawn:
        _log_omission("picture left out", job, each)
    if waiting:
        raise waiting[0].error
    count = published + len(objects) + 1
    log.info("reported", job=job.id, findings=len(told), objects=count)


def _sr_of_the_sound(
    lease: Lease, now: datetime, latest: StoredReport | None, originals: Originals
) -> tuple[list[Told], ReportObject | None]:
    """The report without the objects that cannot be told of, and what it tells; None if nothing is
    left. Each of those objects is quarantined with its reason, and an earlier content of it, if
    there is one, told in its place. Raises QCError for what may pass.
    """
    store, job = lease.store, lease.job
    sources: Sources = {}
    are_left_out = False
    while True:
        with store.read() as session:
            content = exams.exam_content(session, job.exam_id)
        told, missing = load_findings(content, originals, sources)
        omissions = _final(missing, told, job)
        report = None
        if not omissions and told:
            try:
                report = _sr(told, job.revision, now, latest, content.measured)
            except QCError:
                omissions = _refused(told, content, job.revision, now)
                if not omissions:
                    raise
        if not omissions:
            break
        are_left_out = True
        _leave_out(store, job, omissions, now)
    if are_left_out:
        with store.begin() as session:
            exams.record_content(session, job.exam_id, job.revision, content.fingerprint)
    return told, report


_LOST = (ErrorCode.SPOOL_MISSING, ErrorCode.SPOOL_DAMAGED)


def _final(missing: Sequence[Omission], told: Sequence[Told], job: Job) -> list[Omission]:
    """What to go on without; raises the error of what is worth waiting for."""
    final = []
    for each in missing:
        # A file that is gone while others are there does not come back by waiting.
        is_gone = each.error.code in _LOST and bool(told)
        if not is_gone and not is_final(each.error, job, are_others_sound=bool(told)):
            raise each.error
        final.append(each)
    return final


def _refused(
    told: Sequence[Told], content: ExamContent, revision: int, now: datetime
) -> list[Omission]:
    """The objects whose findings or measurements make the report invalid."""
    instances = [of_instance for _, of_instance in _by_instance(told)]

    def of_findings(parts: Sequence[Sequence[Told]]) -> object:
        return _sr([each for part in parts for each in part], revision, now, None, ())

    refused = find_faults(instances, of_findings)
    if len(refused) == len(instances) and refused[0][1].code is ErrorCode.INTERNAL:
        # No object's fault: it fails with each of them.
        return []
    omissions = [Omission(_facts(part[0]), error) for part, error in refused]
    faulty = {each.facts.revision_id for each in omissions}
    sound = [each for each in told if _facts(each).revision_id not in faulty]
    if sound and content.measured:

        def of_measured(parts: Sequence[MeasuredReport]) -> object:
            return _sr(sound, revision, now, None, parts)

        for machine, error in find_faults(content.measured, of_measured):
            omissions.append(Omission(machine.revision, error))
    return omissions


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


def _facts(told: Told) -> RevisionFacts:
    """What is stored of a finding's source; each that was loaded from the store has it."""
    if told.facts is None:
        raise LookupError("a finding that is not in the store")
    return told.facts


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


Sources = dict[int, tuple[Source, Path] | Omission]
"""What was read of each content, by revision id."""


def load_findings(
    content: ExamContent, originals: Originals, sources: Sources | None = None
) -> tuple[list[Told], list[Omission]]:
    """Each finding with the source it is told of, in the order the pictures were taken; and the
    contents whose file or header does not let them be told of.

    `sources` remembers what was read from one call to the next.
    """
    sources = {} if sources is None else sources
    told, omissions = [], {}
    flags = (Flag.OTHER_PATIENT_IN_STUDY,) if content.other_patients else ()
    for scored in content.findings:
        facts = scored.revision
        if facts.revision_id not in sources:
            sources[facts.revision_id] = _load_source(facts, originals)
        loaded = sources[facts.revision_id]
        if isinstance(loaded, Omission):
            omissions[facts.revision_id] = loaded
            continue
        source, path = loaded
        try:
            finding = as_told(Finding.from_json(scored.finding), source, flags)
        except (ValueError, TypeError, LookupError) as error:
            omissions[facts.revision_id] = Omission(facts, _invalid(error))
            continue
        told.append(Told(finding, scored.finding_id, source, path, facts.calling_ae, facts))
    # As they were taken, as far as the headers say it.
    told = [each for each in told if _facts(each).revision_id not in omissions]
    told.sort(key=lambda each: (*each.source.place, each.source.sop_instance_uid))
    return told, list(omissions.values())


def _load_source(facts: RevisionFacts, originals: Originals) -> tuple[Source, Path] | Omission:
    try:
        path = originals(facts)
        # What was altered since it was found is not told of.
        with verified(path, content_hash(path, facts.sha256)) as same:
            source = _source(facts, same)
    except QCError as error:
        return Omission(facts, error)
    return source, path


def _source(facts: RevisionFacts, path: Path) -> Source:
    """Raises QCError."""
    try:
        source = Source.of(read_header(path), facts.sha256)
        check_identity(source, facts)
    except MemoryError:
        raise
    except Exception as error:
        # Whatever a header makes the parser raise concerns this object only.
        raise _invalid(error) from error
    return source


def _invalid(error: Exception) -> QCError:
    """Names the type only: a message may quote element values."""
    if isinstance(error, QCError):
        return error
    return QCError(ErrorCode.REPORT_INVALID, f"{type(error).__name__} while reading it again")


def as_told(finding: Finding, source: Source, flags: Iterable[Flag] = ()) -> Finding:
    """The finding under the UIDs of the header it is told of, with these flags, and flagged if that
    header lost values."""
    judgement = finding.judgement
    flags = (*flags, Flag.HEADER_NORMALISED) if source.lost else flags
    judgement = replace(judgement, flags=tuple(dict.fromkeys((*judgement.flags, *flags))))
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
    """Raises QCError REPORT_INVALID."""
    try:
        report = build_sr(
            _sources(told),
            [each.finding for each in told],
            revision=revision,
            created=now,
            previous=[] if latest is None else [_reference(latest)],
            measured=[_machine_report(each) for each in measured],
        )
        return _object(ObjectKind.SR, report, None)
    except MemoryError:
        raise
    except Exception as error:
        raise failure_of(error, "reporting") from error


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


def _key_objects_of_the_sound(
    told: Sequence[Told], revision: int, now: datetime
) -> tuple[list[ReportObject], list[Omission]]:
    """The selections without the objects that cannot be selected, and these. Raises QCError."""

    def of_instances(parts: Sequence[Sequence[Told]]) -> list[ReportObject]:
        return list(_key_objects([each for part in parts for each in part], revision, now))

    instances = [of_instance for _, of_instance in _by_instance(told)]
    try:
        return of_instances(instances), []
    except QCError:
        refused = find_faults(instances, of_instances)
        if not refused:
            raise
    faulty = {_facts(part[0]).revision_id for part, _ in refused}
    sound = of_instances([p for p in instances if _facts(p[0]).revision_id not in faulty])
    return sound, [Omission(_facts(part[0]), error) for part, error in refused]


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


_PORTION_BYTES = 32 << 20


def drawn(
    told: Sequence[Told],
    summary: Summary | None,
    revision: int,
    now: datetime,
    frames: FrameReader,
    routes: Routes,
    settings: ReportSettings,
    publish: Callable[[Sequence[ReportObject]], None] = lambda _overlays: None,
) -> tuple[dict[Key, Pixels], list[Omission]]:
    """The pictures that the summary shows, and the contents that cannot be drawn; each frame is
    decoded once.

    Overlays are given to `publish` in portions of some megabytes: those of a large exam would not
    fit into memory together, nor into one transaction.
    """
    portion: list[ReportObject] = []
    pictures: dict[Key, Pixels] = {}
    failed: list[Omission] = []
    for path, of_instance in _by_instance(told):
        chosen = [each for each in shown(of_instance) if _to(ObjectKind.OVERLAY, [each], routes)]
        best = [] if summary is None else [e for e in of_instance if summary.shows(e.shot)]
        try:
            pixels = _decode(path, [*chosen, *best], frames)
            for each in best:
                pictures[each.shot.key] = render_frame(pixels[each.finding.frame], each.finding)
            overlays = []
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
        except (LeaseLostError, MemoryError):
            raise
        except Exception as error:
            # Whatever a decoder or an image makes a library raise concerns this object only.
            failed.append(Omission(_facts(of_instance[0]), failure_of(error, "drawing")))
            continue
        portion += overlays
        if sum(len(each.payload) for each in portion) >= _PORTION_BYTES:
            publish(portion)
            portion = []
    if portion:
        publish(portion)
    return pictures, failed


def _decode(path: Path, wanted: Iterable[Told], frames: FrameReader) -> dict[int, Pixels]:
    """The pixels of these findings' frames, by number. Raises QCError."""
    numbers = sorted({each.finding.frame for each in wanted})
    if not numbers:
        return {}
    pixels = {frame.number: frame.pixels for frame in frames(path, numbers)}
    if not pixels.keys() >= set(numbers):
        raise QCError(ErrorCode.DECODE_FAILED, "a frame that was scored cannot be decoded again")
    return pixels


def summary_of(
    told: Sequence[Told],
    settings: ReportSettings,
    revision: int,
    now: datetime,
    rejected: Collection[str],
    omitted: Iterable[str] = (),
) -> Summary:
    """The exam at a glance; `omitted` are the error codes of the objects left out."""
    expected = [View(name) for name in settings.views]
    return summarise(
        [each.shot for each in told],
        expected,
        revision=revision,
        created=now,
        rejected=rejected,
        omitted=omitted,
    )


def _pdf(
    told: Sequence[Told],
    summary: Summary,
    pictures: Mapping[Key, Pixels],
    settings: Settings,
) -> ReportObject:
    page = compose(summary, settings.report.language, settings.schedule.zone)
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

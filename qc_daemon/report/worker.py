"""Report jobs: claim one, build the exam's objects, store them with their deliver jobs, finish."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from detector.codes import ErrorCode, Flag, QCError
from detector.frame import Frame
from detector.vocabulary import View
from model.finding import Finding
from qc_daemon.records import exams, jobs, reports
from qc_daemon.records.exams import ScoredFinding
from qc_daemon.records.jobs import Job, RetryPolicy
from qc_daemon.records.reports import ReportObject, StoredReport
from qc_daemon.records.revisions import Originals, in_spool
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, ObjectKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.overlay import build_overlay
from qc_daemon.report.source import Source
from qc_daemon.report.sr import Reference, build_sr
from qc_daemon.settings import Settings

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


class LeaseLostError(Exception):
    """Another worker has the job; what was made here is dropped."""


def run_one(
    store: Store,
    settings: Settings,
    owner: str,
    now: datetime,
    frames: FrameReader,
    originals: Originals | None = None,
) -> bool:
    """Do one due report job; False if there is none."""
    originals = originals or in_spool(settings.store.spool)
    with store.begin() as session:
        job = jobs.claim(
            session,
            [JobKind.REPORT],
            owner,
            now,
            settings.jobs.lease_seconds,
            settings.jobs.max_deaths,
        )
    if job is None:
        return False
    try:
        _report(store, settings, job, now, frames, originals)
    except LeaseLostError:
        log.warning("lease lost", job=job.id, kind=job.kind.value)
    except QCError as error:
        _fail(store, settings, job, error, now)
    except Exception as error:
        # Whatever a header or a library threw concerns this job only; the queue must go on.
        failure = QCError(ErrorCode.INTERNAL, f"{type(error).__name__} while reporting")
        _fail(store, settings, job, failure, now)
    return True


def _report(
    store: Store,
    settings: Settings,
    job: Job,
    now: datetime,
    frames: FrameReader,
    originals: Originals,
) -> None:
    with store.read() as session:
        content = exams.exam_content(session, job.exam_id)
        latest = reports.latest_sr(session, job.exam_id)
    wanted = destinations(settings)
    told = _told(content.findings, originals)
    objects = [_sr(told, job.revision, now, latest)]
    if wanted.get(ObjectKind.OVERLAY):
        objects += _overlays(told, job.revision, now, frames)
    with store.begin() as session:
        reports.publish(session, job, objects, wanted, now)
        if not jobs.finish(session, job, now):
            raise LeaseLostError
    log.info("reported", job=job.id, findings=len(told), objects=len(objects))


def destinations(settings: Settings) -> dict[str, list[str]]:
    """For each kind of object, the names of the destinations that want it."""
    wanted: dict[str, list[str]] = {}
    for destination in settings.destination:
        for kind in destination.objects:
            wanted.setdefault(kind, []).append(destination.name)
    return wanted


def shown(told: Iterable[Told]) -> list[Told]:
    """The findings of one instance worth an overlay: the best of each view.

    Best is the most probably standard, then the surest view. Frames of no assessed view are shown
    only where there is nothing else.
    """
    best: dict[View, Told] = {}
    for each in told:
        view = each.finding.judgement.view
        if view not in best or _rank(each) > _rank(best[view]):
            best[view] = each
    assessed = [each for view, each in best.items() if view is not View.OTHER]
    return sorted(assessed or best.values(), key=lambda each: each.finding.frame)


def _rank(told: Told) -> tuple[float, float]:
    judgement = told.finding.judgement
    probability = -1.0 if judgement.probability is None else judgement.probability
    return (probability, judgement.view_probability)


def _told(findings: Iterable[ScoredFinding], originals: Originals) -> list[Told]:
    sources: dict[int, tuple[Source, Path]] = {}
    told = []
    for scored in findings:
        facts = scored.revision
        if facts.revision_id not in sources:
            path = originals(facts)
            sources[facts.revision_id] = (Source.of(_header(path), facts.sha256), path)
        source, path = sources[facts.revision_id]
        told.append(Told(_as_told(scored.finding, source), scored.finding_id, source, path))
    return told


def _header(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True, force=True)
    except FileNotFoundError:
        raise QCError(ErrorCode.SPOOL_MISSING, "the received file is gone from the spool") from None
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise QCError(ErrorCode.UNREADABLE, "the received file cannot be read again") from error


def _as_told(stored: dict[str, Any], source: Source) -> Finding:
    """The finding under the UIDs of the header it is told of, flagged if that lost values."""
    finding = Finding.from_json(stored)
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
    told: Sequence[Told], revision: int, now: datetime, latest: StoredReport | None
) -> ReportObject:
    # One source an instance, in the findings' order.
    sources = {each.source.sop_instance_uid: each.source for each in told}
    report = build_sr(
        list(sources.values()),
        [each.finding for each in told],
        revision=revision,
        created=now,
        previous=[] if latest is None else [_reference(latest)],
    )
    return _object(ObjectKind.SR, report, None)


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


def _overlays(
    told: Iterable[Told], revision: int, now: datetime, frames: FrameReader
) -> Iterator[ReportObject]:
    for path, of_instance in groupby(told, key=lambda each: each.path):
        chosen = shown(of_instance)
        numbers = sorted({each.finding.frame for each in chosen})
        pixels = {frame.number: frame.pixels for frame in frames(path, numbers)}
        for each in chosen:
            overlay = build_overlay(
                each.source,
                pixels[each.finding.frame],
                each.finding,
                revision=revision,
                created=now,
            )
            yield _object(ObjectKind.OVERLAY, overlay, each.finding_id)


def _object(kind: ObjectKind, dataset: Dataset, finding_id: int | None) -> ReportObject:
    return ReportObject(
        kind=kind,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        payload=to_bytes(dataset),
        finding_id=finding_id,
    )


def _fail(store: Store, settings: Settings, job: Job, error: QCError, now: datetime) -> None:
    policy = RetryPolicy.of(settings.jobs)
    with store.begin() as session:
        # Jitter only spreads load; it guards nothing.
        state = jobs.fail(session, job, error, now, policy, random.Random())
    log.warning(
        "report failed", job=job.id, code=error.code.value, reason=error.message, state=state
    )

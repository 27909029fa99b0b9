"""Composes the objects of an exam's report: structured report, overlays, key objects, summary."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import groupby
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.anatomy import View
from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels
from model.finding import Finding
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue.leases import LeaseLostError
from qc_daemon.records.received.exams import ExamContent
from qc_daemon.records.received.revisions import Originals, RevisionFacts
from qc_daemon.records.results.measurements import MeasuredReport
from qc_daemon.records.results.reports import ReportObject, StoredReport
from qc_daemon.records.tables import ObjectKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.encapsulated_pdf import build_pdf
from qc_daemon.report.objects.key_objects import build_key_objects
from qc_daemon.report.objects.overlay import build_overlay, render_frame
from qc_daemon.report.omission import Omission, check_identity, find_faults
from qc_daemon.report.person_verdict import apply_review, review_rank
from qc_daemon.report.source import InstanceReference, SourceInstance
from qc_daemon.report.source_file import read_header
from qc_daemon.report.sr.biometry import MachineReport, MachineValue
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.summary.pdf import summary_pdf
from qc_daemon.report.summary.summary import ExamSummary, ImageKey, SummaryImage, summarise
from qc_daemon.report.summary.text import compose_page
from qc_daemon.review.state import ReviewState
from qc_daemon.routing import Routes, Traits
from qc_daemon.settings import ReportSettings, Settings
from qc_daemon.spool.verification import content_hash, open_verified

FrameReader = Callable[[Path, Sequence[int]], Iterable[Frame]]
"""Decodes these frames (from 1) of the file at the path; raises QCError."""


@dataclass(frozen=True, slots=True)
class ReportedFinding:
    """A stored finding for a report, with its source and the path of the file with its pixels.

    `finding` is the models'; `review` is what persons say of it, None if nobody does.
    """

    finding: Finding
    finding_id: int
    source: SourceInstance
    path: Path
    calling_ae: str = ""
    facts: RevisionFacts | None = None
    review: ReviewState | None = None

    @property
    def effective(self) -> Finding:
        """The finding as pictures, pages and rules have it: with a person's verdict if there is
        one."""
        return apply_review(self.finding, self.review)

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key of an instance's findings, larger is better."""
        return review_rank(self.finding, self.review)

    @property
    def image(self) -> SummaryImage:
        """The finding's image for a summary."""
        return SummaryImage(self.source, self.effective, self.review, self.finding.judgement)

    @property
    def traits(self) -> Traits:
        """The values that routing rules compare."""
        return Traits(
            self.calling_ae,
            self.source.station_name,
            self.source.study_description,
            self.effective.judgement.view,
            self.effective.judgement.quality,
        )


def find_faulty_objects(
    findings: Sequence[ReportedFinding], content: ExamContent, revision: int, now: datetime
) -> list[Omission]:
    """The objects whose findings or measurements make the report invalid."""
    instances = [of_instance for _, of_instance in _by_instance(findings)]

    def of_findings(parts: Sequence[Sequence[ReportedFinding]]) -> object:
        return build_report([each for part in parts for each in part], revision, now, None, ())

    refused = find_faults(instances, of_findings)
    if len(refused) == len(instances) and refused[0][1].code is ErrorCode.INTERNAL:
        # No object's fault: it fails with each of them.
        return []
    omissions = [Omission(facts_of(part[0]), error) for part, error in refused]
    faulty = {each.facts.revision_id for each in omissions}
    sound = [each for each in findings if facts_of(each).revision_id not in faulty]
    if sound and content.measured:

        def of_measured(parts: Sequence[MeasuredReport]) -> object:
            return build_report(sound, revision, now, None, parts)

        for machine, error in find_faults(content.measured, of_measured):
            omissions.append(Omission(machine.revision, error))
    return omissions


def facts_of(finding: ReportedFinding) -> RevisionFacts:
    """The stored facts of a finding's source. Raises LookupError for one outside the store."""
    if finding.facts is None:
        raise LookupError("a finding that is not in the store")
    return finding.facts


def destinations(
    kind: ObjectKind, findings: Iterable[ReportedFinding], routes: Routes
) -> tuple[str, ...]:
    """The destinations of an object that reports these findings."""
    return routes.route(kind, [each.traits for each in findings]).to


def best_per_view(findings: Iterable[ReportedFinding]) -> list[ReportedFinding]:
    """The findings of one instance worth an overlay: the best of each view.

    Best is what ranks highest (`review_rank`). Frames of no assessed view are shown
    only where there is nothing else.
    """
    best: dict[View, ReportedFinding] = {}
    for each in findings:
        view = each.effective.judgement.view
        if view not in best or each.rank > best[view].rank:
            best[view] = each
    assessed = [each for view, each in best.items() if view is not View.OTHER]
    return sorted(assessed or best.values(), key=lambda each: each.finding.frame)


SourceCache = dict[int, tuple[SourceInstance, Path] | Omission]
"""The source and file of each content, or why it has none, by revision id."""


def load_findings(
    content: ExamContent, originals: Originals, sources: SourceCache | None = None
) -> tuple[list[ReportedFinding], list[Omission]]:
    """Each finding with its source, in the order the pictures were taken; and the contents whose
    file or header cannot be reported.

    `sources` remembers what was read from one call to the next.
    """
    sources = {} if sources is None else sources
    findings, omissions = [], {}
    flags = (Flag.OTHER_PATIENT_IN_STUDY,) if content.other_patients else ()
    for scored in content.findings:
        facts = scored.revision
        if facts.revision_id not in sources:
            sources[facts.revision_id] = _load_source(facts, originals, content)
        loaded = sources[facts.revision_id]
        if isinstance(loaded, Omission):
            omissions[facts.revision_id] = loaded
            continue
        source, path = loaded
        try:
            finding = under_source_uids(Finding.from_json(scored.finding), source, flags)
        except (ValueError, TypeError, LookupError) as error:
            omissions[facts.revision_id] = Omission(facts, _invalid(error))
            continue
        findings.append(
            ReportedFinding(
                finding,
                scored.finding_id,
                source,
                path,
                facts.calling_ae,
                facts,
                content.reviews.get(scored.finding_id),
            )
        )
    # In the order of the pictures' series and instance numbers, where the headers have them.
    findings = [each for each in findings if facts_of(each).revision_id not in omissions]
    findings.sort(key=lambda each: (*each.source.numbers, each.source.sop_instance_uid))
    return findings, list(omissions.values())


def _load_source(
    facts: RevisionFacts, originals: Originals, content: ExamContent
) -> tuple[SourceInstance, Path] | Omission:
    try:
        path = originals(facts)
        # What was altered since it was scored is not reported.
        with open_verified(path, content_hash(path, facts.sha256)) as same:
            source = _source(facts, same, content)
    except QCError as error:
        return Omission(facts, error)
    return source, path


def _source(facts: RevisionFacts, path: Path, content: ExamContent) -> SourceInstance:
    """Raises QCError."""
    accession = content.worklist_accession
    try:
        header = read_header(path)
        if accession is not None and not header.get("AccessionNumber"):
            header.AccessionNumber = accession
        source = SourceInstance.of(header, facts.sha256)
        check_identity(source, facts)
        source.correct_patient(content.correction)
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


def under_source_uids(
    finding: Finding, source: SourceInstance, flags: Iterable[Flag] = ()
) -> Finding:
    """The finding under the UIDs of its source's header, with these flags, and flagged if that
    header lost values."""
    judgement = finding.judgement
    flags = (*flags, Flag.HEADER_NORMALISED) if source.has_lost_values else flags
    judgement = replace(judgement, flags=tuple(dict.fromkeys((*judgement.flags, *flags))))
    return replace(
        finding,
        judgement=judgement,
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=source.series_instance_uid,
        sop_instance_uid=source.sop_instance_uid,
    )


def build_report(
    findings: Sequence[ReportedFinding],
    revision: int,
    now: datetime,
    latest: StoredReport | None,
    measured: Iterable[MeasuredReport],
) -> ReportObject:
    """The structured report of these findings and machines' measurements, as revision `revision`.

    Raises QCError REPORT_INVALID.
    """
    try:
        report = build_sr(
            _sources(findings),
            [each.finding for each in findings],
            revision=revision,
            created=now,
            previous=[] if latest is None else [_reference(latest)],
            measured=[_machine_report(each) for each in measured],
            reviews=[each.review for each in findings],
        )
        return _object(ObjectKind.SR, report, None)
    except MemoryError:
        raise
    except Exception as error:
        raise failure_of(error, "reporting") from error


def _machine_report(measured: MeasuredReport) -> MachineReport:
    facts = measured.revision
    reference = InstanceReference(
        facts.study_instance_uid,
        facts.series_instance_uid,
        facts.sop_class_uid,
        facts.sop_instance_uid,
    )
    values = (MachineValue(v.fetus, v.concept, v.value, v.unit) for v in measured.values)
    return MachineReport(reference, tuple(values), facts.sha256)


def _select_key_objects(
    findings: Sequence[ReportedFinding], revision: int, now: datetime
) -> Iterator[ReportObject]:
    # A cine with one good frame needs no attention for its others.
    best = [
        each for _, of_instance in _by_instance(findings) for each in best_per_view(of_instance)
    ]
    # What a person calls none of the views has been decided: nobody has to look at it again.
    best = [each for each in best if not _is_set_aside(each.review)]
    by_person = [each.effective for each in best if each.review is not None and each.review.outcome]
    for selection in build_key_objects(
        _sources(findings),
        [each.effective for each in best],
        revision=revision,
        created=now,
        by_person=by_person,
    ):
        yield _object(ObjectKind.KEY_OBJECTS, selection, None)


def _is_set_aside(review: ReviewState | None) -> bool:
    outcome = None if review is None else review.outcome
    return outcome is not None and outcome.view is View.OTHER


def select_key_objects(
    findings: Sequence[ReportedFinding], revision: int, now: datetime
) -> tuple[list[ReportObject], list[Omission]]:
    """The key objects of the exam, and the objects that cannot be selected. Raises QCError."""

    def of_instances(parts: Sequence[Sequence[ReportedFinding]]) -> list[ReportObject]:
        return list(_select_key_objects([each for part in parts for each in part], revision, now))

    instances = [of_instance for _, of_instance in _by_instance(findings)]
    try:
        return of_instances(instances), []
    except QCError:
        refused = find_faults(instances, of_instances)
        if not refused:
            raise
    faulty = {facts_of(part[0]).revision_id for part, _ in refused}
    sound = of_instances([p for p in instances if facts_of(p[0]).revision_id not in faulty])
    return sound, [Omission(facts_of(part[0]), error) for part, error in refused]


def _by_instance(
    findings: Iterable[ReportedFinding],
) -> Iterator[tuple[Path, list[ReportedFinding]]]:
    for path, of_instance in groupby(findings, key=lambda each: each.path):
        yield path, list(of_instance)


def _sources(findings: Iterable[ReportedFinding]) -> list[SourceInstance]:
    """One an instance, in the findings' order."""
    return list({each.source.sop_instance_uid: each.source for each in findings}.values())


def _reference(latest: StoredReport) -> InstanceReference:
    header = dcmread(
        BytesIO(latest.payload), specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]
    )
    return InstanceReference(
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        sop_class_uid=latest.sop_class_uid,
        sop_instance_uid=latest.sop_instance_uid,
    )


_BATCH_BYTES = 32 << 20  # Overlays are published whenever they have reached so many bytes.


def render_pictures(
    findings: Sequence[ReportedFinding],
    summary: ExamSummary | None,
    revision: int,
    now: datetime,
    frames: FrameReader,
    routes: Routes,
    settings: ReportSettings,
    publish: Callable[[Sequence[ReportObject]], None] = lambda _overlays: None,
) -> tuple[dict[ImageKey, Pixels], list[Omission]]:
    """The pictures that the summary shows, and the contents that cannot be drawn; each frame is
    decoded once.

    Overlays are passed to `publish` in batches of some megabytes: those of a large exam would fit
    neither into memory nor into one transaction together.
    """
    batch: list[ReportObject] = []
    pictures: dict[ImageKey, Pixels] = {}
    failed: list[Omission] = []
    for path, of_instance in _by_instance(findings):
        overlay_findings = [
            each
            for each in best_per_view(of_instance)
            if destinations(ObjectKind.OVERLAY, [each], routes)
        ]
        best = [] if summary is None else [e for e in of_instance if summary.shows(e.image)]
        try:
            pixels = _decode(path, [*overlay_findings, *best], frames)
            for each in best:
                pictures[each.image.key] = render_frame(pixels[each.finding.frame], each.effective)
            overlays = []
            for each in overlay_findings:
                overlay = build_overlay(
                    each.source,
                    pixels[each.finding.frame],
                    each.effective,
                    revision=revision,
                    created=now,
                    language=settings.language,
                    decision=each.image.decision,
                )
                overlays.append(_object(ObjectKind.OVERLAY, overlay, each.finding_id))
        except (LeaseLostError, MemoryError):
            raise
        except Exception as error:
            # Whatever a decoder or an image makes a library raise concerns this object only.
            failed.append(Omission(facts_of(of_instance[0]), failure_of(error, "drawing")))
            continue
        batch += overlays
        if sum(len(each.payload) for each in batch) >= _BATCH_BYTES:
            publish(batch)
            batch = []
    if batch:
        publish(batch)
    return pictures, failed


def _decode(
    path: Path, findings: Iterable[ReportedFinding], frames: FrameReader
) -> dict[int, Pixels]:
    """The pixels of these findings' frames, by number. Raises QCError."""
    numbers = sorted({each.finding.frame for each in findings})
    if not numbers:
        return {}
    pixels = {frame.number: frame.pixels for frame in frames(path, numbers)}
    if not pixels.keys() >= set(numbers):
        raise QCError(ErrorCode.DECODE_FAILED, "a frame that was scored cannot be decoded again")
    return pixels


def summarise_exam(
    findings: Sequence[ReportedFinding],
    settings: ReportSettings,
    revision: int,
    now: datetime,
    rejected: Collection[str],
    omitted: Iterable[str] = (),
) -> ExamSummary:
    """The summary of the exam's views; `omitted` are the error codes of the omitted objects."""
    expected = [View(name) for name in settings.views]
    return summarise(
        [each.image for each in findings],
        expected,
        revision=revision,
        created=now,
        rejected=rejected,
        omitted=omitted,
    )


def build_summary(
    findings: Sequence[ReportedFinding],
    summary: ExamSummary,
    pictures: Mapping[ImageKey, Pixels],
    settings: Settings,
) -> ReportObject:
    page = compose_page(summary, settings.report.language, settings.schedule.zone)
    document = build_pdf(
        _sources(findings),
        [each.finding for each in findings],
        summary_pdf(page, pictures, summary.created),
        page.title,
        revision=summary.revision,
        created=summary.created,
    )
    return _object(ObjectKind.PDF, document, None)


def _object(kind: ObjectKind, dataset: Dataset, finding_id: int | None) -> ReportObject:
    return ReportObject(
        kind=kind,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        payload=to_bytes(dataset),
        finding_id=finding_id,
    )

"""What an exam's page says beside its findings: measurements of the machine, contents of an image,
reports, and how a cine is judged frame by frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from qc_daemon.operations.finding_lists import Entry
from qc_daemon.operations.shared import open_store
from qc_daemon.records.received.revisions import ContentOfImage, contents_of_image
from qc_daemon.records.results import finding_pages, measurements, reports, reviews
from qc_daemon.records.results.finding_pages import ScoredFrame
from qc_daemon.records.results.reports import ReportRevision
from qc_daemon.review.state import current_state
from qc_daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class ExamMeasurement:
    """A measurement of the machine's report: `concept` as `records.tables.Measurement` has it,
    `fetus` as the machine names it, None where it names none."""

    fetus: str | None
    concept: str
    value: float
    unit: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ExamDetails:
    """Measurements in the machine's order, and the reports of the exam, the first one first."""

    measurements: Sequence[ExamMeasurement]
    reports: Sequence[ReportRevision]


def exam_details(settings: Settings, exam_id: int) -> ExamDetails:
    """The details of the exam, which the caller has found to be visible."""
    with open_store(settings).read() as session:
        measured = measurements.of_exam(session, exam_id)
        of_exam = reports.revisions_of_exam(session, exam_id)
    values = [
        ExamMeasurement(v.fetus, v.concept, v.value, v.unit, report.revision.received_at)
        for report in measured
        for v in report.values
    ]
    return ExamDetails(values, of_exam)


def image_contents(settings: Settings, entry: Entry) -> list[ContentOfImage]:
    """The contents that came for the finding's image within its exam, the first one first."""
    with open_store(settings).read() as session:
        facts = entry.stored.revision
        return contents_of_image(session, facts.instance_id, facts.exam_id)


def scored_frames(settings: Settings, entry: Entry) -> list[ScoredFrame]:
    """The frames of the finding's cine that were judged, as its models judged them, in order.

    Empty for a still, and while somebody is still to read any of them blinded: its neighbours
    would give it away.
    """
    if entry.stored.frames < 2 or entry.is_hidden or entry.stored.finding_id is None:
        return []
    with open_store(settings).read() as session:
        frames = finding_pages.frames_of(session, entry.stored.finding_id)
        histories = reviews.histories(session, [frame.finding_id for frame in frames])
    is_hidden = any(current_state(events).is_blinded for events in histories.values())
    return [] if is_hidden else frames

"""A person's verdict on a finding, as a measurement group of its own beside the models' (TID 1501).

The group has the person as its observer (TID 1002, 1003), where the document has the device
(TID 1004); it stands for the same thing as the models' group, whose Tracking Unique Identifier it
has. Finding `F2` has the person's group `P2`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import highdicom.sr as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom
from pydicom.sr.coding import Code

from detector.anatomy import View
from model.finding import REVIEW, Finding, Judgement
from qc_daemon.report.equipment import dicom_date, dicom_time, local_time
from qc_daemon.report.person_verdict import is_acceptance
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.groups import finding_uid
from qc_daemon.review.events import Criteria, Event, EventKind
from qc_daemon.review.state import ReviewState, ReviewStatus

PERSON = "P"
"""The tracking identifiers of persons' verdicts begin with this."""


@dataclass(frozen=True, slots=True)
class ReportedReview:
    """A person's verdict as a report has it; `number` is that of the finding (`F2`: 2), whose
    tracking unique identifier it has."""

    number: int
    tracking_uid: str
    kind: EventKind
    view: View
    verdict: str | None
    criteria: Criteria
    reason: str | None
    reader: str
    at: datetime
    is_blinded: bool

    @property
    def state(self) -> ReviewState:
        """The review's state as far as a report tells it: the outcome."""
        outcome = Event(
            number=1,
            kind=self.kind,
            reader=self.reader,
            at=self.at,
            revision=1,
            model_id="",
            view=self.view,
            verdict=self.verdict,
            criteria=self.criteria,
            reason=self.reason,
            is_blinded=self.is_blinded,
        )
        return ReviewState(ReviewStatus.RESOLVED, outcome)


def build_review_group(
    number: int, finding: Finding, source: SourceInstance, state: ReviewState
) -> hd.templates.Template:
    """The group of the outcome that stands. A remark is for those who review, and stays here.

    Raises LookupError for a state without an outcome.
    """
    outcome = state.outcome
    if outcome is None:
        raise LookupError("no person's verdict stands")
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            uid=finding_uid(finding, source), identifier=f"{PERSON}{number}"
        ),
        qualitative_evaluations=list(_evaluations(finding.judgement, outcome)),
        source_images=[
            hd.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=source.sop_class_uid,
                referenced_sop_instance_uid=source.sop_instance_uid,
                referenced_frame_numbers=source.frame_numbers(finding.frame),
            )
        ],
    )
    person = hd.ObserverContext(
        observer_type=dicom.DCM.Person,
        observer_identifying_attributes=hd.PersonObserverIdentifyingAttributes(outcome.reader),
    )
    container = group[0]
    for position, item in enumerate(person):
        container.ContentSequence.insert(position, item)
    container.ObservationDateTime = _observation_time(local_time(outcome.at, source.header))
    return group


def _observation_time(at: datetime) -> str:
    """DT (PS3.5 6.2) with the zone, as the document's other times have it; none where that is UTC,
    for DCMTK takes `+0000` for an error."""
    zone = f"{at:%z}"
    return f"{dicom_date(at)}{dicom_time(at)}{'' if zone == '+0000' else zone}"


def _review_code(models: Judgement, outcome: Event) -> Code:
    """How the outcome stands to what the models say."""
    if is_acceptance(models, outcome):
        return codes.REVIEWS[EventKind.ACCEPT]
    is_undecided = models.quality == REVIEW and models.view is not View.OTHER
    if outcome.kind is EventKind.OVERRIDE and is_undecided and outcome.view is models.view:
        return codes.DECIDED
    return codes.REVIEWS[outcome.kind]


def _evaluations(models: Judgement, outcome: Event) -> Iterator[hd.QualitativeEvaluation]:
    assert outcome.view is not None
    yield hd.QualitativeEvaluation(codes.REVIEW, _review_code(models, outcome))
    yield hd.QualitativeEvaluation(codes.VIEW, codes.VIEWS[outcome.view])
    if outcome.verdict is not None:
        yield hd.QualitativeEvaluation(codes.QUALITY, codes.QUALITIES[outcome.verdict])
        yield hd.QualitativeEvaluation(
            codes.QUALITY_ASSESSMENT, codes.QUALITY_ASSESSMENTS[outcome.verdict]
        )
    for code, met in outcome.criteria:
        yield hd.QualitativeEvaluation(codes.CRITERIA[code], codes.MET[met])
    if outcome.reason is not None:
        yield hd.QualitativeEvaluation(codes.REVIEW_REASON, codes.REVIEW_REASONS[outcome.reason])
    yield hd.QualitativeEvaluation(codes.BLINDED, codes.MET[outcome.is_blinded])


def parse_observation_time(item: Dataset) -> datetime:
    """The container's Observation DateTime. Raises ValueError, AttributeError."""
    text = str(item.ObservationDateTime)
    zone = "" if text[-5] in "+-" else "+0000"
    return datetime.strptime(text + zone, "%Y%m%d%H%M%S.%f%z")

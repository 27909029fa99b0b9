"""Why a view is not called standard, as a sonographer can act on it; the most important first.

First the criteria that are not met, anatomy before technique; then structures that standard
pictures show and this one does not; only if there is neither, what weighed most against it
(`model.deletion`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from detector.anatomy import View
from detector.boxes import Detection
from model.criteria import checks
from model.criteria.checks import CriteriaThresholds, Failure, Measurement
from model.criteria.faults import REGION_FAULTS, WHOLE, criterion_fault, structure_fault
from model.criteria.rules import TECHNICAL_CODES
from model.finding import (
    CRITERION_REASON,
    NON_STANDARD,
    REGION_REASON,
    REVIEW,
    STANDARD,
    STRUCTURE_REASON,
    Criterion,
    Reason,
)

DELETION_MARGIN = 0.1
"""What is taken out of the picture must raise the logit by more than this to be named: it moves a
probability by 0.025 at most."""


@dataclass(frozen=True, slots=True)
class Deletions:
    """By how much the logit rises without each structure (by label), and without each cell of the
    picture (by the code of `REGION_FAULTS`)."""

    structures: dict[str, float]
    cells: dict[str, float]


def judge_criteria(
    view: View,
    quality: str,
    measurements: Mapping[str, Measurement],
    detections: Sequence[Detection],
    weak_detections: Sequence[Detection],
    thresholds: CriteriaThresholds,
    *,
    lacks_real_evidence: bool = False,
) -> tuple[str, tuple[Criterion, ...], tuple[Reason, ...]]:
    """The verdict with its criteria and reasons, which do not contradict it.

    A standard view that fails a criterion at high certainty is left to a person. `measurements`
    are what `checks.measure` made of `detections`; `weak_detections` are these and all others,
    however unsure. A view that `lacks_real_evidence` fails no criterion for what was not detected:
    the detector learnt its structures from phantoms. A non-standard view may have no reason here:
    then one is to be found by deletion (`weightiest`).
    """
    criteria = checks.decide(view, detections, weak_detections, measurements, thresholds)
    failures = checks.failures(view, criteria, detections, thresholds)
    if lacks_real_evidence:
        doubtful = {each.code for each in failures if rests_on_detector(view, each)}
        criteria = _withhold(criteria, doubtful)
        failures = tuple(each for each in failures if each.code not in doubtful)
    if quality == STANDARD:
        criteria = withhold_uncertain(criteria, failures)
        failures = tuple(each for each in failures if each.is_certain)
        quality = REVIEW if failures else STANDARD
    return quality, criteria, list_reasons(view, quality, failures, detections, thresholds)


def rests_on_detector(view: View, failure: Failure) -> bool:
    """Whether the detector alone says that the criterion fails: by what it does not detect, or by
    how unsure it is."""
    return failure.direction is None or checks.CHECKS[view][failure.code].by_confidence


def withhold_uncertain(
    criteria: Sequence[Criterion], failures: Sequence[Failure]
) -> tuple[Criterion, ...]:
    """The criteria of a view that is called standard: not met only at high certainty, else None.

    Verdict and criteria are one judgement, and the verdict has seen more than each criterion has.
    """
    return _withhold(criteria, {failure.code for failure in failures if not failure.is_certain})


def _withhold(criteria: Sequence[Criterion], codes: Collection[str]) -> tuple[Criterion, ...]:
    return tuple(
        replace(criterion, met=None) if criterion.code in codes else criterion
        for criterion in criteria
    )


def list_reasons(
    view: View,
    quality: str,
    failures: Sequence[Failure],
    detections: Sequence[Detection],
    thresholds: CriteriaThresholds,
) -> tuple[Reason, ...]:
    """The reasons that criteria and detected structures give; none of a standard view.

    A review is for a person to decide, so that only what is not met is said there.
    """
    if quality == STANDARD:
        return ()
    unmet = _criterion_reasons(view, failures)
    if quality != NON_STANDARD:
        return unmet
    return (*unmet, *_structure_reasons(view, failures, detections, thresholds))


def weightiest(deletions: Deletions) -> Reason:
    """What raises the logit most when it is taken out; the whole picture if nothing does so."""
    rises = [(rise, STRUCTURE_REASON, label) for label, rise in deletions.structures.items()]
    rises += [(rise, REGION_REASON, cell) for cell, rise in deletions.cells.items()]
    rise, kind, code = max(rises, default=(0.0, REGION_REASON, WHOLE), key=lambda each: each[0])
    if rise <= DELETION_MARGIN:
        kind, code = REGION_REASON, WHOLE
    if kind == STRUCTURE_REASON:
        return Reason(kind, code, structure_fault(code, was_detected=True).sentence)
    return Reason(kind, code, REGION_FAULTS[code].sentence)


def _criterion_reasons(view: View, failures: Sequence[Failure]) -> tuple[Reason, ...]:
    # Sorting keeps the order of the rules within anatomy and within technique.
    ordered = sorted(failures, key=lambda failure: failure.code in TECHNICAL_CODES)
    return tuple(
        Reason(
            CRITERION_REASON,
            failure.code,
            criterion_fault(view, failure.code, failure.direction).sentence,
            failure.direction,
        )
        for failure in ordered
    )


def _structure_reasons(
    view: View,
    failures: Sequence[Failure],
    detections: Sequence[Detection],
    thresholds: CriteriaThresholds,
) -> tuple[Reason, ...]:
    detected = {detection.label for detection in detections}
    named = {
        label
        for failure in failures
        for group in checks.CHECKS[view][failure.code].needs
        for label in group
    }
    return tuple(
        Reason(STRUCTURE_REASON, group[0], structure_fault(group[0], was_detected=False).sentence)
        for group in checks.expected_structures(view, thresholds)
        if detected.isdisjoint(group) and named.isdisjoint(group)
    )

"""A finding as a person's verdict has it: for pictures, pages and selections.

The structured report has both beside each other (`qc_daemon/report/sr/reviews.py`); what is drawn
shows one verdict, and says whose it is.
"""

from dataclasses import replace

from detector.anatomy import View
from model.finding import (
    CRITERION_REASON,
    NON_STANDARD,
    REVIEW,
    STANDARD,
    Criterion,
    Finding,
    Judgement,
    Reason,
)
from qc_daemon.review.events import Event, EventKind
from qc_daemon.review.state import ReviewState


def overrides(finding: Finding, outcome: Event) -> bool:
    """Whether a person says anything else than the finding."""
    judgement = finding.judgement
    met = {each.code: each.met for each in judgement.criteria}
    is_other = judgement.view is View.OTHER
    answer = (judgement.view, None if is_other else judgement.quality)
    return outcome.differs(answer, met)


def agrees(judgement: Judgement, outcome: Event) -> bool:
    """Whether a person says the models' view and verdict, and of no criterion that they decided the
    opposite. What they could not tell, a person may add."""
    is_other = judgement.view is View.OTHER
    met = {each.code: each.met for each in judgement.criteria}
    return outcome.answer == (judgement.view, None if is_other else judgement.quality) and not any(
        met.get(code) is not None and outcome_met is not met[code]
        for code, outcome_met in outcome.criteria
    )


def is_acceptance(judgement: Judgement, outcome: Event) -> bool:
    """Whether the outcome agrees with the models by intent, or read blinded by what it says."""
    if outcome.kind is EventKind.OVERRIDE and outcome.is_blinded:
        return agrees(judgement, outcome)
    return outcome.kind is EventKind.ACCEPT


def apply_review(finding: Finding, state: ReviewState | None) -> Finding:
    """The finding with the person's view, verdict and criteria in place of the models'; the same
    finding where the person agrees, or nobody read it.

    Boxes, description and flags stay. A probability would be the models', so there is none; nor
    a reason for the models' verdict where that does not stand.
    """
    outcome = None if state is None else state.outcome
    if outcome is None or not overrides(finding, outcome):
        return finding
    judgement = finding.judgement
    view = outcome.view or judgement.view
    quality = outcome.verdict or REVIEW
    criteria = _criteria(judgement, outcome, view)
    reviewed = replace(
        judgement,
        view=view,
        quality=quality,
        probability=None,
        raw_probability=None,
        criteria=criteria,
        reasons=_reasons(judgement, outcome) if quality == NON_STANDARD else (),
    )
    return replace(finding, judgement=reviewed)


def _criteria(judgement: Judgement, outcome: Event, view: View) -> tuple[Criterion, ...]:
    """The models' criteria of the view, with what the person says of them."""
    by_person = dict(outcome.criteria)
    own = judgement.criteria if view is judgement.view else ()
    own_criteria = [
        Criterion(each.code, by_person[each.code]) if each.code in by_person else each
        for each in own
    ]
    codes = {each.code for each in own}
    others = [Criterion(code, met) for code, met in outcome.criteria if code not in codes]
    return (*own_criteria, *others)


def _reasons(judgement: Judgement, outcome: Event) -> tuple[Reason, ...]:
    """What the person says is not met, then the models' reasons where they said the same verdict of
    the same view, without criteria that the person says are met."""
    by_person = dict(outcome.criteria)
    own = tuple(
        Reason(CRITERION_REASON, code, "") for code, met in by_person.items() if met is False
    )
    if outcome.view is not judgement.view or judgement.quality != NON_STANDARD:
        return own
    return own + tuple(
        reason
        for reason in judgement.reasons
        if reason.kind != CRITERION_REASON or reason.code not in by_person
    )


def review_rank(finding: Finding, state: ReviewState | None) -> tuple[float, float]:
    """Sort key, larger is better: as `model.finding.quality_rank`, with a person's verdict as what
    is certain."""
    outcome = None if state is None else state.outcome
    if outcome is None or outcome.verdict is None:
        return finding.judgement.rank
    # A person's standard view comes before the surest of the models', as theirs are below 1.
    return (2.0 if outcome.verdict == STANDARD else 0.0, finding.judgement.view_probability)

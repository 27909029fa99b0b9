"""Findings in words, for templates: what stands on a line of a list, and what on its own page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from gettext import NullTranslations
from typing import Any

from detector.anatomy import View
from model.criteria.faults import criterion_fault
from model.criteria.rules import CriterionRule
from model.finding import Finding, Judgement
from qc_daemon.language.catalogues import translations
from qc_daemon.operations.finding_lists import Entry
from qc_daemon.operations.review_lists import Answers
from qc_daemon.records.results.finding_pages import ScoredFrame
from qc_daemon.report.person_verdict import apply_review
from qc_daemon.report.sr.codes import FLAGS, LABEL_CODES, VIEWS
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import Decision

Translate = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class FindingLine:
    """A finding of a list; `view`, `verdict` and `probability` are None where the list does not
    give the answer away."""

    finding: int
    exam: int
    frame: int
    received: str
    state: str
    asked_by: tuple[str, ...]
    view: str | None
    verdict: str | None
    probability: float | None
    reader: str | None
    is_rejected: bool


def finding_line(entry: Entry, answers: Answers) -> FindingLine:
    """The finding as a list shows it."""
    stored, state = entry.stored, entry.state
    is_shown = state is not None and answers.are_of(state)
    body = stored.body
    is_blinded = entry.is_hidden
    return FindingLine(
        finding=stored.finding_id or 0,
        exam=stored.exam_id,
        frame=body["frame"],
        received=stored.revision.received_at.isoformat(timespec="seconds"),
        state="" if state is None else str(state.status),
        asked_by=() if entry.draw is None or is_blinded else tuple(entry.draw.rules),
        view=body["view"]["code"] if is_shown else None,
        verdict=body["quality"]["label"] if is_shown else None,
        probability=body["quality"]["probability"] if is_shown else None,
        reader=None
        if state is None or state.outcome is None or is_blinded
        else state.outcome.reader,
        is_rejected=entry.is_rejected,
    )


@dataclass(frozen=True, slots=True)
class CriterionLine:
    """A criterion in words; `outcome` is met, not-met or cannot-tell."""

    code: str
    words: str
    outcome: str
    value: str
    evidence: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class FindingText:
    """What a page says of a finding, in one language; `faults` are pairs of what is wrong and what
    to do, `boxes` label, meaning and confidence."""

    view: str
    view_code: str
    verdict: str
    verdict_code: str
    line: str
    decision: str | None
    faults: tuple[tuple[str, str], ...]
    criteria: tuple[CriterionLine, ...]
    boxes: tuple[tuple[str, str, str], ...]
    gates: tuple[tuple[str, str], ...]
    description: str
    flags: tuple[str, ...]
    models: str
    disclaimer: str
    is_for_clinical_use: bool


def finding_text(entry: Entry, language: str, zone: Any) -> FindingText:
    """The finding with a person's verdict where there is one that is reported."""
    t = translations(language)
    models = Finding.from_json(entry.stored.body)
    review = None if entry.state is None else entry.state.as_reported()
    finding = apply_review(models, review)
    outcome = None if review is None else review.outcome
    decision = None if outcome is None else Decision(outcome, models.judgement)
    judgement = finding.judgement
    is_no_view = outcome is not None and outcome.verdict is None
    verdict = words.NO_VIEW if is_no_view else words.VERDICTS[judgement.quality]
    return FindingText(
        view=t.gettext(VIEWS[judgement.view].meaning),
        view_code=judgement.view.value,
        verdict=t.gettext(verdict),
        verdict_code=judgement.quality,
        line="" if decision is not None else _probabilities(judgement, t),
        decision=None if decision is None else words.decision_line(decision, t, zone),
        faults=tuple(
            (words.statement(each, t), words.fix(each, t)) for each in words.faults(judgement)
        ),
        criteria=tuple(_criteria(judgement, t.gettext)),
        boxes=tuple(
            (d.label, t.gettext(LABEL_CODES[d.label].meaning), words.percent(d.confidence))
            for d in judgement.detections
        ),
        gates=tuple(
            (name, words.percent(gate))
            for name, gate in zip(("image", "text", "layout"), judgement.gates, strict=True)
        ),
        description=judgement.description,
        flags=tuple(t.gettext(FLAGS[flag].meaning) for flag in judgement.flags),
        models=words.models_line(finding.bundle),
        disclaimer=t.gettext(words.disclaimer(has_decision=decision is not None)),
        is_for_clinical_use=finding.bundle.clinical_use,
    )


def _probabilities(judgement: Judgement, t: NullTranslations) -> str:
    """What the models give the view, which stands above, and that it is a standard one."""
    view = words.percent(judgement.view_probability)
    if judgement.probability is None:
        return t.gettext("Probability of this view: {view}").format(view=view)
    sentence = t.gettext("Probability of this view: {view}; that it is a standard one: {standard}")
    return sentence.format(view=view, standard=words.percent(judgement.probability))


_OUTCOMES = {True: "met", False: "not-met", None: "cannot-tell"}


def _criteria(judgement: Judgement, translate: Translate) -> list[CriterionLine]:
    lines = []
    for criterion in judgement.criteria:
        rule = words.rule(judgement, criterion.code)
        fault = words.fault(judgement, criterion)
        value = ""
        if criterion.value is not None:
            unit = "" if criterion.unit == "1" else f" {criterion.unit}"
            value = f"{criterion.value:.3g}{unit}"
        topic = fault.topic or rule.meaning
        lines.append(
            CriterionLine(
                code=criterion.code,
                words=translate(topic),
                outcome=_OUTCOMES[criterion.met],
                value=value,
                evidence=tuple(criterion.evidence),
                source=rule.source,
            )
        )
    return lines


def criterion_topic(view: View, rule: CriterionRule) -> str:
    """What a criterion of the view is about, in English, as the catalogue has it."""
    return criterion_fault(view, rule.code, None).topic or rule.meaning


@dataclass(frozen=True, slots=True)
class FramePoint:
    """A frame of a cine on its chart, whose x and y go from 0 to CHART_WIDTH and CHART_HEIGHT;
    `share` is the probability of a standard view in words, a dash where there is none."""

    finding: int
    frame: int
    view: str
    verdict: str
    share: str
    x: float
    y: float | None


CHART_WIDTH, CHART_HEIGHT = 600, 100


def frame_points(frames: Sequence[ScoredFrame]) -> list[FramePoint]:
    """The frames of a cine from left to right by their numbers, a sure standard view at the top."""
    if not frames:
        return []
    first, last = frames[0].frame, frames[-1].frame
    return [
        FramePoint(
            finding=each.finding_id,
            frame=each.frame,
            view=each.view,
            verdict=each.quality,
            share=words.percent(each.probability),
            x=round(CHART_WIDTH * (each.frame - first) / max(1, last - first), 1),
            y=None if each.probability is None else round(CHART_HEIGHT * (1 - each.probability), 1),
        )
        for each in frames
    ]

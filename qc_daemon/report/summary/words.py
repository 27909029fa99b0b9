"""The words for findings, the same on overlays, pages and renditions."""

from collections.abc import Iterable, Iterator
from datetime import tzinfo
from gettext import NullTranslations

from detector.anatomy import BY_CODE, LABELS, View
from detector.errors import ErrorCode
from model.criteria.checks import CHECKS
from model.criteria.faults import (
    FAULTS,
    HIGH,
    LOW,
    REGION_FAULTS,
    Fault,
    capitalise,
    criterion_fault,
    structure_fault,
)
from model.criteria.rules import GAIN, RULES, CriterionRule
from model.finding import (
    CRITERION_REASON,
    NON_STANDARD,
    REGION_REASON,
    REVIEW,
    STANDARD,
    STRUCTURE_REASON,
    BundleId,
    Criterion,
    Finding,
    Judgement,
    Reason,
)
from model.parts.opinion import SECOND_OPINION, VIEW_CLASSIFIER, Opinion
from qc_daemon.language.fonts import is_drawable
from qc_daemon.report.person_verdict import is_acceptance
from qc_daemon.report.sr import codes
from qc_daemon.report.summary.summary import Decision

VERDICTS = {STANDARD: "STANDARD", NON_STANDARD: "NON-STANDARD", REVIEW: "REVIEW"}

NO_VIEW = "NOT ASSESSED"
"""The verdict where a person says that the picture shows none of the views."""
CANNOT_TELL = "Could not be checked"
DECIDED = "Decided by {reader}, {date}"
CONFIRMED = "Confirmed by {reader}, {date}"
MODELS_SAY = "models: {verdict}"
NOT_PRINTABLE = "(in letters that cannot be printed here)"
NOT_FOR_CLINICAL_USE = "Not for clinical use"

OPINION_ROLES = {SECOND_OPINION: "Second opinion", VIEW_CLASSIFIER: "View classifier"}
NO_CLASS = "names no class"

FAULT_AND_FIX = "{fault} → {fix}"
"""A line of an overlay; the Chinese letters there have no arrow."""
STILL_STANDARD = "Standard all the same, though: {fault}"

_GAIN_MIDDLE = 0.39
"""A gain that is not adequate is too low below this brightness (0..1), too high above: it lies
between the lower and upper thresholds of every view (`model.criteria.thresholds`). For findings of
earlier versions, which do not say the direction."""

OMISSIONS = {
    ErrorCode.SPOOL_MISSING: "the received file is gone",
    ErrorCode.SPOOL_DAMAGED: "the received file was altered",
    ErrorCode.NOT_AVAILABLE: "the received file is gone",
    ErrorCode.DELIVERY_UNREACHABLE: "the archive that holds it cannot be reached",
    ErrorCode.REPORT_INVALID: "its header is incomplete or wrong",
    ErrorCode.UNREADABLE: "the file cannot be read",
    ErrorCode.TRUNCATED: "the picture data end too early",
    ErrorCode.NO_FRAMES: "it holds no picture",
    ErrorCode.TOO_SMALL: "the picture is too small",
    ErrorCode.TOO_LARGE: "the picture is too large",
    ErrorCode.UNSUPPORTED_SYNTAX: "the picture data cannot be decoded",
    ErrorCode.DECODE_FAILED: "the picture data cannot be decoded",
    ErrorCode.DECODE_TIMEOUT: "the picture data cannot be decoded",
    ErrorCode.DECODE_MEMORY: "the picture data cannot be decoded",
}
"""The reason why an object is in no report, for a person at the machine."""
OTHER_OMISSION = "see the quarantine list"
OTHER_PATIENT = (
    "Images of another patient stand under the same study: "
    "check which patient was selected at the machine."
)
DISCLAIMER = "Machine-made judgement of the picture, not of the fetus"
DISCLAIMER_BESIDE_PERSON = (
    "Judgement of the picture, not of the fetus: by a person where one is named, else machine-made"
)


def disclaimer(*, has_decision: bool) -> str:
    """What a page or picture says at its end, in English: who judged, and what was judged."""
    return DISCLAIMER_BESIDE_PERSON if has_decision else DISCLAIMER


def faults(judgement: Judgement) -> list[Fault]:
    """What speaks against a standard view, the most important first: the finding's reasons, else
    the criteria that are not met (of a standard view, and of findings of earlier versions)."""
    if judgement.reasons:
        return [reason_fault(judgement, reason) for reason in judgement.reasons]
    return [fault(judgement, c) for c in judgement.criteria if c.met is False]


def fault(judgement: Judgement, criterion: Criterion) -> Fault:
    """The criterion as a fault, in the direction that its reason has."""
    for reason in judgement.reasons:
        if reason.kind == CRITERION_REASON and reason.code == criterion.code:
            return reason_fault(judgement, reason)
    direction = None
    if criterion.code == GAIN.code and criterion.value is not None:
        direction = LOW if criterion.value < _GAIN_MIDDLE else HIGH
    return criterion_fault(judgement.view, criterion.code, direction)


def reason_fault(judgement: Judgement, reason: Reason) -> Fault:
    """The reason as a fault whose words can be translated; of an unknown code its own words."""
    if reason.kind == CRITERION_REASON and reason.code in FAULTS:
        return criterion_fault(judgement.view, reason.code, reason.direction)
    if reason.kind == STRUCTURE_REASON and reason.code in BY_CODE:
        was_detected = any(d.label == reason.code for d in judgement.detections)
        return structure_fault(reason.code, was_detected=was_detected)
    if reason.kind == REGION_REASON and reason.code in REGION_FAULTS:
        return REGION_FAULTS[reason.code]
    statement, _, fix = reason.words.partition(": ")
    return Fault(capitalise(statement), capitalise(fix))


def statement(fault: Fault, t: NullTranslations) -> str:
    """The fault in the language of the catalogue."""
    if not fault.structure:
        return t.gettext(fault.words)
    sentence = t.gettext(fault.words)
    return capitalise(sentence.format(structure=t.gettext(fault.structure)))


def fix(fault: Fault, t: NullTranslations) -> str:
    """What to do about it, in the language of the catalogue; empty where there is nothing."""
    return t.gettext(fault.fix) if fault.fix else ""


def fault_lines(judgement: Judgement, t: NullTranslations) -> Iterator[str]:
    """The faults and their fixes, one a line; on a standard view without a cross."""
    for each in faults(judgement):
        line = statement(each, t)
        if judgement.quality == STANDARD:
            line = f"· {t.gettext(STILL_STANDARD).format(fault=line)}"
        else:
            line = f"× {line}"
        yield t.gettext(FAULT_AND_FIX).format(fault=line, fix=fix(each, t)) if each.fix else line


def unchecked(judgement: Judgement) -> list[str]:
    """The topics of the `unchecked_criteria`."""
    return [fault(judgement, c).topic for c in unchecked_criteria(judgement)]


def unchecked_criteria(judgement: Judgement) -> list[Criterion]:
    """The criteria that could not be checked, but for those whose structure is a reason: a page
    that calls it not visible has said what there is to say."""
    named = {reason.code for reason in judgement.reasons if reason.kind == STRUCTURE_REASON}
    return [
        c
        for c in judgement.criteria
        if c.met is None and named.isdisjoint(_needed_labels(judgement, c.code))
    ]


def _needed_labels(judgement: Judgement, code: str) -> set[str]:
    check = CHECKS[judgement.view].get(code)
    return {label for group in check.needs for label in group} if check else set()


def legend(findings: Iterable[Finding], t: NullTranslations) -> str:
    """The meanings of the box labels of these findings; empty without boxes."""
    labels = {d.label for finding in findings for d in finding.judgement.detections}
    return " · ".join(
        f"{label.code} {t.gettext(label.meaning)}" for label in LABELS if label.code in labels
    )


def rule(judgement: Judgement, code: str) -> CriterionRule:
    """The view's rule of this code; a rule without words for a code the table does not know."""
    rules_by_code = {r.code: r for r in RULES[judgement.view]}
    return rules_by_code.get(code) or CriterionRule(code, code, "", "")


def unmet(judgement: Judgement) -> list[CriterionRule]:
    """The rules of the criteria that are not met, in the judgement's order."""
    return [rule(judgement, c.code) for c in judgement.criteria if c.met is False]


def percent(probability: float | None) -> str:
    """`97 %`, never rounded up to certainty; a dash where there is no probability."""
    if probability is None:
        return "–"
    if 0.995 <= probability < 1.0:
        return ">\N{NO-BREAK SPACE}99\N{NO-BREAK SPACE}%"
    if 0.0 < probability < 0.005:
        return "<\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}%"
    return f"{100 * probability:.0f}\N{NO-BREAK SPACE}%"


def view_line(judgement: Judgement, t: NullTranslations, *, is_decided: bool = False) -> str:
    """View and probabilities in one line; of what a person decided no probability."""
    view = t.gettext(codes.VIEWS[judgement.view].meaning)
    if is_decided:
        return view
    line = f"{view} ({percent(judgement.view_probability)})"
    return line if judgement.probability is None else f"{line}, {standard_line(judgement, t)}"


def opinion_line(opinion: Opinion, t: NullTranslations) -> str:
    """What another model takes the picture for: views, else the class in its own word."""
    if opinion.reason is not None:
        answer = t.gettext(NO_CLASS)
    elif opinion.views:
        answer = " / ".join(t.gettext(codes.VIEWS[view].meaning) for view in opinion.views)
    else:
        answer = opinion.label if is_drawable(opinion.label) else t.gettext(NOT_PRINTABLE)
    line = f"{t.gettext(OPINION_ROLES[opinion.role])}: {answer}"
    return line if opinion.reason else f"{line} ({percent(opinion.probability)})"


def decision_line(decision: Decision, t: NullTranslations, zone: tzinfo | None) -> str:
    """Who decided and when, in this zone, and where it is not the same what the models say."""
    outcome, models = decision.outcome, decision.models
    sentence = t.gettext(CONFIRMED if is_acceptance(models, outcome) else DECIDED)
    name = outcome.reader if is_drawable(outcome.reader) else t.gettext(NOT_PRINTABLE)
    line = sentence.format(reader=name, date=f"{outcome.at.astimezone(zone):%Y-%m-%d}")
    is_other = models.view is View.OTHER
    if outcome.answer == (models.view, None if is_other else models.quality):
        return line
    differences = (
        [] if outcome.view is models.view else [t.gettext(codes.VIEWS[models.view].meaning)]
    )
    if not is_other:
        verdict = t.gettext(VERDICTS[models.quality])
        known = models.probability is not None
        differences.append(f"{verdict} ({percent(models.probability)})" if known else verdict)
    return f"{line} · {t.gettext(MODELS_SAY).format(verdict=', '.join(differences))}"


def standard_line(judgement: Judgement, t: NullTranslations) -> str:
    """The probability of a standard view, in words."""
    sentence = t.gettext("standard: {probability}")
    return sentence.format(probability=percent(judgement.probability))


def models_line(bundle: BundleId) -> str:
    """Name, version and model id of a bundle."""
    return f"{bundle.name} {bundle.version} ({bundle.model_id[:12]})"

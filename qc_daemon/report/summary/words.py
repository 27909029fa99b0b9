"""The words for findings, the same on overlays, pages and renditions."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from gettext import NullTranslations

from detector.anatomy import LABELS
from detector.errors import ErrorCode
from model.criteria.rules import GAIN, RULES, CriterionRule
from model.finding import (
    NON_STANDARD,
    REVIEW,
    STANDARD,
    BundleId,
    Criterion,
    Finding,
    Judgement,
)
from qc_daemon.report.sr import codes

VERDICTS = {STANDARD: "STANDARD", NON_STANDARD: "NON-STANDARD", REVIEW: "REVIEW"}

CANNOT_TELL = "Could not be checked"
NOT_FOR_CLINICAL_USE = "Not for clinical use"

_GAIN_MIDDLE = 0.39
"""A gain that is not adequate is too low below this brightness (0..1), too high above: it lies
between the lower and upper thresholds of every view (`model.criteria.thresholds`)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a picture and how to fix it; `topic` names what the criterion checks."""

    words: str
    fix: str
    topic: str


FAULTS = {
    "CRIT-GAIN": Fault("Gain not adequate", "Adjust the overall gain", "gain"),
    "CRIT-FOCUS": Fault("Image not sharp", "Hold still, set the focus depth", "sharpness"),
    "CRIT-SHADOW": Fault(
        "Shadow over the anatomy", "Change the angle of insonation", "shadow over the anatomy"
    ),
    "CRIT-SIZE": Fault("Anatomy too small in the image", "Magnify", "size of the anatomy"),
    "CRIT-COMPLETE": Fault(
        "Anatomy cut off at the edge", "Move it into the sector", "anatomy within the image"
    ),
    "CRIT-PLANE": Fault("Not the correct plane", "Rotate into the plane", "plane"),
    "CRIT-NECK": Fault(
        "Neck bent or stretched", "Wait for a neutral position", "position of the neck"
    ),
    "CRIT-NT": Fault("Nuchal membrane not visible", "Show the nuchal skin", "nuchal membrane"),
    "CRIT-NASAL": Fault("Nasal bone not visible", "Insonate the nose at 45 degrees", "nasal bone"),
    "CRIT-PROFILE": Fault(
        "No profile with nasal tip", "Find the mid-sagittal", "profile with nasal tip"
    ),
    "CRIT-BRAIN": Fault(
        "Palate or diencephalon not visible", "Find the mid-sagittal", "palate and diencephalon"
    ),
    "CRIT-SKULL": Fault("Skull outline not closed", "Centre the head", "skull outline"),
    "CRIT-FALX": Fault("Falx not in the midline", "Level the plane", "falx"),
    "CRIT-CHOROID": Fault(
        "Not both choroid plexuses visible", "Level the plane", "choroid plexuses"
    ),
    "CRIT-ENDS": Fault("Crown or rump not visible", "Show both ends", "crown and rump"),
    "CRIT-HORIZONT": Fault("Fetus not horizontal", "Tilt the probe", "position of the fetus"),
    "CRIT-OUTLINE": Fault(
        "Abdominal outline not closed", "Centre the abdomen", "abdominal outline"
    ),
    "CRIT-STOMACH": Fault("Stomach not visible", "Move to the stomach's level", "stomach"),
    "CRIT-CORD": Fault("Cord insertion not visible", "Move to the insertion", "cord insertion"),
}
"""The fault of each criterion that is not met; the fix of the view's own rule comes first."""
GAIN_LOW = Fault("Picture too dark", "Turn the overall gain up", "gain")
GAIN_HIGH = Fault("Picture too bright", "Turn the overall gain down", "gain")
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


def faults(judgement: Judgement) -> list[Fault]:
    """The faults of the criteria that are not met, in the judgement's order."""
    return [fault(judgement, c) for c in judgement.criteria if c.met is False]


def fault(judgement: Judgement, criterion: Criterion) -> Fault:
    """The criterion as a fault; the gain's value says in which direction."""
    table_fault = FAULTS.get(criterion.code) or Fault(criterion.code, "", criterion.code)
    if criterion.code == GAIN.code and criterion.value is not None:
        return GAIN_LOW if criterion.value < _GAIN_MIDDLE else GAIN_HIGH
    return replace(table_fault, fix=rule(judgement, criterion.code).fix or table_fault.fix)


def unchecked(judgement: Judgement) -> list[str]:
    """The topics of the criteria that could not be checked."""
    return [fault(judgement, c).topic for c in judgement.criteria if c.met is None]


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


def view_line(judgement: Judgement, t: NullTranslations) -> str:
    """View and probabilities in one line."""
    view = t.gettext(codes.VIEWS[judgement.view].meaning)
    line = f"{view} ({percent(judgement.view_probability)})"
    return line if judgement.probability is None else f"{line}, {standard_line(judgement, t)}"


def standard_line(judgement: Judgement, t: NullTranslations) -> str:
    """The probability of a standard view, in words."""
    sentence = t.gettext("standard: {probability}")
    return sentence.format(probability=percent(judgement.probability))


def models_line(bundle: BundleId) -> str:
    """Name, version and model id of a bundle."""
    return f"{bundle.name} {bundle.version} ({bundle.model_id[:12]})"

"""Findings in plain words, the same on overlays and pages."""

from gettext import NullTranslations

from detector.codes import ErrorCode
from model.criteria_table import RULES, CriterionRule
from model.finding import NON_STANDARD, REVIEW, STANDARD, BundleId, Judgement
from qc_daemon.report import codes

VERDICTS = {STANDARD: "STANDARD", NON_STANDARD: "NON-STANDARD", REVIEW: "REVIEW"}

NOT_MET, CANNOT_TELL = "Not met", "Cannot tell"
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
"""Why an object is in no report, for a person at the machine."""
OTHER_OMISSION = "see the quarantine list"
OTHER_PATIENT = (
    "Images of another patient stand under the same study: "
    "check which patient was selected at the machine."
)
DISCLAIMER = "Machine-made judgement of the picture, not of the fetus"


def rule(judgement: Judgement, code: str) -> CriterionRule:
    """The view's rule of this code; a rule without words for a code the table does not know."""
    known = {r.code: r for r in RULES[judgement.view]}
    return known.get(code) or CriterionRule(code, code, "", "")


def unmet(judgement: Judgement) -> list[CriterionRule]:
    """The rules found broken, in the judgement's order."""
    return [rule(judgement, c.code) for c in judgement.criteria if c.met is False]


def undecided(judgement: Judgement) -> list[CriterionRule]:
    """The rules that could not be decided."""
    return [rule(judgement, c.code) for c in judgement.criteria if c.met is None]


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
    """How probably the view is a standard one."""
    told = t.gettext("standard: {probability}")
    return told.format(probability=percent(judgement.probability))


def models_line(bundle: BundleId) -> str:
    """Who judged."""
    return f"{bundle.name} {bundle.version} ({bundle.model_id[:12]})"

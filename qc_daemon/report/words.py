"""Findings in plain words, the same on overlays and pages."""

from model.criteria_table import RULES, CriterionRule
from model.finding import NON_STANDARD, REVIEW, STANDARD, Finding, Judgement
from qc_daemon.report import codes

VERDICTS = {STANDARD: "STANDARD", NON_STANDARD: "NON-STANDARD", REVIEW: "REVIEW"}


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


def view_line(judgement: Judgement) -> str:
    """View and probabilities in one line."""
    line = f"{codes.VIEWS[judgement.view].meaning} ({percent(judgement.view_probability)})"
    if judgement.probability is None:
        return line
    return f"{line}, standard: {percent(judgement.probability)}"


def bundle_line(finding: Finding) -> str:
    """Who judged."""
    bundle = finding.bundle
    return f"bundle {bundle.name} {bundle.version}, {bundle.model_id[:12]}"

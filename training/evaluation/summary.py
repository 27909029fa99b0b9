"""Every figure of a set of verdicts, as plain values: what the report shows and the JSON keeps.

Quality figures are over the pictures of the four views, or of unknown view; the positive class is
"standard".
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from detector.anatomy import View
from model.finding import NON_STANDARD, REVIEW, STANDARD
from training.evaluation import alignment, classification, curves
from training.evaluation.ablation import ALONE, BRANCHES
from training.evaluation.detection import box_figures
from training.evaluation.record import Verdict

NO_VIEW = "none of the views"
WORST = 20
EACH = "each of them"
PASSED, REFUSED = "passed though not standard", "refused though standard"


def assess(
    verdicts: Sequence[Verdict], *, ablation: bool = False, worst: int = WORST
) -> dict[str, Any]:
    """The figures; those that nothing is known for are absent. Values may be NaN."""
    judged = [verdict for verdict in verdicts if verdict.view is not View.OTHER]
    found: dict[str, Any] = {
        "pictures": len(verdicts),
        "groups": len({verdict.group for verdict in verdicts}),
        "labels": labels(verdicts),
        "gates": gates(verdicts),
    }
    if any(verdict.view for verdict in verdicts):
        found["views"] = views([verdict for verdict in verdicts if verdict.view])
    if judged:
        found["quality"] = of_quality(judged)
        found["curves"] = of_curves(judged)
        found["strata"] = strata(judged)
    if ablation and judged and all(verdict.ablated for verdict in judged):
        found["ablation"] = of_ablation(judged)
        found["mistakes"] = mistakes(judged)
    if all(verdict.features is not None for verdict in verdicts):
        features = np.stack([v.features for v in verdicts if v.features is not None])
        found["alignment"] = alignment.health(features, [v.words for v in verdicts])
    if any(verdict.matches for verdict in verdicts):
        boxed = [verdict for verdict in verdicts if verdict.matches]
        found["detector"] = box_figures([dict(v.matches) for v in boxed], [v.group for v in boxed])
    if any(verdict.criteria for verdict in verdicts):
        found["criteria"] = criteria(verdicts)
    if any(verdict.defects for verdict in verdicts):
        found["missed by defect"] = by_defect(verdicts)
    found["failures"] = failures(verdicts)[:worst]
    return found


def of_quality(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`quality.figures` of the verdicts' probabilities."""
    return classification.figures(
        [verdict.score for verdict in verdicts],
        [verdict.standard for verdict in verdicts],
        [verdict.group for verdict in verdicts],
    )


def of_curves(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Points of the ROC, precision-recall, reliability and risk-coverage curves."""
    p, y = [v.score for v in verdicts], [v.standard for v in verdicts]
    return {
        "ROC": curves.roc(p, y),
        "PR": curves.precision_recall(p, y),
        "reliability": curves.reliability(p, y),
        "risk and coverage": classification.risk_coverage(p, y),
    }


def labels(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Confusion of the labels, and how often none was given."""
    truth = [
        NO_VIEW if v.view is View.OTHER else STANDARD if v.standard else NON_STANDARD
        for v in verdicts
    ]
    said = [v.label for v in verdicts]
    decided = np.array([label != REVIEW for label in said])
    right = np.array([t == label for t, label in zip(truth, said, strict=True)])
    groups = [v.group for v in verdicts]
    everyone = np.arange(len(verdicts))
    rows = [name for name in (STANDARD, NON_STANDARD, NO_VIEW) if name in truth]
    return {
        "matrix": _matrix(truth, said, rows, (STANDARD, REVIEW, NON_STANDARD)),
        "review share": classification.figure(
            lambda i: float(np.mean(~decided[i])), everyone, groups
        ),
        "accuracy of the decided": classification.figure(
            lambda i: float(np.mean(right[i][decided[i]])) if decided[i].any() else float("nan"),
            everyone,
            groups,
        ),
        "taken for OTHER": sum(v.named is View.OTHER for v in verdicts),
    }


def views(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Confusion of the views and their accuracy, over pictures of known view."""
    truth, said = [v.view or View.OTHER for v in verdicts], [v.named for v in verdicts]
    right = np.array([t is s for t, s in zip(truth, said, strict=True)])
    shown = [view.value for view in View]
    return {
        "accuracy": classification.figure(
            lambda i: float(np.mean(right[i])),
            np.arange(len(verdicts)),
            [v.group for v in verdicts],
        ),
        "matrix": _matrix(truth, said, [v for v in shown if v in truth], shown),
    }


def gates(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Mean and SD of each branch's weight, over all and by the view that was named."""
    found = {"all": _gates(verdicts)}
    for view in sorted({v.named for v in verdicts}):
        found[view.value] = _gates([v for v in verdicts if v.named is view])
    return found


def strata(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Quality by view, set and scanner's look; a kind that divides nothing is left out."""
    kinds: dict[str, Callable[[Verdict], str]] = {
        "view": lambda v: "unknown" if v.view is None else v.view.value,
        "set": lambda v: v.source,
        "look": lambda v: v.look,
    }
    found: dict[str, Any] = {}
    for kind, of in kinds.items():
        names = sorted({of(v) for v in verdicts} - {""})
        if len(names) > 1:
            found[kind] = {
                name: of_quality([v for v in verdicts if of(v) == name]) for name in names
            }
    return found


def of_ablation(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Quality by what is left of the branches; the view is named by all of them."""
    standard, groups = [v.standard for v in verdicts], [v.group for v in verdicts]
    return {
        name: classification.figures([v.ablated[name] for v in verdicts], standard, groups)
        for name in verdicts[0].ablated
    }


def criteria(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """Per criterion whose truth is known: outcomes right, wrong and left open, where the view was
    named rightly."""
    tally: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        if verdict.named is not verdict.view:
            continue
        for outcome in verdict.outcomes:
            if outcome.code in verdict.criteria:
                true = verdict.criteria[outcome.code]
                end = "cannot tell" if outcome.met is None else _right(outcome.met is true)
                tally.setdefault(outcome.code, Counter())[end] += 1
    return {
        code: {end: ends[end] for end in ("right", "wrong", "cannot tell")}
        for code, ends in sorted(tally.items())
    }


def by_defect(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """How many pictures of each defect there are, and were given P(standard) of 0.5 or more."""
    found: dict[str, dict[str, int]] = {}
    for verdict in verdicts:
        for defect in verdict.defects:
            of = found.setdefault(defect, {"pictures": 0, "missed": 0})
            of["pictures"] += 1
            of["missed"] += verdict.score >= 0.5
    return dict(sorted(found.items()))


def mistakes(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """How many standard pictures were refused and others passed, and of how many of these each
    branch alone, and all three, were wrong as well (P(standard) on the wrong side of 0.5)."""
    found = {}
    for name, label in ((REFUSED, NON_STANDARD), (PASSED, STANDARD)):
        wrong = [v for v in verdicts if v.label == label and _truth(v) != (label == STANDARD)]
        found[name] = {"pictures": len(wrong)} | {
            branch: sum(_misled(v, branch) for v in wrong) for branch in ALONE
        }
        found[name][EACH] = sum(all(_misled(v, branch) for branch in ALONE) for v in wrong)
    return found


def _misled(verdict: Verdict, branch: str) -> bool:
    return (verdict.ablated[branch] >= 0.5) != verdict.standard


def failures(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The pictures given a wrong view or a wrong label, the surest errors first."""
    wrong = [verdict for verdict in verdicts if _reason(verdict)]
    # Standard was said of it, or it was refused, with that much probability.
    wrong.sort(key=lambda v: (-abs(v.score - _truth(v)), v.picture))
    return [
        {
            "picture": v.picture,
            "set": v.source,
            "view": None if v.view is None else v.view.value,
            "named": v.named.value,
            "standard": v.standard,
            "label": v.label,
            "probability": v.probability,
            "unmet": list(v.unmet),
            "flags": list(v.flags),
            "reason": _reason(v),
        }
        for v in wrong
    ]


def plain(value: Any) -> Any:
    """The value as JSON knows it: what is not finite is None."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _truth(verdict: Verdict) -> float:
    return float(verdict.standard and verdict.view is not View.OTHER)


def _reason(verdict: Verdict) -> str:
    """What went wrong with a picture; empty if nothing did."""
    reasons = []
    if verdict.view is not None and verdict.named is not verdict.view:
        reasons.append(f"{verdict.view.value} taken for {verdict.named.value}")
    right = _truth(verdict) == (verdict.label == STANDARD)
    if verdict.label != REVIEW and not right:
        passed = verdict.label == STANDARD
        reasons.append(PASSED if passed else REFUSED)
        if not verdict.unmet:
            reasons.append("no criterion seen as unmet")
    if reasons and verdict.flags:
        reasons.append(", ".join(verdict.flags))
    return "; ".join(reasons)


def _right(right: bool) -> str:
    return "right" if right else "wrong"


def _gates(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    weights = np.array([v.gates for v in verdicts])
    return {
        branch: {"mean": float(weights[:, k].mean()), "SD": float(weights[:, k].std())}
        for k, branch in enumerate(BRANCHES)
    }


def _matrix(
    truth: Sequence[str], said: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, int]]:
    counts = Counter(zip(map(str, truth), map(str, said), strict=True))
    return {row: {column: counts[row, column] for column in columns} for row in rows}

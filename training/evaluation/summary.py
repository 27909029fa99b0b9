"""Every figure of a set of evaluated samples, as plain values: for the report and its JSON.

Quality figures are over the pictures of the four views, or of unknown view; the positive class is
"standard".
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from detector.anatomy import View
from model.finding import (
    CRITERION_REASON,
    NON_STANDARD,
    REASON_KINDS,
    REVIEW,
    STANDARD,
    STRUCTURE_REASON,
)
from training.evaluation.ablation import BRANCHES, SINGLE_BRANCHES
from training.evaluation.metrics import alignment, classification, curves
from training.evaluation.metrics.detection import detection_metrics
from training.evaluation.record import EvaluatedSample

NO_VIEW = "none of the views"
WORST = 20
EVERY_BRANCH = "each of them"
UNMET_ON_STANDARD = "called standard: with an unmet criterion"
FAULT_NAMED = "called non-standard: names a criterion or structure"
OUTCOMES = {True: "met", False: "not met", None: "undecided"}
FALSE_STANDARD, FALSE_NON_STANDARD = "passed though not standard", "refused though standard"


def evaluate(
    samples: Sequence[EvaluatedSample], *, ablation: bool = False, worst: int = WORST
) -> dict[str, Any]:
    """All figures by name; those without a truth to compare with are absent. Values may be NaN."""
    of_views = [sample for sample in samples if sample.view is not View.OTHER]
    metrics: dict[str, Any] = {
        "pictures": len(samples),
        "groups": len({sample.group for sample in samples}),
        "labels": label_metrics(samples),
        "gates": gate_statistics(samples),
    }
    if any(sample.view for sample in samples):
        metrics["views"] = view_metrics([sample for sample in samples if sample.view])
    if of_views:
        metrics["quality"] = quality_metrics(of_views)
        metrics["curves"] = curve_points(of_views)
        metrics["strata"] = stratified_metrics(of_views)
    if ablation and of_views and all(sample.ablated_probabilities for sample in of_views):
        metrics["ablation"] = ablation_metrics(of_views)
        metrics["mistakes"] = count_mistakes(of_views)
    if all(sample.features is not None for sample in samples):
        features = np.stack([s.features for s in samples if s.features is not None])
        metrics["alignment"] = alignment.alignment_metrics(
            features, [s.description for s in samples]
        )
    if any(sample.matches for sample in samples):
        boxed = [sample for sample in samples if sample.matches]
        metrics["detector"] = detection_metrics(
            [dict(s.matches) for s in boxed], [s.group for s in boxed]
        )
    if any(sample.criteria_outcomes for sample in samples):
        metrics["reasons"] = reason_metrics(samples)
    if any(sample.criteria for sample in samples):
        metrics["criteria"] = criteria_counts(samples)
    if any(sample.defects for sample in samples):
        metrics["missed by defect"] = count_missed_defects(samples)
    metrics["failures"] = list_failures(samples)[:worst]
    return metrics


def quality_metrics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """`classification_metrics` of the samples' probabilities."""
    return classification.classification_metrics(
        [sample.probability_or_chance for sample in samples],
        [sample.standard for sample in samples],
        [sample.group for sample in samples],
    )


def curve_points(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """Points of the ROC, precision-recall, reliability and risk-coverage curves."""
    p, y = [s.probability_or_chance for s in samples], [s.standard for s in samples]
    return {
        "ROC": curves.roc(p, y),
        "PR": curves.precision_recall(p, y),
        "reliability": curves.reliability(p, y),
        "risk and coverage": classification.risk_coverage(p, y),
    }


def label_metrics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """Confusion of the labels, and how often a picture is left to review."""
    truth = [
        NO_VIEW if s.view is View.OTHER else STANDARD if s.standard else NON_STANDARD
        for s in samples
    ]
    predicted = [s.label for s in samples]
    is_decided = np.array([label != REVIEW for label in predicted])
    is_right = np.array([t == label for t, label in zip(truth, predicted, strict=True)])
    groups = [s.group for s in samples]
    everyone = np.arange(len(samples))
    rows = [name for name in (STANDARD, NON_STANDARD, NO_VIEW) if name in truth]
    return {
        "matrix": _confusion(truth, predicted, rows, (STANDARD, REVIEW, NON_STANDARD)),
        "review share": classification.metric_with_interval(
            lambda i: float(np.mean(~is_decided[i])), everyone, groups
        ),
        "accuracy of the decided": classification.metric_with_interval(
            lambda i: (
                float(np.mean(is_right[i][is_decided[i]])) if is_decided[i].any() else float("nan")
            ),
            everyone,
            groups,
        ),
        "taken for OTHER": sum(s.predicted_view is View.OTHER for s in samples),
    }


def view_metrics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """Confusion of the views and their accuracy, over pictures of known view."""
    truth, predicted = [s.view or View.OTHER for s in samples], [s.predicted_view for s in samples]
    is_right = np.array([t is p for t, p in zip(truth, predicted, strict=True)])
    names = [view.value for view in View]
    return {
        "accuracy": classification.metric_with_interval(
            lambda i: float(np.mean(is_right[i])),
            np.arange(len(samples)),
            [s.group for s in samples],
        ),
        "matrix": _confusion(truth, predicted, [name for name in names if name in truth], names),
    }


def gate_statistics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """Mean and SD of each branch's weight, over all and by predicted view."""
    statistics = {"all": _gate_statistics(samples)}
    for view in sorted({s.predicted_view for s in samples}):
        statistics[view.value] = _gate_statistics([s for s in samples if s.predicted_view is view])
    return statistics


def stratified_metrics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """Quality by view, set and style ("look" in the stored figures); a kind of one stratum is left
    out."""
    kinds: dict[str, Callable[[EvaluatedSample], str]] = {
        "view": lambda s: "unknown" if s.view is None else s.view.value,
        "set": lambda s: s.source,
        "look": lambda s: s.style,
    }
    strata: dict[str, Any] = {}
    for kind, stratum_of in kinds.items():
        names = sorted({stratum_of(s) for s in samples} - {""})
        if len(names) > 1:
            strata[kind] = {
                name: quality_metrics([s for s in samples if stratum_of(s) == name])
                for name in names
            }
    return strata


def ablation_metrics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """Quality by what is left of the branches; the view is predicted by all of them."""
    standard, groups = [s.standard for s in samples], [s.group for s in samples]
    return {
        name: classification.classification_metrics(
            [s.ablated_probabilities[name] for s in samples], standard, groups
        )
        for name in samples[0].ablated_probabilities
    }


def reason_metrics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    """How well criteria and reasons fit the verdict, by the label that was given: the shares are
    NaN without a picture of the label. How many non-standard pictures name each kind first. And of
    truly standard pictures, and of the others, the shares of each criterion's outcomes.
    """
    labels = np.array([sample.label for sample in samples])
    has_unmet = np.array([bool(sample.unmet) for sample in samples])
    names_fault = np.array(
        [
            any(r.kind in (CRITERION_REASON, STRUCTURE_REASON) for r in sample.reasons)
            for sample in samples
        ]
    )
    groups = [sample.group for sample in samples]
    refused = [sample for sample in samples if sample.label == NON_STANDARD]
    first = Counter(sample.reasons[0].kind for sample in refused if sample.reasons)
    return {
        UNMET_ON_STANDARD: _share(has_unmet, labels == STANDARD, groups),
        FAULT_NAMED: _share(names_fault, labels == NON_STANDARD, groups),
        "first reason": {kind: first[kind] for kind in REASON_KINDS},
        "criteria": outcome_shares(samples),
    }


def outcome_shares(samples: Sequence[EvaluatedSample]) -> dict[str, dict[str, dict[str, float]]]:
    """By criterion, of the truly standard and of the non-standard pictures: the shares that are
    met, not met and undecided. A criterion of two views is counted over both."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for sample in samples:
        truth = STANDARD if sample.standard else NON_STANDARD
        for criterion in sample.criteria_outcomes:
            by_truth = counts.setdefault(
                criterion.code, {STANDARD: Counter(), NON_STANDARD: Counter()}
            )
            by_truth[truth][OUTCOMES[criterion.met]] += 1
    return {
        code: {
            truth: {name: count[name] / count.total() for name in OUTCOMES.values()}
            for truth, count in by_truth.items()
            if count
        }
        for code, by_truth in counts.items()
    }


def _share(
    is_counted: "np.ndarray[Any, Any]", is_of_label: "np.ndarray[Any, Any]", groups: Sequence[str]
) -> dict[str, Any]:
    """The share of the label's pictures that are counted, with its interval by group."""

    def share(rows: classification.Indices) -> float:
        of_label = is_of_label[rows]
        return float(np.mean(is_counted[rows][of_label])) if of_label.any() else float("nan")

    return classification.metric_with_interval(share, np.arange(len(is_counted)), groups)


def criteria_counts(samples: Sequence[EvaluatedSample]) -> dict[str, dict[str, int]]:
    """Per criterion whose truth is known: outcomes right, wrong and undecided, where the predicted
    view is the true one."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        if sample.predicted_view is not sample.view:
            continue
        for outcome in sample.criteria_outcomes:
            if outcome.code in sample.criteria:
                true = sample.criteria[outcome.code]
                result = "cannot tell" if outcome.met is None else _right(outcome.met is true)
                counts.setdefault(outcome.code, Counter())[result] += 1
    return {
        code: {result: results[result] for result in ("right", "wrong", "cannot tell")}
        for code, results in sorted(counts.items())
    }


def count_missed_defects(samples: Sequence[EvaluatedSample]) -> dict[str, dict[str, int]]:
    """How many pictures of each defect there are, and have a P(standard) of 0.5 or more."""
    counts: dict[str, dict[str, int]] = {}
    for sample in samples:
        for defect in sample.defects:
            count = counts.setdefault(defect, {"pictures": 0, "missed": 0})
            count["pictures"] += 1
            count["missed"] += sample.probability_or_chance >= 0.5
    return dict(sorted(counts.items()))


def count_mistakes(samples: Sequence[EvaluatedSample]) -> dict[str, dict[str, int]]:
    """How many standard pictures were called non-standard and the reverse, and on how many of these
    each branch alone, and all three, are wrong too (P(standard) on the wrong side of 0.5)."""
    counts = {}
    for name, label in ((FALSE_NON_STANDARD, NON_STANDARD), (FALSE_STANDARD, STANDARD)):
        wrong = [
            s for s in samples if s.label == label and _true_probability(s) != (label == STANDARD)
        ]
        counts[name] = {"pictures": len(wrong)} | {
            branch: sum(_is_misled(s, branch) for s in wrong) for branch in SINGLE_BRANCHES
        }
        counts[name][EVERY_BRANCH] = sum(
            all(_is_misled(s, branch) for branch in SINGLE_BRANCHES) for s in wrong
        )
    return counts


def _is_misled(sample: EvaluatedSample, branch: str) -> bool:
    return (sample.ablated_probabilities[branch] >= 0.5) != sample.standard


def list_failures(samples: Sequence[EvaluatedSample]) -> list[dict[str, Any]]:
    """The pictures of a wrong view or label, those of the highest wrong probability first."""
    wrong = [sample for sample in samples if _reason(sample)]
    # By how far P(standard) is from the truth.
    wrong.sort(key=lambda s: (-abs(s.probability_or_chance - _true_probability(s)), s.picture))
    return [
        {
            "picture": s.picture,
            "set": s.source,
            "view": None if s.view is None else s.view.value,
            "named": s.predicted_view.value,
            "standard": s.standard,
            "label": s.label,
            "probability": s.probability,
            "unmet": list(s.unmet),
            "flags": list(s.flags),
            "reason": _reason(s),
        }
        for s in wrong
    ]


def to_plain(value: Any) -> Any:
    """The value as JSON has it: what is not finite is None."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _true_probability(sample: EvaluatedSample) -> float:
    return float(sample.standard and sample.view is not View.OTHER)


def _reason(sample: EvaluatedSample) -> str:
    """What is wrong with the judgement of a picture; empty if nothing is."""
    reasons = []
    if sample.view is not None and sample.predicted_view is not sample.view:
        reasons.append(f"{sample.view.value} taken for {sample.predicted_view.value}")
    is_right = _true_probability(sample) == (sample.label == STANDARD)
    if sample.label != REVIEW and not is_right:
        is_standard = sample.label == STANDARD
        reasons.append(FALSE_STANDARD if is_standard else FALSE_NON_STANDARD)
        if not sample.unmet:
            reasons.append("no criterion seen as unmet")
    if reasons and sample.flags:
        reasons.append(", ".join(sample.flags))
    return "; ".join(reasons)


def _right(right: bool) -> str:
    return "right" if right else "wrong"


def _gate_statistics(samples: Sequence[EvaluatedSample]) -> dict[str, Any]:
    weights = np.array([s.gates for s in samples])
    return {
        branch: {"mean": float(weights[:, k].mean()), "SD": float(weights[:, k].std())}
        for k, branch in enumerate(BRANCHES)
    }


def _confusion(
    truth: Sequence[str], predicted: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, int]]:
    counts = Counter(zip(map(str, truth), map(str, predicted), strict=True))
    return {row: {column: counts[row, column] for column in columns} for row in rows}

"""Criteria on real pictures that no network learnt from: thresholds fitted to them, and how well
they fit labels and verdicts.

Real pictures say of no criterion whether it is met. They say which structures are there, by their
boxes, and how far measurements of standard pictures reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from detector.anatomy import View
from detector.boxes import Detection, filter_by_confidence
from model.criteria.checks import CHECKS, Better, CriteriaThresholds, Measurement
from model.criteria.thresholds import ThreeWayThreshold
from model.finding import Criterion, Reason
from model.judge import Thresholds
from model.reasons import judge_criteria
from training.bundling.fit_criteria import Values, fit_band
from training.crossval.folds import BOTH_CLASSES, load_predictions
from training.crossval.leave_style_out import load_style_predictions
from training.crossval.run import evaluated_sample
from training.evaluation.ablation import ALL_BRANCHES
from training.evaluation.record import EvaluatedSample
from training.evaluation.select_calibration import select_calibration
from training.evaluation.summary import reason_metrics

MIN_STANDARD = 100
"""So many standard pictures of a view say how far its measurements reach."""

FENCE = 3.0
"""No standard picture fails by a measurement within so many interquartile ranges of the quartiles:
Tukey's outer fences (Exploratory Data Analysis, 1977). Other scanners' pictures differ by more than
one data set's do among themselves."""

MIN_DECIDED = 0.7
"""At least so many of the standard pictures meet a criterion, if no phantom forbids it."""


@dataclass(frozen=True, slots=True)
class RealPicture:
    """A real picture of a view, judged by networks that did not learn from it.

    `measurements` by criterion code; `detections` are those that are shown, `weak_detections` all;
    `boxed` are the structures that have a box, of those that it is `annotated` for.
    """

    view: View
    is_standard: bool
    measurements: Mapping[str, Measurement]
    detections: tuple[Detection, ...]
    weak_detections: tuple[Detection, ...]
    annotated: frozenset[str]
    boxed: frozenset[str]

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """From a row of a cross-validation's predictions.json."""
        detections = tuple(
            Detection(label, (box[0], box[1], box[2], box[3]), confidence)
            for label, box, confidence in row["detections"]
        )
        return cls(
            view=View(row["view"]),
            is_standard=bool(row["standard"]),
            measurements={
                code: Measurement(presence, value, unit, tuple(labels))
                for code, (presence, value, unit, labels) in row["measurements"].items()
            },
            detections=tuple(filter_by_confidence(Thresholds().detection, detections)),
            weak_detections=detections,
            annotated=frozenset(row["annotated"]),
            boxed=frozenset(row["boxed"]),
        )

    def judge(
        self, quality: str, thresholds: CriteriaThresholds
    ) -> tuple[tuple[Criterion, ...], tuple[Reason, ...]]:
        """The criteria and the reasons of this verdict, but for those that deletion finds."""
        _, criteria, reasons = judge_criteria(
            self.view,
            quality,
            self.measurements,
            self.detections,
            self.weak_detections,
            thresholds,
        )
        return criteria, reasons


def read_real_pictures(folder: Path) -> list[RealPicture]:
    """The pictures with a quality label of the cross-validation in `folder`; none of an earlier
    version's, which has no measurements."""
    return [RealPicture.of_row(row) for row in load_predictions(folder) if "measurements" in row]


def fit_to_real(
    thresholds: CriteriaThresholds, pictures: Sequence[RealPicture]
) -> CriteriaThresholds:
    """The thresholds, fitted on phantoms, made to fit real pictures of views that have enough.

    Whether a structure is visible is fitted on boxes, of pictures that are annotated for it; a band
    that fewer than MIN_DECIDED of the standard ones meet gives way to PRESENT. A measured criterion
    is not met only beyond the outer fences of standard pictures, wherever phantoms put its end, and
    is met by MIN_DECIDED of them.
    """
    presence = {view: dict(bands) for view, bands in thresholds.presence.items()}
    measured = {view: dict(bands) for view, bands in thresholds.measured.items()}
    prevalence = {view: dict(shares) for view, shares in thresholds.prevalence.items()}
    for view in View:
        of_view = [picture for picture in pictures if picture.view is view]
        standard = [picture for picture in of_view if picture.is_standard]
        if len(standard) < MIN_STANDARD:
            continue
        for code, check in CHECKS[view].items():
            if check.needs:
                shares = prevalence.setdefault(view, {})
                _fit_presence(presence.setdefault(view, {}), shares, code, check.needs, of_view)
            band = measured.get(view, {}).get(code)
            if check.measure is not None and band is not None:
                values = _values(standard, code)
                if len(values) >= MIN_STANDARD:
                    measured[view][code] = widen(band, values, check.better)
    return replace(thresholds, presence=presence, measured=measured, prevalence=prevalence)


def widen(band: ThreeWayThreshold, values: Values, better: Better) -> ThreeWayThreshold:
    """The band, with the ends of unmet beyond the outer fences of the (N,) values of standard
    pictures, and with MIN_DECIDED of these within what meets the criterion.

    Ends move outwards only, and only those that the criterion has.
    """
    low, high = np.quantile(values, (0.25, 0.75))
    reach = FENCE * (high - low)
    tail = (1 - MIN_DECIDED) / (2 if better is Better.MIDDLE else 1)
    met_from, met_to = np.quantile(values, (tail, 1 - tail))
    widened = band
    if better is not Better.LOW and np.isfinite(band.unmet_below):
        unmet_below = min(band.unmet_below, float(low - reach))
        decided_from = max(min(band.met_from, float(met_from)), unmet_below)
        widened = replace(widened, unmet_below=unmet_below, met_from=decided_from)
    if better is not Better.HIGH and np.isfinite(band.unmet_above):
        unmet_above = max(band.unmet_above, float(high + reach))
        decided_to = min(max(band.met_to, float(met_to)), unmet_above)
        widened = replace(widened, met_to=decided_to, unmet_above=unmet_above)
    return widened


def criteria_figures(
    folder: Path, thresholds: CriteriaThresholds
) -> dict[str, dict[str, Any]] | None:
    """How criteria and reasons fit labels and verdicts out of fold (`summary.reason_metrics`), of
    each set and of each style that was left out; None where the cross-validation in `folder` is
    of an earlier version.

    Each picture is judged by `thresholds` made to fit the real pictures of the other folds, or of
    the other styles. Reasons that deletion finds are not among them.
    """
    rows = load_predictions(folder)
    if not all("measurements" in row for row in rows):
        return None
    evaluated = []
    for fold in sorted({row["fold"] for row in rows}):
        part = [row for row in rows if row["fold"] == fold]
        evaluated += _evaluate(part, [row for row in rows if row["fold"] != fold], thresholds)
    figures = {
        source: reason_metrics([sample for sample in evaluated if sample.source == source])
        for source in sorted({sample.source for sample in evaluated})
    }
    for style, part in load_style_predictions(folder).items():
        groups = {row["group"] for row in part}
        others = [row for row in rows if row["group"] not in groups]
        figures[f"{style} left out"] = reason_metrics(_evaluate(part, others, thresholds))
    return figures


def _evaluate(
    rows: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    start: CriteriaThresholds,
) -> list[EvaluatedSample]:
    """The rows' pictures, with thresholds and calibration of the other rows."""
    thresholds = fit_to_real(start, [RealPicture.of_row(row) for row in others])
    reference = [row for row in others if row["source"] == BOTH_CLASSES]
    calibration, _ = select_calibration(
        [row["logits"][ALL_BRANCHES] for row in reference],
        [float(row["standard"]) for row in reference],
        [row["group"] for row in reference],
    )
    probabilities = calibration.calibrate_many(
        np.array([row["logits"][ALL_BRANCHES] for row in rows])
    )
    evaluated = []
    for row, probability in zip(rows, probabilities, strict=True):
        sample = evaluated_sample(row, {ALL_BRANCHES: float(probability)}, {})
        if sample.predicted_view is sample.view:
            criteria, reasons = RealPicture.of_row(row).judge(sample.label, thresholds)
            evaluated.append(replace(sample, criteria_outcomes=criteria, reasons=reasons))
    return evaluated


def _fit_presence(
    bands: dict[str, ThreeWayThreshold],
    shares: dict[str, float],
    code: str,
    needs: Sequence[Sequence[str]],
    pictures: Sequence[RealPicture],
) -> None:
    """Fit the band of a criterion's structures on their boxes, and count who shows them."""
    labels = {label for group in needs for label in group}
    annotated = [picture for picture in pictures if picture.annotated.issuperset(labels)]
    truths = np.array([all(p.boxed.intersection(group) for group in needs) for p in annotated])
    standard = [t for t, p in zip(truths, annotated, strict=True) if p.is_standard]
    if len(standard) >= MIN_STANDARD:
        shares[code] = float(np.mean(standard))
    if len(annotated):
        presences = np.array([p.measurements[code].presence or 0.0 for p in annotated])
        fit_band(bands, code, presences, truths, Better.HIGH)
    band = bands.get(code)
    if band is not None and standard:
        of_standard = presences[[picture.is_standard for picture in annotated]]
        # Boxes that annotators left out teach that even a sure detection is none.
        if np.mean([band.judge(presence) is True for presence in of_standard]) < MIN_DECIDED:
            del bands[code]


def _values(pictures: Sequence[RealPicture], code: str) -> Values:
    values = [p.measurements[code].value for p in pictures if code in p.measurements]
    return np.array([value for value in values if value is not None])

"""Fit the thresholds of the criteria to pictures whose truth is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from detector.boxes import Detection
from detector.frame import Pixels
from model.criteria.checks import CHECKS, Better, CriteriaThresholds, judge, measure
from model.criteria.rules import MODEL_RULES
from model.criteria.thresholds import ThreeWayThreshold

MIN_PER_CLASS = 8
"""A threshold needs at least so many pictures that meet the criterion, and that do not."""

MIN_ACCURACY = 0.7
"""Below this balanced accuracy a measurement says too little, and the criterion stays unknown."""

PURITY = 0.9
"""Share of right outcomes on either side of the band, both classes weighed alike."""

Values = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class CriteriaSample:
    """A region's pixels, what the detector found in them, and the truth by criterion code."""

    view: View
    detections: Sequence[Detection]
    pixels: Pixels
    truth: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class CriterionRates:
    """How one criterion is judged over `met` + `unmet` pictures.

    Of those decided: `sensitivity` is the share of unmet found unmet, `specificity` of met found
    met (None where none is decided); `undecided` is the share of all left unknown.
    """

    view: View
    code: str
    met: int
    unmet: int
    sensitivity: float | None
    specificity: float | None
    undecided: float


def fit(
    samples: Sequence[CriteriaSample], start: CriteriaThresholds | None = None
) -> CriteriaThresholds:
    """The thresholds of best balanced accuracy on the samples, criterion by criterion.

    Between where PURITY of the outcomes are "met" and where they are "unmet" lies "cannot tell". A
    criterion keeps the band of `start` where the samples are too few (MIN_PER_CLASS of either
    truth), and loses it where its measurement says too little (MIN_ACCURACY).
    """
    start = start or CriteriaThresholds()
    presence = {view: dict(bands) for view, bands in start.presence.items()}
    measured = {view: dict(bands) for view, bands in start.measured.items()}
    for view, codes in _columns(samples, start.detectable).items():
        for code, (presences, values, truths) in codes.items():
            check = CHECKS[view][code]
            if check.measure is None:
                fit_band(presence.setdefault(view, {}), code, presences, truths, Better.HIGH)
            else:
                fit_band(measured.setdefault(view, {}), code, values, truths, check.better)
    return replace(start, presence=presence, measured=measured)


def rates(
    samples: Sequence[CriteriaSample], thresholds: CriteriaThresholds
) -> list[CriterionRates]:
    """Sensitivity and specificity of each criterion, in the order of the rules."""
    outcomes: dict[tuple[View, str], list[tuple[bool, bool | None]]] = {}
    for sample in samples:
        height, width = sample.pixels.shape[:2]
        for outcome in judge(
            sample.view, sample.detections, width, height, sample.pixels, thresholds
        ):
            if outcome.code in sample.truth:
                pair = (sample.truth[outcome.code], outcome.met)
                outcomes.setdefault((sample.view, outcome.code), []).append(pair)
    return [
        _rates(view, rule.code, outcomes[view, rule.code])
        for view in View
        for rule in MODEL_RULES[view]
        if (view, rule.code) in outcomes
    ]


def band_of(values: Values, truths: Truths, better: Better) -> ThreeWayThreshold | None:
    """The fitted band of N values; None if they do not separate the (N,) truths.

    Of MIDDLE, each side is fitted by itself, from the median of the met outwards.
    """
    if better is Better.HIGH:
        return _lower_end(values, truths)
    if better is Better.LOW:
        return _mirrored(_lower_end(-values, truths))
    centre = float(np.median(values[truths]))
    below, above = values <= centre, values >= centre
    low = (
        _lower_end(values[below], truths[below]) if _enough(truths[below]) else ThreeWayThreshold()
    )
    high = (
        _lower_end(-values[above], truths[above]) if _enough(truths[above]) else ThreeWayThreshold()
    )
    mirrored = _mirrored(high)
    if low is None or mirrored is None:
        return None
    return ThreeWayThreshold(low.unmet_below, low.met_from, mirrored.met_to, mirrored.unmet_above)


def fit_band(
    bands: dict[str, ThreeWayThreshold], code: str, values: Values, truths: Truths, b: Better
) -> None:
    is_known = np.isfinite(values)
    if not _enough(truths[is_known]):
        return
    band = band_of(values[is_known], truths[is_known], b)
    if band is None:
        bands.pop(code, None)
    else:
        bands[code] = band


def _lower_end(values: Values, truths: Truths) -> ThreeWayThreshold | None:
    """The band for values of which higher is better."""
    ordered = np.unique(values)
    if len(ordered) < 2:
        return None
    cuts = (ordered[:-1] + ordered[1:]) / 2
    # Per cut: the share of met at or above it, and of unmet.
    met = (values[truths][None, :] >= cuts[:, None]).mean(axis=1)
    unmet = (values[~truths][None, :] >= cuts[:, None]).mean(axis=1)
    accuracy = (met + 1 - unmet) / 2
    if accuracy.max() < MIN_ACCURACY:
        return None
    best = np.flatnonzero(accuracy == accuracy.max())
    middle = int(best[len(best) // 2])
    is_met = met >= PURITY * (met + unmet)
    is_unmet = 1 - unmet >= PURITY * (2 - unmet - met)
    upper = np.flatnonzero(is_met[middle:] & (met[middle:] > 0))
    lower = np.flatnonzero(is_unmet[: middle + 1] & (unmet[: middle + 1] < 1))
    if not len(upper) or not len(lower):
        return None
    return ThreeWayThreshold(
        unmet_below=float(cuts[lower[-1]]), met_from=float(cuts[middle + upper[0]])
    )


def _mirrored(band: ThreeWayThreshold | None) -> ThreeWayThreshold | None:
    return band and ThreeWayThreshold(met_to=-band.met_from, unmet_above=-band.unmet_below)


def _enough(truths: Truths) -> bool:
    return int(truths.sum()) >= MIN_PER_CLASS and int((~truths).sum()) >= MIN_PER_CLASS


def _columns(
    samples: Sequence[CriteriaSample], detectable: frozenset[str]
) -> dict[View, dict[str, tuple[Values, Values, Truths]]]:
    """(presence, value, truth) of every sample, by view and criterion; NaN for None."""
    rows: dict[View, dict[str, list[tuple[float, float, bool]]]] = {}
    for sample in samples:
        height, width = sample.pixels.shape[:2]
        measurements = measure(
            sample.view, sample.detections, width, height, sample.pixels, detectable
        )
        for code in measurements.keys() & sample.truth.keys():
            presence, value = measurements[code].presence, measurements[code].value
            rows.setdefault(sample.view, {}).setdefault(code, []).append(
                (
                    np.nan if presence is None else presence,
                    np.nan if value is None else value,
                    sample.truth[code],
                )
            )
    return {
        view: {code: _transposed(rows_of) for code, rows_of in codes.items()}
        for view, codes in rows.items()
    }


def _transposed(rows: Sequence[tuple[float, float, bool]]) -> tuple[Values, Values, Truths]:
    presences, values, truths = zip(*rows, strict=True)
    return np.array(presences, float), np.array(values, float), np.array(truths, bool)


def _rates(view: View, code: str, pairs: Sequence[tuple[bool, bool | None]]) -> CriterionRates:
    decided = [(truth, outcome) for truth, outcome in pairs if outcome is not None]
    right = {
        truth: [outcome == truth for true, outcome in decided if true is truth]
        for truth in (False, True)
    }
    return CriterionRates(
        view=view,
        code=code,
        met=sum(truth for truth, _ in pairs),
        unmet=sum(not truth for truth, _ in pairs),
        sensitivity=_share(right[False]),
        specificity=_share(right[True]),
        undecided=1 - len(decided) / len(pairs),
    )


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None

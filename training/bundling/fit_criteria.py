"""Thresholds of the criteria, fitted to pictures whose truth is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from detector.boxes import Detection
from detector.frame import Pixels
from model.criteria.checks import CHECKS, Better, CriteriaThresholds, judge, measure
from model.criteria.rules import RULES
from model.criteria.thresholds import ThreeWayThreshold

FEWEST = 8
"""Pictures of either truth that a threshold needs."""

LEAST_ACCURACY = 0.7
"""Balanced accuracy below which a measurement does not tell, and the criterion stays unknown."""

PURITY = 0.9
"""Share of right verdicts, both truths weighed alike, that the band gives outside its middle."""

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
    """Thresholds that serve the samples best, by balanced accuracy, criterion by criterion.

    Between the surest "met" and the surest "unmet" (PURITY) lies the band of "cannot tell". A
    criterion keeps the band of `start` where the samples are too few (FEWEST of either truth), and
    loses it where its measurement does not tell (LEAST_ACCURACY).
    """
    start = start or CriteriaThresholds()
    presence = {view: dict(bands) for view, bands in start.presence.items()}
    measured = {view: dict(bands) for view, bands in start.measured.items()}
    for view, codes in _columns(samples, start.detectable).items():
        for code, (seen, values, truths) in codes.items():
            check = CHECKS[view][code]
            if check.measure is None:
                _learn(presence.setdefault(view, {}), code, seen, truths, Better.HIGH)
            else:
                _learn(measured.setdefault(view, {}), code, values, truths, check.better)
    return CriteriaThresholds(start.detectable, start.support, presence, measured)


def rates(
    samples: Sequence[CriteriaSample], thresholds: CriteriaThresholds
) -> list[CriterionRates]:
    """Sensitivity and specificity of each criterion, in the order of the rules."""
    verdicts: dict[tuple[View, str], list[tuple[bool, bool | None]]] = {}
    for sample in samples:
        height, width = sample.pixels.shape[:2]
        for found in judge(
            sample.view, sample.detections, width, height, sample.pixels, thresholds
        ):
            if found.code in sample.truth:
                pair = (sample.truth[found.code], found.met)
                verdicts.setdefault((sample.view, found.code), []).append(pair)
    return [
        _rates(view, rule.code, verdicts[view, rule.code])
        for view in View
        for rule in RULES[view]
        if (view, rule.code) in verdicts
    ]


def band_of(values: Values, truths: Truths, better: Better) -> ThreeWayThreshold | None:
    """The fitted band; None if the values do not tell the truths apart.

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


def _learn(
    bands: dict[str, ThreeWayThreshold], code: str, values: Values, truths: Truths, b: Better
) -> None:
    told = np.isfinite(values)
    if not _enough(truths[told]):
        return
    band = band_of(values[told], truths[told], b)
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
    if accuracy.max() < LEAST_ACCURACY:
        return None
    best = np.flatnonzero(accuracy == accuracy.max())
    middle = int(best[len(best) // 2])
    sure_met = met >= PURITY * (met + unmet)
    sure_unmet = 1 - unmet >= PURITY * (2 - unmet - met)
    upper = np.flatnonzero(sure_met[middle:] & (met[middle:] > 0))
    lower = np.flatnonzero(sure_unmet[: middle + 1] & (unmet[: middle + 1] < 1))
    if not len(upper) or not len(lower):
        return None
    return ThreeWayThreshold(
        unmet_below=float(cuts[lower[-1]]), met_from=float(cuts[middle + upper[0]])
    )


def _mirrored(band: ThreeWayThreshold | None) -> ThreeWayThreshold | None:
    return band and ThreeWayThreshold(met_to=-band.met_from, unmet_above=-band.unmet_below)


def _enough(truths: Truths) -> bool:
    return int(truths.sum()) >= FEWEST and int((~truths).sum()) >= FEWEST


def _columns(
    samples: Sequence[CriteriaSample], known: frozenset[str]
) -> dict[View, dict[str, tuple[Values, Values, Truths]]]:
    """(presence, value, truth) of every sample, by view and criterion; NaN for None."""
    rows: dict[View, dict[str, list[tuple[float, float, bool]]]] = {}
    for sample in samples:
        height, width = sample.pixels.shape[:2]
        found = measure(sample.view, sample.detections, width, height, sample.pixels, known)
        for code in found.keys() & sample.truth.keys():
            seen, value = found[code].presence, found[code].value
            rows.setdefault(sample.view, {}).setdefault(code, []).append(
                (
                    np.nan if seen is None else seen,
                    np.nan if value is None else value,
                    sample.truth[code],
                )
            )
    return {
        view: {code: _transposed(rows_of) for code, rows_of in codes.items()}
        for view, codes in rows.items()
    }


def _transposed(rows: Sequence[tuple[float, float, bool]]) -> tuple[Values, Values, Truths]:
    seen, values, truths = zip(*rows, strict=True)
    return np.array(seen, float), np.array(values, float), np.array(truths, bool)


def _rates(view: View, code: str, pairs: Sequence[tuple[bool, bool | None]]) -> CriterionRates:
    decided = [(truth, verdict) for truth, verdict in pairs if verdict is not None]
    right = {
        truth: [verdict == truth for true, verdict in decided if true is truth]
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

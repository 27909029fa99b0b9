"""Judges each criterion of a view from boxes and grey levels: met, not met, or cannot tell (None).

A criterion may need structures to be visible, and may measure something. A structure that was not
detected counts as not visible only if the detector knows its label, makes not even an unsure box of
it (TRACE), and detected enough other structures of the view; else the criterion is None.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import numpy as np

from detector.anatomy import LABELS, View
from detector.boxes import Box, Detection
from detector.frame import Pixels
from model.criteria.rules import (
    BRAIN,
    CHOROID,
    COMPLETE,
    CORD,
    ENDS,
    FALX,
    FOCUS,
    GAIN,
    HORIZONTAL,
    LEVEL,
    MODEL_RULES,
    NASAL,
    NECK_CRL,
    NT_VISIBLE,
    OUTLINE,
    PLANE,
    PROFILE,
    SHADOW,
    SIZE,
    SKULL,
    STOMACH,
)
from model.criteria.sonogram import Sonogram
from model.criteria.thresholds import PRESENT, CriteriaThresholds, ThreeWayThreshold
from model.finding import Criterion

__all__ = [
    "CHECKS",
    "Better",
    "CriteriaThresholds",
    "Failure",
    "Measurement",
    "decide",
    "expected_structures",
    "failures",
    "judge",
    "measure",
]

TRACE = 0.1
"""From this confidence on a box that is not shown is a trace of its structure: whether that is
visible cannot be told. On the pictures of a scanner that the detector has not learnt from, its
confidences are lower throughout."""

SURE_PREVALENCE = 0.95
"""What fewer standard pictures show (`CriteriaThresholds.prevalence`) is not missing at high
certainty: the picture may be standard without it."""

SURE_SUPPORT = 2.0
"""A structure is missing at high certainty if the support of the others is so many times what a
missing structure needs (`CriteriaThresholds.support`)."""

MIN_STRUCTURES = 4
"""From so many detected structures of the NT view on, their common box stands for the fetus."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A criterion's evidence: the confidence that what it needs is visible (None: needs nothing),
    and the measured value (None: not measurable) in `unit` (UCUM). `labels` are the structures that
    both were read from.
    """

    presence: float | None
    value: float | None
    unit: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class RegionImage:
    """A region to judge: the most confident box of each label, and the pixels (H, W, 3) RGB.

    `detectable` are the labels that the bundle's detector knows.
    """

    view: View
    best: Mapping[str, Detection]
    width: float
    height: float
    pixels: Pixels
    detectable: frozenset[str]

    @cached_property
    def sonogram(self) -> Sonogram | None:
        return Sonogram.of(self.pixels)

    @cached_property
    def of_view(self) -> tuple[Detection, ...]:
        """The view's structures that were detected, in the vocabulary's order."""
        codes = [label.code for label in LABELS if label.view is self.view]
        return tuple(self.best[code] for code in codes if code in self.best)

    def box(self, code: str) -> Box | None:
        detection = self.best.get(code)
        return detection.bbox if detection else None

    def confidence(self, codes: Sequence[str]) -> float:
        """Highest confidence among the labels; 0 if none was detected."""
        return max((self.best[code].confidence for code in codes if code in self.best), default=0.0)


Measure = Callable[[RegionImage], float | None]
_NO_PIXELS: Pixels = np.zeros((0, 0, 3), np.uint8)


class Better(Enum):
    """Which measurements meet a criterion."""

    HIGH = auto()
    LOW = auto()
    MIDDLE = auto()


@dataclass(frozen=True, slots=True)
class CriterionCheck:
    """How one criterion is judged. `needs`: of each group one label must be visible. `measure`
    reads the boxes of `reads` (empty: every structure of the view), or only the detector's
    confidences in them (`by_confidence`)."""

    needs: tuple[tuple[str, ...], ...] = ()
    measure: Measure | None = None
    reads: tuple[str, ...] = ()
    unit: str = "1"
    better: Better = Better.HIGH
    by_confidence: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """How a criterion is not met: `direction` of a measured value (None: a structure is not
    visible), and whether at high certainty."""

    code: str
    direction: str | None
    is_certain: bool


def judge(
    view: View,
    detections: Sequence[Detection],
    width: float,
    height: float,
    pixels: Pixels,
    thresholds: CriteriaThresholds,
    weak_detections: Sequence[Detection] = (),
) -> tuple[Criterion, ...]:
    """One outcome for each of `MODEL_RULES[view]`, in their order; none for OTHER.

    Boxes are in pixels of the region `pixels`, RGB (height, width, 3). Size is a share of the
    picture, as in the guidelines, so that no rule needs millimetres. `weak_detections` are those
    that are too unsure to be shown; the others may be among them.
    """
    measurements = measure(view, detections, width, height, pixels, thresholds.detectable)
    return decide(view, detections, weak_detections, measurements, thresholds)


def decide(
    view: View,
    detections: Sequence[Detection],
    weak_detections: Sequence[Detection],
    measurements: Mapping[str, Measurement],
    thresholds: CriteriaThresholds,
) -> tuple[Criterion, ...]:
    """What `judge` gives, from the measurements that `measure` made of the same `detections`."""
    picture = _region_image(view, detections, 0, 0, _NO_PIXELS, thresholds.detectable)
    traces = {each.label for each in weak_detections if each.confidence >= TRACE}
    return tuple(
        _criterion(rule.code, picture, traces, measurements[rule.code], thresholds)
        for rule in MODEL_RULES[view]
    )


def measure(
    view: View,
    detections: Sequence[Detection],
    width: float,
    height: float,
    pixels: Pixels,
    detectable: frozenset[str],
) -> dict[str, Measurement]:
    """The measurements that `judge` compares with thresholds, by criterion code; for their fit."""
    picture = _region_image(view, detections, width, height, pixels, detectable)
    return {rule.code: _measure(rule.code, picture) for rule in MODEL_RULES[view]}


def failures(
    view: View,
    criteria: Sequence[Criterion],
    detections: Sequence[Detection],
    thresholds: CriteriaThresholds,
) -> tuple[Failure, ...]:
    """One for each of the `criteria` that is not met, in their order.

    `criteria` are what `judge` made of `detections`. At high certainty a structure is missing only
    if standard pictures hardly ever lack it (SURE_PREVALENCE), and the view's other structures are
    detected with SURE_SUPPORT.
    """
    picture = _region_image(view, detections, 0, 0, _NO_PIXELS, thresholds.detectable)
    return tuple(
        _failure(criterion, picture, thresholds) for criterion in criteria if criterion.met is False
    )


def expected_structures(view: View, thresholds: CriteriaThresholds) -> tuple[tuple[str, ...], ...]:
    """Groups of labels that the detector knows, of each of which standard pictures show one."""
    groups = thresholds.expected.get(view) or tuple(
        group for check in CHECKS[view].values() for group in check.needs
    )
    known = (tuple(label for label in group if label in thresholds.detectable) for group in groups)
    return tuple(dict.fromkeys(group for group in known if group))


def _failure(
    criterion: Criterion,
    picture: RegionImage,
    thresholds: CriteriaThresholds,
) -> Failure:
    code = criterion.code
    check = CHECKS[picture.view][code]
    if check.needs:
        visible = thresholds.presence.get(picture.view, {}).get(code, PRESENT)
        missing = [g for g in check.needs if visible.judge(picture.confidence(g)) is False]
        if missing:
            support = _support(check, picture, thresholds) or 0.0
            prevalence = thresholds.prevalence.get(picture.view, {}).get(code, 1.0)
            is_certain = (
                prevalence >= SURE_PREVALENCE and support >= SURE_SUPPORT * thresholds.support
            )
            return Failure(code, None, is_certain)
    threshold = thresholds.measured.get(picture.view, {}).get(code)
    if threshold is None or criterion.value is None:
        return Failure(code, None, is_certain=False)
    return Failure(
        code, threshold.direction(criterion.value), threshold.is_far_beyond(criterion.value)
    )


def _region_image(
    view: View,
    detections: Sequence[Detection],
    width: float,
    height: float,
    pixels: Pixels,
    detectable: frozenset[str],
) -> RegionImage:
    best: dict[str, Detection] = {}
    for detection in sorted(detections, key=lambda d: d.confidence):
        best[detection.label] = detection
    return RegionImage(view, best, width, height, pixels, detectable)


def _measure(code: str, picture: RegionImage) -> Measurement:
    check = CHECKS[picture.view][code]
    presence = min(map(picture.confidence, check.needs)) if check.needs else None
    value = check.measure(picture) if check.measure else None
    needed = [label for group in check.needs for label in group]
    sources = check.reads or (
        [d.label for d in picture.of_view] if check.measure and not needed else []
    )
    labels = dict.fromkeys(label for label in [*needed, *sources] if label in picture.best)
    return Measurement(presence, value, check.unit, tuple(labels))


def _criterion(
    code: str,
    picture: RegionImage,
    traces: Set[str],
    measurement: Measurement,
    thresholds: CriteriaThresholds,
) -> Criterion:
    check = CHECKS[picture.view][code]
    presence: bool | None = True
    if measurement.presence is not None:
        visible = thresholds.presence.get(picture.view, {}).get(code, PRESENT)
        presence = visible.judge(measurement.presence)
        if presence is False and not _absence_counts(check, visible, picture, traces, thresholds):
            presence = None
    if check.measure is None or presence is not True:
        return Criterion(code, presence, measurement.presence, "1", measurement.labels)
    threshold = thresholds.measured.get(picture.view, {}).get(code)
    if measurement.value is None or threshold is None:
        return Criterion(code, None, measurement.value, measurement.unit, measurement.labels)
    return Criterion(
        code,
        threshold.judge(measurement.value),
        measurement.value,
        measurement.unit,
        measurement.labels,
    )


def _absence_counts(
    check: CriterionCheck,
    visible: ThreeWayThreshold,
    picture: RegionImage,
    traces: Set[str],
    thresholds: CriteriaThresholds,
) -> bool:
    """Whether an undetected structure counts as not visible.

    It does if the detector knows its label, has neither box nor trace of it, and detected the
    view's other structures with enough confidence (`CriteriaThresholds.support`).
    """
    missing = [group for group in check.needs if visible.judge(picture.confidence(group)) is False]
    if not any(
        thresholds.detectable.issuperset(group)
        # Nobody may read "not visible" beside a box of it, however unsure.
        and not any(label in traces or label in picture.best for label in group)
        for group in missing
    ):
        return False
    support = _support(check, picture, thresholds)
    return support is not None and support >= thresholds.support


def _support(
    check: CriterionCheck, picture: RegionImage, thresholds: CriteriaThresholds
) -> float | None:
    """Mean confidence over the view's labels that the check does not need; None without any."""
    needed = {label for group in check.needs for label in group}
    others = [
        label.code
        for label in LABELS
        if label.view is picture.view
        and label.code in thresholds.detectable
        and label.code not in needed
    ]
    if not others:
        return None
    return sum(picture.confidence([code]) for code in others) / len(others)


# The measures. Each returns None where the boxes and the picture do not allow it.


def not_measurable(picture: RegionImage) -> None:
    """None: no detected structure bears on the criterion."""


def brightness(picture: RegionImage) -> float | None:
    """Level of the brighter tissue, 0..1."""
    return picture.sonogram.brightness() if picture.sonogram else None


def sharpness(picture: RegionImage) -> float | None:
    """Fine detail relative to coarse, see Sonogram.sharpness."""
    return picture.sonogram.sharpness() if picture.sonogram else None


def shadow(picture: RegionImage) -> float | None:
    """Darkness of the darkest beams through the anatomy, 0..1."""
    box = _common_box(picture.of_view)
    return picture.sonogram.shadow(box) if picture.sonogram and box else None


def margin(picture: RegionImage) -> float | None:
    """Least distance of the view's structures from the edge, in shares of the shorter side."""
    if not picture.sonogram or not picture.of_view:
        return None
    # The nape runs on along the trunk past the edge of a magnified picture.
    margins = [picture.sonogram.margin(d.bbox) for d in picture.of_view if d.label != "NT"]
    known_margins = [one for one in margins if one is not None]
    return min(known_margins) if known_margins and len(known_margins) == len(margins) else None


def extent_of(code: str) -> Measure:
    """Longer of the box's sides, each relative to the picture's."""

    def extent(picture: RegionImage) -> float | None:
        box = picture.box(code)
        return _extent(box, picture) if box else None

    return extent


def extent_of_all(picture: RegionImage) -> float | None:
    """The extent of all structures' common box, as in `extent_of`; None for too few structures."""
    box = _common_box(picture.of_view)
    return _extent(box, picture) if box and len(picture.of_view) >= MIN_STRUCTURES else None


def margin_of(code: str) -> Measure:
    """Distance of the structure's box from the edge, in shares of the shorter side."""

    def margin_of_one(picture: RegionImage) -> float | None:
        box = picture.box(code)
        return picture.sonogram.margin(box) if picture.sonogram and box else None

    return margin_of_one


def end_margin(picture: RegionImage) -> float | None:
    """Distance of the crown-rump box's nearer end from the edge."""
    box = picture.box("CRL")
    if not picture.sonogram or not box:
        return None
    x0, y0, x1, y1 = box
    middle = (y0 + y1) / 2
    # Flat, so that only the two ends count and not the belly and the back.
    return picture.sonogram.margin((x0, middle, x1, middle))


def inclination_of(code: str) -> Measure:
    """Angle of the box's diagonal with the horizontal, degrees: grows as the fetus tilts, for a
    level one from about 25 (crown-rump) or 7 (nuchal translucency)."""

    def inclination(picture: RegionImage) -> float | None:
        box = picture.box(code)
        return float(np.degrees(np.arctan2(box[3] - box[1], box[2] - box[0]))) if box else None

    return inclination


def falx_offset(picture: RegionImage) -> float | None:
    """Distance of the falx's middle from the skull's, relative to the skull's shorter side."""
    falx, skull = picture.box("CF"), picture.box("CB")
    if not falx or not skull:
        return None
    offset = np.hypot(*(_middle(falx) - _middle(skull)))
    return float(offset / min(skull[2] - skull[0], skull[3] - skull[1]))


def head_angle(picture: RegionImage) -> float | None:
    """Angle between face and nape at the skull base, degrees.

    From the cisterna magna (else the fourth ventricle, the midbrain) one arm goes to the nose or
    palate, which nod with the head, the other to the nuchal translucency, which stays with the
    trunk.
    """
    face = next((box for code in ("NB", "NA", "PAL") if (box := picture.box(code))), None)
    base = next((box for code in ("CM", "IT", "MB") if (box := picture.box(code))), None)
    nape = picture.box("NT")
    if not face or not base or not nape:
        return None
    a, b = _middle(face) - _middle(base), _middle(nape) - _middle(base)
    length = float(np.hypot(*a) * np.hypot(*b))
    return float(np.degrees(np.arccos(np.clip(a @ b / length, -1, 1)))) if length > 0 else None


def mean_confidence(codes: Sequence[str]) -> Measure:
    """Mean confidence, 0..1, over those of the labels that the detector knows."""

    def mean(picture: RegionImage) -> float | None:
        detectable = [code for code in codes if code in picture.detectable]
        if not detectable or not picture.of_view:
            return None
        return sum(picture.confidence([code]) for code in detectable) / len(detectable)

    return mean


def level_head(picture: RegionImage) -> float | None:
    """Mean confidence of the head's structures, lowered by the falx's distance from the middle."""
    confidence = mean_confidence(("CB", "CF", "CP1", "CP2"))(picture)
    if confidence is None:
        return None
    return confidence * (1 - 2 * min(falx_offset(picture) or 0.0, 0.5))


def round_section(picture: RegionImage) -> float | None:
    """Mean confidence of the abdomen's structures, times the section's shorter over longer side."""
    confidence, box = mean_confidence(("AS", "S", "UC", "UI"))(picture), picture.box("AS")
    if confidence is None or box is None:
        return None
    sides = (box[2] - box[0], box[3] - box[1])
    return confidence * min(sides) / max(sides) if max(sides) > 0 else None


def _common_box(detections: Sequence[Detection]) -> Box | None:
    if not detections:
        return None
    boxes = np.array([detection.bbox for detection in detections])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _extent(box: Box, picture: RegionImage) -> float:
    return max((box[2] - box[0]) / picture.width, (box[3] - box[1]) / picture.height)


def _middle(box: Box) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


_TECHNICAL = {
    GAIN.code: CriterionCheck(measure=brightness, better=Better.MIDDLE),
    FOCUS.code: CriterionCheck(measure=sharpness),
    SHADOW.code: CriterionCheck(measure=shadow, better=Better.LOW),
}
_COMPLETE = {COMPLETE.code: CriterionCheck(measure=margin)}
CHECKS: dict[View, dict[str, CriterionCheck]] = {
    View.NT: {
        **_TECHNICAL,
        SIZE.code: CriterionCheck(measure=extent_of_all),
        PLANE.code: CriterionCheck(
            measure=mean_confidence(("NB", "F", "NA", "PAL", "TH", "MB")), by_confidence=True
        ),
        NT_VISIBLE.code: CriterionCheck(needs=(("NT",),)),
        NASAL.code: CriterionCheck(needs=(("NB",),)),
        PROFILE.code: CriterionCheck(needs=(("F", "NA", "NS"),)),
        BRAIN.code: CriterionCheck(needs=(("PAL",), ("TH", "MB"))),
        LEVEL.code: CriterionCheck(
            measure=inclination_of("NT"), reads=("NT",), unit="deg", better=Better.LOW
        ),
    },
    View.CRL: {
        **_TECHNICAL,
        **_COMPLETE,
        SIZE.code: CriterionCheck(measure=extent_of("CRL"), reads=("CRL",)),
        # One box about the whole fetus says nothing of the plane, and of the neck only if
        # structures of the head were found with it.
        PLANE.code: CriterionCheck(measure=not_measurable),
        NECK_CRL.code: CriterionCheck(
            measure=head_angle,
            reads=("NB", "NA", "PAL", "CM", "IT", "MB", "NT"),
            unit="deg",
            better=Better.MIDDLE,
        ),
        ENDS.code: CriterionCheck(needs=(("CRL",),), measure=end_margin),
        HORIZONTAL.code: CriterionCheck(
            measure=inclination_of("CRL"), reads=("CRL",), unit="deg", better=Better.LOW
        ),
    },
    View.HEAD: {
        **_TECHNICAL,
        **_COMPLETE,
        SIZE.code: CriterionCheck(measure=extent_of("CB"), reads=("CB",)),
        PLANE.code: CriterionCheck(measure=level_head, by_confidence=True),
        SKULL.code: CriterionCheck(needs=(("CB",),), measure=margin_of("CB")),
        FALX.code: CriterionCheck(
            needs=(("CF",),), measure=falx_offset, reads=("CB",), better=Better.LOW
        ),
        CHOROID.code: CriterionCheck(needs=(("CP1",), ("CP2",))),
    },
    View.ABDOMEN: {
        **_TECHNICAL,
        **_COMPLETE,
        SIZE.code: CriterionCheck(measure=extent_of("AS"), reads=("AS",)),
        PLANE.code: CriterionCheck(measure=round_section, by_confidence=True),
        OUTLINE.code: CriterionCheck(needs=(("AS",),), measure=margin_of("AS")),
        STOMACH.code: CriterionCheck(needs=(("S",),)),
        CORD.code: CriterionCheck(needs=(("UC", "UI"),)),
    },
    View.OTHER: {},
}
"""The check of each rule of `rules.MODEL_RULES`, by view and criterion code."""

"""Each criterion of a view, judged from boxes and grey levels: met, not met, or cannot tell.

A criterion may need structures to be seen, and may measure something. What cannot be told from the
boxes and the picture stays None: an unseen structure counts as not visible only if the detector
knows it and is otherwise sure of the view.
"""

from collections.abc import Callable, Mapping, Sequence
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
    NASAL,
    NECK_NT,
    NT_VISIBLE,
    OUTLINE,
    PLANE,
    PROFILE,
    RULES,
    SHADOW,
    SIZE,
    SKULL,
    STOMACH,
)
from model.criteria.sonogram import Sonogram
from model.criteria.thresholds import PRESENT, CriteriaThresholds, ThreeWayThreshold
from model.finding import Criterion

__all__ = ["CHECKS", "Better", "CriteriaThresholds", "Measurement", "judge", "measure"]

FEWEST = 4
"""Structures of the NT view from which their common box stands for the fetus."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A criterion's evidence: confidence that what it needs is seen (None: needs nothing), and
    what was measured (None: not measurable) in `unit` (UCUM); `labels` are those it was read from.
    """

    presence: float | None
    value: float | None
    unit: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """What is judged: the likeliest box of each label, and the region's pixels."""

    view: View
    best: Mapping[str, Detection]
    width: float
    height: float
    pixels: Pixels
    known: frozenset[str]

    @cached_property
    def sonogram(self) -> Sonogram | None:
        return Sonogram.of(self.pixels)

    @cached_property
    def of_view(self) -> tuple[Detection, ...]:
        """The view's structures that were detected, in the vocabulary's order."""
        codes = [label.code for label in LABELS if label.view is self.view]
        return tuple(self.best[code] for code in codes if code in self.best)

    def box(self, code: str) -> Box | None:
        found = self.best.get(code)
        return found.bbox if found else None

    def confidence(self, codes: Sequence[str]) -> float:
        """Highest confidence among the labels; 0 if none was detected."""
        return max((self.best[code].confidence for code in codes if code in self.best), default=0.0)


Measure = Callable[[Picture], float | None]


class Better(Enum):
    """Which measurements meet a criterion."""

    HIGH = auto()
    LOW = auto()
    MIDDLE = auto()


@dataclass(frozen=True, slots=True)
class Check:
    """How one criterion is judged. `needs`: of each group one label must be seen. `measure` reads
    from the boxes of `reads` (empty: every structure of the view)."""

    needs: tuple[tuple[str, ...], ...] = ()
    measure: Measure | None = None
    reads: tuple[str, ...] = ()
    unit: str = "1"
    better: Better = Better.HIGH


def judge(
    view: View,
    detections: Sequence[Detection],
    width: float,
    height: float,
    pixels: Pixels,
    spacing_mm: tuple[float, float] | None,
    thresholds: CriteriaThresholds,
) -> tuple[Criterion, ...]:
    """One outcome for each of `RULES[view]`, in their order; none for OTHER.

    Boxes are in pixels of the region `pixels`, RGB (height, width, 3). No rule of today needs
    `spacing_mm`, (x, y) per pixel: size is a share of the picture, as the guidelines put it.
    """
    picture = _picture(view, detections, width, height, pixels, thresholds.known)
    return tuple(
        _criterion(rule.code, picture, _measure(rule.code, picture), thresholds)
        for rule in RULES[view]
    )


def measure(
    view: View,
    detections: Sequence[Detection],
    width: float,
    height: float,
    pixels: Pixels,
    known: frozenset[str],
) -> dict[str, Measurement]:
    """The evidence that `judge` would weigh, by criterion code: what thresholds are fitted on."""
    picture = _picture(view, detections, width, height, pixels, known)
    return {rule.code: _measure(rule.code, picture) for rule in RULES[view]}


def _picture(
    view: View,
    detections: Sequence[Detection],
    width: float,
    height: float,
    pixels: Pixels,
    known: frozenset[str],
) -> Picture:
    best: dict[str, Detection] = {}
    for detection in sorted(detections, key=lambda d: d.confidence):
        best[detection.label] = detection
    return Picture(view, best, width, height, pixels, known)


def _measure(code: str, picture: Picture) -> Measurement:
    check = CHECKS[picture.view][code]
    presence = min(map(picture.confidence, check.needs)) if check.needs else None
    value = check.measure(picture) if check.measure else None
    needed = [label for group in check.needs for label in group]
    read = check.reads or (
        [d.label for d in picture.of_view] if check.measure and not needed else []
    )
    labels = dict.fromkeys(label for label in [*needed, *read] if label in picture.best)
    return Measurement(presence, value, check.unit, tuple(labels))


def _criterion(
    code: str, picture: Picture, found: Measurement, thresholds: CriteriaThresholds
) -> Criterion:
    check = CHECKS[picture.view][code]
    presence: bool | None = True
    if found.presence is not None:
        seen = thresholds.presence.get(picture.view, {}).get(code, PRESENT)
        presence = seen.judge(found.presence)
        if presence is False and not _absence_counts(check, seen, picture, thresholds):
            presence = None
    if check.measure is None or presence is not True:
        return Criterion(code, presence, found.presence, "1", found.labels)
    band_or_none = thresholds.measured.get(picture.view, {}).get(code)
    if found.value is None or band_or_none is None:
        return Criterion(code, None, found.value, found.unit, found.labels)
    return Criterion(code, band_or_none.judge(found.value), found.value, found.unit, found.labels)


def _absence_counts(
    check: Check, seen: ThreeWayThreshold, picture: Picture, thresholds: CriteriaThresholds
) -> bool:
    """Whether "not detected" means "not visible": the label is known and the view is sure."""
    missing = [group for group in check.needs if seen.judge(picture.confidence(group)) is False]
    if not any(thresholds.known.issuperset(group) for group in missing):
        return False
    needed = {label for group in check.needs for label in group}
    others = [
        label.code
        for label in LABELS
        if label.view is picture.view
        and label.code in thresholds.known
        and label.code not in needed
    ]
    if not others:
        return False
    return sum(picture.confidence([code]) for code in others) / len(others) >= thresholds.support


# What is measured. Each returns None where the boxes or the picture cannot tell.


def cannot_tell(picture: Picture) -> None:
    """Nothing that is detected bears on the criterion."""


def brightness(picture: Picture) -> float | None:
    """Level of the brighter tissue, 0..1."""
    return picture.sonogram.brightness() if picture.sonogram else None


def sharpness(picture: Picture) -> float | None:
    """Fine detail relative to coarse, see Sonogram.sharpness."""
    return picture.sonogram.sharpness() if picture.sonogram else None


def shadow(picture: Picture) -> float | None:
    """Darkness of the darkest beams through the anatomy, 0..1."""
    box = _common_box(picture.of_view)
    return picture.sonogram.shadow(box) if picture.sonogram and box else None


def margin(picture: Picture) -> float | None:
    """Least distance of the view's structures from the edge, in shares of the shorter side."""
    if not picture.sonogram or not picture.of_view:
        return None
    # The nape runs on along the trunk past the edge of a magnified picture.
    margins = [picture.sonogram.margin(d.bbox) for d in picture.of_view if d.label != "NT"]
    told = [one for one in margins if one is not None]
    return min(told) if told and len(told) == len(margins) else None


def extent_of(code: str) -> Measure:
    """Longer of the box's sides, each relative to the picture's."""

    def extent(picture: Picture) -> float | None:
        box = picture.box(code)
        return _extent(box, picture) if box else None

    return extent


def extent_of_all(picture: Picture) -> float | None:
    """As `extent_of`, of all structures together; None of too few."""
    box = _common_box(picture.of_view)
    return _extent(box, picture) if box and len(picture.of_view) >= FEWEST else None


def margin_of(code: str) -> Measure:
    """Distance of the structure's box from the edge, in shares of the shorter side."""

    def margin_of_one(picture: Picture) -> float | None:
        box = picture.box(code)
        return picture.sonogram.margin(box) if picture.sonogram and box else None

    return margin_of_one


def end_margin(picture: Picture) -> float | None:
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

    def inclination(picture: Picture) -> float | None:
        box = picture.box(code)
        return float(np.degrees(np.arctan2(box[3] - box[1], box[2] - box[0]))) if box else None

    return inclination


def falx_offset(picture: Picture) -> float | None:
    """Distance of the falx's middle from the skull's, relative to the skull's shorter side."""
    falx, skull = picture.box("CF"), picture.box("CB")
    if not falx or not skull:
        return None
    offset = np.hypot(*(_middle(falx) - _middle(skull)))
    return float(offset / min(skull[2] - skull[0], skull[3] - skull[1]))


def head_angle(picture: Picture) -> float | None:
    """Angle between face and nape as seen from the skull base, degrees.

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


def share_seen(codes: Sequence[str]) -> Measure:
    """Mean confidence over those of the labels that the detector knows."""

    def seen(picture: Picture) -> float | None:
        known = [code for code in codes if code in picture.known]
        if not known or not picture.of_view:
            return None
        return sum(picture.confidence([code]) for code in known) / len(known)

    return seen


def level_head(picture: Picture) -> float | None:
    """Share of the head's structures seen, less for a falx off the middle."""
    seen = share_seen(("CB", "CF", "CP1", "CP2"))(picture)
    if seen is None:
        return None
    return seen * (1 - 2 * min(falx_offset(picture) or 0.0, 0.5))


def round_section(picture: Picture) -> float | None:
    """Share of the abdomen's structures seen, times how round the section is."""
    seen, box = share_seen(("AS", "S", "UC", "UI"))(picture), picture.box("AS")
    if seen is None or box is None:
        return None
    sides = (box[2] - box[0], box[3] - box[1])
    return seen * min(sides) / max(sides) if max(sides) > 0 else None


def _common_box(found: Sequence[Detection]) -> Box | None:
    if not found:
        return None
    boxes = np.array([detection.bbox for detection in found])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _extent(box: Box, picture: Picture) -> float:
    return max((box[2] - box[0]) / picture.width, (box[3] - box[1]) / picture.height)


def _middle(box: Box) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


_TECHNICAL = {
    GAIN.code: Check(measure=brightness, better=Better.MIDDLE),
    FOCUS.code: Check(measure=sharpness),
    SHADOW.code: Check(measure=shadow, better=Better.LOW),
    COMPLETE.code: Check(measure=margin),
}
CHECKS: dict[View, dict[str, Check]] = {
    View.NT: {
        **_TECHNICAL,
        SIZE.code: Check(measure=extent_of_all),
        PLANE.code: Check(measure=share_seen(("NB", "F", "NA", "PAL", "TH", "MB"))),
        NECK_NT.code: Check(
            measure=head_angle,
            reads=("NB", "NA", "PAL", "CM", "IT", "MB", "NT"),
            unit="deg",
            better=Better.MIDDLE,
        ),
        NT_VISIBLE.code: Check(needs=(("NT",),)),
        NASAL.code: Check(needs=(("NB",),)),
        PROFILE.code: Check(needs=(("F", "NA", "NS"),)),
        BRAIN.code: Check(needs=(("PAL",), ("TH", "MB"))),
        LEVEL.code: Check(
            measure=inclination_of("NT"), reads=("NT",), unit="deg", better=Better.LOW
        ),
    },
    View.CRL: {
        **_TECHNICAL,
        SIZE.code: Check(measure=extent_of("CRL"), reads=("CRL",)),
        # One box about the whole fetus says nothing of the plane, and of the neck only if
        # structures of the head were found with it.
        PLANE.code: Check(measure=cannot_tell),
        NECK_NT.code: Check(
            measure=head_angle,
            reads=("NB", "NA", "PAL", "CM", "IT", "MB", "NT"),
            unit="deg",
            better=Better.MIDDLE,
        ),
        ENDS.code: Check(needs=(("CRL",),), measure=end_margin),
        HORIZONTAL.code: Check(
            measure=inclination_of("CRL"), reads=("CRL",), unit="deg", better=Better.LOW
        ),
    },
    View.HEAD: {
        **_TECHNICAL,
        SIZE.code: Check(measure=extent_of("CB"), reads=("CB",)),
        PLANE.code: Check(measure=level_head),
        SKULL.code: Check(needs=(("CB",),), measure=margin_of("CB")),
        FALX.code: Check(needs=(("CF",),), measure=falx_offset, reads=("CB",), better=Better.LOW),
        CHOROID.code: Check(needs=(("CP1",), ("CP2",))),
    },
    View.ABDOMEN: {
        **_TECHNICAL,
        SIZE.code: Check(measure=extent_of("AS"), reads=("AS",)),
        PLANE.code: Check(measure=round_section),
        OUTLINE.code: Check(needs=(("AS",),), measure=margin_of("AS")),
        STOMACH.code: Check(needs=(("S",),)),
        CORD.code: Check(needs=(("UC", "UI"),)),
    },
    View.OTHER: {},
}
"""How each rule of `criteria_table.RULES` is judged."""

"""Three-valued thresholds of the criteria: defaults, and their form in the bundle's manifest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.anatomy import LABELS, View
from model.criteria.faults import HIGH, LOW
from model.criteria.rules import (
    COMPLETE,
    ENDS,
    FALX,
    FOCUS,
    GAIN,
    HORIZONTAL,
    LEVEL,
    NECK_CRL,
    OUTLINE,
    PLANE,
    SHADOW,
    SIZE,
    SKULL,
)

SURE_SHARE = 0.25
"""A quarter less gain, sharpness or size than what is just not met is seen by any reader."""
SURE_DISTANCE = 0.02
"""For measurements around zero, such as distances from an edge in shares of the picture's side."""


@dataclass(frozen=True, slots=True)
class ThreeWayThreshold:
    """Met within met_from..met_to, not met below unmet_below or above unmet_above, else unknown.

    Ends may be infinite; they must stand in the order of the fields.
    """

    unmet_below: float = -math.inf
    met_from: float = -math.inf
    met_to: float = math.inf
    unmet_above: float = math.inf

    def __post_init__(self) -> None:
        ends = (self.unmet_below, self.met_from, self.met_to, self.unmet_above)
        if any(map(math.isnan, ends)) or self.unmet_below > self.met_from:
            raise ValueError(f"band {ends}: met may not begin below unmet_below")
        if self.met_to > self.unmet_above:
            raise ValueError(f"band {ends}: met may not end above unmet_above")

    def judge(self, value: float) -> bool | None:
        """True: met, False: not met, None: cannot tell."""
        if value < self.unmet_below or value > self.unmet_above:
            return False
        if self.met_from <= value <= self.met_to:
            return True
        return None

    def direction(self, value: float) -> str | None:
        """Beyond which end a value that is not met lies: LOW or HIGH; None for any other value."""
        if value < self.unmet_below:
            return LOW
        return HIGH if value > self.unmet_above else None

    def is_far_beyond(self, value: float) -> bool:
        """Whether a value is not met at high certainty.

        It lies beyond the end by at least the width of the undecided band again, and by at least
        the SURE_SHARE of the end and SURE_DISTANCE: fitted bands may have no width.
        """
        low = self.unmet_below - self._margin(self.met_from, self.unmet_below)
        high = self.unmet_above + self._margin(self.met_to, self.unmet_above)
        # An end that is not finite has nothing beyond it.
        return value < low or value > high

    @staticmethod
    def _margin(met: float, unmet: float) -> float:
        if not math.isfinite(unmet):
            return 0.0
        band = abs(unmet - met) if math.isfinite(met) else 0.0
        return max(band, SURE_SHARE * abs(unmet), SURE_DISTANCE)

    def to_json(self) -> list[float | None]:
        """The four ends in order; null stands for an infinite one."""
        ends = (self.unmet_below, self.met_from, self.met_to, self.unmet_above)
        return [end if math.isfinite(end) else None for end in ends]

    @classmethod
    def from_json(cls, data: Any) -> "ThreeWayThreshold":
        """The inverse of `to_json`, except that met_from and met_to keep to their open side.

        Raises ValueError on what is no band.
        """
        if not isinstance(data, list) or len(data) != 4:
            raise ValueError(f"{data!r} is no band of four ends")
        unbounded = (-math.inf, -math.inf, math.inf, math.inf)
        return cls(
            *(u if end is None else float(end) for end, u in zip(data, unbounded, strict=True))
        )


PRESENT = ThreeWayThreshold(unmet_below=0.25, met_from=0.3)
"""A structure that must be visible counts as present at these confidences (0..1), unless the bundle
has fitted ones of its own."""


def _above(unmet_below: float, met_from: float) -> ThreeWayThreshold:
    return ThreeWayThreshold(unmet_below=unmet_below, met_from=met_from)


def _under(met_to: float, unmet_above: float) -> ThreeWayThreshold:
    return ThreeWayThreshold(met_to=met_to, unmet_above=unmet_above)


MEASURED: Mapping[View, Mapping[str, ThreeWayThreshold]] = {
    View.NT: {
        GAIN.code: ThreeWayThreshold(0.2, 0.25, 0.53, 0.57),
        FOCUS.code: _above(1.7, 1.85),
        SHADOW.code: _under(0.42, 0.81),
        SIZE.code: _above(0.43, 0.48),
        PLANE.code: _above(0.2, 0.5),
        LEVEL.code: _under(25, 35),
    },
    View.CRL: {
        GAIN.code: ThreeWayThreshold(0.2, 0.25, 0.53, 0.57),
        FOCUS.code: _above(1.65, 1.8),
        SHADOW.code: _under(0.85, 0.95),
        SIZE.code: _above(0.42, 0.5),
        COMPLETE.code: _above(-0.01, 0.05),
        ENDS.code: _above(0.015, 0.05),
        HORIZONTAL.code: _under(28, 35),
        # The angle is the NT view's, wherever the same structures are found.
        NECK_CRL.code: ThreeWayThreshold(84, 90, 108, 112),
    },
    View.HEAD: {
        GAIN.code: ThreeWayThreshold(0.2, 0.25, 0.5, 0.55),
        FOCUS.code: _above(1.5, 1.6),
        SHADOW.code: _under(0.87, 0.93),
        SIZE.code: _above(0.35, 0.45),
        COMPLETE.code: _above(-0.012, 0.005),
        PLANE.code: _above(0.35, 0.47),
        SKULL.code: _above(-0.013, 0.006),
        FALX.code: _under(0.1, 0.135),
    },
    View.ABDOMEN: {
        GAIN.code: ThreeWayThreshold(0.17, 0.22, 0.53, 0.58),
        FOCUS.code: _above(1.75, 1.85),
        SHADOW.code: _under(0.53, 0.88),
        SIZE.code: _above(0.33, 0.42),
        COMPLETE.code: _above(0.006, 0.012),
        PLANE.code: _above(0.27, 0.56),
        OUTLINE.code: _above(0.006, 0.012),
    },
}
"""The default thresholds of measured criteria, each in its measurement's unit.

Fitted by `training.bundling.fit_criteria` on phantoms with perturbed boxes, rounded outwards; how
level a NT view lies is from real boxes, which slope by less than 25 degrees in all 1,038 of the
Fetus Framework.
A criterion that is missing here is always None (cannot tell): the plane of the CRL view.
"""


def _all_labels() -> frozenset[str]:
    return frozenset(label.code for label in LABELS if label.view is not None)


@dataclass(frozen=True, slots=True)
class CriteriaThresholds:
    """Thresholds per view and criterion code: `presence` of detector confidence (0..1), `measured`
    of the measurement in its own unit. A criterion without a threshold is None (cannot tell).

    `detectable`: labels that the bundle's detector knows. `support`: mean confidence over a view's
    other labels from which a structure that was not detected counts as not visible. `expected`:
    groups of labels, of each of which standard pictures of the view show one; for a view that is
    not in it, those that its criteria need. `prevalence`: share of real standard pictures, 0..1,
    that show what a criterion needs; for a criterion that is not in it, all.
    """

    detectable: frozenset[str] = field(default_factory=_all_labels)
    support: float = 0.25
    presence: Mapping[View, Mapping[str, ThreeWayThreshold]] = field(default_factory=dict)
    measured: Mapping[View, Mapping[str, ThreeWayThreshold]] = field(
        default_factory=lambda: MEASURED
    )
    expected: Mapping[View, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    prevalence: Mapping[View, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for bundle.json; `expected` and `prevalence` only where there is any."""
        body: dict[str, Any] = {
            "known": sorted(self.detectable),
            "support": self.support,
            "presence": _thresholds_to_json(self.presence),
            "measured": _thresholds_to_json(self.measured),
        }
        if self.expected:
            body["expected"] = {
                view.value: [list(group) for group in groups]
                for view, groups in self.expected.items()
            }
        if self.prevalence:
            body["prevalence"] = {
                view.value: dict(of_view) for view, of_view in self.prevalence.items()
            }
        return body

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "CriteriaThresholds":
        """The inverse of `to_json`; raises KeyError or ValueError on anything else."""
        return cls(
            detectable=frozenset(str(code) for code in data["known"]),
            support=float(data["support"]),
            presence=_thresholds_from_json(data["presence"]),
            measured=_thresholds_from_json(data["measured"]),
            expected=_expected_from_json(data.get("expected", {})),
            prevalence={
                View(view): {str(code): float(share) for code, share in of_view.items()}
                for view, of_view in data.get("prevalence", {}).items()
            },
        )


def _thresholds_to_json(
    thresholds: Mapping[View, Mapping[str, ThreeWayThreshold]],
) -> dict[str, Any]:
    return {
        view.value: {code: threshold.to_json() for code, threshold in of_view.items()}
        for view, of_view in thresholds.items()
    }


def _thresholds_from_json(data: dict[str, Any]) -> dict[View, dict[str, ThreeWayThreshold]]:
    return {
        View(view): {code: ThreeWayThreshold.from_json(ends) for code, ends in of_view.items()}
        for view, of_view in data.items()
    }


def _expected_from_json(data: dict[str, Any]) -> dict[View, tuple[tuple[str, ...], ...]]:
    expected = {
        View(view): tuple(tuple(map(str, group)) for group in groups)
        for view, groups in data.items()
    }
    for view, groups in expected.items():
        known = {label.code for label in LABELS if label.view is view}
        if not all(group and known.issuperset(group) for group in groups):
            raise ValueError(f"expected structures of {view}: each group has labels of the view")
    return expected

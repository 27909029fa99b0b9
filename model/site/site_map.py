"""The map of a site: from a bundle's calibrated log odds to those that hold in this hospital."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from detector.anatomy import View

Floats = npt.NDArray[np.float64]

MAX_SHIFT = 8.0
"""A site's shift is at most so many log odds: the distance at which standard views of one place
look like poor ones of another."""
MIN_SLOPE, MAX_SLOPE = 0.25, 4.0
CERTAIN = 8.0
"""Beyond these log odds (P 0.0003 and 0.9997) a site's map rises ever slower: no hospital's few
hundred pictures can show more. It also keeps probabilities apart that would else round to 1."""
_LINE_SHARE = 0.1
MAX_OFFSET = 3.0
"""An offset may not change the ranking by more than a prior thinks likely (`reviewed.py`)."""


@dataclass(frozen=True, slots=True)
class SiteMap:
    """slope * s + bias of the bundle's log odds s, plus an offset for a view and for a device.

    With `knots` (log odds of the bundle) and `values` (theirs), nine tenths follow the line between
    these and one tenth the slope, so that the map rises everywhere. Within a view and a device it
    ranks no two pictures otherwise than the bundle does. Raises ValueError on what does not rise.
    """

    bias: float = 0.0
    slope: float = 1.0
    views: Mapping[View, float] = field(default_factory=dict)
    devices: Mapping[str, float] = field(default_factory=dict)
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not MIN_SLOPE <= self.slope <= MAX_SLOPE:
            raise ValueError(f"slope {self.slope} is not within {MIN_SLOPE}..{MAX_SLOPE}")
        if not np.isfinite(self.bias):
            raise ValueError("the bias is not finite")
        offsets = [*self.views.values(), *self.devices.values()]
        if not all(np.isfinite(each) and abs(each) <= MAX_OFFSET for each in offsets):
            raise ValueError(f"an offset is over {MAX_OFFSET} log odds")
        if len(self.knots) != len(self.values) or len(self.knots) == 1:
            raise ValueError(f"{len(self.knots)} knots for {len(self.values)} values")
        for row in (self.knots, self.values):
            if not np.isfinite(row).all() or np.any(np.diff(row) <= 0):
                raise ValueError("knots and values must be finite and rise")
        if abs(self.shift) > MAX_SHIFT * (1 + 1e-9):
            raise ValueError(f"the shift is over {MAX_SHIFT} log odds")

    @property
    def is_identity(self) -> bool:
        """Whether the bundle's probabilities stay as they are."""
        return self == SiteMap()

    @property
    def shift(self) -> float:
        """The bundle's log odds that this map adds where it turns from non-standard to standard,
        without offsets."""
        if not self.knots:
            return self.bias / self.slope
        # Between and beyond the knots the map is made of lines, and levels off only far from 0.
        at_knots = self.log_odds_of(self.knots)
        inside = float(np.interp(0.0, at_knots, self.knots))
        return -(inside - float(self.log_odds_of(inside)) / self.slope)

    def log_odds_of(
        self, log_odds: npt.ArrayLike, view: View | None = None, device: str | None = None
    ) -> Floats:
        """The site's log odds for the bundle's, in the same shape."""
        s = np.asarray(log_odds, float)
        if self.is_identity:
            return s
        line = self.slope * s + self.bias
        if self.knots:
            inside = np.clip(s, self.knots[0], self.knots[-1])
            steps = np.interp(inside, self.knots, self.values) + self.slope * (s - inside)
            line = _LINE_SHARE * line + (1 - _LINE_SHARE) * steps
        return bounded(line + self._offset(view, device))

    def _offset(self, view: View | None, device: str | None) -> float:
        return (0.0 if view is None else self.views.get(view, 0.0)) + (
            0.0 if device is None else self.devices.get(device, 0.0)
        )

    def without_offset(
        self, log_odds: npt.ArrayLike, view: View | None, device: str | None
    ) -> Floats:
        """The bundle's log odds for which the line alone gives what this map gives for the view and
        device. A map of steps has no offsets (`reviewed.fit_reviewed`)."""
        return np.asarray(log_odds, float) + self._offset(view, device) / self.slope

    def probability(
        self, log_odds: npt.ArrayLike, view: View | None = None, device: str | None = None
    ) -> Floats:
        """P(standard) at this site of the bundle's log odds, in the same shape."""
        return np.asarray(expit(self.log_odds_of(log_odds, view, device)), float)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        body: dict[str, Any] = {"bias": self.bias, "slope": self.slope}
        if self.views:
            body["views"] = {view.value: offset for view, offset in self.views.items()}
        if self.devices:
            body["devices"] = dict(self.devices)
        if self.knots:
            body["isotonic"] = {"log_odds": list(self.knots), "values": list(self.values)}
        return body

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is no map."""
        unknown = set(data) - {"bias", "slope", "views", "devices", "isotonic"}
        if unknown:
            raise ValueError(f"map has unknown keys: {', '.join(sorted(unknown))}")
        isotonic = data.get("isotonic", {"log_odds": [], "values": []})
        return cls(
            float(data["bias"]),
            float(data["slope"]),
            {View(view): float(offset) for view, offset in data.get("views", {}).items()},
            {str(device): float(offset) for device, offset in data.get("devices", {}).items()},
            tuple(map(float, isotonic["log_odds"])),
            tuple(map(float, isotonic["values"])),
        )


def bounded(log_odds: Floats) -> Floats:
    """Log odds that beyond `CERTAIN` grow as a logarithm: strictly rising, never far beyond it."""
    excess = np.maximum(np.abs(log_odds) - CERTAIN, 0.0)
    return np.where(
        excess > 0, np.sign(log_odds) * (CERTAIN + np.log1p(excess)), np.asarray(log_odds)
    )


def capped(bias: float, slope: float) -> tuple[float, float]:
    """Bias and slope (above 0) within what a map may have: the same shift, but no larger than
    `MAX_SHIFT`."""
    shift = min(max(bias / slope, -MAX_SHIFT), MAX_SHIFT)
    slope = min(max(slope, MIN_SLOPE), MAX_SLOPE)
    return shift * slope, slope

"""A three-valued threshold: met, not met, or cannot tell."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Band:
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
        if value < self.unmet_below or value > self.unmet_above:
            return False
        if self.met_from <= value <= self.met_to:
            return True
        return None

    def to_json(self) -> list[float | None]:
        """The four ends in order; null stands for an infinite one."""
        ends = (self.unmet_below, self.met_from, self.met_to, self.unmet_above)
        return [end if math.isfinite(end) else None for end in ends]

    @classmethod
    def from_json(cls, data: Any) -> "Band":
        """The inverse of `to_json`, except that met_from and met_to keep to their open side.

        Raises ValueError on what is no band.
        """
        if not isinstance(data, list) or len(data) != 4:
            raise ValueError(f"{data!r} is no band of four ends")
        unbounded = (-math.inf, -math.inf, math.inf, math.inf)
        return cls(
            *(u if end is None else float(end) for end, u in zip(data, unbounded, strict=True))
        )

"""A labelled picture and what a bundle said of it: what every figure is computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.finding import Criterion, Reason
from training.evaluation.metrics.detection import Matches

CHANCE = float(np.nextafter(0.5, 0))
"""P(standard) of a picture that was taken for OTHER, which has none: at chance, and not standard.
"""


@dataclass(frozen=True, slots=True)
class EvaluatedSample:
    """A labelled picture and the bundle's judgement of it."""

    picture: str  # Name of its file.
    group: str
    source: str  # The set it belongs to.
    view: View | None  # The true one; None where it is unknown.
    standard: bool  # The true quality.
    predicted_view: View
    probability: float | None  # P(standard), calibrated; None for OTHER.
    label: str  # standard, review or non-standard.
    gates: tuple[float, float, float]  # Weights of image, text and layout.
    criteria: Mapping[str, bool] = field(default_factory=dict)  # True outcomes by code.
    defects: tuple[str, ...] = ()  # True ones, of a phantom.
    criteria_outcomes: tuple[Criterion, ...] = ()  # As judged.
    reasons: tuple[Reason, ...] = ()  # As judged.
    flags: tuple[str, ...] = ()
    description: str = ""
    features: npt.NDArray[np.float64] | None = None  # (3, d) of image, text and layout.
    ablated_probabilities: Mapping[str, float] = field(default_factory=dict)  # By ablation.
    matches: Mapping[str, Matches] = field(default_factory=dict)  # Boxes by annotated label.
    style_features: npt.NDArray[np.float64] | None = None  # `training.data.styles`; real ones only.
    style: str = ""  # The cluster of its style features.

    @property
    def probability_or_chance(self) -> float:
        """P(standard) to compute with."""
        return CHANCE if self.probability is None else self.probability

    @property
    def unmet(self) -> tuple[str, ...]:
        """Codes of the criteria judged as not met."""
        return tuple(outcome.code for outcome in self.criteria_outcomes if outcome.met is False)

"""What was said of a labelled picture, beside what is true of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.finding import Criterion
from training.evaluation.detection import Matches

CHANCE = float(np.nextafter(0.5, 0))
"""What a picture counts as that was taken for OTHER and so has no probability: at chance, and not
standard."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Truths: `picture` (its file's name), `group`, `source`, `view` (None: unknown), `standard`,
    `criteria`, `defects`. Said of it: the rest.

    `ablated` are calibrated probabilities by name of the ablation; `matches` those of the boxes of
    annotated labels; `features` (3, d) of image, text and layout; `appearance` see there.
    """

    picture: str
    group: str
    source: str
    view: View | None
    standard: bool
    named: View
    probability: float | None
    label: str
    gates: tuple[float, float, float]
    criteria: Mapping[str, bool] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    outcomes: tuple[Criterion, ...] = ()
    flags: tuple[str, ...] = ()
    words: str = ""
    features: npt.NDArray[np.float64] | None = None
    ablated: Mapping[str, float] = field(default_factory=dict)
    matches: Mapping[str, Matches] = field(default_factory=dict)
    appearance: npt.NDArray[np.float64] | None = None
    look: str = ""

    @property
    def score(self) -> float:
        """The probability to count with."""
        return CHANCE if self.probability is None else self.probability

    @property
    def unmet(self) -> tuple[str, ...]:
        """Codes of the criteria said to be not met."""
        return tuple(outcome.code for outcome in self.outcomes if outcome.met is False)

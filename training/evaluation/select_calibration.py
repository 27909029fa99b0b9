"""Which calibration a view gets, temperature or isotonic: what cross-validation prefers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.calibration import Calibration, Floats, Isotonic, Scaling
from training.data.splits import group_hash

TEMPERATURE, ISOTONIC = "temperature", "isotonic"
LEAST_PICTURES, LEAST_PER_CLASS = 200, 50
"""With fewer, a free shape follows the sample more than the truth."""
CLEARLY = 2.0
"""Isotonic must win by this many standard errors of the difference."""
_FOLDS = 5


def choose(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Sequence[str],
    views: Sequence[View] | None = None,
    seed: int = 0,
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration, and for each of its maps the log losses that decided ("all": for the views
    without one of their own).

    Raises ValueError on samples of one class or that are not finite.
    """
    z, y = np.asarray(logits, float), np.asarray(labels, float)
    scalings = Calibration.fit(z, y, views)
    folds = np.array([int(group_hash(group, seed) * _FOLDS) for group in groups])
    common, told = _chosen(z, y, folds, groups, scalings.common)
    own: dict[View, Scaling | Isotonic] = {}
    table = {"all": told}
    for view, scaling in scalings.views.items():
        rows = [row for row, v in enumerate(views or ()) if v == view]
        own[view], table[view.value] = _chosen(
            z[rows], y[rows], folds[rows], [groups[i] for i in rows], scaling
        )
    return Calibration(common, own), table


def _chosen(
    z: Floats,
    y: Floats,
    folds: npt.NDArray[np.intp],
    groups: Sequence[str],
    scaling: Scaling | Isotonic,
) -> tuple[Scaling | Isotonic, dict[str, Any]]:
    losses = held_out_losses(z, y, folds)
    told = {"pictures": len(z), "chosen": TEMPERATURE}
    if not losses:
        return scaling, told
    gain, error = paired(losses[TEMPERATURE] - losses[ISOTONIC], groups)
    told["log loss"] = {name: float(loss.mean()) for name, loss in losses.items()}
    if gain <= CLEARLY * error:
        return scaling, told
    return Isotonic.fit(z, y), told | {"chosen": ISOTONIC}


def held_out_losses(z: Floats, y: Floats, folds: npt.NDArray[np.intp]) -> Mapping[str, Floats]:
    """Log loss (n,) of each sample by maps fitted on the other folds; empty if there are too few
    samples to compare."""
    if len(z) < LEAST_PICTURES or min(y.sum(), (1 - y).sum()) < LEAST_PER_CLASS:
        return {}
    losses = {name: np.zeros(len(z)) for name in (TEMPERATURE, ISOTONIC)}
    for fold in sorted(set(folds)):
        held = folds == fold
        if len(set(y[~held])) < 2:
            return {}
        for name, fitted in (
            (TEMPERATURE, Scaling.fit(z[~held], y[~held])),
            (ISOTONIC, Isotonic.fit(z[~held], y[~held])),
        ):
            odds = fitted.log_odds_of(z[held])
            losses[name][held] = np.logaddexp(0, np.where(y[held] == 1, -odds, odds))
    return losses


def paired(differences: Floats, groups: Sequence[str]) -> tuple[float, float]:
    """Mean of (n,) differences and its standard error, a group being one piece of evidence."""
    mean = float(differences.mean())
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    residuals = np.bincount(index, weights=differences - mean)
    return mean, float(np.sqrt(np.square(residuals).sum()) / len(differences))

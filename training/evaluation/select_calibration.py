"""Select the calibration of each view, temperature or isotonic, by cross-validated log loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.calibration import Calibration, Floats, Isotonic, Scaling
from training.data.splits import group_hash

TEMPERATURE, ISOTONIC = "temperature", "isotonic"
MIN_PICTURES, MIN_PER_CLASS = 200, 50
"""Fewer pictures than these get temperature: isotonic regression would overfit them."""
MIN_STANDARD_ERRORS = 2.0
"""Isotonic must win by this many standard errors of the difference."""
_FOLDS = 5


def select_calibration(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Sequence[str],
    views: Sequence[View] | None = None,
    seed: int = 0,
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration, and the log losses that decided each of its maps ("all": of the views that
    have none of their own).

    Raises ValueError on samples of one class or that are not finite.
    """
    z, y = np.asarray(logits, float), np.asarray(labels, float)
    scalings = Calibration.fit(z, y, views)
    folds = np.array([int(group_hash(group, seed) * _FOLDS) for group in groups])
    common, losses = _select(z, y, folds, groups, scalings.common)
    own: dict[View, Scaling | Isotonic] = {}
    table = {"all": losses}
    for view, scaling in scalings.views.items():
        rows = [row for row, v in enumerate(views or ()) if v == view]
        own[view], table[view.value] = _select(
            z[rows], y[rows], folds[rows], [groups[i] for i in rows], scaling
        )
    return Calibration(common, own), table


def _select(
    z: Floats,
    y: Floats,
    folds: npt.NDArray[np.intp],
    groups: Sequence[str],
    scaling: Scaling | Isotonic,
) -> tuple[Scaling | Isotonic, dict[str, Any]]:
    losses = out_of_fold_losses(z, y, folds)
    facts = {"pictures": len(z), "chosen": TEMPERATURE}
    if not losses:
        return scaling, facts
    gain, error = mean_and_standard_error(losses[TEMPERATURE] - losses[ISOTONIC], groups)
    facts["log loss"] = {name: float(loss.mean()) for name, loss in losses.items()}
    if gain <= MIN_STANDARD_ERRORS * error:
        return scaling, facts
    return Isotonic.fit(z, y), facts | {"chosen": ISOTONIC}


def out_of_fold_losses(z: Floats, y: Floats, folds: npt.NDArray[np.intp]) -> Mapping[str, Floats]:
    """Log loss (n,) of each sample by maps fitted on the other folds; empty if there are too few
    samples to compare."""
    if len(z) < MIN_PICTURES or min(y.sum(), (1 - y).sum()) < MIN_PER_CLASS:
        return {}
    losses = {name: np.zeros(len(z)) for name in (TEMPERATURE, ISOTONIC)}
    for fold in sorted(set(folds)):
        is_held_out = folds == fold
        if len(set(y[~is_held_out])) < 2:
            return {}
        for name, fitted in (
            (TEMPERATURE, Scaling.fit(z[~is_held_out], y[~is_held_out])),
            (ISOTONIC, Isotonic.fit(z[~is_held_out], y[~is_held_out])),
        ):
            odds = fitted.log_odds_of(z[is_held_out])
            losses[name][is_held_out] = np.logaddexp(0, np.where(y[is_held_out] == 1, -odds, odds))
    return losses


def mean_and_standard_error(differences: Floats, groups: Sequence[str]) -> tuple[float, float]:
    """Mean of (n,) differences and its standard error, a group counting as one
    observation."""
    mean = float(differences.mean())
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    residuals = np.bincount(index, weights=differences - mean)
    return mean, float(np.sqrt(np.square(residuals).sum()) / len(differences))

"""How likely HEAD is before the picture is looked at: log odds that are added to its logit.

First-trimester heads are few in the training data beside later ones, which look nearly alike and
belong to no view of ours. A network that learns from such a draw names too few of the first. The
correction is that of a changed prior (Saerens et al. 2002, Neural Computation 14), chosen on heads
that the network did not learn from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.judge import likeliest_view
from model.spatialclip.network import VIEWS
from training.data.heads import SOURCES

HIGHEST_ODDS = 100.0
"""The correction is no greater than this: beyond it the networks cannot tell these heads apart."""
_HEAD = VIEWS.index(View.HEAD)
_STEPS = 201


def head_log_odds(rows: Sequence[Mapping[str, Any]]) -> float:
    """The log odds, 0 to log HIGHEST_ODDS, by which as large a share of first-trimester heads is
    not called HEAD as of later heads is. 0 without heads of both ages.

    `rows` are those of a cross-validation's views.json: `source`, `view`, and `views`, the (5,)
    probabilities in the order of VIEWS.
    """
    heads = [row for row in rows if row["source"] in SOURCES]
    is_first = np.array([row["view"] == View.HEAD for row in heads], bool)
    if not is_first.any() or is_first.all():
        return 0.0
    views = np.array([row["views"] for row in heads], float)
    candidates = np.linspace(0.0, np.log(HIGHEST_ODDS), _STEPS)
    difference = []
    for candidate in candidates:
        is_head = np.array(
            [view is View.HEAD for view in likeliest_views(with_head_log_odds(views, candidate))]
        )
        difference.append(abs(np.mean(~is_head[is_first]) - np.mean(is_head[~is_first])))
    return float(candidates[int(np.argmin(difference))])


def likeliest_views(views: Any) -> list[View]:
    """The view of each row of (N, 5) probabilities, as a finding names it."""
    return [likeliest_view(dict(zip(VIEWS, map(float, row), strict=True))) for row in views]


def with_head_log_odds(views: Any, log_odds: float) -> npt.NDArray[np.float64]:
    """The (N, 5) probabilities of the views after the correction."""
    odds = np.array(views, float).reshape(-1, len(VIEWS))
    odds[:, _HEAD] *= np.exp(log_odds)
    return np.asarray(odds / odds.sum(1, keepdims=True))


def view_offset(log_odds: float) -> tuple[float, ...]:
    """`SpatialClipConfig.view_offset` of the correction."""
    return tuple(log_odds if view is View.HEAD else 0.0 for view in VIEWS)

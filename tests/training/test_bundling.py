"""What a bundle is calibrated on, and which views have real evidence."""

from typing import Any

from detector.vocabulary import View
from training.ablation import WHOLE
from training.bundling import REAL_PICTURES, Calibrating, real_views


def row(view: str, standard: bool) -> dict[str, Any]:
    return {"view": view, "standard": standard, "group": "real", "logits": {WHOLE: 2.5}}


def test_unseen_pictures_take_the_place_of_a_views_own() -> None:
    own = Calibrating([0.1, 0.2], [1.0, 0.0], ["a", "b"], [View.NT, View.HEAD])
    both = own.with_unseen([row("NT", True)])
    assert both == Calibrating([0.2, 2.5], [0.0, 1.0], ["b", "real"], [View.HEAD, View.NT])
    assert own.with_unseen([]) == own


def test_a_few_real_pictures_are_no_evidence() -> None:
    views = [View.NT] * REAL_PICTURES + [View.CRL] * (REAL_PICTURES - 1) + [View.OTHER] * 99
    assert real_views(views) == ["NT"]

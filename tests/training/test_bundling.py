"""What a bundle is calibrated on."""

from detector.vocabulary import View
from training.ablation import WHOLE
from training.bundling import Calibrating


def row(view: str, standard: bool, source: str = "set2_train") -> dict[str, object]:
    return {
        "view": view,
        "standard": standard,
        "group": "real",
        "source": source,
        "logits": {WHOLE: 2.5},
    }


def test_unseen_pictures_take_the_place_of_a_views_own() -> None:
    own = Calibrating([0.1, 0.2], [1.0, 0.0], ["a", "b"], [View.NT, View.HEAD])
    both = own.with_unseen([row("NT", True), row("NT", True, "set1_train")])
    assert both == Calibrating([0.2, 2.5], [0.0, 1.0], ["b", "real"], [View.HEAD, View.NT])
    assert own.with_unseen([]) == own

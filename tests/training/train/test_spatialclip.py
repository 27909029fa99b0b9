"""The optimiser of SpatialCLIP's trainer and its validation metrics."""

from pathlib import Path

import numpy as np
import pytest

from detector.anatomy import View
from model.spatialclip.network import VIEWS, SpatialClip, small_config
from model.spatialclip.stages import Stage, set_stage
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample
from training.recipes import SpatialClipRecipe
from training.train.losses import CriteriaHeads
from training.train.spatialclip import Predictions, parameter_groups, validation_metrics


@pytest.mark.parametrize("stage", list(Stage))
def test_the_optimiser_has_every_trainable_parameter_once(stage: Stage) -> None:
    network = SpatialClip(small_config(300))
    set_stage(network, stage)
    heads = CriteriaHeads(network.config.dim)
    groups = parameter_groups(network, heads, SpatialClipRecipe())
    in_groups = [id(p) for group in groups for p in group["params"]]
    trainable = [p for p in (*network.parameters(), *heads.parameters()) if p.requires_grad]
    assert sorted(in_groups) == sorted(map(id, trainable))


def test_a_picture_of_unknown_view_does_not_count_in_view_accuracy() -> None:
    samples = [
        PreparedSample(
            np.zeros((8, 8, 3), np.uint8),
            ((), ()),
            ("", ""),
            (8, 8),
            Sample(Path("0.png"), True, view=view, origin=Origin.REAL),
        )
        for view in (View.NT, None)
    ]
    views = np.tile(np.eye(len(VIEWS))[VIEWS.index(View.NT)], (2, 1))
    predictions = Predictions(np.zeros(2), views, np.zeros((2, 3)), np.zeros((2, 1)))
    assert validation_metrics(predictions, samples) == {"view accuracy": 1.0}
    assert (
        validation_metrics(
            Predictions(np.zeros(1), views[:1], np.zeros((1, 3)), np.zeros((1, 1))), samples[1:]
        )
        == {}
    )


def test_auroc_is_of_each_set_that_has_both_classes() -> None:
    """Set 1 is all standard: beside it, set 2's pictures would be told apart by their scanner."""
    real, simulated = Origin.REAL, Origin.SIMULATED
    sets = [
        ("set1_train", True, real),
        ("set2_train", True, real),
        ("set2_train", False, real),
        ("phantoms", True, simulated),
    ]
    samples = [
        PreparedSample(
            np.zeros((8, 8, 3), np.uint8),
            ((), ()),
            ("", ""),
            (8, 8),
            Sample(Path("0.png"), standard, view=View.NT, source=source, origin=origin),
        )
        for source, standard, origin in sets
    ]
    logits = np.array([9.0, 1.0, 2.0, 3.0])
    views = np.tile(np.eye(len(VIEWS))[VIEWS.index(View.NT)], (4, 1))
    predictions = Predictions(logits, views, np.zeros((4, 3)), np.zeros((4, 1)))
    assert validation_metrics(predictions, samples) == {
        "view accuracy": 1.0,
        "AUROC set2_train": 0.0,
    }

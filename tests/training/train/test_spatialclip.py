"""What SpatialCLIP's losses ask of modalities and gates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.anatomy import View
from detector.boxes import Detection
from detector.yolo.flip import mirrored
from model.spatialclip.network import VIEWS, SpatialClip, small_config
from model.spatialclip.preprocess import Preprocessor
from model.spatialclip.stages import Stage
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample
from training.recipes import SpatialClipRecipe
from training.train.losses import quality_loss
from training.train.small_spatialclip import PICTURE_SIZE, train_tokenizer
from training.train.spatialclip import (
    ALONE,
    NO_VIEW,
    Batch,
    CriteriaHeads,
    Predictions,
    losses,
    make_batch,
    summarise,
)

WORDS = ("The nuchal translucency is seen.", "The palate is seen.")


@pytest.fixture(scope="module")
def network() -> SpatialClip:
    torch.manual_seed(0)
    return SpatialClip(small_config(300)).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    items = []
    for number in range(4):
        pixels = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), 60 * number, np.uint8)
        own = (Detection("NT", (10.0, 20.0, 60.0, 50.0 + number), 0.2 * number + 0.1),)
        sample = Sample(Path(f"{number}.png"), number % 2 == 0, view=View.NT, origin=Origin.REAL)
        items.append(PreparedSample(pixels, (own, mirrored(own, 100)), WORDS, (100, 80), sample))
    return make_batch(items, Preprocessor(train_tokenizer(WORDS, 300), PICTURE_SIZE))


def the_loss(network: SpatialClip, batch: Batch, **recipe: float) -> torch.Tensor:
    present = torch.ones(4, 3, dtype=torch.bool)
    plain = SpatialClipRecipe(label_smoothing=0.0)
    heads = CriteriaHeads(network.config.dim)
    torch.manual_seed(0)
    return losses(
        network,
        heads,
        batch,
        replace(plain, **recipe),  # type: ignore[arg-type]
        Stage.FUSION,
        present,
        torch.ones(2),
        None,
    )


def test_each_branch_alone_is_asked_too(network: SpatialClip, batch: Batch) -> None:
    inputs = batch.inputs.arguments()
    with torch.no_grad():
        alone = [
            quality_loss(network(**inputs, present=only.expand(4, 3)).logit, batch.standard, 0.0)
            for only in ALONE
        ]
        more = the_loss(network, batch, unimodal_weight=0.5) - the_loss(network, batch)
    # The loss is computed in bfloat16.
    assert float(more) == pytest.approx(0.5 * float(torch.stack(alone).mean(1).sum()), abs=0.05)


def test_gates_are_held_near_their_shares(network: SpatialClip, batch: Batch) -> None:
    assert network.gate_proj is not None
    kept = network.gate_proj.bias.detach().clone()
    with torch.no_grad():
        network.gate_proj.bias.copy_(torch.tensor([3.0, 0.0, 0.0]))
    pulls = []
    for weight in (0.0, 10.0):
        network.zero_grad()
        the_loss(network, batch, gate_prior_weight=weight).backward()  # type: ignore[no-untyped-call]
        pulls.append(network.gate_proj.bias.grad.clone())  # type: ignore[union-attr]
    pull = pulls[1] - pulls[0]
    # Descent lowers the gate that is too wide open and raises the others.
    assert pull[0] > 1
    assert (pull[1:] < -1).all()
    with torch.no_grad():
        network.gate_proj.bias.copy_(kept)


def test_a_modality_that_was_hidden_keeps_its_own_feature_in_the_contrast(
    network: SpatialClip, batch: Batch
) -> None:
    """Hiding is the heads' matter: the contrastive losses compare what the encoders made."""
    heads = CriteriaHeads(network.config.dim)
    recipe = SpatialClipRecipe(
        image_text_weight=1.0, image_spatial_weight=1.0, text_spatial_weight=1.0
    )
    network.zero_grad()
    hidden = torch.tensor([[False, True, True]]).expand(4, 3)
    losses(network, heads, batch, recipe, Stage.PROJECTION, hidden, torch.zeros(2), None).backward()  # type: ignore[no-untyped-call]
    projection = network.trimodal_clip.clip_model.visual_projection.weight
    assert projection.grad is not None
    assert float(projection.grad.abs().max()) > 0


def test_a_picture_of_unknown_view_teaches_no_view(network: SpatialClip, batch: Batch) -> None:
    """It once counted as one of none of the views."""
    unknown = torch.full_like(batch.view, NO_VIEW)
    for view in (0, 3):
        mixed = unknown.clone()
        mixed[1] = view
        only = replace(batch, view=mixed)
        changed = replace(batch, view=torch.where(mixed == NO_VIEW, mixed, (view + 1) % 5))
        assert the_loss(network, only) != the_loss(network, changed)
    alone = the_loss(network, replace(batch, view=unknown))
    assert alone.isfinite()
    assert alone < the_loss(network, batch)


def test_a_picture_of_unknown_view_judges_no_view() -> None:
    evidence = [
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
    said = Predictions(np.zeros(2), views, np.zeros((2, 3)), np.zeros((2, 1)))
    assert summarise(said, evidence) == {"view accuracy": 1.0}
    assert (
        summarise(
            Predictions(np.zeros(1), views[:1], np.zeros((1, 3)), np.zeros((1, 1))), evidence[1:]
        )
        == {}
    )


def test_a_set_of_one_class_tells_nothing_of_another() -> None:
    """Set 1 is all standard: beside it, set 2's pictures would be told apart by their scanner."""
    real, simulated = Origin.REAL, Origin.SIMULATED
    shown = [
        ("set1_train", True, real),
        ("set2_train", True, real),
        ("set2_train", False, real),
        ("phantoms", True, simulated),
    ]
    evidence = [
        PreparedSample(
            np.zeros((8, 8, 3), np.uint8),
            ((), ()),
            ("", ""),
            (8, 8),
            Sample(Path("0.png"), standard, view=View.NT, source=source, origin=origin),
        )
        for source, standard, origin in shown
    ]
    logits = np.array([9.0, 1.0, 2.0, 3.0])
    views = np.tile(np.eye(len(VIEWS))[VIEWS.index(View.NT)], (4, 1))
    said = Predictions(logits, views, np.zeros((4, 3)), np.zeros((4, 1)))
    assert summarise(said, evidence) == {"view accuracy": 1.0, "AUROC set2_train": 0.0}

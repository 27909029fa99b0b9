"""The loss of SpatialCLIP, by its parts."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.anatomy import View
from detector.boxes import Detection
from detector.yolo.flip import mirror_detections
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import Preprocessor
from model.spatialclip.stages import Stage
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample
from training.recipes import SpatialClipRecipe
from training.train.batches import NO_VIEW, SpatialClipBatch, make_batch
from training.train.losses import (
    ONE_MODALITY,
    CriteriaHeads,
    class_weights,
    contrastive_loss,
    quality_loss,
    spatialclip_loss,
)
from training.train.small_spatialclip import PICTURE_SIZE, train_tokenizer

WORDS = ("The nuchal translucency is seen.", "The palate is seen.")


@pytest.fixture(scope="module")
def network() -> SpatialClip:
    torch.manual_seed(0)
    return SpatialClip(small_config(300)).eval()


@pytest.fixture(scope="module")
def batch() -> SpatialClipBatch:
    items = []
    for number in range(4):
        pixels = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), 60 * number, np.uint8)
        own = (Detection("NT", (10.0, 20.0, 60.0, 50.0 + number), 0.2 * number + 0.1),)
        sample = Sample(Path(f"{number}.png"), number % 2 == 0, view=View.NT, origin=Origin.REAL)
        items.append(
            PreparedSample(pixels, (own, mirror_detections(own, 100)), WORDS, (100, 80), sample)
        )
    return make_batch(items, Preprocessor(train_tokenizer(WORDS, 300), PICTURE_SIZE))


def loss_of(network: SpatialClip, batch: SpatialClipBatch, **recipe: float) -> torch.Tensor:
    present = torch.ones(4, 3, dtype=torch.bool)
    plain = SpatialClipRecipe(label_smoothing=0.0)
    heads = CriteriaHeads(network.config.dim)
    torch.manual_seed(0)
    return spatialclip_loss(
        network,
        heads,
        batch,
        replace(plain, **recipe),  # type: ignore[arg-type]
        Stage.FUSION,
        present,
        torch.ones(2),
        None,
    )


def test_unimodal_weight_adds_the_quality_loss_of_each_modality(
    network: SpatialClip, batch: SpatialClipBatch
) -> None:
    inputs = batch.inputs.arguments()
    with torch.no_grad():
        unimodal = [
            quality_loss(network(**inputs, present=only.expand(4, 3)).logit, batch.standard, 0.0)
            for only in ONE_MODALITY
        ]
        more = loss_of(network, batch, unimodal_weight=0.5) - loss_of(network, batch)
    # The loss is computed in bfloat16.
    assert float(more) == pytest.approx(0.5 * float(torch.stack(unimodal).mean(1).sum()), abs=0.05)


def test_gate_prior_weight_pulls_the_gates_to_their_prior(
    network: SpatialClip, batch: SpatialClipBatch
) -> None:
    assert network.gate_proj is not None
    original = network.gate_proj.bias.detach().clone()
    with torch.no_grad():
        network.gate_proj.bias.copy_(torch.tensor([3.0, 0.0, 0.0]))
    gradients = []
    for weight in (0.0, 10.0):
        network.zero_grad()
        loss_of(network, batch, gate_prior_weight=weight).backward()  # type: ignore[no-untyped-call]
        gradients.append(network.gate_proj.bias.grad.clone())  # type: ignore[union-attr]
    gradient = gradients[1] - gradients[0]
    # Descent lowers the gate above its prior and raises the others.
    assert gradient[0] > 1
    assert (gradient[1:] < -1).all()
    with torch.no_grad():
        network.gate_proj.bias.copy_(original)


def test_contrastive_losses_use_the_features_of_hidden_modalities_too(
    network: SpatialClip, batch: SpatialClipBatch
) -> None:
    """Modality dropout is of the heads; the contrastive losses compare the encoders' features."""
    heads = CriteriaHeads(network.config.dim)
    recipe = SpatialClipRecipe(
        image_text_weight=1.0, image_spatial_weight=1.0, text_spatial_weight=1.0
    )
    network.zero_grad()
    hidden = torch.tensor([[False, True, True]]).expand(4, 3)
    spatialclip_loss(
        network, heads, batch, recipe, Stage.PROJECTION, hidden, torch.zeros(2), None
    ).backward()  # type: ignore[no-untyped-call]
    projection = network.trimodal_clip.clip_model.visual_projection.weight
    assert projection.grad is not None
    assert float(projection.grad.abs().max()) > 0


def test_a_picture_of_unknown_view_has_no_loss_of_the_view(
    network: SpatialClip, batch: SpatialClipBatch
) -> None:
    """It once counted as one of none of the views."""
    unknown = torch.full_like(batch.view, NO_VIEW)
    for view in (0, 3):
        mixed = unknown.clone()
        mixed[1] = view
        only = replace(batch, view=mixed)
        changed = replace(batch, view=torch.where(mixed == NO_VIEW, mixed, (view + 1) % 5))
        assert loss_of(network, only) != loss_of(network, changed)
    without_view = loss_of(network, replace(batch, view=unknown))
    assert without_view.isfinite()
    assert without_view < loss_of(network, batch)


def test_focal_loss_favours_hard_rows_and_class_weights_balance() -> None:
    logits, target = torch.tensor([3.0, -3.0]), torch.ones(2)
    plain, focal = quality_loss(logits, target, 0.0), quality_loss(logits, target, 2.0)
    sure = logits.sigmoid()
    assert torch.allclose(focal, plain * (1 - sure) ** 2)
    weights = class_weights([True] * 300 + [False] * 100)
    assert weights[0] > weights[1]
    assert (weights[0] * 100 + weights[1] * 300) / 400 == pytest.approx(1.0)
    assert class_weights([True] * 5)[0] == 0


def test_equal_descriptions_are_no_negatives() -> None:
    features = torch.eye(4)
    same = contrastive_loss(features, features, torch.tensor(50.0), ["a", "b", "c", "d"])
    assert same < 1e-6
    # With one caption for all, a model that tells nothing apart loses nothing but the entropy.
    flat = torch.ones(4, 4) / 2
    assert contrastive_loss(flat, flat, torch.tensor(50.0), ["a"] * 4) == pytest.approx(np.log(4))
    assert contrastive_loss(features, features, torch.tensor(50.0), ["a"] * 4) > 10


def test_features_are_preserved_of_the_same_pictures(
    network: SpatialClip, batch: SpatialClipBatch
) -> None:
    """Upstream compares them with rows of another batch, and loses where nothing has changed."""
    changed = deepcopy(network)
    with torch.no_grad():
        changed.trimodal_clip.clip_model.visual_projection.weight.mul_(-1)

    def loss(reference: SpatialClip | None) -> float:
        torch.manual_seed(0)
        value = spatialclip_loss(
            network,
            CriteriaHeads(network.config.dim),
            batch,
            SpatialClipRecipe(label_smoothing=0.0, preservation_weight=1.0),
            Stage.TOP,
            torch.ones(4, 3, dtype=torch.bool),
            torch.ones(2),
            reference,
        )
        return float(value)

    # The network's own features are in half precision, the reference's are not.
    assert loss(network) == pytest.approx(loss(None), abs=5e-3)
    assert loss(changed) > loss(None) + 0.1

"""The loss of SpatialCLIP: quality, view, criteria, and what holds its features and gates."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from torch import Tensor, nn

from model.spatialclip.network import SpatialClip, SpatialClipOutput
from model.spatialclip.stages import Stage
from training.recipes import SpatialClipRecipe
from training.train.batches import CRITERIA, NO_VIEW, SpatialClipBatch
from training.train.precision import autocast

ONE_MODALITY = torch.eye(3, dtype=torch.bool)
"""(3, 3) masks: image, text or layout present, the others hidden."""
GATE_PRIOR = (0.4, 0.2, 0.4)
"""Gate weights of image, text and layout that `gate_prior_weight` pulls towards. Text only restates
the layout, without positions and confidences, and changes at a threshold: half the weight."""


class CriteriaHeads(nn.Module):
    """Which criteria are met, from the image alone and from all three features: (B, C) logits.

    Only training has them: one bit of quality a picture teaches an untrained encoder little.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_image = nn.Linear(dim, len(CRITERIA))
        self.of_all = nn.Linear(3 * dim, len(CRITERIA))

    def forward(self, image: Tensor, text: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat((image, text, spatial), dim=-1).float()
        return self.of_image(image.float()), self.of_all(joined)


def spatialclip_loss(
    network: SpatialClip,
    heads: CriteriaHeads,
    batch: SpatialClipBatch,
    recipe: SpatialClipRecipe,
    stage: Stage,
    present: Tensor,
    class_weight: Tensor,
    reference: SpatialClip | None,
) -> Tensor:
    """() the sum of the losses of the stage, weighted by the recipe.

    `present` (B, 3) hides modalities from the heads; `class_weight` (2,) is of non-standard and
    standard; `reference` is the network as the stage began, whose image and text features are
    preserved.
    """
    inputs = batch.inputs.arguments()
    with autocast(network.device):
        features = network.encode(**inputs)
        output = network.fuse(*features, present)
        unimodal = [network.fuse(*features, only.expand(len(present), 3)) for only in ONE_MODALITY]
        change = (
            jpeg_consistency(network, features, batch) if recipe.jpeg_consistency_weight else None
        )
    target = batch.standard * (1 - 2 * recipe.label_smoothing) + recipe.label_smoothing
    row_weight = batch.has_quality.float() * class_weight[batch.standard.long()]
    row_weight = row_weight / row_weight.sum().clamp(min=1e-6)

    def quality(each: SpatialClipOutput) -> Tensor:
        return (quality_loss(each.logit.float(), target, recipe.focal_gamma) * row_weight).sum()

    total = quality(output)
    if recipe.unimodal_weight:
        total = total + recipe.unimodal_weight * sum(map(quality, unimodal))
    if recipe.gate_prior_weight and network.gate_proj is not None:
        # Only of rows that hide nothing: a mask moves the gates by itself.
        gates = output.gates[present.all(-1)].float().clamp(min=1e-6)
        prior = torch.tensor(GATE_PRIOR)
        divergence = (prior * (prior / gates).log()).sum()
        total = total + recipe.gate_prior_weight * divergence / len(present)
    if change is not None:
        total = total + recipe.jpeg_consistency_weight * change
    has_view = batch.view != NO_VIEW
    if has_view.any():
        total = total + F.cross_entropy(
            output.view_logits[has_view].float(),
            batch.view[has_view],
            label_smoothing=recipe.label_smoothing,
        )
    has_truth = ~batch.criteria.isnan()
    if has_truth.any():
        for logits in heads(*features):
            total = total + recipe.criteria_weight * F.binary_cross_entropy_with_logits(
                logits[has_truth], batch.criteria[has_truth]
            )
    image, text, spatial = (feature.float() for feature in features)
    if stage is not Stage.FUSION:
        scale = network.trimodal_clip.scale()
        for weight, a, b in (
            (recipe.image_text_weight, image, text),
            (recipe.image_spatial_weight, image, spatial),
            (recipe.text_spatial_weight, text, spatial),
        ):
            total = total + weight * contrastive_loss(a, b, scale, batch.descriptions)
    if reference is not None:
        with torch.no_grad():
            before = reference.encode(**inputs)
        for feature, original in zip((image, text), before[:2], strict=True):
            cosine = (feature * original.float()).sum(-1)
            total = total + recipe.preservation_weight * (1 - cosine).mean()
    return total


def jpeg_consistency(
    network: SpatialClip, features: tuple[Tensor, Tensor, Tensor], batch: SpatialClipBatch
) -> Tensor | None:
    """() mean squared difference between the logits of pictures and of their JPEG copies, from all
    modalities and from the image alone; None where the batch has no copies.

    `features` are the (B, d) of image, text and layout of the batch.
    """
    if batch.jpeg_features is None:
        return None
    image, text, spatial = (feature[list(batch.jpeg_rows)] for feature in features)
    copy = network.trimodal_clip.encode_features(batch.jpeg_features)
    differences = [
        network.fuse(image, text, spatial, present).logit.float()
        - network.fuse(copy, text, spatial, present).logit.float()
        for present in (None, ONE_MODALITY[:1].expand(len(image), 3))
    ]
    return torch.stack(differences).square().mean()


def quality_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """(B,) focal loss (Lin et al. 2017): binary cross-entropy times (1 - p)^gamma, where p is the
    probability of the true class."""
    rows = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if gamma == 0:
        return rows
    p_true = torch.where(target > 0.5, logits, -logits).sigmoid()
    return rows * (1 - p_true) ** gamma


def class_weights(standard: Sequence[bool], beta: float = 0.999) -> Tensor:
    """(2,) weights of non-standard and standard by effective number (Cui et al. 2019), of mean 1
    over the samples. A class without samples weighs nothing."""
    counts = torch.tensor([len(standard) - sum(standard), sum(standard)], dtype=torch.float32)
    effective = (1 - beta**counts) / (1 - beta)
    weights = torch.where(counts > 0, 1 / effective.clamp(min=1e-6), 0.0)
    return weights * counts.sum() / (weights * counts).sum().clamp(min=1e-6)


def contrastive_loss(a: Tensor, b: Tensor, scale: Tensor, descriptions: Sequence[str]) -> Tensor:
    """Symmetric InfoNCE of (B, d) features; equal descriptions are matches, not negatives."""
    index = {text: i for i, text in enumerate(dict.fromkeys(descriptions))}
    keys = torch.tensor([index[text] for text in descriptions], device=a.device)
    same = (keys[:, None] == keys[None, :]).float()
    targets = same / same.sum(1, keepdim=True)
    logits = scale * a @ b.T
    return 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))

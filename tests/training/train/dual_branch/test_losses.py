"""The losses for classes of unlike frequency, against numbers worked by hand."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from training.family_recipes import DualBranchRecipe, Loss
from training.train.dual_branch.losses import (
    ImbalanceLoss,
    class_weights,
    focal_loss,
    ldam_loss,
    ldam_margins,
    smoothed_loss,
)

ALIKE = torch.ones(2)


def logits_of(*probabilities: float) -> torch.Tensor:
    """(B, 2) logits whose softmax gives the first class these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack((p.log(), (1 - p).log()), 1)


def test_focal_takes_p_from_the_unweighted_cross_entropy() -> None:
    """Upstream's p is p to the power of the weight: 0.881 becomes 0.987 at 0.1, 0.530 at 5."""
    logits, target = logits_of(0.881), torch.tensor([0])
    for weight in (0.1, 5.0):
        weights = torch.tensor([weight, 1.0])
        # One picture: the weighted mean is its own loss, (1 - 0.881) · -ln 0.881.
        loss = float(focal_loss(logits, target, weights, 1))
        assert loss == pytest.approx(0.119 * 0.126698, rel=1e-4)
        upstream = (1 - 0.881**weight) * -math.log(0.881)
        assert abs(loss - upstream) > 0.01


def test_focal_of_two_pictures_by_hand() -> None:
    logits, targets = logits_of(0.8, 0.4), torch.tensor([0, 1])
    # (0.2² · -ln 0.8 · 1 + 0.4² · -ln 0.6 · 3) / (1 + 3)
    expected = (0.04 * 0.2231436 + 3 * 0.16 * 0.5108256) / 4
    loss = focal_loss(logits, targets, torch.tensor([1.0, 3.0]), 2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_focal_without_exponent_is_torchs_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 4), torch.randint(4, (9,))
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5])
    expected = cross_entropy(logits, targets, weights)
    assert torch.allclose(focal_loss(logits, targets, weights, 0), expected)


def test_margins_by_hand() -> None:
    # 16^-1/4 = 1/2, 256^-1/4 = 1/4, 1^-1/4 = 1; the largest becomes 0.5.
    assert ldam_margins([16, 256, 1]).tolist() == pytest.approx([0.25, 0.125, 0.5])


def test_ldam_by_hand() -> None:
    logits = torch.tensor([[0.3, 0.2]])
    margins = torch.tensor([0.25, 0.5])
    # 30 · (0.3 - 0.25) = 1.5 against 30 · 0.2 = 6: ln(1 + e^4.5).
    loss = ldam_loss(logits, torch.tensor([0]), ALIKE, margins)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(4.5)), rel=1e-5)
    # The margin of the true class only: 30 · (0.2 - 0.5) = -9 against 9.
    loss = ldam_loss(logits, torch.tensor([1]), ALIKE, margins)
    assert float(loss) == pytest.approx(18.0, rel=1e-5)


def test_smoothing_by_hand_and_by_torch() -> None:
    # 0.95 · -ln 0.9 + 0.05 · -ln 0.1
    loss = float(smoothed_loss(logits_of(0.9), torch.tensor([0]), ALIKE, 0.1))
    assert loss == pytest.approx(0.95 * 0.1053605 + 0.05 * 2.3025851, rel=1e-5)
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 4), torch.randint(4, (9,))
    expected = cross_entropy(logits, targets, label_smoothing=0.2)
    assert torch.allclose(smoothed_loss(logits, targets, torch.ones(4), 0.2), expected)


def test_weights_by_effective_number_by_hand() -> None:
    # (1 - 0.5) / (1 - 0.5^n): 1 for n = 1, 2/3 for n = 2; of mean 1: 1.2 and 0.8.
    assert class_weights([1, 2], 0.5).tolist() == pytest.approx([1.2, 0.8])
    assert class_weights([1, 2], 0.0).tolist() == [1, 1]
    rare, common = class_weights([10, 10_000], 0.9999).tolist()
    assert rare / common == pytest.approx(632.4, rel=1e-3)


def test_a_class_without_pictures_is_in_its_place_and_finite() -> None:
    """Upstream skips it, so that all classes behind it get another one's count, or divides by 0."""
    weights, margins = class_weights([4, 0, 4], 0.9999), ldam_margins([16, 0, 256])
    assert weights.tolist() == pytest.approx([1, 0, 1])
    assert margins.tolist() == pytest.approx([0.5, 0, 0.25])


def test_classes_are_weighed_from_the_deferred_epoch_on() -> None:
    """Upstream computes the weights once, without an epoch, and stops."""
    recipe = DualBranchRecipe(loss=Loss.FOCAL, focal_gamma=0, balance_beta=0.9, balance_epoch=5)
    loss = ImbalanceLoss(recipe, [1, 50])
    logits, targets = logits_of(0.7, 0.7), torch.tensor([0, 1])
    before, after = (float(loss(logits, targets, epoch)) for epoch in (4, 5))
    assert before == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2, rel=1e-5)
    weights = class_weights([1, 50], 0.9)
    assert after == pytest.approx(float(cross_entropy(logits, targets, weights)), rel=1e-5)
    assert after < before


def test_ldam_focal_is_the_published_mix() -> None:
    recipe = DualBranchRecipe(balance_beta=0.9)
    counts = [5, 20]
    logits, targets = logits_of(0.7, 0.2), torch.tensor([0, 1])
    weights = class_weights(counts, 0.9)
    ldam = ldam_loss(logits, targets, weights, ldam_margins(counts))
    focal = focal_loss(logits, targets, weights, 1)
    loss = ImbalanceLoss(recipe, counts)(logits, targets, 0)
    assert torch.allclose(loss, 0.8 * ldam + 0.8 * focal)


def test_margins_and_weights_go_where_the_network_goes() -> None:
    """Upstream names the device "cuda" in its loss: a CPU cannot train."""
    loss = ImbalanceLoss(DualBranchRecipe(), [3, 4]).to("meta")
    assert {buffer.device.type for buffer in loss.buffers()} == {"meta"}


@pytest.mark.parametrize("kind", Loss)
def test_every_loss_falls_towards_the_truth(kind: Loss) -> None:
    loss = ImbalanceLoss(DualBranchRecipe(loss=kind), [5, 50])
    logits = torch.zeros(2, 2, requires_grad=True)
    value = loss(logits, torch.tensor([0, 1]), 0)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]
    assert logits.grad[1, 1] < 0 < logits.grad[1, 0]

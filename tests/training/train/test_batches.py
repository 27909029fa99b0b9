"""Batches of SpatialCLIP: which modalities are hidden."""

import torch

from training.train.batches import modality_mask


def test_at_most_one_modality_is_hidden() -> None:
    present = modality_mask(2000, 0.1, torch.Generator().manual_seed(0))
    assert present.sum(1).min() == 2
    dropped = (~present).float().mean(0)
    assert torch.all((dropped > 0.07) & (dropped < 0.13))

"""What the trainers share of an optimisation: an epoch's order, the learning rate, the average."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


def epoch_order(
    simulated: Sequence[bool], ratio: float, generator: np.random.Generator
) -> list[int]:
    """The pictures of one epoch: every real one and `ratio` times as many simulated ones."""
    real = [i for i, is_simulated in enumerate(simulated) if not is_simulated]
    phantoms = [i for i, is_simulated in enumerate(simulated) if is_simulated]
    if real:
        phantoms = list(generator.permutation(phantoms)[: round(ratio * len(real))])
    return [int(i) for i in generator.permutation(real + phantoms)]


def schedule(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of weights and buffers, ramped up over the first steps."""
    keep = decay * (1 - math.exp(-step / 500))
    for mean, value in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.dtype.is_floating_point:
            mean.mul_(keep).add_(value, alpha=1 - keep)
        else:
            mean.copy_(value)

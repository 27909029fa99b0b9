"""What the trainers share of an optimisation: an epoch's order, the learning rate, the average."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from training.data.samples import Sample
from training.recipes import DetectorRecipe, SpatialClipRecipe


def epoch_order(
    simulated: Sequence[bool], ratio: float, generator: np.random.Generator
) -> list[int]:
    """The pictures of one epoch: every real one and `ratio` times as many simulated ones."""
    real = [i for i, is_simulated in enumerate(simulated) if not is_simulated]
    phantoms = [i for i, is_simulated in enumerate(simulated) if is_simulated]
    if real:
        phantoms = list(generator.permutation(phantoms)[: round(ratio * len(real))])
    return [int(i) for i in generator.permutation(real + phantoms)]


def draw_epoch(
    samples: Sequence[Sample],
    recipe: DetectorRecipe | SpatialClipRecipe,
    generator: np.random.Generator,
) -> list[int]:
    """Indices of an epoch's pictures: every labelled real one, `unlabelled_ratio` times as many of
    the real ones without a quality label, in equal parts of their sources and views while they
    last, and `simulated_ratio` times as many simulated ones."""
    simulated = [sample.simulated for sample in samples]
    unlabelled: dict[tuple[str, str], list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.standard is None and not sample.simulated:
            key = (sample.source.partition("/")[0], str(sample.view))
            unlabelled.setdefault(key, []).append(index)
    labelled = len(samples) - sum(simulated) - sum(map(len, unlabelled.values()))
    if not (unlabelled and labelled and recipe.unlabelled_ratio):
        return epoch_order(simulated, recipe.simulated_ratio, generator)
    drawn = _equal_parts(
        [list(generator.permutation(part)) for _, part in sorted(unlabelled.items())],
        round(recipe.unlabelled_ratio * labelled),
    )
    hidden = {index for part in unlabelled.values() for index in part} - set(drawn)
    rest = [index for index in range(len(samples)) if index not in hidden]
    # Simulated pictures are counted for each labelled one.
    ratio = recipe.simulated_ratio * labelled / (labelled + len(drawn))
    order = epoch_order([simulated[index] for index in rest], ratio, generator)
    return [rest[index] for index in order]


def _equal_parts(parts: Sequence[Sequence[int]], count: int) -> list[int]:
    """`count` items, one of each part in turn while it lasts; all where there are fewer."""
    turns = max(map(len, parts))
    items = [int(part[turn]) for turn in range(turns) for part in parts if turn < len(part)]
    return items[:count]


def schedule(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def restarted_schedule(step: int, total: int, warmup: int, restart: int) -> float:
    """`schedule` of the first `restart` steps, then half of that of the others, without a warm-up
    (SGDR, Loshchilov and Hutter 2017); 0: one schedule for all."""
    if not restart:
        return schedule(step, total, warmup)
    if step < restart:
        return schedule(step, restart, warmup)
    return 0.5 * schedule(step - restart, total - restart, 0)


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

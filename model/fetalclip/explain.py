"""Where in a picture a class's logit comes from: a map of its patches, and a check by deletion.

Upstream weighs ScoreCAM's channels by probabilities, so that its maps hardly depend on the class.
Here a map explains the contrast of a class: its logit less the mean of the others', which no other
class shares.

- gradient: activation times gradient at the last block's input (HiResCAM, Draelos and Carin 2020,
  arXiv 2011.08891).
- attention: attention weighted by its gradient, through all blocks (Chefer et al. 2021, arXiv
  2103.15679).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from torch import Tensor, nn

from detector.frame import Pixels
from model.fetalclip.network import FetalClip, similarity
from model.nextgen_uia.adapters import AdaptedBlock
from model.nextgen_uia.network import AdaptedNetwork, ClipTower, PooledHead

Map = npt.NDArray[np.float32]
"""(g, g): how much each patch of the square speaks for the class, below 0: against it."""
Scores = Callable[[Tensor], Tensor]
"""Normalised pictures (B, 3, S, S) -> logits (B, C), with gradients."""
Place = tuple[int, int, int, int]
"""Left, top, width and height of a picture in its square, in pixels of the square."""
STEPS = 8
"""The patches are deleted in so many equal parts."""
_COLOURS = "inferno"
_OPACITY = 0.5


class Method(StrEnum):
    """How a map is made."""

    GRADIENT = "gradient"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class Explained:
    """What can be explained: logits, and the layers that they come from."""

    scores: Scores
    layer: nn.Module  # Its output, tokens (B, 1 + g^2, W) or a map (B, W, g, g), is weighed.
    vision: Any = None  # CLIP's image tower, whose attention leads to the class token; else None.


@dataclass(frozen=True, slots=True)
class Deletion:
    """The contrast of a class while patches are deleted, the most important ones first. A curve has
    its value at the picture as it is, and after each part."""

    curve: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]  # The same in random orders.

    @property
    def area(self) -> float:
        """Mean of the curve: the lower, the more the first patches mattered."""
        return _area(self.curve)

    @property
    def random_area(self) -> float:
        """The mean of the random orders."""
        return float(np.mean([_area(each) for each in self.random]))

    @property
    def better_than(self) -> float:
        """Share of the random orders that take less away. A map that says nothing has 0.5."""
        return float(np.mean([self.area < _area(each) for each in self.random]))


def of_prompts(network: FetalClip, directions: Tensor) -> Explained:
    """Zero-shot classes, each a direction of (C, d)."""
    vision = network.clip.vision_model
    # A copy, for gradients cannot go through a tensor of inference mode.
    of_classes = directions.detach().clone()

    def scores(pixel_values: Tensor) -> Tensor:
        pooled = vision(pixel_values=pixel_values.to(network.device)).pooler_output
        return similarity(network.clip.visual_projection(pooled), of_classes)

    return Explained(scores, _last_norm(vision), vision)


def of_network(network: AdaptedNetwork) -> Explained:
    """Classes of a head on the pooled feature. Raises ValueError on another head."""
    if not isinstance(network.head, PooledHead):
        raise ValueError("only a head on the pooled feature is explained")
    if isinstance(network.tower, ClipTower):
        vision = network.tower.vision
        return Explained(network, _last_norm(vision), vision)
    return Explained(network, network.tower.network.blocks[-1])


def contrast(logits: Tensor) -> Tensor:
    """(B, C) logits -> (B, C): each less the mean of the others. Raises ValueError on one class."""
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError("a class is explained against others: there is one only")
    return (logits - logits.mean(-1, keepdim=True)) * (classes / (classes - 1))


def explain(explained: Explained, pixel_values: Tensor, number: int, method: Method) -> Map:
    """The map of class `number` of one picture (1, 3, S, S).

    Raises ValueError where the network has no attention to explain by.
    """
    if method is Method.GRADIENT:
        return gradient_map(explained, pixel_values, number)
    return attention_map(explained, pixel_values, number)


def gradient_map(explained: Explained, pixel_values: Tensor, number: int) -> Map:
    """The sum over channels of activation times gradient."""
    outputs: list[Tensor] = []
    hook = explained.layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        value = _value(explained.scores, pixel_values, number)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(value, outputs[-1])
    weighed = outputs[-1] * gradient
    if weighed.ndim == 3:
        return _square_map(weighed[0, 1:].sum(-1))
    return np.asarray(weighed[0].sum(0).detach().cpu().numpy(), np.float32)


def attention_map(explained: Explained, pixel_values: Tensor, number: int) -> Map:
    """Relevance of each patch for the class token: R = 1, then R += mean over heads of the positive
    part of attention times gradient, times R, block by block."""
    if explained.vision is None:
        raise ValueError("the network has no attention: explain it by gradients")
    weights: list[Tensor] = []
    hooks = [
        _plain(block).self_attn.register_forward_hook(
            lambda _, __, output: weights.append(output[1])
        )
        for block in explained.vision.encoder.layers
    ]
    try:
        with _weights_given(explained.vision):
            value = _value(explained.scores, pixel_values, number)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(value, weights)
    relevance = torch.eye(weights[0].shape[-1], device=weights[0].device)
    for attention, gradient in zip(weights, gradients, strict=True):
        mean = (attention * gradient)[0].clamp(min=0).mean(0)
        relevance = relevance + mean @ relevance
    return _square_map(relevance[0, 1:])


def check_by_deletion(
    scores: Scores,
    pixel_values: Tensor,
    number: int,
    values: Map,
    place: Place,
    *,
    orders: int = 8,
    seed: int = 0,
    batch: int = 16,
) -> Deletion:
    """Delete the patches of the picture at `place` in the square, those of the highest value first,
    and in `orders` random orders. Deleted patches have the picture's mean colour."""
    grid, side = values.shape[0], pixel_values.shape[-1]
    inside = np.flatnonzero(_inside(grid, side, place))
    ranked = inside[np.argsort(-values.ravel()[inside], kind="stable")]
    generator = np.random.default_rng(seed)
    rankings = [ranked, *(generator.permutation(inside) for _ in range(orders))]
    left, top, width, height = place
    fill = pixel_values[..., top : top + height, left : left + width].mean((-2, -1), keepdim=True)
    counts = [round(len(inside) * step / STEPS) for step in range(1, STEPS + 1)]
    copies = [
        torch.where(_mask(ranking[:count], grid, side), fill, pixel_values)
        for ranking in rankings
        for count in counts
    ]
    with torch.no_grad():
        answers = [
            contrast(scores(torch.cat(copies[start : start + batch])))[:, number]
            for start in range(0, len(copies), batch)
        ]
        whole = float(contrast(scores(pixel_values))[0, number])
    curves = torch.cat(answers).double().cpu().reshape(len(rankings), STEPS).tolist()
    first, *others = ((whole, *curve) for curve in curves)
    return Deletion(first, tuple(others))


def draw_map(pixels: Pixels, values: Map, place: Place, side: int) -> Pixels:
    """(H, W, 3) picture and its map -> the picture with the map's positive part over it."""
    left, top, width, height = place
    positive = np.maximum(values, 0)
    shares = positive / max(float(positive.max()), 1e-12)
    square = cv2.resize(shares, (side, side), interpolation=cv2.INTER_LINEAR)
    inner = square[top : top + height, left : left + width]
    rows, columns = pixels.shape[:2]
    whole = cv2.resize(inner, (columns, rows), interpolation=cv2.INTER_LINEAR)
    colours = colormaps[_COLOURS](whole)[..., :3] * 255
    return np.asarray(np.rint((1 - _OPACITY) * pixels + _OPACITY * colours), np.uint8)


def place_in_square(height: int, width: int, side: int) -> Place:
    """Where a picture of that size lies in the black square of `preprocess.square` when it is
    `side` pixels large; one pixel at least each way."""
    longer = max(height, width)
    left, top = (longer - width) // 2, (longer - height) // 2
    x0, y0 = (min(side - 1, round(each * side / longer)) for each in (left, top))
    x1, y1 = (round(each * side / longer) for each in (left + width, top + height))
    return x0, y0, max(1, x1 - x0), max(1, y1 - y0)


def _value(scores: Scores, pixel_values: Tensor, number: int) -> Tensor:
    """The class's contrast. Weights may be frozen: the picture itself has a gradient."""
    with torch.enable_grad():
        return contrast(scores(pixel_values.detach().requires_grad_(True)))[0, number]


def _last_norm(vision: Any) -> nn.Module:
    layer: nn.Module = _plain(vision.encoder.layers[-1]).layer_norm1
    return layer


def _plain(block: Any) -> Any:
    return block.block if isinstance(block, AdaptedBlock) else block


@contextmanager
def _weights_given(vision: Any) -> Iterator[None]:
    """The attention computed step by step: only so it gives its weights."""
    config = vision.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def _square_map(patches: Tensor) -> Map:
    side = round(len(patches) ** 0.5)
    return np.asarray(patches.detach().reshape(side, side).cpu().numpy(), np.float32)


def _inside(grid: int, side: int, place: Place) -> npt.NDArray[np.bool_]:
    """(g, g) True where a patch shows some of the picture."""
    left, top, width, height = place
    edges = np.arange(grid) * side / grid
    columns = (edges + side / grid > left) & (edges < left + width)
    rows = (edges + side / grid > top) & (edges < top + height)
    return np.asarray(rows[:, None] & columns[None])


def _mask(patches: npt.NDArray[np.intp], grid: int, side: int) -> Tensor:
    """(1, 1, S, S) True on the patches, which are as equal as whole pixels allow."""
    cells = np.zeros(grid * grid, np.uint8)
    cells[patches] = 1
    rows = np.arange(side) * grid // side
    return torch.from_numpy(cells.reshape(grid, grid)[rows][:, rows].astype(bool))[None, None]


def _area(curve: Sequence[float]) -> float:
    """The trapezoids' mean over the share deleted, from 0 to 1."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))

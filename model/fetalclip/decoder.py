"""Decoders of masks: FetalCLIP's on a transformer, a U-shaped one on a convolutional tower.

The published one is a small UNETR (Hatamizadeh et al. 2021, arXiv 2103.10504) of depthwise
separable convolutions on frozen features. Here groups of channels are normalised, not batches:
eight pictures a step give poor statistics, and nothing but weights has to be kept. A convolutional
tower has maps at several strides already: its decoder joins them from the deepest up (Ronneberger
et al. 2015, arXiv 1505.04597).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

STAGES = 4
"""Maps of the tower that are read, shallow first."""
STRIDE = 16
"""A map has one position for so many pixels a side."""
_GROUPS = 8


def decoder_layers(blocks: int) -> tuple[int, ...]:
    """The blocks (from 0) whose maps the decoder reads: each fourth part's last. The published ones
    of 24 are 5, 7, 11 and 23, crowded at the input.

    Raises ValueError where the tower has fewer than four blocks.
    """
    if blocks < STAGES:
        raise ValueError(f"the decoder reads {STAGES} blocks, the tower has {blocks}")
    return tuple(blocks * part // STAGES - 1 for part in range(1, STAGES + 1))


class _Convolution(nn.Sequential):
    """(B, a, h, w) -> (B, b, h, w): depthwise 3 x 3, then 1 x 1."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(
            nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False),
            nn.GroupNorm(math.gcd(_GROUPS, a), a),
            nn.ReLU(),
            nn.Conv2d(a, b, 1, bias=False),
            nn.GroupNorm(math.gcd(_GROUPS, b), b),
            nn.ReLU(),
        )


class _Doubling(nn.Sequential):
    """(B, a, h, w) -> (B, b, 2h, 2w): a depthwise transposed convolution, then 1 x 1."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(_transposed(a), nn.Conv2d(a, b, 1))


class _DoublingConvolution(nn.Sequential):
    """(B, a, h, w) -> (B, b, 2h, 2w): the same with a depthwise separable convolution."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(_transposed(a), _Convolution(a, b))


def _transposed(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, groups=channels)


class MaskDecoder(nn.Module):
    """Four maps (B, a, g, g) of the tower, shallow first, and its pictures (B, 3, S, S), S a
    multiple of 16 -> logits (B, classes, S, S).

    `width` is the channels at full size; each halving doubles them, up to eight times.
    """

    def __init__(self, channels: tuple[int, ...], classes: int, width: int = 32) -> None:
        super().__init__()
        if len(channels) != STAGES:
            raise ValueError(f"the decoder reads {STAGES} maps of a tower, not {len(channels)}")
        shallow, low, high, deep = channels
        f = width
        self.deepest = _Doubling(deep, 8 * f)
        self.high = _DoublingConvolution(high, 8 * f)
        self.low = nn.Sequential(
            _DoublingConvolution(low, 8 * f), _DoublingConvolution(8 * f, 4 * f)
        )
        self.shallow = nn.Sequential(
            _DoublingConvolution(shallow, 8 * f),
            _DoublingConvolution(8 * f, 4 * f),
            _DoublingConvolution(4 * f, 2 * f),
        )
        self.picture = nn.Sequential(_Convolution(3, f), _Convolution(f, f))
        self.joins = nn.ModuleList(
            [
                nn.Sequential(
                    _Convolution(16 * f, 8 * f),
                    _Convolution(8 * f, 8 * f),
                    _Convolution(8 * f, 8 * f),
                    _Doubling(8 * f, 4 * f),
                ),
                nn.Sequential(
                    _Convolution(8 * f, 4 * f), _Convolution(4 * f, 4 * f), _Doubling(4 * f, 2 * f)
                ),
                nn.Sequential(
                    _Convolution(4 * f, 2 * f), _Convolution(2 * f, 2 * f), _Doubling(2 * f, f)
                ),
                nn.Sequential(_Convolution(2 * f, f), _Convolution(f, f)),
            ]
        )
        self.classifier = nn.Conv2d(f, classes, 1)

    def forward(self, maps: list[Tensor], pixel_values: Tensor) -> Tensor:
        side = pixel_values.shape[-1]
        if side % STRIDE:
            raise ValueError(f"the side of a picture is a multiple of {STRIDE}, not {side}")
        grid = (side // STRIDE, side // STRIDE)
        shallow, low, high, deep = (
            each
            if each.shape[-2:] == grid
            else interpolate(each, grid, mode="bilinear", align_corners=False)
            for each in maps
        )
        hidden = self.deepest(deep)
        skips = (self.high(high), self.low(low), self.shallow(shallow), self.picture(pixel_values))
        for skip, join in zip(skips, self.joins, strict=True):
            hidden = join(torch.cat((skip, hidden), dim=1))
        return self.classifier(hidden)  # type: ignore[no-any-return]


class PyramidDecoder(nn.Module):
    """Maps (B, a, s, s) of a convolutional tower, shallow first, each smaller than the one before,
    -> logits (B, classes, S, S).

    `width` is the channels of the shallowest map; each further one has twice as many, up to eight
    times. Logits are made at the shallowest map's size, and enlarged to S from there.
    """

    def __init__(self, channels: tuple[int, ...], classes: int, width: int = 32) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError("the decoder reads two maps of a tower at least")
        widths = [width * min(2**number, 8) for number in range(len(channels))]
        self.sides = nn.ModuleList(map(_pointwise, channels, widths))
        self.joins = nn.ModuleList(
            nn.Sequential(
                _full_convolution(deep + shallow, shallow), _full_convolution(shallow, shallow)
            )
            for shallow, deep in pairwise(widths)
        )
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor], side: int) -> Tensor:
        *skips, hidden = (each(features) for each, features in zip(self.sides, maps, strict=True))
        for skip, join in reversed(list(zip(skips, self.joins, strict=True))):
            hidden = interpolate(hidden, skip.shape[-2:], mode="bilinear", align_corners=False)
            hidden = join(torch.cat((skip, hidden), dim=1))
        logits: Tensor = self.classifier(hidden)
        if logits.shape[-1] == side:
            return logits
        return interpolate(logits, (side, side), mode="bilinear", align_corners=False)


def _pointwise(a: int, b: int) -> nn.Sequential:
    """(B, a, h, w) -> (B, b, h, w), of one scale whatever the tower's features have."""
    return nn.Sequential(
        nn.Conv2d(a, b, 1, bias=False), nn.GroupNorm(math.gcd(_GROUPS, b), b), nn.ReLU()
    )


def _full_convolution(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1, bias=False), nn.GroupNorm(math.gcd(_GROUPS, b), b), nn.ReLU()
    )

"""FetalCLIP's decoder of masks: four maps of the tower, and the picture itself, to a class a pixel.

The published one is a small UNETR (Hatamizadeh et al. 2021, arXiv 2103.10504) of depthwise
separable convolutions on frozen features. Here groups of channels are normalised, not batches:
eight pictures a step give poor statistics, and nothing but weights has to be kept.
"""

import math

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

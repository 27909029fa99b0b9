"""A convolutional stem for CLIP's image tower: an image network's features in place of raw patches.

The hybrid of Dosovitskiy et al. 2021 (An Image is Worth 16x16 Words, section 3.1). It lets a tower
that must be small start from what an image network has already learnt about texture and edges.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from model.inputs import MEAN, STD

# What TensorFlow's EfficientNet-Lite weights expect: (grey level - 127) / 128.
_CENTRE, _SPREAD = 127.0, 128.0
STRIDE = 32
_FROZEN_STAGES = 3


class ConvStem(nn.Module):
    """CLIP-normalised pictures (B, 3, S, S) -> patch features (B, width, S / 32, S / 32).

    `name` is a timm EfficientNet. Its batch normalisation keeps the statistics it came with, in
    training too: batches of ultrasound must not hide how bright or sharp one picture is.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        # Imported here: it is slow, and bundles on a plain CLIP do without.
        from timm import create_model

        self.features: Any = create_model(
            name, pretrained=False, features_only=True, out_indices=(4,)
        )
        self.features.to(memory_format=torch.channels_last)
        self.projection = nn.Conv2d(self.features.feature_info.channels()[0], width, 1, bias=False)
        gain = 255 / _SPREAD * torch.tensor(STD)
        offset = (255 * torch.tensor(MEAN) - _CENTRE) / _SPREAD
        self.gain = nn.Buffer(gain.view(1, 3, 1, 1), persistent=False)
        self.offset = nn.Buffer(offset.view(1, 3, 1, 1), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The tensor whose dtype CLIP gives its pictures."""
        return self.projection.weight

    def forward(self, pixel_values: Tensor) -> Tensor:
        # Full precision: on CPUs bfloat16 gains nothing in depthwise convolutions.
        with torch.autocast(pixel_values.device.type, enabled=False):
            pixels = pixel_values.float() * self.gain + self.offset
            (features,) = self.features(pixels.contiguous(memory_format=torch.channels_last))
        return self.projection(features)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.features.eval()
        return self

    def freeze_early(self) -> None:
        """Stop training the first stages, whose edges and textures serve any picture."""
        for module in (
            self.features.conv_stem,
            self.features.bn1,
            *self.features.blocks[:_FROZEN_STAGES],
        ):
            module.requires_grad_(False)

    def load_pretrained(self, weights: Mapping[str, Tensor]) -> None:
        """Take an EfficientNet-Lite's published weights, which name the same tensors otherwise.

        Matched by order, each shape checked; what lies behind the features (head, classes) is left
        out. Raises ValueError on another network's weights.
        """
        own = self.features.state_dict()
        given = list(weights.values())[: len(own)]
        if [tuple(t.shape) for t in own.values()] != [tuple(t.shape) for t in given]:
            raise ValueError("these weights are another network's")
        self.features.load_state_dict(dict(zip(own, given, strict=True)))

"""The CNN backbone of CLIP's image tower: an image network's features in place of raw patches.

The hybrid of Dosovitskiy et al. 2021 (An Image is Worth 16x16 Words, section 3.1). It lets a tower
that must be small start from what an image network has already learnt about texture and edges.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.spatialclip.preprocess import FILL, MEAN, STD
from model.spatialclip.sononet import SonoNet, normalise_picture

# What TensorFlow's EfficientNet-Lite weights expect: (grey level - 127) / 128.
_CENTRE, _SPREAD = 127.0, 128.0
STRIDE = 32
SONONET = "sononet16"
"""The name of SonoNet-16 in `SpatialClipConfig.stem`."""
_FROZEN_STAGES = 4


class HybridEmbed(nn.Module):
    """CLIP-normalised pictures (B, 3, S, S) -> the networks' features (B, C, S / 32, S / 32) by
    `forward_features` -> CLIP's patch features (B, width, S / 32, S / 32) by `forward`.

    `name` is a timm EfficientNet, `sononet16`, or both with a "+" between them: then their features
    stand one after the other. Their batch normalisation is folded into the convolutions, with the
    statistics it came with: batches must not hide how bright or sharp one picture is. `mirrored`:
    features are the mean of those of the picture and, turned back, of its mirror image.
    """

    def __init__(self, name: str, width: int, mirrored: bool = False) -> None:
        super().__init__()
        self.name = name
        self.mirrored = mirrored
        names = name.split("+")
        timm_names = [each for each in names if each != SONONET]
        if len(timm_names) > 1 or len(names) - len(timm_names) > 1:
            raise ValueError(f"{name}: one timm network, {SONONET}, or one of each")
        self.features = fold_batch_norm(_network(timm_names[0])) if timm_names else None
        self.sononet = fold_batch_norm(SonoNet().eval()) if SONONET in names else None
        self.channels: int = sum(
            (
                self.features.feature_info.channels()[0] if self.features is not None else 0,
                self.sononet.channels if self.sononet is not None else 0,
            )
        )
        self.projection = nn.Conv2d(self.channels, width, 1, bias=False)
        std, mean = torch.tensor(STD).view(1, 3, 1, 1), torch.tensor(MEAN).view(1, 3, 1, 1)
        self.std = nn.Buffer(std, persistent=False)
        self.mean = nn.Buffer(mean, persistent=False)
        self.gain = nn.Buffer(255 / _SPREAD * std, persistent=False)
        self.offset = nn.Buffer((255 * mean - _CENTRE) / _SPREAD, persistent=False)

    def extra_repr(self) -> str:
        return f"{self.name}, mirrored={self.mirrored}"

    @property
    def weight(self) -> Tensor:
        """The tensor whose dtype CLIP gives its pictures."""
        return self.projection.weight

    @property
    def networks(self) -> nn.ModuleList:
        """The image networks, without the projection behind them."""
        return nn.ModuleList(each for each in (self.features, self.sononet) if each is not None)

    def forward(self, features: Tensor) -> Tensor:
        """Patch features of what `forward_features` gave for the pictures."""
        return self.projection(features)  # type: ignore[no-any-return]

    def forward_features(
        self,
        pixel_values: Tensor,
        timm: Callable[[Tensor], Tensor] | None = None,
        sononet: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The image networks' features (B, C, S / 32, S / 32) of CLIP-normalised pictures; `timm`
        and `sononet` run the two networks in their place, if given."""
        # Full precision: on CPUs bfloat16 gains nothing in depthwise convolutions.
        with torch.autocast(pixel_values.device.type, enabled=False):
            pixels = pixel_values.float()
            features = self._network_features(pixels, timm, sononet)
            if self.mirrored:
                mirror = self._network_features(pixels.flip(-1), timm, sononet)
                features = (features + mirror.flip(-1)) / 2
        return features

    def _network_features(
        self,
        pixels: Tensor,
        timm: Callable[[Tensor], Tensor] | None,
        sononet: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        parts: list[Tensor] = []
        if self.features is not None:
            levels = pixels * self.gain + self.offset
            levels = levels.contiguous(memory_format=torch.channels_last)
            parts += self.features(levels) if timm is None else [timm(levels)]
        if self.sononet is not None:
            grey = (pixels * self.std + self.mean).mean(1, keepdim=True)
            parts.append((sononet or self.sononet)(normalise_picture(grey, FILL / 255)))
        return torch.cat(parts, 1)

    def freeze_early(self) -> None:
        """Stop training the first stages, whose edges and textures serve any picture."""
        if self.features is not None:
            for module in (
                self.features.conv_stem,
                self.features.bn1,
                *self.features.blocks[:_FROZEN_STAGES],
            ):
                module.requires_grad_(False)
        if self.sononet is not None:
            self.sononet.freeze_early()

    def load_pretrained(self, weights: Mapping[str, Tensor]) -> None:
        """Load an EfficientNet-Lite's published weights, which name the same tensors otherwise.

        They are matched by order, each shape checked; the layers behind the features (head,
        classes) are skipped. Raises ValueError on another network's weights.
        """
        if self.features is None:
            raise ValueError(f"{self.name} has no EfficientNet")
        network = _network(self.name.partition("+")[0])
        own = network.state_dict()
        weights_by_order = list(weights.values())[: len(own)]
        if [tuple(t.shape) for t in own.values()] != [tuple(t.shape) for t in weights_by_order]:
            raise ValueError("these weights are another network's")
        network.load_state_dict(dict(zip(own, weights_by_order, strict=True)))
        self.features.load_state_dict(fold_batch_norm(network).state_dict())

    def load_sononet(self, weights: Mapping[str, Tensor]) -> None:
        """Load SonoNet-16's published weights. Raises ValueError on another network's."""
        if self.sononet is None:
            raise ValueError(f"{self.name} has no SonoNet")
        network = SonoNet().eval()
        network.load_published(weights)
        self.sononet.load_state_dict(fold_batch_norm(network).state_dict())


def fold_batch_norm(network: Any) -> Any:
    """The network with each batch normalisation folded into the convolution before it, in place."""
    for parent in list(network.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))  # type: ignore[type-var]
                # timm's normalisation carries the activation that follows it.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            before = (name, child) if isinstance(child, nn.Conv2d) else None
    return network.to(memory_format=torch.channels_last)


def _network(name: str) -> Any:
    # Imported here: it is slow, and bundles on a plain CLIP do without.
    from timm import create_model

    return create_model(name, pretrained=False, features_only=True, out_indices=(4,)).eval()

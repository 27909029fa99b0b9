"""An image tower with a head that classifies or segments by three of its layers.

As NextGen-UIA has it for CLIP (layers 3, 6 and 9). SpatialCLIP's image tower is one of CLIP's, with
an image network before it or without. SonoNet-16 is a tower too: it has no attention to adapt, but
learnt from fetal ultrasound.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from model.fetalclip.decoder import MaskDecoder, PyramidDecoder
from model.nextgen_uia.adapters import grid_side, vision_of
from model.spatialclip.backbone import HybridEmbed, fold_batch_norm
from model.spatialclip.preprocess import FILL, MEAN, STD
from model.spatialclip.sononet import SonoNet, normalise_picture

LAYERS = (3, 6, 9)
"""Of twelve blocks, as published."""
SONONET_CHANNELS, SONONET_LAYERS = (16, 32, 64, 128, 128), (2, 3, 4)
"""Of SonoNet-16's blocks, and which of them a head reads by default."""


class Task(StrEnum):
    """What a head says of a picture: a class, or a class of each pixel."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


class HeadKind(StrEnum):
    """What a head reads of the tower."""

    LAYERS = "layers"  # The sum of some layers (NextGen-UIA): classes or masks.
    DECODER = "decoder"  # Four layers and the picture (FetalCLIP): masks.
    PYRAMID = "pyramid"  # Layers of falling size, of a convolutional tower: masks.
    POOLED = "pooled"  # The pooled feature, by a linear layer (FetalCLIP-IQA): classes.


_TASKS = {
    HeadKind.LAYERS: frozenset(Task),
    HeadKind.DECODER: frozenset({Task.SEGMENTATION}),
    HeadKind.PYRAMID: frozenset({Task.SEGMENTATION}),
    HeadKind.POOLED: frozenset({Task.CLASSIFICATION}),
}


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Of a head. In segmentation the first class is the background."""

    task: Task
    classes: tuple[str, ...]
    width: int = 512  # Channels of the sum of the layers, or of a decoder at its largest size.
    kind: HeadKind = HeadKind.LAYERS

    def __post_init__(self) -> None:
        if self.task not in _TASKS[self.kind]:
            raise ValueError(f"a head of kind {self.kind} does no {self.task}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("a head tells two different classes apart at least")
        if self.width < 1:
            raise ValueError("a head's width is at least 1")

    def to_json(self) -> dict[str, Any]:
        """Plain values, by their names. Folders from before there were kinds have none."""
        values = asdict(self) | {"task": self.task.value, "classes": list(self.classes)}
        kind = values.pop("kind")
        return values if kind is HeadKind.LAYERS else values | {"kind": kind.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises ValueError, TypeError or KeyError on what `to_json` does not write."""
        kind = HeadKind(data.get("kind", HeadKind.LAYERS))
        return cls(Task(data["task"]), tuple(map(str, data["classes"])), int(data["width"]), kind)


def default_layers(blocks: int) -> tuple[int, ...]:
    """The published layers, or those at the same depths of a tower with fewer blocks."""
    if blocks > max(LAYERS):
        return LAYERS
    return tuple(sorted({layer * blocks // 12 for layer in LAYERS}))


class ClipTower(nn.Module):
    """The image tower of any transformers CLIP, which may have adapters.

    SpatialCLIP's may have image networks (its stem) in place of CLIP's patches: they stay frozen,
    as the blocks do.
    """

    def __init__(self, vision: nn.Module, layers: tuple[int, ...] = LAYERS) -> None:
        super().__init__()
        self.vision: Any = vision_of(vision)
        self.layers = layers
        if not layers or max(layers) >= self.blocks:
            raise ValueError(
                f"the tower has {self.blocks} blocks, and none {max(layers, default=0)}"
            )
        self.channels = (self.vision.config.hidden_size,) * len(layers)
        self.side = int(self.vision.config.image_size)
        self.kind = "clip" if self.stem is None else "spatialclip"

    @property
    def stem(self) -> HybridEmbed | None:
        patches = self.vision.embeddings.patch_embedding
        return patches if isinstance(patches, HybridEmbed) else None

    @property
    def vision_model(self) -> Any:
        return self.vision

    @property
    def blocks(self) -> int:
        return len(self.vision.encoder.layers)

    def facts(self) -> dict[str, Any]:
        """What adapters and heads have to fit."""
        return {
            "kind": self.kind,
            "width": self.channels[0],
            "blocks": self.blocks,
            "grid": grid_side(self.vision),
            "layers": list(self.layers),
        }

    def stem_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> what the blocks begin with: the image networks' features, which nothing
        here trains; without such networks the pictures."""
        return pixel_values if self.stem is None else self.stem.forward_features(pixel_values)

    def maps(self, features: Tensor) -> list[Tensor]:
        """What `stem_features` gives -> (B, width, grid, grid) after each of the layers."""
        tokens, side = self.tokens(features), grid_side(self.vision)
        return [
            tokens[number][:, 1:].transpose(1, 2).reshape(len(features), -1, side, side)
            for number in self.layers
        ]

    def tokens(self, features: Tensor) -> dict[int, Tensor]:
        """What `stem_features` gives -> (B, 1 + grid^2, width) after each of the layers; blocks
        beyond the last of them are not run."""
        vision = self.vision
        # CLIP checks the size of pictures; for as many patches its positions stay as they are.
        hidden = vision.embeddings(features, interpolate_pos_encoding=self.stem is not None)
        hidden = vision.pre_layrnorm(hidden)
        tokens: dict[int, Tensor] = {}
        for number, block in enumerate(vision.encoder.layers[: max(self.layers) + 1]):
            hidden = block(hidden, None)
            if number in self.layers:
                tokens[number] = hidden
        return tokens

    def pooled(self, features: Tensor) -> Tensor:
        """What `stem_features` gives -> (B, width): what CLIP projects into the space that texts
        share. The tower has to read its last block."""
        if self.layers[-1] != self.blocks - 1:
            raise ValueError(
                "the pooled feature is the last block's, which the tower does not read"
            )
        tokens = self.tokens(features)[self.layers[-1]]
        return self.vision.post_layernorm(tokens[:, 0])  # type: ignore[no-any-return]

    @property
    def pooled_channels(self) -> int:
        return int(self.vision.config.hidden_size)


class SonoNetTower(nn.Module):
    """SonoNet-16 as a tower. Its blocks have the strides 1, 2, 4, 8 and 16; a head reads the last
    three, unless `layers` says others. Batch normalisation is folded."""

    kind = "sononet16"
    blocks = len(SONONET_CHANNELS)

    def __init__(self, side: int = 224, layers: tuple[int, ...] = SONONET_LAYERS) -> None:
        super().__init__()
        if side % 16:
            raise ValueError("the side of a picture is a multiple of 16")
        if not layers or max(layers) >= self.blocks:
            raise ValueError(
                f"SonoNet-16 has {self.blocks} blocks, and none {max(layers, default=0)}"
            )
        self.layers = layers
        self.channels = tuple(SONONET_CHANNELS[number] for number in layers)
        self.network = fold_batch_norm(SonoNet().eval())
        self.side = side
        std, mean = torch.tensor(STD).view(1, 3, 1, 1), torch.tensor(MEAN).view(1, 3, 1, 1)
        self.std = nn.Buffer(std, persistent=False)
        self.mean = nn.Buffer(mean, persistent=False)

    @staticmethod
    def published_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """SonoNet-16's published tensors with batch normalisation folded, under the names of
        `network`. Raises ValueError on another network's."""
        network = SonoNet().eval()
        network.load_published(weights)
        return dict(fold_batch_norm(network).state_dict())

    def facts(self) -> dict[str, Any]:
        # Folders from before there was a choice of layers do not name them.
        layers = {} if self.layers == SONONET_LAYERS else {"layers": list(self.layers)}
        return {"kind": self.kind, "side": self.side} | layers

    def stem_features(self, pixel_values: Tensor) -> Tensor:
        """The pictures: all of SonoNet may be trained."""
        return pixel_values

    def maps(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> features after each of the layers."""
        grey = (pixel_values * self.std + self.mean).mean(1, keepdim=True)
        features = normalise_picture(grey, FILL / 255)
        maps = []
        for number, block in enumerate(self.network.blocks[: max(self.layers) + 1]):
            features = block(nn.functional.max_pool2d(features, 2) if number else features)
            if number in self.layers:
                maps.append(features)
        return maps

    def pooled(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 128): the mean of the last block's features, which the tower has to
        read."""
        if self.layers[-1] != self.blocks - 1:
            raise ValueError(
                "the pooled feature is the last block's, which the tower does not read"
            )
        return self.maps(pixel_values)[-1].mean((-2, -1))

    @property
    def pooled_channels(self) -> int:
        return self.channels[-1]


Tower = ClipTower | SonoNetTower


class LayerHead(nn.Module):
    """Maps of the layers, shallow first, to logits (B, C), or (B, C, S, S) for pixels."""

    def __init__(self, channels: tuple[int, ...], config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.reduces = nn.ModuleList(nn.Linear(each, width) for each in channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in channels
        )
        self.dropout = nn.Dropout(0.5)
        # A pixel's classes are a linear layer, too: a convolution of 1 x 1.
        self.classifier = nn.Linear(width, len(config.classes))

    def forward(self, maps: list[Tensor], side: int) -> Tensor:
        total: Tensor | None = None
        grid = maps[0].shape[-2:]
        for each, reduce, block in reversed(
            list(zip(maps, self.reduces, self.blocks, strict=True))
        ):
            part = block(reduce(each.movedim(1, -1))).movedim(-1, 1)
            if part.shape[-2:] != grid:
                part = interpolate(part, grid, mode="bilinear", align_corners=False)
            total = part if total is None else total + part
        assert total is not None
        if self.config.task is Task.CLASSIFICATION:
            return self.classifier(self.dropout(total.mean((-2, -1))))  # type: ignore[no-any-return]
        # Classes first: interpolation commutes with a linear layer, and of `width` channels it
        # would take many times as long.
        coarse = self.classifier(total.movedim(1, -1)).movedim(-1, 1)
        return interpolate(coarse, (side, side), mode="bilinear", align_corners=False)


class PooledHead(nn.Module):
    """A linear layer: pooled features (B, a) to logits (B, C)."""

    def __init__(self, channels: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(channels, len(config.classes))

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)  # type: ignore[no-any-return]


class PyramidHead(PyramidDecoder):
    """The U-shaped decoder as a head."""

    def __init__(self, channels: tuple[int, ...], config: HeadConfig) -> None:
        super().__init__(channels, len(config.classes), config.width)
        self.config = config


class DecoderHead(MaskDecoder):
    """The decoder as a head."""

    def __init__(self, channels: tuple[int, ...], config: HeadConfig) -> None:
        super().__init__(channels, len(config.classes), config.width)
        self.config = config


class AdaptedNetwork(nn.Module):
    """Tower and head: CLIP-normalised pictures (B, 3, S, S) -> logits (B, C), or (B, C, S, S) for
    pixels. Raises ValueError where the head cannot read the tower."""

    def __init__(self, tower: Tower, config: HeadConfig) -> None:
        super().__init__()
        self.tower = tower
        self.head: LayerHead | DecoderHead | PyramidHead | PooledHead
        if config.kind is HeadKind.POOLED:
            self.head = PooledHead(tower.pooled_channels, config)
        elif config.kind is HeadKind.DECODER:
            self.head = DecoderHead(tower.channels, config)
        elif config.kind is HeadKind.PYRAMID:
            self.head = PyramidHead(tower.channels, config)
        else:
            self.head = LayerHead(tower.channels, config)

    @property
    def device(self) -> torch.device:
        return self.head.classifier.weight.device

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.tower.stem_features(pixel_values)
        if isinstance(self.head, DecoderHead):
            return self.head(self.tower.maps(features), pixel_values)  # type: ignore[no-any-return]
        return self._read_tower(features, pixel_values.shape[-1])

    def forward_features(self, features: Tensor) -> Tensor:
        """As `forward`, of what the tower's `stem_features` gave. Raises TypeError where the head
        is a decoder, which reads the pictures, too."""
        if isinstance(self.head, DecoderHead):
            raise TypeError("a decoder reads the pictures, too")
        return self._read_tower(features, self.tower.side)

    def _read_tower(self, features: Tensor, side: int) -> Tensor:
        if isinstance(self.head, PooledHead):
            return self.head(self.tower.pooled(features))  # type: ignore[no-any-return]
        return self.head(self.tower.maps(features), side)  # type: ignore[no-any-return]

"""Adapters of CLIP's image tower: Mona behind each block, or low-rank (LoRA) in its projections.

NextGen-UIA, arXiv 2506.08849; Mona, Yin et al. 2023 (arXiv 2311.15010); LoRA, Hu et al. 2021, with
the scale of Kalajdzievski 2023 (arXiv 2312.03732). The tensors have the published names.

Each adapter changes nothing when it is new. They are modules in the place of modules, so that a
tower with adapters can be copied, saved and moved like any other.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Kind(StrEnum):
    """Published adapters. Mona's two additions are in HYBRID together."""

    MONA = "mona"  # Depthwise convolutions of 3, 5 and 7, averaged.
    NOISE_AWARE = "mona-noise-aware"  # Their weights depend on the picture.
    FREQUENCY = "mona-frequency"  # A filter in the frequency domain before them.
    HYBRID = "mona-hybrid"
    LORA = "lora"  # One pair of matrices for query, key and value, as of a fused projection.
    LORA_SPLIT = "lora-split"  # A pair for each of them.
    LORA_MLP = "lora-mlp"  # A pair for the attention's output and for both layers behind it.


class Spectrum(StrEnum):
    """What the frequency filter multiplies."""

    MASK = "mask"  # Each frequency of each channel: a filter.
    SCALAR = "scalar"  # A channel's whole spectrum, as published: no more than the channel's gain.


IS_LORA = frozenset({Kind.LORA, Kind.LORA_SPLIT, Kind.LORA_MLP})
_FILTERS = frozenset({Kind.FREQUENCY, Kind.HYBRID})
_WEIGHS = frozenset({Kind.NOISE_AWARE, Kind.HYBRID})
_KERNELS = (3, 5, 7)
_ESTIMATOR = 16
"""Channels inside the noise estimator."""
_GAMMA = 1e-6
"""What the normalised tokens are scaled by at first."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Which adapters, and in which blocks (from 0). Sizes are the published ones."""

    kind: Kind = Kind.HYBRID
    layers: tuple[int, ...] = tuple(range(12))
    spectrum: Spectrum = Spectrum.MASK  # Of the kinds with a frequency filter.
    bottleneck: int = 64  # Channels inside Mona.
    rank: int = 16  # Of LoRA.
    alpha: float = 32.0  # LoRA's scale is alpha / sqrt(rank).
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) != len(self.layers) or min(self.layers) < 0:
            raise ValueError(f"layers {list(self.layers)}: give different blocks, from 0 on")
        if self.bottleneck < 1 or self.rank < 1 or not 0 <= self.dropout < 1:
            raise ValueError("bottleneck and rank are at least 1, dropout below 1")

    def to_json(self) -> dict[str, Any]:
        """Plain values, by their names."""
        return asdict(self) | {
            "kind": self.kind.value,
            "spectrum": self.spectrum.value,
            "layers": list(self.layers),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises ValueError, TypeError or KeyError on what `to_json` does not write."""
        values = dict(data)
        layers = tuple(int(each) for each in values.pop("layers"))
        kind, spectrum = Kind(values.pop("kind")), Spectrum(values.pop("spectrum"))
        return cls(kind=kind, spectrum=spectrum, layers=layers, **values)


class _MonaConvolution(nn.Module):
    """(B, C, side, side) -> the same, by convolutions at three scales and, by kind, a filter."""

    def __init__(self, channels: int, side: int, config: AdapterConfig) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
            for size in _KERNELS
        )
        self.projector = nn.Conv2d(channels, channels, 1)
        self.freq_filter: nn.Parameter | None = None
        if config.kind in _FILTERS:
            is_mask = config.spectrum is Spectrum.MASK
            # Of a real picture half the spectrum says all.
            shape = (channels, side, side // 2 + 1) if is_mask else (channels, 1, 1)
            self.freq_filter = nn.Parameter(torch.ones(shape))
        self.noise_estimator: nn.Sequential | None = None
        if config.kind in _WEIGHS:
            self.noise_estimator = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(channels, _ESTIMATOR, 1),
                nn.ReLU(),
                nn.Conv2d(_ESTIMATOR, len(_KERNELS), 1),
            )

    def forward(self, tokens: Tensor) -> Tensor:
        filtered = tokens if self.freq_filter is None else self._filter(tokens, self.freq_filter)
        scales = torch.stack(
            [self.conv1(filtered), self.conv2(filtered), self.conv3(filtered)], dim=1
        )
        if self.noise_estimator is None:
            mixed = scales.mean(1)
        else:
            weights = self.noise_estimator(filtered).softmax(1)
            mixed = (scales * weights[:, :, None]).sum(1)
        mixed = mixed + tokens
        return mixed + self.projector(mixed)  # type: ignore[no-any-return]

    @staticmethod
    def _filter(tokens: Tensor, mask: Tensor) -> Tensor:
        # There is no transform in half precision for all sizes and devices.
        spectrum = torch.fft.rfft2(tokens.float())
        if mask.shape[1] not in (1, spectrum.shape[-2]):
            raise ValueError(
                f"the adapter's filter is for {mask.shape[1]} patches a side, the picture has"
                f" {spectrum.shape[-2]}"
            )
        filtered: Tensor = torch.fft.irfft2(spectrum * mask, s=tokens.shape[-2:])
        return filtered.to(tokens.dtype)


class Mona(nn.Module):
    """Tokens (B, 1 + side^2, width), the first one the class's -> the same, with what the adapter
    adds to them. The class token takes no part in the convolutions."""

    def __init__(self, width: int, side: int, config: AdapterConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gamma = nn.Parameter(torch.full((width,), _GAMMA))
        self.gammax = nn.Parameter(torch.ones(width))
        self.project1 = nn.Linear(width, config.bottleneck)
        self.adapter_conv = _MonaConvolution(config.bottleneck, side, config)
        self.dropout = nn.Dropout(config.dropout)
        self.project2 = nn.Linear(config.bottleneck, width)
        # The published one starts at random, which changes every token of a trained tower.
        nn.init.zeros_(self.project2.weight)
        nn.init.zeros_(self.project2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.project1(self.norm(tokens) * self.gamma + tokens * self.gammax)
        count = inner.shape[1] - 1
        side = math.isqrt(count)
        if side * side != count:
            raise ValueError(f"{count} patches are no square")
        patches = inner[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        patches = self.adapter_conv(patches).flatten(2).transpose(1, 2)
        inner = nn.functional.gelu(torch.cat((inner[:, :1], patches), dim=1))
        return tokens + self.project2(self.dropout(inner))  # type: ignore[no-any-return]


class AdaptedBlock(nn.Module):
    """A block of the tower with Mona behind it, in the block's place."""

    def __init__(self, block: nn.Module, mona: Mona) -> None:
        super().__init__()
        self.block = block
        self.mona = mona

    def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return self.mona(self.block(hidden_states, *arguments, **options))  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """The pair of matrices: A (rank, inputs), Kaiming, and B (outputs, rank), zero at first."""

    def __init__(self, inputs: int, outputs: int, config: AdapterConfig) -> None:
        super().__init__()
        self.w_lora_A = nn.Parameter(torch.empty(config.rank, inputs))
        self.w_lora_B = nn.Parameter(torch.zeros(outputs, config.rank))
        nn.init.kaiming_uniform_(self.w_lora_A, a=math.sqrt(5))
        self.scale = config.alpha / math.sqrt(config.rank)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor, rows: slice) -> Tensor:
        """What these rows of the outputs gain."""
        inner = linear(self.dropout(inputs), self.w_lora_A)
        return linear(inner, self.w_lora_B[rows]) * self.scale


class AdaptedLinear(nn.Module):
    """A projection of a block with some rows of a low-rank pair, in the projection's place.

    Its bias stays frozen, as its weights do.
    """

    def __init__(self, base: nn.Linear, low_rank: LowRank, part: int) -> None:
        super().__init__()
        self.base = base
        self.low_rank = low_rank
        self.rows = slice(part * base.out_features, (part + 1) * base.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.low_rank(inputs, self.rows)  # type: ignore[no-any-return]


def vision_of(model: nn.Module) -> Any:
    """The transformer of a `CLIPModel`, or of a `CLIPVisionModel`."""
    return getattr(model, "vision_model", model)


def grid_side(vision: Any) -> int:
    """Patches a side of the pictures that the tower is made for."""
    return int(vision.config.image_size // vision.config.patch_size)


def add_adapters(model: nn.Module, config: AdapterConfig) -> None:
    """Put new adapters into the image tower and freeze everything else of the model.

    Raises ValueError where the tower has adapters already, or lacks one of the blocks.
    """
    vision = vision_of(model)
    blocks = vision.encoder.layers
    if next(adapters(model), None) is not None:
        raise ValueError("the tower has adapters already: remove them first")
    if max(config.layers) >= len(blocks):
        raise ValueError(f"the tower has {len(blocks)} blocks, and none {max(config.layers)}")
    model.requires_grad_(False)
    width, side = vision.config.hidden_size, grid_side(vision)
    reference = next(blocks.parameters())
    for number in config.layers:
        if config.kind in IS_LORA:
            _add_lora(blocks[number], width, config)
        else:
            blocks[number] = AdaptedBlock(blocks[number], Mona(width, side, config))
    for _, adapter in adapters(model):
        adapter.to(reference.device).train(vision.training)


def remove_adapters(model: nn.Module) -> None:
    """Take the adapters out again: the tower is what it was."""
    blocks = vision_of(model).encoder.layers
    for number, block in enumerate(blocks):
        if isinstance(block, AdaptedBlock):
            blocks[number] = block = block.block
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, AdaptedLinear):
                    setattr(part, name, layer.base)


def adapters(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The tower's adapters in order, as 0.mona, or 0.attn.qkv, 0.attn.proj and 0.mlp.fc1."""
    for number, block in enumerate(vision_of(model).encoder.layers):
        if isinstance(block, AdaptedBlock):
            yield f"{number}.mona", block.mona
            continue
        shared: set[int] = set()
        for name, parts in _PROJECTIONS.items():
            layer = getattr(block.self_attn, parts)
            if isinstance(layer, AdaptedLinear) and id(layer.low_rank) not in shared:
                shared.add(id(layer.low_rank))
                is_fused = layer.low_rank.w_lora_B.shape[0] != layer.base.out_features
                yield f"{number}.attn.{'qkv' if is_fused else name}", layer.low_rank
        for name in _LAYERS:
            layer = getattr(block.mlp, name)
            if isinstance(layer, AdaptedLinear):
                yield f"{number}.mlp.{name}", layer.low_rank


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors by name; those of the tower itself are none of them."""
    return {
        f"{name}.{leaf}": tensor
        for name, adapter in adapters(model)
        for leaf, tensor in adapter.state_dict().items()
    }


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What the adapters learn, each once."""
    for name, adapter in adapters(model):
        for leaf, parameter in adapter.named_parameters():
            yield f"{name}.{leaf}", parameter


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the adapters these tensors. Raises ValueError, in one line, unless they are exactly the
    model's in names and shapes, and finite."""
    own = adapter_state(model)
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    if missing or extra:
        what, names = ("lack", missing) if missing else ("also have", extra)
        raise ValueError(
            f"the adapters are of another kind or tower: they {what} {names[0]}"
            + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"the adapters are of another kind or tower: {name} is {list(tensor.shape)}, not"
                f" {list(own[name].shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has values that are infinite or no numbers")
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def set_training_mode(model: nn.Module) -> None:
    """Adapters train; the frozen tower evaluates, for its dropout would only be noise."""
    model.eval()
    for _, adapter in adapters(model):
        adapter.train()


_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "out_proj"}
_LAYERS = ("fc1", "fc2")


def _add_lora(block: Any, width: int, config: AdapterConfig) -> None:
    attention = block.self_attn
    if config.kind is Kind.LORA_MLP:
        # FetalCLIP-IQA's; its attention never learnt, for torch's passes a wrapped output by.
        for part, name in ((attention, "out_proj"), *((block.mlp, name) for name in _LAYERS)):
            setattr(part, name, _adapt_alone(getattr(part, name), config))
        return
    shared = LowRank(width, 3 * width, config) if config.kind is Kind.LORA else None
    for number, (name, attribute) in enumerate(_PROJECTIONS.items()):
        base: Any = getattr(attention, attribute)
        if shared is not None and name != "proj":
            adapted = AdaptedLinear(base, shared, number)
        else:
            adapted = _adapt_alone(base, config)
        setattr(attention, attribute, adapted)


def _adapt_alone(base: nn.Linear, config: AdapterConfig) -> AdaptedLinear:
    return AdaptedLinear(base, LowRank(base.in_features, base.out_features, config), 0)

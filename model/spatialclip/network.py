"""SpatialCLIP: view and standard-plane quality from image, text and layout together.

After the description of SpatialCLIP; parts carry its names so that its checkpoints load.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from detector.anatomy import LABELS, View
from detector.errors import ErrorCode, QCError
from model.spatialclip.backbone import STRIDE, HybridEmbed
from model.spatialclip.spatial_encoder import SpatialEncoder

VIEWS: tuple[View, ...] = (View.HEAD, View.NT, View.CRL, View.ABDOMEN, View.OTHER)
"""The order of `SpatialClipOutput.view_logits`."""
TEXT_POSITIONS = 117
GATED, CONCAT = "gated", "concat"
# The learnable scale e^s of the contrastive losses is clamped to this range, as published.
_SCALE_RANGE = (1.0, 50.0)


@dataclass(frozen=True, slots=True)
class SpatialClipConfig:
    """The sizes of the model. `clip` is a transformers CLIPConfig as a dictionary.

    Defaults are the published sizes.

    `stem` names image networks whose features replace CLIP's patches of 32 pixels (backbone.py);
    empty: none.
    `pooled`: their average over the picture joins the image feature past CLIP's blocks too.
    `mirrored`: the stem runs on the mirror image too, in twice its time.
    `view_offset` is added to the view logits, in the order of VIEWS: log odds that correct for how
    often training showed each view (Saerens et al. 2002); empty: nothing.
    """

    clip: dict[str, Any]
    labels: int = len(LABELS)
    label_dim: int = 192
    layers: int = 2
    heads: int = 8
    ffn: int = 2048
    dropout: float = 0.1
    token_dropout: float = 0.1
    fusion: str = GATED
    stem: str = ""
    pooled: bool = False
    mirrored: bool = False
    view_offset: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.fusion not in (GATED, CONCAT):
            raise ValueError(f"fusion {self.fusion!r} is neither {GATED} nor {CONCAT}")
        if (self.pooled or self.mirrored) and not self.stem:
            raise ValueError("only a stem's features can be pooled or mirrored")
        if self.view_offset and len(self.view_offset) != len(VIEWS):
            raise ValueError(f"view_offset has {len(self.view_offset)} of {len(VIEWS)} views")

    @property
    def dim(self) -> int:
        """Width of the shared feature space."""
        return int(self.clip["projection_dim"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises TypeError or ValueError on what is no configuration."""
        return cls(**{**data, "view_offset": tuple(data.get("view_offset", ()))})


def small_config(
    vocabulary: int = 512,
    *,
    bos: int = 0,
    eos: int = 2,
    pad: int = 1,
    stem: str = "tf_efficientnet_lite0",
) -> SpatialClipConfig:
    """The default bundle's size (about 6 M parameters), for a text vocabulary of that many.

    Its image tower has an image network as backbone: patches alone, learnt from some thousand
    pictures, miss fine texture.
    """
    clip = _clip_dict(
        width=192,
        vision={
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 288,
            "patch_size": STRIDE,
        },
        text={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": vocabulary,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
        },
    )
    return SpatialClipConfig(clip, label_dim=48, heads=4, ffn=512, stem=stem)


def full_config() -> SpatialClipConfig:
    """The published size: CLIP ViT-L/14, 768 wide."""
    clip = _clip_dict(
        width=768,
        vision={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
        text={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 49408,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
        },
    )
    return SpatialClipConfig(clip)


class SpatialClipOutput(NamedTuple):
    """logit (B,), P(standard) before calibration = sigmoid(logit); view_logits (B, 5) in the order
    of VIEWS; gates (B, 3) sum to 1; image, text, spatial (B, d) of unit length."""

    logit: Tensor
    view_logits: Tensor
    gates: Tensor
    image: Tensor
    text: Tensor
    spatial: Tensor


class TriModalClip(nn.Module):
    """CLIP's two encoders and the spatial one, into one feature space."""

    def __init__(self, config: SpatialClipConfig) -> None:
        super().__init__()
        self.clip_model: Any = CLIPModel(CLIPConfig(**config.clip))
        # Ours starts from CLIP's trained scale, which then takes no part in anything.
        self.clip_model.logit_scale.requires_grad_(False)
        if config.stem:
            embeddings = self.clip_model.vision_model.embeddings
            embeddings.patch_embedding = HybridEmbed(
                config.stem, embeddings.embed_dim, config.mirrored
            )
        self.spatial_encoder = SpatialEncoder(
            dim=config.dim,
            labels=config.labels,
            label_dim=config.label_dim,
            layers=config.layers,
            heads=config.heads,
            ffn=config.ffn,
            dropout=config.dropout,
            token_dropout=config.token_dropout,
        )
        self.pooled_projection = (
            PooledProjection(self.stem.channels, config.dim)
            if self.stem and config.pooled
            else None
        )
        self.logit_scale = nn.Parameter(self.clip_model.logit_scale.detach().clone())
        self._compiled_image_network: nn.Module | None = None

    @property
    def stem(self) -> HybridEmbed | None:
        patches = self.clip_model.vision_model.embeddings.patch_embedding
        return patches if isinstance(patches, HybridEmbed) else None

    def scale(self) -> Tensor:
        """The factor on cosine similarities in contrastive losses."""
        return self.logit_scale.exp().clamp(*_SCALE_RANGE)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W), CLIP-normalised -> (B, d) of unit length."""
        # A compiled network has no gradients.
        compiled = None if torch.is_grad_enabled() else self._compiled_image_network
        if self.stem is None:
            return (
                self.encode_features(pixel_values) if compiled is None else compiled(pixel_values)
            )
        features = self.stem.forward_features if compiled is None else compiled
        return self.encode_features(features(pixel_values))

    @property
    def has_sononet(self) -> bool:
        """Whether the stem has a SonoNet."""
        return self.stem is not None and self.stem.sononet is not None

    def compile_image_network(
        self,
        compile_for_pictures: Callable[[nn.Module, Tensor], nn.Module],
        compile_sononet: Callable[[nn.Module, Tensor], nn.Module] | None = None,
    ) -> None:
        """Let the part of `encode_image` that costs most be run by what `compile_for_pictures`
        makes of it and an example: the stem's networks, or all of it where there is no stem.

        With `compile_sononet` the stem's SonoNet is run by what that makes of it, apart. Raises
        ValueError where there is none.
        """
        size = self.clip_model.config.vision_config.image_size
        example = torch.zeros(1, 3, size, size, device=self.logit_scale.device)
        stem = self.stem
        if compile_sononet is None:
            network = _ImageEncoder(self) if stem is None else _StemNetworks(stem)
            self._compiled_image_network = compile_for_pictures(network, example)
            return
        if stem is None or stem.sononet is None:
            raise ValueError("the image tower has no SonoNet")
        self._compiled_image_network = _SeparateNetworks(
            stem,
            None if stem.features is None else compile_for_pictures(stem.features, example),
            compile_sononet(stem.sononet, example[:, :1]),
        )

    def encode_features(self, features: Tensor) -> Tensor:
        """The stem's features (B, C, h, w), pictures where there is no stem -> (B, d) of unit
        length."""
        clip = self.clip_model
        # CLIP checks the size of pictures; for as many patches its positions stay as they are.
        pooled = clip.vision_model(
            pixel_values=features, interpolate_pos_encoding=self.stem is not None
        ).pooler_output
        feature = clip.visual_projection(pooled)
        if self.pooled_projection is not None:
            feature = feature + self.pooled_projection(features)
        return normalize(feature, dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) tokens, the last attended one EOS -> (B, d) of unit length.

        Pooled at the last attended token, for transformers' own pooling takes the highest token
        number when EOS is number 2.
        """
        clip = self.clip_model
        hidden = clip.text_model(input_ids=input_ids, attention_mask=attention_mask)
        last = (attention_mask.long().sum(-1) - 1).clamp_min(0)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        pooled = hidden.last_hidden_state[rows, last]
        return normalize(clip.text_projection(pooled), dim=-1)


class _ImageEncoder(nn.Module):
    """CLIP's image encoder without its text, whose weights decide nothing here."""

    def __init__(self, network: TriModalClip) -> None:
        super().__init__()
        self.vision = network.clip_model.vision_model
        self.projection = network.clip_model.visual_projection
        self._encode = network.encode_features
        self._facts = str(network.clip_model.config.vision_config.to_json_string())

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self._encode(pixel_values)

    def extra_repr(self) -> str:
        # Caches of compiled networks go by it: the number of heads is in no weight's shape.
        return self._facts


class _StemNetworks(nn.Module):
    """A stem without the projection behind its networks."""

    def __init__(self, stem: HybridEmbed) -> None:
        super().__init__()
        self.networks = stem.networks
        self._forward = stem.forward_features
        self._facts = stem.extra_repr()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self._forward(pixel_values)

    def extra_repr(self) -> str:
        # Caches of compiled networks go by it.
        return self._facts


class _SeparateNetworks(nn.Module):
    """A stem without the projection, each of its networks run by another module."""

    def __init__(self, stem: HybridEmbed, timm: nn.Module | None, sononet: nn.Module) -> None:
        super().__init__()
        self.timm = timm
        self.sononet = sononet
        self._forward = stem.forward_features

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self._forward(pixel_values, self.timm, self.sononet)


class PooledProjection(nn.Module):
    """A stem's features (B, C, h, w) -> (B, d): their normalised average, projected.

    From a thousand pictures a linear layer learns texture better than attention does. Starts at
    zero, as if it were not there.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.projection = nn.Linear(channels, dim, bias=False)
        nn.init.zeros_(self.projection.weight)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.norm(features.mean((2, 3))))  # type: ignore[no-any-return]


class SpatialClip(nn.Module):
    """The whole model; `config` rebuilds it."""

    def __init__(self, config: SpatialClipConfig) -> None:
        super().__init__()
        self.config = config
        d = config.dim
        self.trimodal_clip = TriModalClip(config)
        self.gate_proj = nn.Linear(3 * d, 3) if config.fusion == GATED else None
        self.classifier = nn.Linear(d if config.fusion == GATED else 3 * d, 1)
        self.view_head = nn.Linear(3 * d, len(VIEWS))
        offset = torch.tensor(config.view_offset or (0.0,) * len(VIEWS))
        self.view_offset = nn.Buffer(offset, persistent=False)
        self.missing_tokens = nn.Parameter(torch.randn(3, d))

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        boxes: Tensor,
        labels: Tensor,
        confidences: Tensor,
        box_mask: Tensor,
        present: Tensor | None = None,
        has_features: bool = False,
    ) -> SpatialClipOutput:
        """`box_mask` (B, N) is True for a box; `present` (B, 3) True for a modality that is there.

        A missing modality is replaced by its learned token and gets no gate; its inputs must have
        the right shape but are not looked at. A picture in which nothing was found is *not*
        missing the spatial branch.
        """
        return self.fuse(
            *self.encode(
                pixel_values,
                input_ids,
                attention_mask,
                boxes,
                labels,
                confidences,
                box_mask,
                has_features,
            ),
            present,
        )

    def encode(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        boxes: Tensor,
        labels: Tensor,
        confidences: Tensor,
        box_mask: Tensor,
        has_features: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The features of image, text and layout, each (B, d) of unit length.

        `has_features`: `pixel_values` are no pictures but the stem's features of them.
        """
        clip = self.trimodal_clip
        return (
            (clip.encode_features if has_features else clip.encode_image)(pixel_values),
            clip.encode_text(input_ids, attention_mask),
            clip.spatial_encoder(boxes, labels, confidences, box_mask),
        )

    def fuse(
        self, image: Tensor, text: Tensor, spatial: Tensor, present: Tensor | None = None
    ) -> SpatialClipOutput:
        """The heads on features (B, d) of unit length."""
        features = torch.stack((image, text, spatial), dim=1)
        if present is None:
            present = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        tokens = normalize(self.missing_tokens, dim=-1).to(features.dtype)
        features = torch.where(present.unsqueeze(-1), features, tokens)
        joined = features.flatten(1)
        scores = (
            features.new_zeros(features.shape[:2])
            if self.gate_proj is None
            else self.gate_proj(joined)
        )
        # With nothing present at all the learned tokens share the say; no NaN comes out.
        hidden = ~present & present.any(-1, keepdim=True)
        gates = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        fused = joined if self.gate_proj is None else (gates.unsqueeze(-1) * features).sum(1)
        views = self.view_head(joined) + self.view_offset
        return SpatialClipOutput(
            self.classifier(fused).squeeze(-1), views, gates, *features.unbind(1)
        )

    @property
    def device(self) -> torch.device:
        return self.missing_tokens.device

    def with_stem(self, *, pooled: bool, mirrored: bool) -> "SpatialClip":
        """The same network with these settings of its stem; a new pooling projection is zero.

        Raises ValueError without a stem.
        """
        wider = SpatialClip(replace(self.config, pooled=pooled, mirrored=mirrored))
        wider.load_state_dict(wider.state_dict() | self.state_dict())
        return wider.to(self.device).train(self.training)

    @classmethod
    def from_clip(cls, folder: Path, **sizes: Any) -> Self:
        """On a pre-trained CLIP in a local Hugging Face folder; the other parts start untrained.

        `sizes` are fields of SpatialClipConfig. Raises QCError on a folder without safetensors.
        """
        if not any(folder.glob("*.safetensors")):
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{folder} has no safetensors weights: save the CLIP model as safetensors",
            )
        clip = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        extend_text_positions(clip, TEXT_POSITIONS)
        sizes = {"label_dim": clip.projection_dim // 4} | sizes
        model = cls(SpatialClipConfig(clip.config.to_dict(), **sizes))
        model.trimodal_clip.clip_model.load_state_dict(clip.state_dict())
        model.trimodal_clip.logit_scale.data.copy_(clip.logit_scale.data)
        return model.eval()


def extend_text_positions(clip: Any, positions: int = TEXT_POSITIONS, seed: int = 0) -> None:
    """Give a CLIPModel that many text positions, in place.

    New ones are the last one plus N(0, 0.02), as published. A model that has enough is untouched.
    """
    embeddings = clip.text_model.embeddings
    weight = extend_positions(embeddings.position_embedding.weight.data, positions, seed)
    embeddings.position_embedding = nn.Embedding(len(weight), weight.shape[1], _weight=weight)
    embeddings.position_ids = torch.arange(len(weight), device=weight.device).expand((1, -1))
    for config in (clip.config.text_config, clip.text_model.config):
        config.max_position_embeddings = len(weight)


def extend_positions(weight: Tensor, positions: int, seed: int = 0) -> Tensor:
    """(n, d) position embeddings with rows appended up to `positions`: the last one plus noise."""
    more = positions - len(weight)
    if more <= 0:
        return weight
    noise = torch.randn(more, weight.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.cat((weight, weight[-1:] + 0.02 * noise.to(weight)))


def _clip_dict(width: int, vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    return {
        "projection_dim": width,
        "vision_config": vision | {"projection_dim": width},
        "text_config": text | {"projection_dim": width, "max_position_embeddings": TEXT_POSITIONS},
    }

"""FetalCLIP's network: a CLIP ViT-L/14 with 117 text positions, as transformers' `CLIPModel`.

Maani et al. 2025, FetalCLIP: A Visual-Language Foundation Model for Fetal Ultrasound Image
Analysis (arXiv 2502.14807). Weights are the user's: none ship.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from detector.errors import ErrorCode, QCError

HEAD_WIDTH = 64
"""Channels of an attention head of the image tower (open_clip's default)."""
SCALE = 100.0
"""The factor on cosine similarities: the published one, a constant, not the learnt scale."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a CLIP with a vision transformer. Defaults are FetalCLIP's.

    The activation is the exact GELU; OpenAI's first CLIPs have the quick one (`quick_gelu`).
    """

    embed_dim: int = 768  # width of the feature space that image and text share
    vision_width: int = 1024
    vision_layers: int = 24
    patch: int = 14  # side of a patch in pixels
    image: int = 224  # side of the picture in pixels
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 49408  # tokens; the last two begin and end a text
    context: int = 117  # text positions
    quick_gelu: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "quick_gelu" and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}, no positive number")
        if self.vision_width % HEAD_WIDTH or self.image % self.patch:
            raise ValueError(
                f"the image tower's width has to be a multiple of {HEAD_WIDTH}, its picture one of"
                " its patch"
            )
        if self.text_width % self.text_heads:
            raise ValueError("the text tower's width has to be a multiple of its heads")

    @property
    def begin(self) -> int:
        """The token that begins a text."""
        return self.vocabulary - 2

    @property
    def end(self) -> int:
        """The token that ends a text; the text's feature is read there."""
        return self.vocabulary - 1

    def clip_config(self) -> CLIPConfig:
        """The configuration of transformers' `CLIPModel` of this architecture."""
        shared = {
            "hidden_act": "quick_gelu" if self.quick_gelu else "gelu",
            "projection_dim": self.embed_dim,
            "layer_norm_eps": 1e-5,
        }
        return CLIPConfig(
            projection_dim=self.embed_dim,
            vision_config={
                "hidden_size": self.vision_width,
                "intermediate_size": 4 * self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_width // HEAD_WIDTH,
                "image_size": self.image,
                "patch_size": self.patch,
                **shared,
            },
            text_config={
                "hidden_size": self.text_width,
                "intermediate_size": 4 * self.text_width,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "vocab_size": self.vocabulary,
                "max_position_embeddings": self.context,
                "bos_token_id": self.begin,
                "eos_token_id": self.end,
                "pad_token_id": 0,
                **shared,
            },
        )

    @classmethod
    def of_clip_config(cls, config: CLIPConfig) -> Self:
        """The architecture of a `CLIPModel`; raises ValueError on one that `clip_config` would not
        give, as of another activation or head width."""
        vision, text = config.vision_config, config.text_config
        architecture = cls(
            embed_dim=config.projection_dim,
            vision_width=vision.hidden_size,
            vision_layers=vision.num_hidden_layers,
            patch=vision.patch_size,
            image=vision.image_size,
            text_width=text.hidden_size,
            text_layers=text.num_hidden_layers,
            text_heads=text.num_attention_heads,
            vocabulary=text.vocab_size,
            context=text.max_position_embeddings,
            quick_gelu=vision.hidden_act == "quick_gelu",
        )
        ours = architecture.clip_config()
        for name in ("hidden_act", "intermediate_size", "num_attention_heads", "layer_norm_eps"):
            for theirs, own in ((vision, ours.vision_config), (text, ours.text_config)):
                if getattr(theirs, name) != getattr(own, name):
                    raise ValueError(
                        f"{name} {getattr(theirs, name)!r} is no FetalCLIP's,"
                        f" which has {getattr(own, name)!r}"
                    )
        if text.eos_token_id != architecture.end:
            raise ValueError(f"eos_token_id {text.eos_token_id} is not the last token")
        return architecture

    @classmethod
    def of_open_clip(cls, path: Path) -> Self:
        """Read open_clip's JSON of a model (`embed_dim`, `vision_cfg`, `text_cfg`).

        Raises QCError BUNDLE_MISMATCH on one that is no CLIP with a plain vision transformer.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**_open_clip_sizes(data.get("model_cfg", data)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH, f"{path.name} is no configuration of FetalCLIP: {why}"
            ) from None


def _open_clip_sizes(data: Mapping[str, Any]) -> dict[str, Any]:
    vision, text = data["vision_cfg"], data["text_cfg"]
    known = (
        {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
        {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
    )
    for name, part, keys in zip(("vision_cfg", "text_cfg"), (vision, text), known, strict=True):
        unknown = sorted(set(part) - keys)
        if unknown:
            raise ValueError(f"{name} has {unknown[0]}, which is another kind of network's")
        if part.get("mlp_ratio", 4) != 4:
            raise ValueError(f"{name} has mlp_ratio {part['mlp_ratio']}, not 4")
    if vision.get("head_width", HEAD_WIDTH) != HEAD_WIDTH:
        raise ValueError(f"vision_cfg has head_width {vision['head_width']}, not {HEAD_WIDTH}")
    return {
        "embed_dim": data["embed_dim"],
        "vision_width": vision["width"],
        "vision_layers": vision["layers"],
        "patch": vision["patch_size"],
        "image": vision.get("image_size", 224),
        "text_width": text["width"],
        "text_layers": text["layers"],
        "text_heads": text["heads"],
        "vocabulary": text.get("vocab_size", 49408),
        "context": text.get("context_length", 77),
        "quick_gelu": bool(data.get("quick_gelu", False)),
    }


class FetalClip:
    """The network, evaluating, and what is asked of it; `architecture` rebuilds it."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.clip: Any = CLIPModel(architecture.clip_config()).eval()

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device  # type: ignore[no-any-return]

    def to(self, device: torch.device) -> Self:
        self.clip.to(device)
        return self

    @torch.inference_mode()
    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) as of `preprocess.Preprocessor` -> (B, embed_dim), projected, of the length
        that the network gives them: a linear probe learns from these."""
        clip = self.clip
        pooled = clip.vision_model(pixel_values=pixel_values.to(self.device)).pooler_output
        return clip.visual_projection(pooled)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def text_features(self, input_ids: Tensor) -> Tensor:
        """(B, L) tokens, padded behind the end -> (B, embed_dim), projected."""
        clip = self.clip
        # Attention is causal: what stands behind the end cannot change it, so there is no mask.
        pooled = clip.text_model(input_ids=input_ids.to(self.device)).pooler_output
        return clip.text_projection(pooled)  # type: ignore[no-any-return]


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """(B, d) and (C, d) -> (B, C): 100 times the cosine."""
    return SCALE * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


def mean_direction(features: Sequence[Tensor]) -> Tensor:
    """Features (n, d) of each class's prompts -> (C, d): of each the mean of unit vectors, of unit
    length again (Radford et al. 2021, section 3.1.4)."""
    return torch.stack([normalize(normalize(each, dim=-1).mean(0), dim=-1) for each in features])

"""The stages of SpatialCLIP's training: which parameters learn, and in which optimiser group."""

from enum import IntEnum
from typing import Any

from torch import nn

from model.spatialclip.network import SpatialClip


class Stage(IntEnum):
    """The parameters that learn. FUSION: all but CLIP's. PROJECTION: also CLIP's projections and
    the scale. TOP: also CLIP's top blocks (these three as published). ALL: everything but the first
    stages of the stem."""

    FUSION = 0
    PROJECTION = 1
    TOP = 2
    ALL = 3


def set_stage(
    model: SpatialClip, stage: Stage | int, vision_layers: int = 8, text_layers: int = 6
) -> None:
    """Set `requires_grad` of every parameter for the stage. Build a new optimiser after it."""
    stage = Stage(stage)
    trimodal = model.trimodal_clip
    clip = trimodal.clip_model
    model.requires_grad_(True)
    clip.requires_grad_(stage is Stage.ALL)
    trimodal.logit_scale.requires_grad_(stage >= Stage.PROJECTION)
    if stage >= Stage.PROJECTION:
        clip.visual_projection.requires_grad_(True)
        clip.text_projection.requires_grad_(True)
    if stage >= Stage.TOP:
        for tower, layers, norm in (
            (clip.vision_model, vision_layers, clip.vision_model.post_layernorm),
            (clip.text_model, text_layers, clip.text_model.final_layer_norm),
        ):
            norm.requires_grad_(True)
            for block in list(tower.encoder.layers)[max(0, len(tower.encoder.layers) - layers) :]:
                block.requires_grad_(True)
    if trimodal.stem is not None:
        trimodal.stem.freeze_early()
    # The model's own `logit_scale` replaces CLIP's.
    clip.logit_scale.requires_grad_(False)


def parameter_groups(
    model: SpatialClip,
    stage: Stage | int,
    *,
    backbone_lr: float = 1e-5,
    projection_lr: float = 2e-5,
    head_lr: float = 1e-4,
    weight_decay: float = 0.02,
    vision_layers: int = 8,
    text_layers: int = 6,
) -> list[dict[str, Any]]:
    """Set the stage; then optimiser groups of exactly the trainable parameters, each once.

    Groups carry `name`, `lr` and `weight_decay`; vectors and scalars (norms, biases, scale) are
    not decayed.
    """
    set_stage(model, stage, vision_layers, text_layers)
    rates = {"backbone": backbone_lr, "projection": projection_lr, "head": head_lr}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_part(name), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "name": part if decayed else f"{part} (no decay)",
            "params": parameters,
            "lr": rates[part],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (part, decayed), parameters in groups.items()
    ]


_PROJECTIONS = frozenset(
    {
        "trimodal_clip.clip_model.visual_projection.weight",
        "trimodal_clip.clip_model.text_projection.weight",
        "trimodal_clip.logit_scale",
    }
)


def _part(name: str) -> str:
    if name in _PROJECTIONS:
        return "projection"
    return "backbone" if name.startswith("trimodal_clip.clip_model.") else "head"

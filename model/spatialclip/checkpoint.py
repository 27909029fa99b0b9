"""Saves and loads SpatialCLIP: our folder, and checkpoints in the layout of the published code."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from detector.errors import ErrorCode, QCError
from model.spatialclip.network import SpatialClip, SpatialClipConfig, extend_positions

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
CLIP_PREFIX = "trimodal_clip.clip_model."
"""What SpatialCLIP puts before the names of its CLIP's tensors."""
_SPATIAL = "trimodal_clip.spatial_encoder."
_LABELS = _SPATIAL + "label_embedding.weight"
_POSITIONS = "trimodal_clip.clip_model.text_model.embeddings.position_embedding.weight"
# What the published model does not have; it keeps its initial values and the report says so.
_OPTIONAL = ("view_head.", "missing_tokens")


class LoadReport(NamedTuple):
    """The tensors of a load that did not match exactly. missing: kept their initial values;
    unexpected: ignored; resized: "name: from -> to rows"; renamed: "theirs -> ours"."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    resized: tuple[str, ...]
    renamed: tuple[str, ...] = ()


def save_spatialclip(
    folder: Path, model: SpatialClip, backbone: Mapping[str, Tensor] | None = None
) -> None:
    """Write config.json and weights.safetensors (float16); the tokenizer goes beside them.

    Tensors that `backbone` has under the same name, equal in float16, are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(
        json.dumps(model.config.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    weights = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    for name, tensor in (backbone or {}).items():
        if name in weights and torch.equal(weights[name], tensor.to("cpu", torch.float16)):
            del weights[name]
    save_file(weights, folder / WEIGHTS)


def load_spatialclip(
    folder: Path,
    device: str | torch.device = "cpu",
    backbone: Mapping[str, Tensor] | None = None,
) -> SpatialClip:
    """The inverse of `save_spatialclip`, in float32, evaluating; strict. The tensors that it left
    out are those of `backbone`.

    Raises QCError: bundle-incomplete on a missing file, bundle-mismatch on a wrong one.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"spatialclip: {name} is missing")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model = SpatialClip(SpatialClipConfig.from_json(config))
        own = model.state_dict()
        weights = {name: tensor for name, tensor in (backbone or {}).items() if name in own}
        weights |= load_file(folder / WEIGHTS)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"spatialclip: {line}") from error
    return model.to(device).eval()


def load_checkpoint(model: SpatialClip, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Load a published-layout state dict in place.

    Fewer label rows (14) or text positions (77) fill the first of ours. Inside the spatial
    encoder, whose published names we do not know, tensors that carry other names are matched by
    what they are. Anything else must match exactly: raises QCError, bundle-incomplete on missing
    and bundle-mismatch on unexpected or misshapen weights, and then leaves the model as it was.
    """
    own = model.state_dict()
    ignored = tuple(key for key in state_dict if key.endswith(".position_ids"))
    weights = {key: tensor.float() for key, tensor in state_dict.items() if key not in ignored}
    weights, renamed = _match_spatial_names(weights, own)
    resized = _resize(weights, own)
    missing = tuple(key for key in own if key not in weights)
    lacking = [key for key in missing if not key.startswith(_OPTIONAL)]
    unexpected = [key for key in weights if key not in own]
    misshapen = [key for key in weights if key in own and weights[key].shape != own[key].shape]
    if unexpected or misshapen:
        what = "does not know" if unexpected else "has another shape of"
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH, f"the model {what} {_few(unexpected or misshapen)}"
        )
    if lacking:
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"the checkpoint lacks {_few(lacking)}")
    model.load_state_dict(weights, strict=False)
    return LoadReport(missing, ignored, tuple(resized), tuple(renamed))


def _resize(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    resized = []
    for key in (_LABELS, _POSITIONS):
        theirs, ours = weights.get(key), own[key]
        if theirs is None or len(theirs) >= len(ours) or theirs.shape[1:] != ours.shape[1:]:
            continue
        weights[key] = (
            torch.cat((theirs, ours[len(theirs) :].to(theirs)))
            if key == _LABELS
            else extend_positions(theirs, len(ours))
        )
        resized.append(f"{key}: {len(theirs)} -> {len(ours)} rows")
    return resized


def _match_spatial_names(
    weights: dict[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The spatial encoder's tensors under our names, if each has exactly one counterpart."""
    theirs = {key: tensor for key, tensor in weights.items() if key.startswith(_SPATIAL)}
    ours = {key: tensor for key, tensor in own.items() if key.startswith(_SPATIAL)}
    if theirs.keys() == ours.keys():
        return weights, []
    roles, own_roles = _roles(theirs), _roles(ours)
    if roles.keys() != own_roles.keys() or len(roles) != len(theirs):
        return weights, []
    names = {roles[role]: own_roles[role] for role in roles}
    changed = [f"{old} -> {new}" for old, new in names.items() if old != new]
    return {names.get(key, key): tensor for key, tensor in weights.items()}, changed


def _roles(tensors: Mapping[str, Tensor]) -> dict[tuple[str, int, str], str]:
    """(kind, its count among that kind, leaf) -> name.

    Kinds: transformer layers by torch's own names; the linear layer of 13 inputs; the embedding
    (no bias); other linear layers in order; norms (1-D weight); the bare class token.
    """
    roles: dict[tuple[str, int, str], str] = {}
    counted: dict[str, list[str]] = {}
    for name in sorted(tensors, key=_natural):
        layer = re.search(r"layers\.\d+\..*", name)
        if layer:
            roles[("layer", 0, layer.group())] = name
            continue
        parent, _, leaf = name.rpartition(".")
        weight = tensors.get(f"{parent}.weight")
        if leaf not in ("weight", "bias") or weight is None:
            kind, parent, leaf = "token", name, ""
        elif weight.ndim == 1:
            kind = "norm"
        elif weight.shape[1] == 13:
            kind = "geometry"
        else:
            kind = "linear" if f"{parent}.bias" in tensors else "embedding"
        parents = counted.setdefault(kind, [])
        if parent not in parents:
            parents.append(parent)
        roles[(kind, parents.index(parent), leaf)] = name
    return roles


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

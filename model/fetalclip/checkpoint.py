"""Saves and loads FetalCLIP: our folder, and open_clip's checkpoints in both directions.

Our folder is one of transformers' CLIP (config.json, model.safetensors, the tokenizer), so that
other code reads it too, with fetalclip.json beside it: the SHA-256 of the weights and of the
checkpoint they came from.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig

from detector.errors import ErrorCode, QCError
from model.fetalclip.network import Architecture, FetalClip

CONFIG, WEIGHTS, FACTS = "config.json", "model.safetensors", "fetalclip.json"
_PREFIX = "module."
"""DistributedDataParallel puts it before each name."""

# open_clip's name -> transformers'. Blocks have names of their own, below.
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = ("visual.proj", "text_projection")
_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_JOINED = re.compile(r"attn\.in_proj_(weight|bias)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
"""open_clip has the three in one tensor, in this order."""


def names_of(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """open_clip's name of each tensor -> ours: one, or the three that it joins."""
    names: dict[str, tuple[str, ...]] = {theirs: (ours,) for theirs, ours in _NAMES.items()}
    for (theirs, ours), layers in zip(
        _TOWERS.items(), (architecture.vision_layers, architecture.text_layers), strict=True
    ):
        for number in range(layers):
            for leaf in ("weight", "bias"):
                names[f"{theirs}{number}.attn.in_proj_{leaf}"] = tuple(
                    f"{ours}{number}.self_attn.{each}.{leaf}" for each in _PROJECTIONS
                )
                for layer, own in _LAYERS.items():
                    names[f"{theirs}{number}.{layer}.{leaf}"] = (f"{ours}{number}.{own}.{leaf}",)
    return names


def from_open_clip(
    state_dict: Mapping[str, Tensor], architecture: Architecture | None = None
) -> FetalClip:
    """The network of open_clip's tensors, in float32.

    Strict: raises QCError BUNDLE_MISMATCH on a tensor that this architecture does not have or has
    in another shape, BUNDLE_INCOMPLETE on one that is missing.
    """
    architecture = architecture or Architecture()
    own = _shapes(architecture)
    names = names_of(architecture)
    weights = _without_prefix(state_dict)
    _check(weights, {name: _open_clip_shape(name, ours, own) for name, ours in names.items()})
    converted: dict[str, Tensor] = {}
    for name, ours in names.items():
        tensor = weights[name].float()
        if name in _TRANSPOSED:
            tensor = tensor.T
        parts = tensor.reshape(own[ours[0]])[None] if len(ours) == 1 else tensor.chunk(3)
        converted |= zip(ours, parts, strict=True)
    network = FetalClip(architecture)
    network.clip.load_state_dict(converted)
    return network


def to_open_clip(network: FetalClip) -> dict[str, Tensor]:
    """The inverse of `from_open_clip`: float32 tensors under open_clip's names."""
    own = network.clip.state_dict()
    converted = {}
    for name, ours in names_of(network.architecture).items():
        tensor = torch.cat([own[each] for each in ours]) if len(ours) > 1 else own[ours[0]]
        converted[name] = (tensor.T if name in _TRANSPOSED else tensor).contiguous()
    return converted


def read_open_clip(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint file: .safetensors, or torch's with `state_dict` or without.

    A pickle is read for its tensors and numbers only; what else it holds is refused. Raises
    QCError BUNDLE_MISMATCH on a file that is none, or whose SHA-256 is not the expected one.
    """
    if sha256 is not None and file_sha256(path) != sha256.lower():
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"{path.name} has another SHA-256 than expected: it is damaged, or another version",
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except SafetensorError as error:
        raise _mismatch(path, f"it is no sound safetensors file ({_line(error)})") from None
    except Exception:  # A damaged or foreign pickle can fail in any way.
        raise _mismatch(
            path, "it is no torch file, or has more than tensors and numbers in it"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not state:
        raise _mismatch(path, "it has no state_dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _mismatch(path, f"its entry {str(name)[:60]} is no tensor")
    return dict(state)


def save_fetalclip(
    folder: Path, network: FetalClip, tokenizer: Any = None, source: Mapping[str, Any] | None = None
) -> None:
    """Write the folder; `tokenizer` is transformers', `source` what the weights came from."""
    folder.mkdir(parents=True, exist_ok=True)
    config = network.clip.config.to_dict() | {"architectures": ["CLIPModel"]}
    (folder / CONFIG).write_text(
        json.dumps(config, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8"
    )
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.clip.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    facts = {"weights_sha256": file_sha256(folder / WEIGHTS), "source": dict(source or {})}
    # Last: a folder without it is unfinished.
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_fetalclip(folder: Path, device: torch.device | None = None) -> FetalClip:
    """The inverse of `save_fetalclip`; strict.

    A folder of transformers' CLIP without fetalclip.json is read too, its SHA-256 unchecked.

    Raises QCError: BUNDLE_INCOMPLETE on a missing file or tensor, BUNDLE_MISMATCH on a wrong one.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{folder} is no FetalCLIP folder, {name} is missing; make one with"
                " qc-model fetalclip convert",
            )
    _check_hash(folder)
    try:
        config = CLIPConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        architecture = Architecture.of_clip_config(config)
        weights = {
            name: tensor.float()
            for name, tensor in load_file(folder / WEIGHTS).items()
            if not name.endswith(".position_ids")
        }
    except (ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise _mismatch(folder, _line(error)) from None
    _check(weights, _shapes(architecture))
    network = FetalClip(architecture)
    network.clip.load_state_dict(weights)
    return network if device is None else network.to(device)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(folder: Path) -> None:
    path = folder / FACTS
    if not path.is_file():
        return
    try:
        expected = json.loads(path.read_text(encoding="utf-8"))["weights_sha256"]
    except (ValueError, TypeError, KeyError):
        raise _mismatch(path, "weights_sha256 is missing") from None
    if file_sha256(folder / WEIGHTS) != expected:
        raise _mismatch(folder / WEIGHTS, f"its SHA-256 is not the one in {FACTS}")


def _shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """The shape of each of our tensors, without the memory of a network."""
    with torch.device("meta"):
        return {name: t.shape for name, t in FetalClip(architecture).clip.state_dict().items()}


def _open_clip_shape(name: str, ours: tuple[str, ...], own: Mapping[str, torch.Size]) -> torch.Size:
    shape = own[ours[0]]
    if len(ours) > 1:
        return torch.Size((shape[0] * len(ours), *shape[1:]))
    return torch.Size(reversed(shape)) if name in _TRANSPOSED else shape


def _check(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raises QCError unless names and shapes are exactly these, and all numbers finite."""
    for name, tensor in weights.items():
        # A scalar may be stored as one number in a list.
        is_scalar = tensor.numel() == 1 and shapes.get(name) == torch.Size()
        if name in shapes and tensor.shape != shapes[name] and not is_scalar:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"the checkpoint is of another architecture: {name} is {_size(tensor.shape)},"
                f" not {_size(shapes[name])}",
            )
    unexpected = [name for name in weights if name not in shapes]
    if unexpected:
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"the checkpoint is of another architecture: it also has {_few(unexpected)}",
        )
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"the checkpoint lacks {_few(missing)}")
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH, f"{name} has values that are infinite or no numbers"
            )


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(_PREFIX) for name in state_dict):
        return dict(state_dict)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state_dict.items()}


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _mismatch(path: Path, why: str) -> QCError:
    return QCError(ErrorCode.BUNDLE_MISMATCH, f"{path.name} cannot be used: {why}")

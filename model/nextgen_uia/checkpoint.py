"""Towers, and what was trained on them: adapters, a head, or a tuned tower, exactly these.

A folder has config.json and weights.safetensors, whose metadata repeat the former: files of two
runs do not go together. The tower itself is named by its SHA-256; its file stays the user's.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from detector.errors import ErrorCode, QCError
from model.fetalclip.checkpoint import read_open_clip
from model.nextgen_uia.adapters import (
    AdaptedBlock,
    AdaptedLinear,
    AdapterConfig,
    Kind,
    LowRank,
    Mona,
    Spectrum,
    adapter_state,
    add_adapters,
    load_adapter_state,
    vision_of,
)
from model.nextgen_uia.network import (
    SONONET_LAYERS,
    AdaptedNetwork,
    ClipTower,
    HeadConfig,
    SonoNetTower,
    Tower,
    default_layers,
)
from model.spatialclip.checkpoint import load_spatialclip

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
TOWER_CONFIG, TOWER_WEIGHTS = "config.json", "model.safetensors"
_FORMAT = "nextgen-uia"
_ADAPTERS, _HEAD, _TOWER = "adapters.", "head.", "tower."
# The published name of an adapter's tensor, of any of its towers: BiomedCLIP's is a timm one.
_PUBLISHED = re.compile(
    r"(?:clip_model\.)?visual\.(?:trunk\.blocks|transformer\.resblocks)\.(\d+)\."
    r"(?:mona\.(?:clip_mona\.)?(?P<mona>.+)|attn\.(?P<lora>(?:qkv|proj)\.w_lora_[AB]))"
)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a folder holds. A part that was not trained is None."""

    tower: dict[str, Any]  # Facts of the tower, with its sha256.
    adapters: AdapterConfig | None
    head: HeadConfig | None
    weights: dict[str, Tensor]
    tuned: bool  # The whole tower was trained.


def load_clip(folder: Path) -> Any:
    """The `CLIPModel` in a folder of transformers' (config.json, model.safetensors), evaluating.

    Strict: raises QCError BUNDLE_INCOMPLETE on a missing file, BUNDLE_MISMATCH on a tensor too
    many, too few or of another shape.
    """
    for name in (TOWER_CONFIG, TOWER_WEIGHTS):
        if not (folder / name).is_file():
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{folder} is no CLIP folder: {name} is missing; qc-model fetalclip convert makes"
                " one of an open_clip checkpoint",
            )
    try:
        config = CLIPConfig(**json.loads((folder / TOWER_CONFIG).read_text(encoding="utf-8")))
        clip = CLIPModel(config)
        weights = {
            name: tensor.float()
            for name, tensor in load_file(folder / TOWER_WEIGHTS).items()
            if not name.endswith(".position_ids")
        }
        clip.load_state_dict(weights)
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _mismatch(f"{folder.name} is no sound CLIP folder", error) from None
    return clip.eval()


def load_tower(path: Path, layers: tuple[int, ...] | None = None, side: int = 224) -> Tower:
    """The image tower of a CLIP folder or of a SpatialCLIP's, or SonoNet-16 of its .safetensors
    file, for pictures of that side. A head reads the `layers` (default: by the tower's depth).

    Raises QCError.
    """
    try:
        if path.is_dir():
            vision = _load_vision(path)
            return ClipTower(vision, layers or default_layers(len(vision.encoder.layers)))
        tower = SonoNetTower(side, layers or SONONET_LAYERS)
        tower.network.load_state_dict(SonoNetTower.published_weights(load_file(path)))
    except OSError as error:
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"{path}: {error.strerror}") from None
    except (ValueError, SafetensorError) as error:
        raise _mismatch(f"{path.name} is no tower for these layers", error) from None
    return tower.eval()


def tower_files(folder: Path) -> tuple[str, str]:
    """The files of a tower's folder that `load_tower` reads: a SpatialCLIP's or transformers'."""
    is_spatialclip = (folder / WEIGHTS).is_file() and not (folder / TOWER_WEIGHTS).is_file()
    return (CONFIG, WEIGHTS) if is_spatialclip else (TOWER_CONFIG, TOWER_WEIGHTS)


def _load_vision(folder: Path) -> Any:
    """The image tower in a folder of transformers', or in a SpatialCLIP's."""
    if WEIGHTS in tower_files(folder):
        return vision_of(load_spatialclip(folder).trimodal_clip.clip_model)
    return vision_of(load_clip(folder))


def tower_sha256(tower: nn.Module) -> str:
    """SHA-256 over the tower's own tensors by name, without adapters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_own_state(tower).items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_trained(
    folder: Path,
    tower: Tower,
    sha256: str,
    *,
    adapters: AdapterConfig | None = None,
    head: nn.Module | None = None,
    head_config: HeadConfig | None = None,
    tuned: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write what was trained on the tower, whose hash before the training was `sha256`."""
    weights: dict[str, Tensor] = {}
    if adapters is not None:
        weights |= {_ADAPTERS + name: t for name, t in adapter_state(_vision(tower)).items()}
    if head is not None:
        weights |= {_HEAD + name: t for name, t in head.state_dict().items()}
    if tuned:
        weights |= {_TOWER + name: t for name, t in _own_state(tower).items()}
    facts = {
        "format": _FORMAT,
        "tower": tower.facts() | {"sha256": sha256},
        "adapters": None if adapters is None else adapters.to_json(),
        "head": None if head_config is None else head_config.to_json(),
        "tuned": tuned,
        "recipe": dict(recipe or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        folder / WEIGHTS,
        metadata={_FORMAT: json.dumps(facts, sort_keys=True)},
    )
    (folder / CONFIG).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_trained(folder: Path) -> Trained:
    """The inverse of `save_trained`. Raises QCError BUNDLE_INCOMPLETE, BUNDLE_MISMATCH."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{folder} is no folder of trained adapters or heads: {name} is missing",
            )
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            of_weights = json.loads((file.metadata() or {}).get(_FORMAT, "null"))
        if of_weights != facts:
            raise ValueError(f"{CONFIG} is not that of {WEIGHTS}: copy both from one run")
        return Trained(
            dict(facts["tower"]),
            None if facts["adapters"] is None else AdapterConfig.from_json(facts["adapters"]),
            None if facts["head"] is None else HeadConfig.from_json(facts["head"]),
            load_file(folder / WEIGHTS),
            bool(facts["tuned"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise _mismatch(f"{folder.name} holds no trained adapters or head", error) from None


def apply_adapters(trained: Trained, tower: Tower, layers: tuple[int, ...] | None = None) -> None:
    """Give the tower the trained adapters, those of the blocks `layers` only where given, and a
    tuned tower's weights.

    Raises QCError BUNDLE_MISMATCH on another tower, and on tensors that are not exactly its.
    """
    check_tower(trained, tower)
    weights = _part(trained, _ADAPTERS)
    try:
        if trained.tuned:
            tower.load_state_dict(_part(trained, _TOWER))
        if trained.adapters is None:
            if weights:
                raise ValueError(f"{next(iter(weights))} is of adapters that config.json lacks")
            return
        config = trained.adapters
        if layers is not None:
            config = limit_layers(config, layers)
            weights = {n: t for n, t in weights.items() if int(n.partition(".")[0]) in layers}
        add_adapters(_vision(tower), config)
        load_adapter_state(_vision(tower), weights)
    except (ValueError, RuntimeError) as error:
        raise _mismatch("the adapters do not fit", error) from None
    tower.eval()


def load_network(folder: Path, tower: Tower) -> AdaptedNetwork:
    """Tower, adapters and head of a run, evaluating. Raises QCError on a mismatch."""
    trained = read_trained(folder)
    if trained.head is None:
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"{folder.name} holds adapters without a head: train one (qc-model train adapter"
            " --start)",
        )
    apply_adapters(trained, tower)
    network = AdaptedNetwork(tower, trained.head)
    try:
        network.head.load_state_dict(_part(trained, _HEAD))
    except RuntimeError as error:
        raise _mismatch("the head does not fit", error) from None
    return network.eval()


def load_run(folder: Path, tower: Path) -> AdaptedNetwork:
    """The network of a run on the tower in a folder or file, as `load_tower` and `load_network`
    have it: of the run's layers and side."""
    facts = read_trained(folder).tower
    side = int(facts.get("side", 224))
    if "layers" in facts:
        return load_network(folder, load_tower(tower, tuple(facts["layers"]), side))
    return load_network(folder, load_tower(tower, side=side))


def check_tower(trained: Trained, tower: Tower) -> None:
    """Raises QCError BUNDLE_MISMATCH where the tower is not the one that was trained on."""
    facts = tower.facts()
    for name, value in facts.items():
        # Adapters alone fit whichever layers a head reads.
        if trained.tower.get(name) != value and not (name == "layers" and trained.head is None):
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"trained on another tower: its {name} is {trained.tower.get(name)}, here {value}",
            )
    if trained.tower.get("sha256") != tower_sha256(tower):
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            "trained on another tower: of this shape, but with other weights; give the tower that"
            " the run began with",
        )


def limit_layers(config: AdapterConfig, layers: tuple[int, ...]) -> AdapterConfig:
    """The same adapters in those of `layers` that have one; ValueError where none has."""
    values = config.to_json() | {"layers": [n for n in config.layers if n in layers]}
    return AdapterConfig.from_json(values)


def read_published(path: Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """The adapters of a published flat file (`.pth`), read for its tensors only: which kind they
    are, its tensors say, and ours by their names.

    Raises QCError BUNDLE_MISMATCH on a file with other tensors among them, or that mixes kinds.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in read_open_clip(path).items():
        match = _PUBLISHED.fullmatch(name)
        if match is None:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"{path.name} is no file of adapters alone: {name[:80]} is none of theirs",
            )
        number = int(match.group(1))
        if match["lora"]:
            weights[f"{number}.attn.{match['lora']}"] = tensor.float()
            continue
        leaf = match["mona"]
        if leaf == "adapter_conv.freq_filter":
            tensor = tensor.reshape(-1, 1, 1)
        weights[f"{number}.mona.{leaf}"] = tensor.float()
    try:
        return _published_config(weights), weights
    except (ValueError, KeyError) as error:
        raise _mismatch(f"{path.name} cannot be used", error) from None


def expand_filter(
    config: AdapterConfig, weights: Mapping[str, Tensor], grid: int
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """The same adapters with a mask in place of a published scalar filter: equal at first, and able
    to learn a filter."""
    expanded = {
        name: tensor.expand(-1, grid, grid // 2 + 1).contiguous()
        if name.endswith(".freq_filter") and tensor.shape[1:] == (1, 1)
        else tensor
        for name, tensor in weights.items()
    }
    values = config.to_json() | {"spectrum": Spectrum.MASK}
    return AdapterConfig.from_json(values), expanded


def _published_config(weights: Mapping[str, Tensor]) -> AdapterConfig:
    layers = tuple(sorted({int(name.partition(".")[0]) for name in weights}))
    is_lora = {".attn." in name for name in weights}
    if len(is_lora) > 1:
        raise ValueError("it has both Mona and LoRA")
    first = f"{layers[0]}."
    if is_lora == {True}:
        rank = len(weights[f"{first}attn.qkv.w_lora_A"])
        return AdapterConfig(Kind.LORA, layers, rank=rank, alpha=2.0 * rank)
    has_filter = any(name.endswith(".freq_filter") for name in weights)
    weighs = any(".noise_estimator." in name for name in weights)
    kinds = {
        (False, False): Kind.MONA,
        (False, True): Kind.NOISE_AWARE,
        (True, False): Kind.FREQUENCY,
        (True, True): Kind.HYBRID,
    }
    bottleneck = len(weights[f"{first}mona.project1.weight"])
    return AdapterConfig(kinds[has_filter, weighs], layers, Spectrum.SCALAR, bottleneck=bottleneck)


def _vision(tower: Tower) -> nn.Module:
    if isinstance(tower, SonoNetTower):
        raise ValueError("SonoNet has no attention blocks: it takes no adapters")
    vision: nn.Module = tower.vision
    return vision


def _own_state(tower: nn.Module) -> dict[str, Tensor]:
    """The tower's tensors under the names that they have without adapters."""
    plain = {"": ""}
    parts: set[str] = set()
    # Names that share a module are all needed: LoRA's pair stands at query, key and value.
    for name, module in tower.named_modules(remove_duplicate=False):
        parent, _, last = name.rpartition(".")
        if parent in parts or isinstance(module, Mona | LowRank):
            parts.add(name)
            continue
        # AdaptedBlock.block and AdaptedLinear.base stand in the place of their parent.
        is_inner = isinstance(tower.get_submodule(parent), AdaptedBlock | AdaptedLinear)
        plain[name] = plain[parent] if is_inner else ".".join(filter(None, (plain[parent], last)))
    own: dict[str, Tensor] = {}
    for name, tensor in tower.state_dict().items():
        module, _, leaf = name.rpartition(".")
        if module not in parts:
            own[".".join(filter(None, (plain[module], leaf)))] = tensor
    return own


def _part(trained: Trained, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in trained.weights.items()
        if name.startswith(prefix)
    }


def _mismatch(what: str, error: Exception) -> QCError:
    line = " ".join((str(error).strip() or type(error).__name__).split())[:200]
    return QCError(ErrorCode.BUNDLE_MISMATCH, f"{what}: {line}")

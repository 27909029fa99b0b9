"""Saves and loads the dual-branch classifier: our folder, and checkpoints of the published code.

Our weights carry their configuration, classes and recipe inside the safetensors file, so that they
are never read with other classes; config.json beside them says the same to people.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from detector.errors import ErrorCode, QCError
from model.dual_branch.network import (
    ARCHITECTURES,
    DualBranch,
    DualBranchConfig,
    Layout,
    build_backbone,
)

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
_METADATA = "qc-model dual-branch"
_WRAPPERS = ("state_dict", "model_state_dict")
_IMAGENET_CLASSES = 1000


def save_dual_branch(
    folder: Path, network: DualBranch, recipe: Mapping[str, Any] | None = None
) -> None:
    """Write config.json and weights.safetensors (float32)."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = network.config.to_json() | {"recipe": dict(recipe or {})}
    (folder / CONFIG).write_text(
        json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS, metadata={_METADATA: json.dumps(facts, sort_keys=True)})


def load_dual_branch(folder: Path, device: str | torch.device = "cpu") -> DualBranch:
    """The inverse of `save_dual_branch`, evaluating; strict.

    Raises QCError: BUNDLE_INCOMPLETE on a missing file, BUNDLE_MISMATCH on a wrong one.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{folder.name} is no folder of a dual-branch classifier: {name} is missing",
            )
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            of_weights = json.loads((file.metadata() or {}).get(_METADATA, "null"))
        if facts != of_weights:
            raise ValueError(f"{CONFIG} is not that of {WEIGHTS}: copy both from one run")
        network = DualBranch(DualBranchConfig.from_json(facts))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"dual-branch: {line}") from None
    return network.to(device).eval()


def load_backbones(network: DualBranch, files: Mapping[str, Path]) -> None:
    """Give the branches the weights of these .safetensors files in timm's names, as its ImageNet
    ones, by the backbones' names; the classes of the files are left out.

    Raises QCError: BUNDLE_INCOMPLETE on a file that cannot be opened, BUNDLE_MISMATCH on a name
    that is no branch's, and on tensors too many, too few, or of another shape.
    """
    branches = {
        branch.backbone: module
        for branch, module in zip(network.config.branches, network.branches, strict=True)
    }
    for name, path in files.items():
        if name not in branches:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"{network.config.architecture} has no backbone {name}, but"
                f" {' and '.join(branches)}",
            )
        try:
            state = load_file(path)
        except OSError as error:
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE, f"{path.name}: {error.strerror or 'cannot be read'}"
            ) from None
        except SafetensorError:
            raise _mismatch(path, "it is no sound .safetensors file") from None
        _load_backbone(branches[name], name, state, path)


def _load_backbone(
    backbone: torch.nn.Module, name: str, state: Mapping[str, Tensor], path: Path
) -> None:
    classifier: Any = backbone.pretrained_cfg
    head = f"{classifier['classifier']}."
    own = backbone.state_dict()
    weights = {key: tensor for key, tensor in state.items() if not key.startswith(head)}
    lacking = sorted(_comparable(own).keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    shapes = [key for key in weights if key in own and weights[key].shape != own[key].shape]
    if lacking or extra or shapes:
        what = "lacks" if lacking else "also has" if extra else "has another shape of"
        raise _mismatch(path, f"it is no {name}: it {what} {(lacking or extra or shapes)[0]}")
    bad = next((key for key, tensor in weights.items() if not bool(tensor.isfinite().all())), None)
    if bad:
        raise _mismatch(path, f"{bad} has values that are infinite or no numbers")
    # Some files lack the counters of batches.
    backbone.load_state_dict(own | weights)


def read_config(folder: Path) -> DualBranchConfig:
    """What the classifier in the folder is, without its weights. Raises QCError."""
    try:
        return DualBranchConfig.from_json(json.loads((folder / CONFIG).read_text("utf-8")))
    except OSError:
        raise QCError(
            ErrorCode.BUNDLE_INCOMPLETE,
            f"{folder.name} is no folder of a dual-branch classifier: {CONFIG} is missing",
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"dual-branch: {line}") from None


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe that the weights in the folder were trained by; empty where none is recorded."""
    facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return dict(facts.get("recipe") or {})


def read_published(
    path: Path, classes: Sequence[str], architecture: str | None = None
) -> DualBranch:
    """The network of a published checkpoint (`best_model.pth`), evaluating.

    The file is a pickle, read for its tensors only. Which `architecture` it is, its tensors say;
    one that is given has to be that. Raises QCError BUNDLE_MISMATCH on a file that is none, on
    another architecture and on another number of classes.
    """
    state = _read_tensors(path)
    names = list(ARCHITECTURES) if architecture is None else [architecture]
    for name in names:
        network = _match(state, name, tuple(classes))
        if network is not None:
            return network.eval()
    expected = architecture or "any of " + ", ".join(ARCHITECTURES)
    actual = "" if architecture is None else _other_architecture(state, architecture)
    raise _mismatch(path, f"its tensors are not those of {expected}{actual}")


def _other_architecture(state: Mapping[str, Tensor], architecture: str) -> str:
    for name in ARCHITECTURES:
        if name != architecture and _parts(state, name) is not None:
            return f" but of {name}"
    return ""


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # A damaged or foreign pickle can fail in any way.
        raise _mismatch(
            path, "it is no torch file, or has more than tensors and numbers in it"
        ) from None
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise _mismatch(path, "it holds no tensors by name")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _mismatch(path, f"its entry {str(name)[:60]} is no tensor")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise _mismatch(path, f"{name} has values that are infinite or no numbers")
    return dict(content)


def _match(
    state: Mapping[str, Tensor], architecture: str, classes: tuple[str, ...]
) -> DualBranch | None:
    """The network of that architecture with these weights; None where they are another's.

    Raises QCError on another number of classes.
    """
    parts = _parts(state, architecture)
    if parts is None:
        return None
    branches, gate, (weight, bias) = parts
    if len(weight) != len(classes):
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"the checkpoint has {len(weight)} classes, not {len(classes)}: name its own, in order"
            " (--classes)",
        )
    network = DualBranch(
        DualBranchConfig(architecture, classes, layout=Layout.PUBLISHED, gated=gate is not None)
    )
    for branch, tensors in zip(network.branches, branches, strict=True):
        own = branch.state_dict()
        named = dict(zip(_comparable(own), tensors, strict=True))
        counts = {name: tensor for name, tensor in own.items() if name not in named}
        branch.load_state_dict(named | counts)
    network.head.load_state_dict({"weight": weight, "bias": bias})
    if gate is not None and network.gate is not None:
        network.gate.data.copy_(gate.reshape(()))
    return network


_Parts = tuple[list[list[Tensor]], Tensor | None, tuple[Tensor, Tensor]]


def _parts(state: Mapping[str, Tensor], architecture: str) -> _Parts | None:
    """Tensors of each branch in our order, the gate if any, and the head; None where the tensors
    are not exactly those of the architecture.

    The published code's names are not known here, and torchvision's are not timm's. But both
    register the same layers in the same order: a branch is a run of tensors whose shapes and last
    names (weight, bias, running_mean, running_var) are all ours. An ImageNet head of 1,000 classes
    that a backbone may still carry is left out; nothing else may be left.
    """
    remaining = list(_comparable(state).items())
    branches: list[list[Tensor]] = []
    config = DualBranchConfig(architecture, ("a", "b"))
    for branch in config.branches:
        shapes = _kinds_of_backbone(branch.backbone)
        kinds = [_kind(name, tensor) for name, tensor in remaining]
        start = next(_runs(kinds, shapes), None)
        if start is None:
            return None
        branches.append([tensor for _, tensor in remaining[start : start + len(shapes)]])
        del remaining[start : start + len(shapes)]
    gate, head = None, []
    for name, tensor in remaining:
        if tensor.numel() == 1 and gate is None and ARCHITECTURES[architecture].may_be_gated:
            gate = tensor
        elif not _is_of_imagenet(tensor, config):
            head.append((name, tensor))
    width = config.channels
    is_head = [_kind(name, tensor)[0] for name, tensor in head] == ["weight", "bias"]
    if not is_head or head[0][1].shape != (len(head[1][1]), width) or head[1][1].ndim != 1:
        return None
    return branches, gate, (head[0][1], head[1][1])


@cache
def _kinds_of_backbone(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Last name and shape of each of a backbone's tensors, without the memory of a network."""
    with torch.device("meta"):
        state = build_backbone(name).state_dict()
    return [_kind(key, tensor) for key, tensor in _comparable(state).items()]


def _comparable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the counters of batches, which some versions do not store."""
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def _kind(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return name.rpartition(".")[2], tuple(tensor.shape)


def _runs(kinds: Sequence[Any], wanted: Sequence[Any]) -> Iterator[int]:
    """Where `wanted` begins as a whole within `kinds`."""
    for start in range(len(kinds) - len(wanted) + 1):
        if kinds[start : start + len(wanted)] == wanted:
            yield start


def _is_of_imagenet(tensor: Tensor, config: DualBranchConfig) -> bool:
    widths = {branch.channels for branch in config.branches}
    return tensor.shape == (_IMAGENET_CLASSES,) or (
        tensor.ndim == 2 and len(tensor) == _IMAGENET_CLASSES and tensor.shape[1] in widths
    )


def _mismatch(path: Path, why: str) -> QCError:
    return QCError(ErrorCode.BUNDLE_MISMATCH, f"{path.name} cannot be used: {why}")

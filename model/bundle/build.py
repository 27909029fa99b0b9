"""Make a bundle out of models in local folders."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from detector.errors import ErrorCode, QCError
from detector.yolo import yolo
from model.bundle import bundle
from model.bundle.bundle import Bundle
from model.bundle.extend import card_of_parts, copy_parts, parts_json
from model.calibration import Calibration
from model.criteria.thresholds import CriteriaThresholds
from model.describer.describer import Describer
from model.judge import Thresholds
from model.outlier import OutlierModel
from model.parts.backbone import backbone_weights, clip_weights, write_backbone
from model.parts.part import Part
from model.spatialclip import checkpoint
from model.spatialclip.network import CONCAT, GATED, VIEWS, SpatialClip
from model.spatialclip.preprocess import FILL, MAX_OBJECTS, MAX_TOKENS, MEAN, STD

_PICKLED_BIOGPT = "pytorch_model.bin"


def build(
    detector: Path,
    describer: Path,
    spatialclip: Path,
    out: Path,
    *,
    name: str,
    version: str,
    trust: bool = False,
    clip: Path | None = None,
    labels: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    parts: Sequence[Path] = (),
    backbone: Path | None = None,
) -> Bundle:
    """Compose `out`, which must not exist, and open it.

    `detector`: our detector folder, or an ultralytics .pt (`labels` maps its class names to
    vocabulary codes where they are none). `describer`: a BioGPT folder. `spatialclip`: our folder;
    a Hugging Face CLIP folder, whose heads then start untrained; or a SpatialCLIP checkpoint (.pt,
    .safetensors) on the CLIP of the folder `clip`. Pickles are read only with `trust`, and once.
    `facts` replaces what the manifest says by default: uncalibrated, nothing measured. `parts`:
    folders of models of other families. `backbone`: the part with the CLIP that SpatialCLIP was
    trained on, whose tensors are then not stored again.
    Raises QCError; nothing is left of a bundle that could not be built.
    """
    if out.exists():
        raise _mismatch(f"{out} exists: name a new folder for the bundle")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "bundle"
        _write_detector(detector, folder / bundle.DETECTOR, trust, labels or {})
        _write_describer(describer, folder / bundle.DESCRIBER, trust)
        added = copy_parts(parts, folder)
        base = None if backbone is None else Part.open(backbone)
        model, notes = _write_spatialclip(
            spatialclip, folder / bundle.SPATIALCLIP, trust, clip, base
        )
        OutlierModel.indifferent(model.config.dim).save(folder / bundle.OUTLIER)
        card = _card(name, version, notes)
        if added:
            card += f"\n{card_of_parts(added)}"
        (folder / bundle.CARD).write_text(card, encoding="utf-8")
        defaults = _facts(folder, model, notes)
        if added:
            defaults["parts"] = parts_json(added)
        bundle.write_manifest(
            folder, {**defaults, **(facts or {}), "name": name, "version": version}
        )
        problems = bundle.verify(folder)
        if problems:
            raise _mismatch(problems[0])
        folder.rename(out)
    return Bundle.open(out)


def _write_detector(source: Path, folder: Path, trust: bool, labels: Mapping[str, str]) -> None:
    if source.suffix == ".pt":
        _require_trust(source, trust)
        yolo.convert_checkpoint(source, folder, labels)
    else:
        folder.mkdir(parents=True)
        for name in yolo.FILES:
            _copy(source / name, folder / name)
    yolo.YoloDetector.load(folder)


def _write_describer(source: Path, folder: Path, trust: bool) -> None:
    if (source / "model.safetensors").is_file() or not (source / _PICKLED_BIOGPT).is_file():
        Describer.load(source).save(folder)
        return
    _require_trust(source / _PICKLED_BIOGPT, trust)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for path in (*source.glob("*.json"), *source.glob("merges.txt")):
            _copy(path, Path(scratch) / path.name)
        weights = _unpickle(source / _PICKLED_BIOGPT)
        # Tied tensors share memory, which safetensors refuses.
        save_file(
            {key: tensor.clone() for key, tensor in weights.items()},
            Path(scratch) / "model.safetensors",
        )
        Describer.load(Path(scratch)).save(folder)


def _write_spatialclip(
    source: Path, folder: Path, trust: bool, clip: Path | None, backbone: Part | None = None
) -> tuple[SpatialClip, list[str]]:
    """Write SpatialCLIP; returns the saved model and notes on its weights."""
    notes: list[str] = []
    if source.is_dir() and (source / checkpoint.WEIGHTS).is_file():
        own = [] if backbone is None else [backbone]
        weights_of_clip = backbone_weights(source, own, backbone)
        model, words = checkpoint.load_spatialclip(source, backbone=weights_of_clip), source
    elif source.is_dir():
        model, words = SpatialClip.from_clip(source), source
        notes.append("CLIP is pre-trained; spatial encoder, gate and heads are untrained.")
    else:
        if clip is None:
            raise _mismatch(f"{source.name} needs the folder of the CLIP it was trained on")
        state, words = _state(source, trust), clip
        fusion = GATED if "gate_proj.weight" in state else CONCAT
        model = SpatialClip.from_clip(clip, fusion=fusion)
        report = checkpoint.load_checkpoint(model, state)
        notes += [f"Not in the checkpoint, untrained: {key}." for key in report.missing]
        notes += [f"Resized: {line}." for line in report.resized]
    if backbone is None:
        checkpoint.save_spatialclip(folder, model)
    else:
        weights = clip_weights(backbone)
        names = _changed_names(model, weights)
        # Biases and norms of two untrained networks are equal by themselves.
        if all(name in names for name, tensor in weights.items() if tensor.ndim > 1):
            raise _mismatch(f"SpatialCLIP does not stand on the CLIP of part {backbone.id.name}")
        checkpoint.save_spatialclip(folder, model, weights)
        write_backbone(folder, backbone)
        notes.append(
            f"{len(weights) - len(names)} of the CLIP's {len(weights)} tensors are those of the"
            f" part {backbone.id.name} ({backbone.backbone_sha256[:12]}) and not stored here."
        )
    _write_tokenizer(words, folder, model)
    return model, notes


def _changed_names(model: SpatialClip, weights: Mapping[str, Tensor]) -> list[str]:
    """The CLIP's tensors that the model has otherwise, in float16, or not at all."""
    own = model.state_dict()
    return [
        name
        for name, tensor in weights.items()
        if name not in own or not torch.equal(own[name].cpu().half(), tensor.half())
    ]


def _write_tokenizer(source: Path, folder: Path, model: SpatialClip) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QCError(
            ErrorCode.BUNDLE_INCOMPLETE, f"{source} has no tokenizer: copy CLIP's tokenizer there"
        ) from error
    vocabulary_size = int(model.config.clip["text_config"]["vocab_size"])
    if len(tokenizer) > vocabulary_size:
        raise _mismatch(
            f"the tokenizer has {len(tokenizer)} tokens but the CLIP model {vocabulary_size}"
        )
    tokenizer.save_pretrained(str(folder))


def _state(source: Path, trust: bool) -> dict[str, Tensor]:
    """A checkpoint's state dict; other training state in it is ignored."""
    if source.suffix == ".safetensors":
        try:
            return dict(load_file(source))
        except (OSError, SafetensorError) as error:
            raise _mismatch(f"{source.name} cannot be read as safetensors") from error
    _require_trust(source, trust)
    content = _unpickle(source)
    state = content.get("model_state_dict", content)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _unpickle(source: Path) -> dict[str, Any]:
    """The content of a trusted pickle; arbitrary code runs only if loading tensors alone fails."""
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception:  # a foreign pickle can fail in any way
        try:
            content = torch.load(source, map_location="cpu", weights_only=False)
        except Exception as error:
            raise _mismatch(f"{source.name} cannot be read: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise _mismatch(f"{source.name} holds no state dict")
    return content


def _require_trust(source: Path, trust: bool) -> None:
    if not source.is_file():
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"{source} is missing")
    if not trust:
        raise _mismatch(
            f"{source.name} is a pickle, which can run code when it is read:"
            " give --trust if you trust where it comes from"
        )


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"{source} cannot be read") from error


def _facts(folder: Path, model: SpatialClip, notes: list[str]) -> dict[str, Any]:
    description = json.loads((folder / bundle.DETECTOR / yolo.DESCRIPTION).read_text())
    return {
        "vocabulary": description["labels"],
        "views": [view.value for view in VIEWS],
        "thresholds": Thresholds().to_json(),
        "criteria": CriteriaThresholds(detectable=frozenset(description["labels"])).to_json(),
        "calibration": Calibration().to_json(),
        "preprocessing": {
            "size": model.config.clip["vision_config"]["image_size"],
            "detector_size": description["size"],
            "fill": FILL,
            "mean": list(MEAN),
            "std": list(STD),
            "max_objects": MAX_OBJECTS,
            "max_tokens": MAX_TOKENS,
        },
        "training": {"notes": notes},
        "metrics": {},
    }


def _card(name: str, version: str, notes: list[str]) -> str:
    lines = "\n".join(f"- {note}" for note in notes or ["Weights as given, unchanged."])
    return f"""# {name} {version}

Composed by `bundle build` from local models. Uncalibrated: probabilities are the model's own, the
out-of-distribution score is off, and nothing was measured on this combination. Calibrate and
evaluate it on your own pictures before its verdicts are used.

{lines}
"""


def _mismatch(message: str) -> QCError:
    return QCError(ErrorCode.BUNDLE_MISMATCH, message)

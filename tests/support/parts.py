"""Small parts of other families with random weights, made as a user makes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model.dual_branch.checkpoint import save_dual_branch
from model.dual_branch.network import DualBranch, DualBranchConfig
from model.parts.build import build_part
from model.parts.part import Family, Part, RejectThresholds
from tests.support.clips import write_clip

CLASSES = ("Nasal triangle", "Stomach", "Femur")
VIEWS: dict[str, Any] = {"Nasal triangle": "NT", "Stomach": ["ABDOMEN"], "Femur": None}
PROMPTS = {"face": ["a face"], "belly": ["a belly", "the abdomen"]}


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def dual_branch_folder(folder: Path, answer: str, classes: Sequence[str] = CLASSES) -> Path:
    """A classifier that calls every picture `answer`, at a probability of about 0.95 or more."""
    torch.manual_seed(0)
    network = DualBranch(DualBranchConfig("resnet18", tuple(classes), ((32, 32),)))
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
        network.head.bias[list(classes).index(answer)] = 4.0
    save_dual_branch(folder, network)
    return folder


def dual_branch_part(
    folder: Path,
    answer: str = "Nasal triangle",
    views: Mapping[str, Any] = VIEWS,
    name: str = "planes",
    reject: RejectThresholds | None = None,
) -> Part:
    model = dual_branch_folder(folder.with_name(f"{folder.name}-model"), answer, tuple(views))
    views_file = write_json(folder.with_name(f"{folder.name}-views.json"), views)
    return build_part(
        Family.DUAL_BRANCH,
        model,
        folder,
        name=name,
        version="1",
        views=views_file,
        reject=reject,
    )


def fetalclip_part(
    folder: Path,
    views: Mapping[str, Any] | None = None,
    name: str = "fetal",
    reject: RejectThresholds | None = None,
    seed: int = 0,
) -> Part:
    """A small FetalCLIP; without `views` it has no prompts and is a backbone."""
    model = write_clip(folder.with_name(f"{folder.name}-model"), seed)
    files = {}
    if views is not None:
        files = {
            "prompts": write_json(folder.with_name(f"{folder.name}-prompts.json"), PROMPTS),
            "views": write_json(folder.with_name(f"{folder.name}-views.json"), views),
        }
    return build_part(
        Family.FETALCLIP, model, folder, name=name, version="2", reject=reject, **files
    )

"""A CLIP that a SpatialCLIP stands on, stored once: in a part, not again in the bundle.

SpatialCLIP's folder then has backbone.json, with the SHA-256 of the CLIP's file, and only those of
the CLIP's tensors that training has changed. No other CLIP is taken for it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.bundle.manifest import mismatch
from model.parts.part import MODEL, Part

if TYPE_CHECKING:
    from torch import Tensor

FILE = "backbone.json"


def write_backbone(folder: Path, part: Part) -> None:
    """Say in a SpatialCLIP's folder which CLIP it was stored without."""
    facts = {"name": part.id.name, "sha256": part.backbone_sha256}
    (folder / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def clip_weights(part: Part) -> "dict[str, Tensor]":
    """The CLIP of a part of FetalCLIP's family under SpatialCLIP's names, in float32."""
    # Who only asks which CLIP it is does without the networks' libraries.
    from model.fetalclip.checkpoint import load_fetalclip
    from model.spatialclip.checkpoint import CLIP_PREFIX

    network = load_fetalclip(part.path / MODEL)
    return {CLIP_PREFIX + name: tensor for name, tensor in network.clip.state_dict().items()}


def backbone_weights(
    folder: Path, parts: Sequence[Part], chosen: Part | None
) -> "Mapping[str, Tensor] | None":
    """The tensors that SpatialCLIP's folder was stored without, of the part that `find_backbone`
    finds; None where it has all of its own."""
    part = find_backbone(folder, parts, chosen)
    return None if part is None else clip_weights(part)


def find_backbone(folder: Path, parts: Sequence[Part], chosen: Part | None) -> Part | None:
    """The part with the CLIP that SpatialCLIP's folder was stored without; None: it needs none.

    It is `chosen`, else the one of `parts` that has this CLIP. Raises QCError BUNDLE_MISMATCH where
    that is another CLIP, or there is none.
    """
    needed = needed_backbone(folder)
    if needed is None:
        return None
    name, sha256 = needed
    if chosen is not None and chosen.backbone_sha256 != sha256:
        raise mismatch(
            f"SpatialCLIP was trained on the CLIP {name} ({sha256[:12]}), and score.backbone is"
            f" {chosen.id.name} ({chosen.backbone_sha256[:12]}): name the former"
        )
    candidates = [chosen] if chosen is not None else [part for part in parts if _has(part, sha256)]
    if not candidates:
        raise mismatch(
            f"SpatialCLIP stands on the CLIP {name} ({sha256[:12]}), which is not in the bundle:"
            " name its part in score.backbone"
        )
    return candidates[0]


def needed_backbone(folder: Path) -> tuple[str, str] | None:
    """Name and SHA-256 of the CLIP that SpatialCLIP's folder was stored without; None: of none.
    Raises QCError BUNDLE_MISMATCH."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return str(facts["name"]), str(facts["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise mismatch(f"{FILE} is unusable ({error}): build the bundle again") from None


def _has(part: Part, sha256: str) -> bool:
    return bool(part.manifest["files"].get(f"{MODEL}/model.safetensors") == sha256)

"""A part: the folder of one trained model of another family, and its manifest `part.json`.

It lies in a bundle (`parts/NAME`) or stands alone, and is opened by a bundle's rules: each file has
its SHA-256 in the manifest, weights are safetensors with finite numbers, nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from detector.anatomy import View
from detector.errors import QCError
from model.bundle.manifest import (
    find_problems,
    hash_files,
    mismatch,
    parse_manifest,
    read_manifest_bytes,
    replace_manifest,
)
from model.parts.opinion import PartId

FORMAT = 1
MANIFEST, CARD, PROMPTS = "part.json", "MODEL_CARD.md", "prompts.json"
MODEL, TOWER, TOWER_FILE = "model", "tower", "tower.safetensors"
"""The family's own folder; of NextGen-UIA also the tower that the head goes with, the folder of a
CLIP or the file of SonoNet-16."""
PARTS = "parts"
"""A bundle's folder of parts."""
MAX_NAME = 64
"""Characters of a name or version at most: reports and lists show them."""
_NOUN = "part"


class Family(StrEnum):
    """The families that a part may be of."""

    FETALCLIP = "fetalclip"
    DUAL_BRANCH = "dual-branch"
    NEXTGEN_UIA = "nextgen-uia"


REQUIRED_FILES = {
    Family.FETALCLIP: (f"{MODEL}/config.json", f"{MODEL}/model.safetensors"),
    Family.DUAL_BRANCH: (f"{MODEL}/config.json", f"{MODEL}/weights.safetensors"),
    Family.NEXTGEN_UIA: (f"{MODEL}/config.json", f"{MODEL}/weights.safetensors"),
}
REQUIRED_FACTS: dict[str, type] = {
    "family": str,
    "name": str,
    "version": str,
    "views": dict,
    "reject": dict,
}
"""`views`: class -> the views that it stands for; empty where the part names no classes. `reject`:
when no class is named (`RejectThresholds`)."""


@dataclass(frozen=True, slots=True)
class RejectThresholds:
    """When a part names no class. `min_cosine` is of prompts alone: the least cosine between a
    picture and its class."""

    min_probability: float = 0.0
    min_cosine: float = -1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_probability <= 1.0 or not -1.0 <= self.min_cosine <= 1.0:
            raise ValueError("min_probability lies in 0 to 1, min_cosine in -1 to 1")

    def to_json(self) -> dict[str, float]:
        return {"min_probability": self.min_probability, "min_cosine": self.min_cosine}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(float(data["min_probability"]), float(data["min_cosine"]))


@dataclass(frozen=True, slots=True)
class Part:
    """A verified folder."""

    path: Path
    manifest: Mapping[str, Any]
    id: PartId

    @classmethod
    def open(cls, path: Path, *, hashed: bool = True) -> Self:
        """The part in a folder, every file hashed unless the bundle that it lies in has done so.

        Raises QCError BUNDLE_INCOMPLETE, BUNDLE_MISMATCH; one line, with the fix.
        """
        content = read_manifest_bytes(path, MANIFEST, _NOUN)
        manifest = _parse(content)
        for problem in _find_problems(path, manifest, hashed=hashed):
            raise problem
        return cls(
            path,
            manifest,
            PartId(
                manifest["family"],
                manifest["name"],
                manifest["version"],
                hashlib.sha256(content).hexdigest(),
            ),
        )

    @property
    def family(self) -> Family:
        return Family(self.id.family)

    @property
    def views(self) -> dict[str, tuple[View, ...]]:
        """The views that each class stands for, in the order of the classes."""
        return read_views(self.manifest["views"])

    @property
    def reject(self) -> RejectThresholds:
        return RejectThresholds.from_json(self.manifest["reject"])

    @property
    def card(self) -> str:
        """Its model card (Markdown)."""
        return (self.path / CARD).read_text(encoding="utf-8", errors="replace")

    @property
    def backbone_sha256(self) -> str:
        """SHA-256 of the file of its CLIP's weights. Raises QCError where it has none."""
        try:
            return str(self.manifest["files"][f"{MODEL}/model.safetensors"])
        except KeyError:
            raise mismatch(
                f"part {self.id.name} is of the family {self.id.family}: a backbone is a CLIP, of"
                f" the family {Family.FETALCLIP}"
            ) from None


def is_part(folder: Path) -> bool:
    """Whether the folder has a part's manifest."""
    return (folder / MANIFEST).is_file()


def verify_part(folder: Path) -> list[str]:
    """Everything wrong with the part's manifest and files, a line each; empty if nothing is."""
    try:
        manifest = _parse(read_manifest_bytes(folder, MANIFEST, _NOUN))
    except QCError as error:
        return [error.message]
    return [problem.message for problem in _find_problems(folder, manifest)]


def parts_in(bundle: Path) -> list[Part]:
    """The parts in a verified bundle's folder, by name. Raises QCError."""
    folders = sorted((bundle / PARTS).iterdir()) if (bundle / PARTS).is_dir() else []
    return [Part.open(folder, hashed=False) for folder in folders]


def find_part(value: str, bundle: Path) -> Part | None:
    """The part that a setting names: a folder where the value has a "/", else one of the bundle's,
    None where the bundle has none of this name. Raises QCError on one that cannot be used."""
    if "/" in value:
        return Part.open(Path(value))
    folder = bundle / PARTS / value
    return Part.open(folder, hashed=False) if folder.is_dir() else None


def write_part(folder: Path, facts: Mapping[str, Any]) -> str:
    """Hash the files of the folder and write part.json; returns the model id.

    `facts` has REQUIRED_FACTS and may have more. Raises QCError on missing facts or files.
    """
    manifest = {**facts, "format": FORMAT, "files": hash_files(folder, MANIFEST)}
    return replace_manifest(
        folder,
        MANIFEST,
        manifest,
        lambda content: _find_problems(folder, _parse(content), hashed=False),
    )


def read_views(data: Mapping[str, Any]) -> dict[str, tuple[View, ...]]:
    """Class -> views, of JSON: a view, a list of some, or null. Raises ValueError, TypeError."""
    views = {}
    for name, value in data.items():
        codes = [] if value is None else [value] if isinstance(value, str) else list(value)
        for code in codes:
            if code not in {view.value for view in View}:
                alternatives = ", ".join(view.value for view in View)
                raise ValueError(
                    f"class {name!r} stands for {code!r}, which is none of {alternatives}"
                )
        views[str(name)] = tuple(View(code) for code in codes)
    return views


def views_json(views: Mapping[str, tuple[View, ...]]) -> dict[str, list[str]]:
    """The inverse of `read_views`."""
    return {name: [view.value for view in each] for name, each in views.items()}


def _parse(content: bytes) -> dict[str, Any]:
    return parse_manifest(content, MANIFEST, _NOUN, FORMAT, REQUIRED_FACTS, _check)


def _check(manifest: Mapping[str, Any]) -> None:
    if manifest["family"] not in set(Family):
        raise ValueError(f"family {manifest['family']!r} is none of {', '.join(Family)}")
    for key in ("name", "version"):
        text = manifest[key]
        if not text.strip() or len(text) > MAX_NAME or not text.isprintable():
            raise ValueError(f"{key} has 1 to {MAX_NAME} printable characters")
    if "/" in manifest["name"] or manifest["name"].startswith("."):
        raise ValueError("name has a /, or begins with a full stop")
    read_views(manifest["views"])
    RejectThresholds.from_json(manifest["reject"])


def _find_problems(
    folder: Path, manifest: Mapping[str, Any], *, hashed: bool = True
) -> Iterator[QCError]:
    required = (CARD, *REQUIRED_FILES[Family(manifest["family"])])
    yield from find_problems(folder, MANIFEST, _NOUN, manifest["files"], required, hashed=hashed)


def read_json(path: Path) -> Any:
    """A JSON file of a part. Raises QCError BUNDLE_MISMATCH."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise mismatch(f"{path.name} is no JSON ({error})") from None

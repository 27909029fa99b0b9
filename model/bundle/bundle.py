"""A bundle: the folder of everything that judges, and its manifest with the hash of each file."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from detector.anatomy import BY_CODE, View
from detector.errors import QCError
from model.bundle.manifest import (
    MAX_TEXT_BYTES as MAX_TEXT_BYTES,
)
from model.bundle.manifest import (
    find_problems,
    hash_files,
    mismatch,
    parse_manifest,
    read_manifest_bytes,
    replace_manifest,
)
from model.finding import BundleId

if TYPE_CHECKING:
    import torch

    from detector.anatomy import View
    from detector.yolo.yolo import YoloDetector
    from model.calibration import Calibration
    from model.describer.describer import Describer
    from model.outlier import OutlierModel
    from model.parts.part import Part
    from model.spatialclip.network import SpatialClip
    from model.spatialclip.preprocess import Preprocessor

FORMAT = 1
MANIFEST, CARD, OUTLIER = "bundle.json", "MODEL_CARD.md", "outlier.safetensors"
DETECTOR, DESCRIBER, SPATIALCLIP = "detector", "describer", "spatialclip"
REQUIRED_FILES = (
    CARD,
    OUTLIER,
    f"{DETECTOR}/architecture.yaml",
    f"{DETECTOR}/detector.json",
    f"{DETECTOR}/weights.safetensors",
    f"{DESCRIBER}/config.json",
    f"{DESCRIBER}/model.safetensors",
    f"{SPATIALCLIP}/config.json",
    f"{SPATIALCLIP}/weights.safetensors",
)
REQUIRED_FACTS: dict[str, type] = {
    "name": str,
    "version": str,
    "vocabulary": list,
    "views": list,
    "thresholds": dict,
    "criteria": dict,
    "calibration": dict,
    "preprocessing": dict,
    "training": dict,
    "metrics": dict,
}
"""Every manifest has these keys, of these types; `write_manifest` adds `format` and `files`."""
CLINICAL_USE = "clinical_use"
"""The manifest's optional key: whether the bundle is meant for it, true or false."""
_NOUN = "bundle"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified folder. Parts are loaded by its methods, each call anew."""

    path: Path
    manifest: Mapping[str, Any]
    id: BundleId

    @classmethod
    def open(cls, path_or_name: str | Path) -> Self:
        """A folder, or the name of a bundle that ships ("default"); every file is hashed.

        Raises QCError: bundle-incomplete on missing or extra files, bundle-mismatch on a wrong
        hash, manifest, link, or weights that are not finite; one line, with the fix.
        """
        path = locate(path_or_name)
        content = _read_manifest(path)
        manifest = _parse_manifest(content)
        for problem in _find_problems(path, manifest):
            raise problem
        return cls(
            path,
            manifest,
            BundleId(
                manifest["name"],
                manifest["version"],
                hashlib.sha256(content).hexdigest(),
                _is_for_clinical_use(path, manifest),
            ),
        )

    @property
    def model_id(self) -> str:
        """SHA-256 of the manifest's bytes, in hexadecimal."""
        return self.id.model_id

    @property
    def is_for_clinical_use(self) -> bool:
        """What the manifest's optional `clinical_use` says, else False for a model card that says
        "not for clinical use"."""
        return self.id.clinical_use

    @property
    def calibration(self) -> "Calibration":
        from model.calibration import Calibration

        try:
            return Calibration.from_json(self.manifest["calibration"])
        except (KeyError, TypeError, ValueError) as error:
            raise mismatch(f"{MANIFEST}: calibration is unusable ({error})") from error

    @property
    def real_views(self) -> frozenset["View"]:
        """The views whose verdicts rest on real pictures; all of them if the manifest is silent."""
        from detector.anatomy import View

        try:
            return frozenset(View(view) for view in self.manifest.get("real_views", View))
        except (TypeError, ValueError) as error:
            raise mismatch(f"{MANIFEST}: real_views is unusable ({error})") from error

    def detector(self, device: "str | torch.device" = "cpu") -> "YoloDetector":
        from detector.yolo.yolo import YoloDetector

        return YoloDetector.load(self.path / DETECTOR, device)

    def describer(self, device: "str | torch.device" = "cpu") -> "Describer":
        from model.describer.describer import Describer

        return Describer.load(self.path / DESCRIBER, device)

    def spatialclip(
        self, device: "str | torch.device" = "cpu", backbone: "Part | None" = None
    ) -> "SpatialClip":
        """SpatialCLIP; of one that was stored without its CLIP, with that of `backbone`, else with
        that of one of the bundle's parts. Raises QCError where no CLIP is the one it was trained
        on."""
        from model.parts.backbone import backbone_weights
        from model.spatialclip.checkpoint import load_spatialclip

        folder = self.path / SPATIALCLIP
        return load_spatialclip(folder, device, backbone_weights(folder, self.parts(), backbone))

    def parts(self) -> "list[Part]":
        """The models of other families in it, by name. Raises QCError."""
        from model.parts.part import parts_in

        return parts_in(self.path)

    def preprocessor(self) -> "Preprocessor":
        """Pictures, words and boxes to SpatialCLIP's tensors, at its own picture size."""
        from model.spatialclip.preprocess import Preprocessor

        config = json.loads((self.path / SPATIALCLIP / "config.json").read_text(encoding="utf-8"))
        size = int(config["clip"]["vision_config"]["image_size"])
        return Preprocessor.load(self.path / SPATIALCLIP, size)

    def outlier(self) -> "OutlierModel":
        from model.outlier import OutlierModel

        return OutlierModel.load(self.path / OUTLIER)


def shipped_bundles() -> tuple[str, ...]:
    """Names of the bundles that come with the package."""
    folder = _shipped_folder()
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.name for p in folder.iterdir() if (p / MANIFEST).is_file()))


def locate(path_or_name: str | Path) -> Path:
    """The folder of a shipped name, else the path itself."""
    if isinstance(path_or_name, str) and path_or_name in shipped_bundles():
        return _shipped_folder() / path_or_name
    return Path(path_or_name)


def read_model_id(path_or_name: str | Path) -> str:
    """SHA-256 of the bundle's manifest, without reading anything else; raises QCError."""
    return hashlib.sha256(_read_manifest(locate(path_or_name))).hexdigest()


def read_manifest(path_or_name: str | Path) -> dict[str, Any]:
    """The facts of a bundle's manifest, its files not compared. Raises QCError."""
    return _parse_manifest(_read_manifest(locate(path_or_name)))


def verify(path_or_name: str | Path) -> list[str]:
    """Everything wrong with a bundle's manifest and files, a line each; empty if nothing is."""
    path = locate(path_or_name)
    try:
        manifest = _parse_manifest(_read_manifest(path))
    except QCError as error:
        return [error.message]
    problems = [problem.message for problem in _find_problems(path, manifest)]
    problems = problems or [problem.message for problem in _unusable_facts(manifest)]
    return problems or list(_part_problems(path))


def _part_problems(path: Path) -> Iterator[str]:
    from model.parts.part import PARTS, verify_part

    folders = sorted((path / PARTS).iterdir()) if (path / PARTS).is_dir() else []
    for folder in folders:
        yield from (f"{PARTS}/{folder.name}: {problem}" for problem in verify_part(folder))


def _unusable_facts(manifest: Mapping[str, Any]) -> Iterator[QCError]:
    """The manifest's facts that would keep a judge from opening the bundle, an error for each."""
    from model.calibration import Calibration
    from model.criteria.thresholds import CriteriaThresholds
    from model.image_reference import KEY, ImageReference
    from model.runtime import precision

    readers = {
        "calibration": Calibration.from_json,
        "criteria": CriteriaThresholds.from_json,
        "thresholds": _read_thresholds,
    }
    for name, parse in readers.items():
        try:
            parse(manifest[name])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield mismatch(f"{MANIFEST}: {name} is unusable ({type(error).__name__}: {error})")
    try:
        ImageReference.from_manifest(manifest)
    except ValueError as error:
        yield mismatch(f"{MANIFEST}: {KEY} is unusable ({error})")
    try:
        precision.records_of(manifest)
    except (KeyError, TypeError, ValueError) as error:
        yield mismatch(f"{MANIFEST}: {precision.KEY} is unusable ({error})")
    if not isinstance(manifest.get("real_views", []), list) or not set(
        map(str, manifest.get("real_views", []))
    ) <= {view.value for view in View}:
        yield mismatch(f"{MANIFEST}: real_views has an unknown view")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> str:
    """Hash every file of the folder and write bundle.json; returns the model id.

    `facts` must hold REQUIRED_FACTS and may hold more (seeds, reference distributions). Raises
    QCError on missing facts or files.
    """
    manifest = {**facts, "format": FORMAT, "files": hash_files(folder, MANIFEST)}
    return replace_manifest(
        folder,
        MANIFEST,
        manifest,
        lambda content: _find_problems(folder, _parse_manifest(content), hashed=False),
    )


def _is_for_clinical_use(folder: Path, manifest: Mapping[str, Any]) -> bool:
    stated = manifest.get(CLINICAL_USE)
    if isinstance(stated, bool):
        return stated
    if stated is not None:
        raise mismatch(f"{MANIFEST}: {CLINICAL_USE} is neither true nor false")
    card = " ".join((folder / CARD).read_text(encoding="utf-8", errors="replace").split())
    return "not for clinical use" not in card.lower()


def _shipped_folder() -> Path:
    return Path(str(resources.files("model"))) / "bundles"


def _read_manifest(path: Path) -> bytes:
    return read_manifest_bytes(path, MANIFEST, _NOUN)


def _parse_manifest(content: bytes) -> dict[str, Any]:
    return parse_manifest(content, MANIFEST, _NOUN, FORMAT, REQUIRED_FACTS, _check_facts)


def _check_facts(manifest: Mapping[str, Any]) -> None:
    if not manifest["vocabulary"] or not set(manifest["vocabulary"]) <= set(BY_CODE):
        raise ValueError("the vocabulary has unknown labels")
    if not set(manifest["views"]) <= {view.value for view in View}:
        raise ValueError("views has an unknown view")


def _read_thresholds(data: Mapping[str, Any]) -> None:
    """Checks what `model.judge.Thresholds` reads, without importing the networks' libraries.

    Raises ValueError, TypeError or KeyError.
    """
    low, high = data["review"]
    values = [float(data["detection"]), float(data["view"]), float(low), float(high)]
    if not all(0 <= value <= 1 for value in values) or low > high:
        raise ValueError("a threshold lies outside 0..1")


def _find_problems(
    folder: Path, manifest: Mapping[str, Any], hashed: bool = True
) -> Iterator[QCError]:
    """An error for each fault of the files; with `hashed` False none is hashed."""
    yield from find_problems(
        folder, MANIFEST, _NOUN, manifest["files"], REQUIRED_FILES, hashed=hashed
    )

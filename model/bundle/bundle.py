"""A bundle: the folder of everything that judges, and its manifest with the hash of each file."""

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from detector.anatomy import BY_CODE, View
from detector.errors import ErrorCode, QCError
from model.finding import BundleId

if TYPE_CHECKING:
    import torch

    from detector.anatomy import View
    from detector.yolo.yolo import YoloDetector
    from model.calibration import Calibration
    from model.describer.describer import Describer
    from model.outlier import OutlierModel
    from model.spatialclip.network import SpatialClip
    from model.spatialclip.preprocess import Preprocessor

FORMAT = 1
MAX_TEXT_BYTES = 64 * 2**20
"""A bundle's file without tensors has at most so many bytes; the largest tokenizers have a few MiB.
"""
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
_DIGEST = re.compile("[0-9a-f]{64}")
# Formats that can run code when they are read.
_PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})


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
            raise _mismatch(f"{MANIFEST}: calibration is unusable ({error})") from error

    @property
    def real_views(self) -> frozenset["View"]:
        """The views whose verdicts rest on real pictures; all of them if the manifest is silent."""
        from detector.anatomy import View

        try:
            return frozenset(View(view) for view in self.manifest.get("real_views", View))
        except (TypeError, ValueError) as error:
            raise _mismatch(f"{MANIFEST}: real_views is unusable ({error})") from error

    def detector(self, device: "str | torch.device" = "cpu") -> "YoloDetector":
        from detector.yolo.yolo import YoloDetector

        return YoloDetector.load(self.path / DETECTOR, device)

    def describer(self, device: "str | torch.device" = "cpu") -> "Describer":
        from model.describer.describer import Describer

        return Describer.load(self.path / DESCRIBER, device)

    def spatialclip(self, device: "str | torch.device" = "cpu") -> "SpatialClip":
        from model.spatialclip.checkpoint import load_spatialclip

        return load_spatialclip(self.path / SPATIALCLIP, device)

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
    return problems or [problem.message for problem in _unusable_facts(manifest)]


def _unusable_facts(manifest: Mapping[str, Any]) -> Iterator[QCError]:
    """The manifest's facts that would keep a judge from opening the bundle, an error for each."""
    from model.calibration import Calibration
    from model.criteria.thresholds import CriteriaThresholds
    from model.image_reference import KEY, ImageReference

    readers = {
        "calibration": Calibration.from_json,
        "criteria": CriteriaThresholds.from_json,
        "thresholds": _read_thresholds,
    }
    for name, parse in readers.items():
        try:
            parse(manifest[name])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield _mismatch(f"{MANIFEST}: {name} is unusable ({type(error).__name__}: {error})")
    try:
        ImageReference.from_manifest(manifest)
    except ValueError as error:
        yield _mismatch(f"{MANIFEST}: {KEY} is unusable ({error})")
    if not isinstance(manifest.get("real_views", []), list) or not set(
        map(str, manifest.get("real_views", []))
    ) <= {view.value for view in View}:
        yield _mismatch(f"{MANIFEST}: real_views has an unknown view")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> str:
    """Hash every file of the folder and write bundle.json; returns the model id.

    `facts` must hold REQUIRED_FACTS and may hold more (seeds, reference distributions). Raises
    QCError on missing facts or files.
    """
    files = {name: _digest(folder / name) for name in sorted(_files(folder))}
    for name in files:
        # safetensors writes files that their owner alone may read; the service is another user.
        (folder / name).chmod(0o644)
    manifest = {**facts, "format": FORMAT, "files": files}
    content = (
        json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()
    for problem in _find_problems(folder, _parse_manifest(content), hashed=False):
        raise problem
    partial = folder / f".{MANIFEST}.partial"
    partial.write_bytes(content)
    partial.replace(folder / MANIFEST)
    return hashlib.sha256(content).hexdigest()


def _is_for_clinical_use(folder: Path, manifest: Mapping[str, Any]) -> bool:
    stated = manifest.get("clinical_use")
    if isinstance(stated, bool):
        return stated
    if stated is not None:
        raise _mismatch(f"{MANIFEST}: clinical_use is neither true nor false")
    card = " ".join((folder / CARD).read_text(encoding="utf-8", errors="replace").split())
    return "not for clinical use" not in card.lower()


def _shipped_folder() -> Path:
    return Path(str(resources.files("model"))) / "bundles"


def _read_manifest(path: Path) -> bytes:
    manifest = path / MANIFEST
    try:
        facts = manifest.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise _mismatch(f"{MANIFEST} is a link or no file: copy the bundle with its files")
        if facts.st_size > MAX_TEXT_BYTES:
            raise _mismatch(f"{MANIFEST} has {facts.st_size} bytes, which no manifest needs")
        return manifest.read_bytes()
    except OSError as error:
        raise _incomplete(
            f"no readable {MANIFEST} in {path}: name a bundle's folder, or make one (bundle build)"
        ) from error


def _parse_manifest(content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content, parse_constant=_refuse_constant)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        for key, kind in {**REQUIRED_FACTS, "files": dict}.items():
            if not isinstance(manifest.get(key), kind):
                raise ValueError(f"{key} is missing or no {kind.__name__}")
        if not manifest["vocabulary"] or not set(manifest["vocabulary"]) <= set(BY_CODE):
            raise ValueError("the vocabulary has unknown labels")
        if not set(manifest["views"]) <= {view.value for view in View}:
            raise ValueError("views has an unknown view")
        for name, digest in manifest["files"].items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path.as_posix() != name:
                raise ValueError(f"files has {name!r}, which is no file of the bundle")
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ValueError(f"files has no SHA-256 for {name!r}")
    except (ValueError, TypeError, RecursionError) as error:
        raise _mismatch(f"{MANIFEST} is invalid ({error}): build the bundle again") from error
    return manifest


def _read_thresholds(data: Mapping[str, Any]) -> None:
    """Checks what `model.judge.Thresholds` reads, without importing the networks' libraries.

    Raises ValueError, TypeError or KeyError.
    """
    low, high = data["review"]
    values = [float(data["detection"]), float(data["view"]), float(low), float(high)]
    if not all(0 <= value <= 1 for value in values) or low > high:
        raise ValueError("a threshold lies outside 0..1")


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _find_problems(
    folder: Path, manifest: Mapping[str, Any], hashed: bool = True
) -> Iterator[QCError]:
    """An error for each fault of the files; with `hashed` False none is hashed."""
    modes = _modes(folder)
    strange = {name for name, mode in modes.items() if not stat.S_ISREG(mode)}
    names, files = set(manifest["files"]), set(modes)
    for name in sorted(set(REQUIRED_FILES) - names):
        yield _incomplete(f"{name} is not in the bundle: build the bundle again")
    for name in sorted(names - files):
        yield _incomplete(f"{name} is missing: copy the whole bundle again")
    for name in sorted(files - names):
        yield _incomplete(f"{name} is not listed in {MANIFEST}: remove it")
    for name in sorted(files):
        if PurePosixPath(name).suffix.lower() in _PICKLES:
            yield _mismatch(f"{name} is a pickle: convert it with bundle build --trust")
    for name in sorted(strange):
        # A link can name what lies outside the folder; a pipe would be read for ever.
        yield _mismatch(f"{name} is a link or no file: copy the bundle with its files")
    for name in sorted(files - strange):
        if not name.endswith(".safetensors") and (folder / name).stat().st_size > MAX_TEXT_BYTES:
            yield _mismatch(f"{name} has over {MAX_TEXT_BYTES} bytes: build the bundle again")
            strange.add(name)
    for name in sorted((names & files) - strange) if hashed else ():
        if _digest(folder / name) != manifest["files"][name]:
            yield _mismatch(f"{name} has another hash than {MANIFEST} says: copy the bundle again")
        elif name.endswith(".safetensors"):
            problem = _tensors_problem(folder / name)
            if problem:
                yield _mismatch(f"{name}: {problem}: train or build it again")


def _tensors_problem(path: Path) -> str | None:
    from model.tensors import find_problem

    try:
        return find_problem(path)
    except OSError as error:
        raise _incomplete(f"{path.name} cannot be read: correct its permissions") from error


def _modes(folder: Path) -> dict[str, int]:
    """Mode of every file but the manifest, by POSIX path in the folder; links are not followed."""
    modes: dict[str, int] = {}
    for path in folder.rglob("*"):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if not stat.S_ISDIR(mode) and name != MANIFEST:
            modes[name] = mode
    return modes


def _files(folder: Path) -> Iterator[str]:
    """Every file but the manifest, as a POSIX path in the folder."""
    yield from _modes(folder)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _incomplete(f"{path.name} cannot be read: correct its permissions") from error


def _incomplete(message: str) -> QCError:
    return QCError(ErrorCode.BUNDLE_INCOMPLETE, message)


def _mismatch(message: str) -> QCError:
    return QCError(ErrorCode.BUNDLE_MISMATCH, message)

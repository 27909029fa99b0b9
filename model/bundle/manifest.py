"""A folder with a manifest that has the hash of each of its files: a bundle, or a part.

What both have in common: which files may lie there, and that each is as the manifest says. `noun`
names the folder's kind in messages.
"""

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detector.errors import ErrorCode, QCError

MAX_TEXT_BYTES = 64 * 2**20
"""A file without tensors has at most so many bytes; the largest tokenizers have a few MiB."""
_DIGEST = re.compile("[0-9a-f]{64}")
# Formats that can run code when they are read.
_PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})


def read_manifest_bytes(folder: Path, name: str, noun: str) -> bytes:
    """The bytes of the folder's manifest. Raises QCError where there is none, or none to read."""
    manifest = folder / name
    try:
        facts = manifest.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise mismatch(f"{name} is a link or no file: copy the {noun} with its files")
        if facts.st_size > MAX_TEXT_BYTES:
            raise mismatch(f"{name} has {facts.st_size} bytes, which no manifest needs")
        return manifest.read_bytes()
    except OSError as error:
        raise incomplete(
            f"no readable {name} in {folder}: name a {noun}'s folder, or make one (bundle"
            f" {'build' if noun == 'bundle' else noun})"
        ) from error


def parse_manifest(
    content: bytes,
    name: str,
    noun: str,
    format: int,
    required: Mapping[str, type],
    check: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The manifest's facts: `required` are there, of these types, as are `files`, each with its
    SHA-256; `check` raises ValueError, TypeError or KeyError on others that are wrong.

    Raises QCError BUNDLE_MISMATCH.
    """
    try:
        manifest = json.loads(content, parse_constant=_refuse_constant)
        if not isinstance(manifest, dict) or manifest.get("format") != format:
            raise ValueError(f"format is not {format}")
        for key, kind in {**required, "files": dict}.items():
            if not isinstance(manifest.get(key), kind):
                raise ValueError(f"{key} is missing or no {kind.__name__}")
        check(manifest)
        for file, digest in manifest["files"].items():
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or path.as_posix() != file:
                raise ValueError(f"files has {file!r}, which is no file of the {noun}")
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ValueError(f"files has no SHA-256 for {file!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise mismatch(f"{name} is invalid ({error}): build the {noun} again") from error
    return manifest


def find_problems(
    folder: Path,
    manifest_name: str,
    noun: str,
    hashes: Mapping[str, str],
    required: Sequence[str],
    *,
    hashed: bool = True,
) -> Iterator[QCError]:
    """An error for each fault of the folder's files, whose SHA-256 are `hashes`; with `hashed`
    False none is read."""
    modes = _modes(folder, manifest_name)
    strange = {name for name, mode in modes.items() if not stat.S_ISREG(mode)}
    names, files = set(hashes), set(modes)
    for name in sorted(set(required) - names):
        yield incomplete(f"{name} is not in the {noun}: build the {noun} again")
    for name in sorted(names - files):
        yield incomplete(f"{name} is missing: copy the whole {noun} again")
    for name in sorted(files - names):
        yield incomplete(f"{name} is not listed in {manifest_name}: remove it")
    for name in sorted(files):
        if PurePosixPath(name).suffix.lower() in _PICKLES:
            yield mismatch(f"{name} is a pickle: convert it with bundle build --trust")
    for name in sorted(strange):
        # A link can name what lies outside the folder; a pipe would be read for ever.
        yield mismatch(f"{name} is a link or no file: copy the {noun} with its files")
    for name in sorted(files - strange):
        if not name.endswith(".safetensors") and (folder / name).stat().st_size > MAX_TEXT_BYTES:
            yield mismatch(f"{name} has over {MAX_TEXT_BYTES} bytes: build the {noun} again")
            strange.add(name)
    for name in sorted((names & files) - strange) if hashed else ():
        if _digest(folder / name) != hashes[name]:
            yield mismatch(
                f"{name} has another hash than {manifest_name} says: copy the {noun} again"
            )
        elif name.endswith(".safetensors"):
            problem = _tensors_problem(folder / name)
            if problem:
                yield mismatch(f"{name}: {problem}: train or build it again")


def hash_files(folder: Path, manifest_name: str) -> dict[str, str]:
    """The SHA-256 of each file but the manifest, by POSIX path; each is made readable to all."""
    hashes = {name: _digest(folder / name) for name in sorted(_modes(folder, manifest_name))}
    for name in hashes:
        # safetensors writes files that their owner alone may read; the service is another user.
        (folder / name).chmod(0o644)
    return hashes


def replace_manifest(
    folder: Path,
    name: str,
    manifest: Mapping[str, Any],
    problems: Callable[[bytes], Iterable[QCError]],
) -> str:
    """Write the manifest; returns the SHA-256 of its bytes. Raises the first of its problems."""
    content = (
        json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()
    for problem in problems(content):
        raise problem
    partial = folder / f".{name}.partial"
    partial.write_bytes(content)
    partial.replace(folder / name)
    return hashlib.sha256(content).hexdigest()


def incomplete(message: str) -> QCError:
    """The error of a folder that lacks something."""
    return QCError(ErrorCode.BUNDLE_INCOMPLETE, message)


def mismatch(message: str) -> QCError:
    """The error of a folder in which something is not as it should be."""
    return QCError(ErrorCode.BUNDLE_MISMATCH, message)


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _tensors_problem(path: Path) -> str | None:
    from model.tensors import find_problem

    try:
        return find_problem(path)
    except OSError as error:
        raise incomplete(f"{path.name} cannot be read: correct its permissions") from error


def _modes(folder: Path, manifest_name: str) -> dict[str, int]:
    """Mode of every file but the manifest, by POSIX path in the folder; links are not followed."""
    modes: dict[str, int] = {}
    for path in folder.rglob("*"):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if not stat.S_ISDIR(mode) and name != manifest_name:
            modes[name] = mode
    return modes


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise incomplete(f"{path.name} cannot be read: correct its permissions") from error

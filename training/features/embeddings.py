"""Embeddings: features of pictures with what they are of, on disk, and nearest neighbours."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from detector.console import UsageError
from training.data.labelled import LabelledPicture, group_key, read_first_frame
from training.features.towers import Features, ImageTower

SAFETENSORS, PARQUET = ".safetensors", ".parquet"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """(N, D) features, and of each row its file, the file's SHA-256, class and patient (empty: not
    known). `tower_key` is of the tower's weights: features of two towers are not comparable."""

    tower: str
    tower_key: str
    features: Features
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def rows(self, indices: Sequence[int]) -> "Embeddings":
        """Only these rows, in this order."""
        return replace(
            self,
            features=self.features[list(indices)],
            files=tuple(self.files[k] for k in indices),
            sha256=tuple(self.sha256[k] for k in indices),
            labels=tuple(self.labels[k] for k in indices),
            groups=tuple(self.groups[k] for k in indices),
        )


def embed(
    tower: ImageTower, pictures: Sequence[LabelledPicture], cache: Path | None = None
) -> Embeddings:
    """Features of each picture's first frame; those that lie in the folder `cache` are read there.

    A picture is known by its file's bytes. Raises QCError on an unreadable file, UsageError on a
    damaged cache.
    """
    if tower.parts:
        embedded = [embed(part, pictures, cache) for part in tower.parts]
        joined = np.concatenate([each.features for each in embedded], 1)
        return replace(embedded[0], tower=tower.name, tower_key=tower.key, features=joined)
    hashes = [_file_hash(picture.path) for picture in pictures]
    path = None if cache is None else cache / f"features-{tower.key}{SAFETENSORS}"
    known = {} if path is None or not path.is_file() else _read_cache(path)
    wanted = {
        digest: picture.path
        for digest, picture in zip(hashes, pictures, strict=True)
        if digest not in known
    }
    todo = list(wanted.items())
    starts = range(0, len(todo), tower.batch)
    for start in track(starts, tower.name, console=Console(stderr=True), disable=not todo):
        chunk = todo[start : start + tower.batch]
        features = tower.features([read_first_frame(each).pixels for _, each in chunk])
        known |= {digest: row for (digest, _), row in zip(chunk, features, strict=True)}
    if path is not None and todo:
        _write_cache(path, known)
    return Embeddings(
        tower.name,
        tower.key,
        np.stack([known[digest] for digest in hashes]),
        tuple(str(picture.path) for picture in pictures),
        tuple(hashes),
        tuple(picture.label for picture in pictures),
        tuple(group_key(picture.group) if picture.group else "" for picture in pictures),
    )


def save_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a .safetensors file (`features`, the rest in its metadata) or a .parquet file (a row a
    picture, `embedding` a list). Raises UsageError on another ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {name: list(getattr(embeddings, name)) for name in _COLUMNS}
    tower = {"tower": embeddings.tower, "tower_key": embeddings.tower_key}
    if path.suffix == SAFETENSORS:
        metadata = tower | {name: json.dumps(values) for name, values in facts.items()}
        save_file({"features": embeddings.features}, path, metadata=metadata)
    elif path.suffix == PARQUET:
        rows = len(embeddings.files)
        table = pl.DataFrame(
            {name: [value] * rows for name, value in tower.items()}
            | facts
            | {"embedding": pl.Series(embeddings.features.tolist(), dtype=pl.List(pl.Float32))}
        )
        table.write_parquet(path)
    else:
        raise UsageError(f"{path.name}: name a file that ends in {SAFETENSORS} or {PARQUET}")


def load_embeddings(path: Path) -> Embeddings:
    """The inverse of `save_embeddings`. Raises UsageError on a file that is none."""
    try:
        if path.suffix == PARQUET:
            return _read_parquet(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            features = file.get_tensor("features")
        columns = {name: tuple(json.loads(metadata[name])) for name in _COLUMNS}
        result = Embeddings(metadata["tower"], metadata["tower_key"], features, **columns)
    except (SafetensorError, PolarsError, KeyError, ValueError, TypeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path.name} holds no embeddings: {line}") from None
    if features.ndim != 2 or any(len(column) != len(features) for column in columns.values()):
        raise UsageError(f"{path.name} holds no embeddings: a row a picture is expected")
    return result


def nearest(
    query: Features, features: Features, count: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.intp]], Features]:
    """(Q, D) and (N, D) -> rows (Q, count) of the highest cosines, best first, and those cosines.

    Exact. Of equal cosines the first row comes first.
    """
    cosines = _unit(query) @ _unit(features).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, 1)


_COLUMNS = ("files", "sha256", "labels", "groups")


def _read_parquet(path: Path) -> Embeddings:
    table = pl.read_parquet(path)
    if not len(table):
        raise ValueError("it has no rows")
    columns = {name: tuple(table[name].to_list()) for name in _COLUMNS}
    features = np.array(table["embedding"].to_list(), np.float32)
    return Embeddings(table["tower"][0], table["tower_key"][0], features, **columns)


def _unit(features: Features) -> Features:
    length: Features = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Features = (features / np.maximum(length, 1e-12)).astype(np.float32)
    return unit


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _read_cache(path: Path) -> dict[str, Features]:
    try:
        tensors = load_file(path)
        hashes = [row.tobytes().hex() for row in tensors["sha256"]]
        return dict(zip(hashes, tensors["features"], strict=True))
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is damaged; remove it ({type(error).__name__})") from None


def _write_cache(path: Path, known: dict[str, Features]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hashes = np.stack([np.frombuffer(bytes.fromhex(each), np.uint8) for each in known])
    unfinished = path.with_suffix(f".partial-{os.getpid()}")
    save_file({"sha256": hashes, "features": np.stack(list(known.values()))}, unfinished)
    unfinished.replace(path)

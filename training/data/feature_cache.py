"""Varied copies of a picture as a frozen stem sees them, kept on disk.

The published stages never train the image network below CLIP's blocks, and on two cores it is
most of their time. So it looks once at some variations of each picture; all epochs, folds and
looks then draw from those.
"""

import functools
import hashlib
import inspect
import io
import json
import os
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from detector.boxes import Detection
from detector.frame import Pixels
from model.spatialclip.backbone import HybridEmbed
from model.spatialclip.preprocess import Preprocessor
from training.augment import burned_in, scanner
from training.data import augment
from training.data.augment import vary
from training.data.prepared import Evidence, Sight
from training.data.regions import read_region

# Copies of a picture, their lowest JPEG quality, and one above the highest.
_JPEG = (4, 75, 96)


def with_sights(
    items: Sequence[Evidence],
    stem: HybridEmbed,
    preprocessor: Preprocessor,
    folder: Path,
    *,
    varied: int,
    seed: int,
) -> list[Evidence]:
    """The items, each with its sights: as it is, and `varied` variations; a simulated picture, of
    which there are many and which varies little, has one. 0: none of either."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(stem)
    stem.eval()
    found = []
    for item in track(items, "looking", console=Console(stderr=True)):
        count = min(varied, 1) if item.sample.simulated else varied
        key = _key(item, weights, count, seed)
        path = folder / f"{key}.npz"
        if not path.is_file():
            _look(item, stem, preprocessor, path, count, int(key, 16))
        found.append(replace(item, sights=_read(path)))
    return found


def with_copies(
    items: Sequence[Evidence],
    stem: HybridEmbed,
    preprocessor: Preprocessor,
    folder: Path,
    seed: int,
) -> list[Evidence]:
    """The items, each real one with what the stem sees of JPEG copies of its picture, compressed as
    they lie on disk: before they are made small."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(stem)
    stem.eval()
    found = []
    for item in track(items, "looking at copies", console=Console(stderr=True)):
        if item.sample.simulated:
            found.append(item)
            continue
        told = hashlib.sha256(weights + item.picture.tobytes() + repr((_JPEG, seed)).encode())
        key = told.hexdigest()[:24]
        path = folder / f"copies-{key}.npy"
        if not path.is_file():
            copies = _copies(item, preprocessor, np.random.default_rng(int(key, 16)))
            with torch.inference_mode():
                features = torch.cat(
                    [stem.forward_features(preprocessor.images([copy])) for copy in copies]
                )
            partial = path.with_suffix(f".partial-{os.getpid()}")
            with partial.open("wb") as file:
                np.save(file, features.half().cpu().numpy())
            partial.replace(path)
        found.append(replace(item, copies=tuple(np.load(path))))
    return found


def _copies(
    item: Evidence, preprocessor: Preprocessor, generator: np.random.Generator
) -> list[Pixels]:
    picture = Image.fromarray(read_region(item.sample)[0])
    count, lowest, highest = _JPEG
    copies = []
    for _ in range(count):
        file = io.BytesIO()
        quality, subsampling = generator.integers((lowest, 1), (highest, 3))
        picture.save(file, "JPEG", quality=int(quality), subsampling=int(subsampling))
        copies.append(preprocessor.letterbox(np.asarray(Image.open(file).convert("RGB"))))
    return copies


def _weights(stem: HybridEmbed) -> bytes:
    told = hashlib.sha256(bytes([stem.mirrored]))
    for tensor in stem.features.state_dict().values():
        told.update(tensor.detach().cpu().numpy().tobytes())
    return told.digest()


def _key(item: Evidence, weights: bytes, count: int, seed: int) -> str:
    simulated = item.sample.simulated
    facts = repr((item.detections, item.descriptions, item.size, simulated, count, seed))
    told = hashlib.sha256(weights + item.picture.tobytes() + facts.encode())
    if count:
        told.update(_code(simulated))
    return told.hexdigest()[:24]


@functools.cache
def _code(simulated: bool) -> bytes:
    """What decides how a picture is varied: another version of it makes other sights."""
    modules = (augment,) if simulated else (augment, scanner, burned_in)
    return b"".join(inspect.getsource(module).encode() for module in modules)


@torch.inference_mode()
def _look(
    item: Evidence, stem: HybridEmbed, preprocessor: Preprocessor, path: Path, count: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    sights = [item.as_seen(), *(vary(item, generator) for _ in range(count))]
    # Two at a time stay in a CPU's cache: twice as fast as all at once.
    features = torch.cat(
        [
            stem.forward_features(
                preprocessor.images([sight.picture for sight in sights[at : at + 2]])
            )
            for at in range(0, len(sights), 2)
        ]
    )
    told = [
        {"words": s.words, "boxes": [astuple(d) for d in s.detections], "size": s.size}
        for s in sights
    ]
    partial = path.with_suffix(f".partial-{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, features=features.half().cpu().numpy(), told=np.array(json.dumps(told)))
    partial.replace(path)


def _read(path: Path) -> tuple[Sight, ...]:
    with np.load(path) as kept:
        features, told = kept["features"], json.loads(str(kept["told"]))
    return tuple(_sight(*row) for row in zip(features, told, strict=True))


def _sight(features: Any, told: dict[str, Any]) -> Sight:
    boxes = tuple(
        Detection(label, (x0, y0, x1, y1), confidence)
        for label, (x0, y0, x1, y1), confidence in told["boxes"]
    )
    width, height = told["size"]
    return Sight(features, told["words"], boxes, (width, height))

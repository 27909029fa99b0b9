"""Varied copies of a picture as a frozen stem sees them, kept on disk.

The published stages never train the image network below CLIP's blocks, and on two cores it is
most of their time. So it looks once at some variations of each picture; all epochs, folds and
looks then draw from those.
"""

import functools
import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from detector.detection import Detection
from model.inputs import Preprocessor
from model.stem import ConvStem
from training import look, marks, variation
from training.evidence import Evidence, Sight
from training.variation import vary


def with_sights(
    items: Sequence[Evidence],
    stem: ConvStem,
    preprocessor: Preprocessor,
    folder: Path,
    *,
    varied: int,
    seed: int,
) -> list[Evidence]:
    """The items, each with its sights: as it is, and `varied` variations; a simulated picture, of
    which there are many and which varies little, has one. 0: none of either."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256()
    for tensor in stem.features.state_dict().values():
        weights.update(tensor.detach().cpu().numpy().tobytes())
    stem.eval()
    found = []
    for item in track(items, "looking", console=Console(stderr=True)):
        count = min(varied, 1) if item.sample.simulated else varied
        key = _key(item, weights.digest(), count, seed)
        path = folder / f"{key}.npz"
        if not path.is_file():
            _look(item, stem, preprocessor, path, count, int(key, 16))
        found.append(replace(item, sights=_read(path)))
    return found


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
    modules = (variation,) if simulated else (variation, look, marks)
    return b"".join(inspect.getsource(module).encode() for module in modules)


@torch.inference_mode()
def _look(
    item: Evidence, stem: ConvStem, preprocessor: Preprocessor, path: Path, count: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    sights = [item.as_seen(), *(vary(item, generator) for _ in range(count))]
    # Two at a time stay in a CPU's cache: twice as fast as all at once.
    features = torch.cat(
        [
            stem.look(preprocessor.images([sight.picture for sight in sights[at : at + 2]]))
            for at in range(0, len(sights), 2)
        ]
    )
    told = [
        {"words": s.words, "boxes": [astuple(d) for d in s.detections], "size": s.size}
        for s in sights
    ]
    partial = path.with_suffix(".partial")
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

"""Features that a frozen backbone gives of augmented pictures, kept on disk.

The published stages of training never change the image network below CLIP's blocks, and on two
cores it takes most of their time. So it runs once on some augmentations of each picture; all
epochs, folds and left-out styles then draw from those.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from detector.boxes import Detection
from detector.frame import Pixels
from model.spatialclip.backbone import HybridEmbed
from model.spatialclip.preprocess import Preprocessor
from training.data.augment import AUGMENTATION_VERSION, augment
from training.data.prepared import ModelInput, PreparedSample
from training.data.regions import read_region
from training.data.samples import Sample

# JPEG copies of a picture: how many, the lowest quality, and one above the highest.
_JPEG_COPIES = (2, 75, 96)


def add_augmented(
    items: Sequence[PreparedSample],
    backbone: HybridEmbed,
    preprocessor: Preprocessor,
    folder: Path,
    *,
    count: int,
    seed: int,
) -> list[PreparedSample]:
    """The items with their `augmented` inputs, as features: the picture as it is, and `count`
    augmentations of it.

    A simulated picture, of which there are many and which is changed little, has at most one
    augmentation; one without a quality label, which is drawn less often, at most two. Features
    that lie in `folder` are read from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights_hash = _hash_weights(backbone)
    backbone.eval()
    results = []
    for item in track(items, "looking", console=Console(stderr=True)):
        item_count = int(min(count, _most_augmentations(item.sample)))
        key = _augmented_key(item, weights_hash, item_count, seed)
        path = folder / f"{key}.npz"
        if not path.is_file():
            _write_augmented(item, backbone, preprocessor, path, item_count, int(key, 16))
        results.append(replace(item, augmented=_read_augmented(path)))
    return results


def _most_augmentations(sample: Sample) -> float:
    if sample.simulated:
        return 1
    return 2 if sample.standard is None else math.inf


def add_jpeg_features(
    items: Sequence[PreparedSample],
    backbone: HybridEmbed,
    preprocessor: Preprocessor,
    folder: Path,
    seed: int,
) -> list[PreparedSample]:
    """The items, each real one that has a quality label with its `jpeg_features`: of JPEG copies of
    its region at full size, letterboxed afterwards. Features in `folder` are read from there."""
    folder.mkdir(parents=True, exist_ok=True)
    weights_hash = _hash_weights(backbone)
    backbone.eval()
    results = []
    for item in track(items, "looking at copies", console=Console(stderr=True)):
        if item.sample.simulated or item.sample.standard is None:
            results.append(item)
            continue
        settings = repr((_JPEG_COPIES, seed)).encode()
        digest = hashlib.sha256(weights_hash + item.picture.tobytes() + settings)
        key = digest.hexdigest()[:24]
        path = folder / f"copies-{key}.npy"
        if not path.is_file():
            copies = _jpeg_copies(item, preprocessor, np.random.default_rng(int(key, 16)))
            features = _features(backbone, preprocessor, copies, 1)
            write_at_once(path, partial(np.save, arr=features))
        results.append(replace(item, jpeg_features=tuple(np.load(path))))
    return results


def _jpeg_copies(
    item: PreparedSample, preprocessor: Preprocessor, generator: np.random.Generator
) -> list[Pixels]:
    """Letterboxed (S, S, 3) uint8 pictures of the region after JPEG of random quality."""
    picture = Image.fromarray(read_region(item.sample)[0])
    count, lowest, highest = _JPEG_COPIES
    copies = []
    for _ in range(count):
        file = io.BytesIO()
        quality, subsampling = generator.integers((lowest, 1), (highest, 3))
        picture.save(file, "JPEG", quality=int(quality), subsampling=int(subsampling))
        copies.append(preprocessor.letterbox(np.asarray(Image.open(file).convert("RGB"))))
    return copies


def _hash_weights(backbone: HybridEmbed) -> bytes:
    digest = hashlib.sha256(bytes([backbone.mirrored]))
    for tensor in backbone.networks.state_dict().values():
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.digest()


def _augmented_key(item: PreparedSample, weights_hash: bytes, count: int, seed: int) -> str:
    simulated = item.sample.simulated
    facts = repr((item.detections, item.descriptions, item.size, simulated, count, seed))
    digest = hashlib.sha256(weights_hash + item.picture.tobytes() + facts.encode())
    if count:
        digest.update(f"augmentation {AUGMENTATION_VERSION}".encode())
    return digest.hexdigest()[:24]


def _write_augmented(
    item: PreparedSample,
    backbone: HybridEmbed,
    preprocessor: Preprocessor,
    path: Path,
    count: int,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    inputs = [item.unaugmented(), *(augment(item, generator) for _ in range(count))]
    # Two at a time stay in a CPU's cache: twice as fast as all at once.
    features = _features(backbone, preprocessor, [each.picture for each in inputs], 2)
    facts = [
        {
            "words": each.description,
            "boxes": [astuple(d) for d in each.detections],
            "size": each.size,
        }
        for each in inputs
    ]
    # The array keeps the name that earlier caches have.
    arrays = {"features": features, "told": np.array(json.dumps(facts))}
    write_at_once(path, partial(np.savez, **arrays))


@torch.inference_mode()
def _features(
    backbone: HybridEmbed, preprocessor: Preprocessor, pictures: Sequence[Pixels], batch: int
) -> Any:
    """(N, C, S / 32, S / 32) float16 features of letterboxed pictures, `batch` at a time."""
    features = torch.cat(
        [
            backbone.forward_features(preprocessor.images(pictures[start : start + batch]))
            for start in range(0, len(pictures), batch)
        ]
    )
    return features.half().cpu().numpy()


def write_at_once(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write the file under another name first: other processes read whole files only."""
    unfinished = path.with_suffix(f".partial-{os.getpid()}")
    with unfinished.open("wb") as file:
        write(file)
    unfinished.replace(path)


def _read_augmented(path: Path) -> tuple[ModelInput, ...]:
    with np.load(path) as arrays:
        features, facts = arrays["features"], json.loads(str(arrays["told"]))
    return tuple(_model_input(*row) for row in zip(features, facts, strict=True))


def _model_input(features: Any, facts: dict[str, Any]) -> ModelInput:
    boxes = tuple(
        Detection(label, (x0, y0, x1, y1), confidence)
        for label, (x0, y0, x1, y1), confidence in facts["boxes"]
    )
    width, height = facts["size"]
    return ModelInput(features, facts["words"], boxes, (width, height))

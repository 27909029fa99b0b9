"""Features of a SpatialCLIP's image networks, which no adapter changes, computed once.

They take nearly all of a step's time on a CPU. Adapters and heads learn behind them, in CLIP's
blocks; so all epochs, folds and numbers of patients may read the same ones from a folder.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from detector.console import UsageError
from detector.frame import Pixels
from model.nextgen_uia.checkpoint import tower_sha256
from model.nextgen_uia.network import ClipTower, Tower
from model.nextgen_uia.preprocess import normalise
from training.data.feature_cache import write_at_once

VERSION = 1
"""Raise this when the same square gets other features: folders are then filled anew."""


class FrozenFeatures:
    """Features of squares, kept in a folder by the SHA-256 of the tower and of the square."""

    facts: ClassVar[dict[str, Any]] = {"frozen features": "float16"}
    """What a resumed run has to have again: half precision gives other losses."""

    def __init__(self, tower: Tower, folder: Path) -> None:
        """Raises UsageError where the tower has no image networks, or the folder is a file."""
        if not isinstance(tower, ClipTower) or tower.stem is None:
            raise UsageError(
                "--cache keeps what the image networks of a SpatialCLIP's tower give; this tower"
                " has none: leave --cache out"
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--cache {folder} is a file: name a folder")
        self._tower = tower
        self._folder = folder / f"stem-{VERSION}-{tower_sha256(tower)[:24]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, square: Pixels) -> npt.NDArray[np.float16]:
        """(S, S, 3) uint8 -> (C, S / 32, S / 32), computed where the folder does not have it."""
        path = self._folder / f"{hashlib.sha256(square.tobytes()).hexdigest()[:32]}.npy"
        try:
            return np.asarray(np.load(path), np.float16)
        except (FileNotFoundError, ValueError, EOFError):
            # Absent, or damaged: then it is written anew.
            features = self._compute(square)
            write_at_once(path, partial(np.save, arr=features))
            return features

    @torch.inference_mode()
    def _compute(self, square: Pixels) -> npt.NDArray[np.float16]:
        device = next(self._tower.parameters()).device
        features: Any = self._tower.stem_features(normalise([square]).to(device))
        return np.asarray(features[0].half().cpu().numpy(), np.float16)

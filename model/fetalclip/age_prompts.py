"""The prompts of all gestational ages as directions, encoded once for each pixel spacing."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from model.fetalclip.gestational_age import DAYS, Floats
from model.fetalclip.network import SCALE, FetalClip
from model.fetalclip.preprocess import TextEncoder
from model.fetalclip.prompts import fill_template

_BATCH = 64


class AgePrompts:
    """Similarities of pictures to the prompts of `DAYS`.

    Prompts depend on the spacing at two decimals only, so that the directions of a spacing are
    kept: in memory, and in `cache`, a folder, for the next run. Upstream encodes 875 prompts again
    for each picture.
    """

    def __init__(
        self,
        network: FetalClip,
        encoder: TextEncoder,
        templates: Sequence[str],
        cache: Path | None = None,
        weights_sha256: str = "",
    ) -> None:
        self.network = network
        self.encoder = encoder
        self.templates = tuple(templates)
        self.cache = cache
        self._weights_sha256 = weights_sha256
        self._directions: dict[str, Tensor] = {}

    def similarity(self, image_features: Tensor, spacing_mm: float) -> Floats:
        """(B, d) features of pictures whose pixels, as the network sees them, have this side in mm
        -> (B, 175): the mean over the templates of 100 times the cosine."""
        directions = self.directions(spacing_mm)
        images = normalize(image_features, dim=-1).cpu()
        return (SCALE * images @ directions.T).double().numpy()  # type: ignore[no-any-return]

    def directions(self, spacing_mm: float) -> Tensor:
        """(175, d): of each day the mean of its templates' unit vectors, not of unit length."""
        key = f"{spacing_mm:.2f}"
        if key not in self._directions:
            self._directions[key] = self._read(key) if self.cache else self._encode(key)
        return self._directions[key]

    def _read(self, key: str) -> Tensor:
        assert self.cache is not None
        facts = repr((self._weights_sha256, self.templates, key, int(DAYS[0]), len(DAYS)))
        path = self.cache / f"ages-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.npy"
        if not path.is_file():
            self.cache.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".partial-{os.getpid()}")
            with unfinished.open("wb") as file:
                np.save(file, self._encode(key).numpy())
            unfinished.replace(path)
        return torch.from_numpy(np.load(path, allow_pickle=False))

    def _encode(self, key: str) -> Tensor:
        total = torch.zeros(len(DAYS), self.network.architecture.embed_dim)
        for template in self.templates:
            texts = [fill_template(template, day, float(key)) for day in DAYS.tolist()]
            for start in range(0, len(texts), _BATCH):
                tokens = self.encoder.tokens(texts[start : start + _BATCH])
                features = normalize(self.network.text_features(tokens), dim=-1)
                total[start : start + _BATCH] += features.cpu()
        return total / len(self.templates)


def network_spacing(width: int, height: int, spacing_mm: float, size: int) -> float:
    """The side in mm of a pixel that the network sees, of a picture of pixels of `spacing_mm`:
    the longer side becomes `size` pixels."""
    return max(width, height) / size * spacing_mm

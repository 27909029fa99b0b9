"""Batches of SpatialCLIP: inputs of some samples, augmented or not, and the truth about them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detector.anatomy import View
from model.criteria.rules import RULES
from model.spatialclip.network import VIEWS
from model.spatialclip.preprocess import Inputs, Preprocessor
from training.data.augment import augment
from training.data.prepared import ModelInput, PreparedSample
from training.data.samples import Sample

CRITERIA = tuple(sorted({rule.code for rules in RULES.values() for rule in rules}))
"""Codes of the criteria of all views, in the order of `SpatialClipBatch.criteria`."""
NO_VIEW = -1
"""View index of a picture whose view is unknown: it has no loss of the view and is no evidence of
its accuracy."""


@dataclass(frozen=True, slots=True)
class SpatialClipBatch:
    """What SpatialCLIP sees of B samples, and what is true of them."""

    inputs: Inputs
    standard: Tensor  # (B,) 1.0 standard, 0.0 not.
    view: Tensor  # (B,) index among VIEWS, or NO_VIEW.
    has_quality: Tensor  # (B,) bool: it shows a view, so that `standard` says something.
    criteria: Tensor  # (B, C) in the order of CRITERIA: 1 met, 0 not met, NaN unknown.
    descriptions: list[str]
    jpeg_features: Tensor | None = None  # (K, C, H, W) backbone features of JPEG copies of K rows.
    jpeg_rows: tuple[int, ...] = ()  # Which K rows.


def make_batch(
    items: Sequence[PreparedSample],
    preprocessor: Preprocessor,
    generator: np.random.Generator | None = None,
    clean_fraction: float = 0.0,
) -> SpatialClipBatch:
    """The batch of the items in their order.

    With a generator they are augmented at random, but for the `clean_fraction` of them, some of
    which have JPEG copies beside them. Augmentations that were cached are drawn from the cache.
    """
    is_clean = [generator is None or generator.random() < clean_fraction for _ in items]
    inputs = [
        item.unaugmented() if clean or generator is None else _augmented(item, generator)
        for item, clean in zip(items, is_clean, strict=True)
    ]
    jpeg_rows: list[int] = []
    if generator is not None:
        jpeg_rows = [i for i, item in enumerate(items) if is_clean[i] and item.jpeg_features]
    jpeg_features = [
        items[i].jpeg_features[int(generator.integers(len(items[i].jpeg_features)))]
        for i in jpeg_rows
        if generator
    ]
    pictures, descriptions = (
        [each.picture for each in inputs],
        [each.description for each in inputs],
    )
    has_features = bool(items) and bool(items[0].augmented)
    return SpatialClipBatch(
        Inputs(
            torch.from_numpy(np.stack(pictures)).float()
            if has_features
            else preprocessor.images(pictures),
            *preprocessor.texts(descriptions),
            *preprocessor.layouts(
                [each.detections for each in inputs], [each.size for each in inputs]
            ),
            has_features=has_features,
        ),
        torch.tensor([float(item.sample.standard is True) for item in items]),
        torch.tensor([view_index(item.sample) for item in items]),
        torch.tensor(
            [
                item.sample.view is not View.OTHER and item.sample.standard is not None
                for item in items
            ]
        ),
        torch.tensor(
            [[item.sample.criteria.get(code, math.nan) for code in CRITERIA] for item in items]
        ),
        descriptions,
        torch.from_numpy(np.stack(jpeg_features)).float() if jpeg_features else None,
        tuple(jpeg_rows),
    )


def view_index(sample: Sample) -> int:
    """The index of the sample's view among VIEWS; NO_VIEW where it is unknown."""
    return NO_VIEW if sample.view is None else VIEWS.index(sample.view)


def modality_mask(batch: int, rate: float, generator: torch.Generator) -> Tensor:
    """(B, 3) bool, True: present. At most one modality of a row is hidden, each at `rate`."""
    is_hidden = torch.rand(batch, generator=generator) < 3 * rate
    which = torch.randint(0, 3, (batch,), generator=generator)
    present = torch.ones(batch, 3, dtype=torch.bool)
    present[torch.arange(batch), which] = ~is_hidden
    return present


def _augmented(item: PreparedSample, generator: np.random.Generator) -> ModelInput:
    """A cached augmentation of the item, else a new one."""
    if len(item.augmented) < 2:
        return augment(item, generator)
    return item.augmented[1 + int(generator.integers(len(item.augmented) - 1))]

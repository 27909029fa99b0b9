"""The reference of a bundle's image features, from the real pictures that calibrate it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.image_features import ImageStatistics
from model.image_reference import KEY, MOST_PICTURES, ImageReference, ViewReference, measured_view
from model.image_statistics import measure_image
from training.data.regions import read_region
from training.data.samples import Sample, data_hash, file_hash


def image_reference(
    samples: Sequence[Sample], embeddings: npt.NDArray[np.float64], least: int
) -> dict[str, Any]:
    """The manifest's key, of N samples with their (N, d) image features; empty where no view has
    `least` real pictures.

    Simulated pictures are left out: every machine's differ from them. Of a view with more than
    MOST_PICTURES so many are taken, by lot.
    """
    views: dict[View, ViewReference] = {}
    used: list[Sample] = []
    for view in View:
        own = [i for i, each in enumerate(samples) if each.view is view and not each.simulated]
        if view is View.OTHER or len(own) < least:
            continue
        used += [samples[i] for i in own]
        indices = sorted(sorted(own, key=lambda i: file_hash(samples[i].image))[:MOST_PICTURES])
        views[view] = measured_view(
            len(own),
            [samples[i].group for i in indices],
            [_measure(samples[i]) for i in indices],
            embeddings[indices],
        )
    return {KEY: ImageReference(data_hash(used), views).to_json()} if views else {}


def _measure(sample: Sample) -> ImageStatistics:
    spacing = sample.spacing_mm
    return measure_image(read_region(sample)[0], None if spacing is None else (spacing, spacing))

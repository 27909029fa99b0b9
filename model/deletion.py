"""What weighed most in a verdict, by deletion: the logit again without each structure and part.

Occlusion as in Zeiler and Fergus 2014 (arXiv 1311.2901), for all three branches of SpatialCLIP.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from detector.boxes import Detection
from detector.frame import Pixels
from model.criteria.faults import CELLS
from model.describer.describer import Describer
from model.reasons import Deletions
from model.spatialclip.network import SpatialClip
from model.spatialclip.preprocess import Preprocessor

GRID = 3
"""The picture is divided into so many rows, and as many columns, of cells."""


@torch.inference_mode()
def delete_each(
    network: SpatialClip,
    preprocessor: Preprocessor,
    describer: Describer,
    pixels: Pixels,
    detections: Sequence[Detection],
    layout: Sequence[Detection],
) -> Deletions:
    """The logit's rise without each detected structure, and without each cell of the picture.

    `pixels` (H, W, 3) uint8 RGB; boxes in its pixels: `detections` are those that are described,
    `layout` those that SpatialCLIP reads. A structure is taken out of both; a cell is filled with
    the picture's mean.
    """
    labels = list(dict.fromkeys(detection.label for detection in detections))
    size = (pixels.shape[1], pixels.shape[0])
    # The picture as it is comes first in both batches.
    described = [detections, *(_without(detections, label) for label in labels)]
    layouts = [layout, *(_without(layout, label) for label in labels)]
    pictures = [preprocessor.letterbox(each) for each in (pixels, *cover_cells(pixels))]
    descriptions = describer.describe_batch(described, [size] * len(described))
    inputs = preprocessor.batch(pictures, descriptions, layouts, [size] * len(layouts))
    images, text, spatial = network.encode(**inputs.to(network.device).arguments())
    of_structures = _logits(network, images[:1].expand(len(text), -1), text, spatial)
    of_cells = _logits(
        network, images, text[:1].expand(len(images), -1), spatial[:1].expand(len(images), -1)
    )
    return Deletions(
        dict(zip(labels, _rises(of_structures), strict=True)),
        dict(zip(CELLS, _rises(of_cells), strict=True)),
    )


def cover_cells(pixels: Pixels) -> Iterator[Pixels]:
    """Copies of the picture, in each another cell of the grid filled with its mean, row by row."""
    mean = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    rows, columns = (
        np.linspace(0, length, GRID + 1).round().astype(int) for length in pixels.shape[:2]
    )
    for row in range(GRID):
        for column in range(GRID):
            covered = pixels.copy()
            covered[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean
            yield covered


def _without(detections: Sequence[Detection], label: str) -> list[Detection]:
    return [detection for detection in detections if detection.label != label]


def _logits(network: SpatialClip, image: Tensor, text: Tensor, spatial: Tensor) -> Tensor:
    return network.fuse(image, text, spatial).logit.double().cpu()


def _rises(logits: Tensor) -> list[float]:
    """By how much each logit but the first is above the first."""
    return [float(rise) for rise in logits[1:] - logits[0]]

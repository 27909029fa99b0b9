"""Deletion finds what a network with weights set by hand was made to dislike."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.anatomy import BY_CODE, LABELS
from detector.boxes import Detection
from model.criteria.faults import CELLS
from model.deletion import cover_cells, delete_each
from model.reasons import weightiest
from model.spatialclip.preprocess import Preprocessor

SIZE = 60
DETECTIONS = [
    Detection("NT", (5.0, 5.0, 20.0, 12.0), 0.9),
    Detection("NB", (30.0, 8.0, 38.0, 12.0), 0.8),
]
LAYOUT = [*DETECTIONS, Detection("NB", (31.0, 9.0, 38.0, 13.0), 0.1)]


class HandMadeNetwork(nn.Module):
    """Logit = a weight for each box by its label + a weight for each attended word + weights on
    brightness by place."""

    def __init__(self) -> None:
        super().__init__()
        self.of_labels = torch.zeros(len(LABELS))
        self.of_words = 0.0
        self.of_pixels = torch.zeros(SIZE, SIZE)

    device = torch.device("cpu")

    def encode(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        boxes: Tensor,
        labels: Tensor,
        confidences: Tensor,
        box_mask: Tensor,
        has_features: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        image = (pixel_values.mean(1) * self.of_pixels).sum((1, 2))
        text = self.of_words * attention_mask.sum(1).float()
        spatial = (self.of_labels[labels] * box_mask).sum(1)
        return image[:, None], text[:, None], spatial[:, None]

    def fuse(self, image: Tensor, text: Tensor, spatial: Tensor) -> Any:
        return SimpleNamespace(logit=(image + text + spatial).squeeze(1))


class OneWordEach:
    """A describer that writes one word for each structure."""

    def describe_batch(
        self, detections: Sequence[Sequence[Detection]], sizes: Sequence[tuple[int, int]]
    ) -> list[str]:
        return [" ".join(d.label for d in each) for each in detections]


def tokenize(texts: list[str], **_: Any) -> dict[str, Tensor]:
    longest = max(1, *(len(text.split()) for text in texts))
    mask = torch.tensor([[i < len(text.split()) for i in range(longest)] for text in texts])
    return {"input_ids": torch.zeros(mask.shape, dtype=torch.long), "attention_mask": mask.long()}


def delete(network: HandMadeNetwork, pixels: np.ndarray[Any, Any] | None = None) -> Any:
    picture = np.full((SIZE, SIZE, 3), 90, np.uint8) if pixels is None else pixels
    return delete_each(
        network,  # type: ignore[arg-type]
        Preprocessor(tokenize, SIZE),
        OneWordEach(),  # type: ignore[arg-type]
        picture,
        DETECTIONS,
        LAYOUT,
    )


def test_the_structure_that_the_network_dislikes_is_named() -> None:
    network = HandMadeNetwork()
    network.of_labels[BY_CODE["NB"].index] = -1.5
    network.of_labels[BY_CODE["NT"].index] = 2.0
    deleted = delete(network)
    # Both boxes of the nasal bone go, the weak one too.
    assert deleted.structures == pytest.approx({"NT": -2.0, "NB": 3.0})
    assert set(deleted.cells.values()) == {0.0}
    assert (weightiest(deleted).kind, weightiest(deleted).code) == ("structure", "NB")


def test_the_description_loses_the_structure_too() -> None:
    network = HandMadeNetwork()
    network.of_words = -0.7
    assert delete(network).structures == pytest.approx({"NT": 0.7, "NB": 0.7})


@pytest.mark.parametrize(("place", "cell"), list(enumerate(CELLS)))
def test_the_part_that_the_network_dislikes_is_named(place: int, cell: str) -> None:
    row, column = divmod(place, 3)
    network = HandMadeNetwork()
    where = (slice(20 * row, 20 * row + 20), slice(20 * column, 20 * column + 20))
    network.of_pixels[where] = -0.01
    pixels = np.full((SIZE, SIZE, 3), 60, np.uint8)
    pixels[where] = 240
    deleted = delete(network, pixels)
    assert list(deleted.cells) == list(CELLS)
    assert max(deleted.cells, key=lambda each: deleted.cells[each]) == cell
    assert (weightiest(deleted).kind, weightiest(deleted).code) == ("region", cell)


def test_a_network_that_sees_nothing_names_the_whole() -> None:
    assert weightiest(delete(HandMadeNetwork())).code == "whole"


def test_the_cells_cover_every_pixel_once_with_the_mean() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (31, 44, 3), dtype=np.uint8)
    mean = np.rint(pixels.mean((0, 1))).astype(np.uint8)
    covered = list(cover_cells(pixels))
    assert len(covered) == 9
    times = np.zeros(pixels.shape[:2], int)
    for each in covered:
        is_changed = (each != pixels).any(-1)
        assert (each[is_changed] == mean).all()
        times += (each == mean).all(-1) & ~(pixels == mean).all(-1)
    assert (times[~(pixels == mean).all(-1)] == 1).all()

"""SpatialCLIP's preprocessing for training and serving: pictures, texts and boxes to tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.anatomy import BY_CODE
from detector.boxes import Detection
from detector.frame import Pixels
from detector.letterbox import Letterbox

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own normalisation (Radford et al. 2021)."""

FILL = 128  # The grey level (0..255) around a letterboxed picture.
MAX_OBJECTS = 32  # The spatial branch reads at most so many boxes of a picture.
MAX_TOKENS = 117  # The text branch reads at most so many tokens, as SpatialCLIP was published.


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch for `SpatialClip`: each field is the argument of `forward` and `encode` that has its
    name; shapes as documented there."""

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    boxes: Tensor
    labels: Tensor
    confidences: Tensor
    box_mask: Tensor
    has_features: bool = False

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `SpatialClip.forward` and `SpatialClip.encode`."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def to(self, device: torch.device) -> "Inputs":
        return Inputs(
            self.pixel_values.to(device),
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.boxes.to(device),
            self.labels.to(device),
            self.confidences.to(device),
            self.box_mask.to(device),
            self.has_features,
        )


class Preprocessor:
    """Pictures, texts and boxes to tensors.

    `size` is the side of the square image in pixels; the tokenizer lies in `folder` and is loaded
    without any hub.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size

    @classmethod
    def load(cls, folder: Path, size: int) -> "Preprocessor":
        from transformers import AutoTokenizer

        return cls(
            AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            ),
            size,
        )

    def letterbox(self, crop: Pixels) -> Pixels:
        """(size, size, 3) uint8, aspect kept, grey around."""
        height, width = crop.shape[:2]
        return Letterbox.fit(width, height, self.size).apply(crop, fill=FILL)

    def images(self, letterboxed: Sequence[Pixels]) -> Tensor:
        """(B, 3, size, size), CLIP-normalised."""
        stacked = torch.from_numpy(np.stack(letterboxed)).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(MEAN).view(1, 3, 1, 1)
        return (stacked - mean) / torch.tensor(STD).view(1, 3, 1, 1)

    def texts(self, descriptions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask (B, L), L at most 117; truncation keeps the end token."""
        encoded = self.tokenizer(
            list(descriptions),
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def layouts(
        self, detections: Sequence[Sequence[Detection]], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (B, N, 4) as top-left x, y, width, height over the letterboxed square in 0..1,
        label indices (B, N), confidences (B, N) and mask (B, N; True: a box, False: padding).

        `sizes` are (width, height) of the pictures that the detections' pixels refer to. The most
        confident 32 are kept, none twice.
        """
        layouts = [
            sorted(layout, key=lambda d: (-d.confidence, d.label))[:MAX_OBJECTS]
            for layout in detections
        ]
        longest = max(1, *(len(layout) for layout in layouts)) if layouts else 1
        boxes = torch.zeros(len(layouts), longest, 4)
        labels = torch.full((len(layouts), longest), BY_CODE["UNKNOWN"].index)
        confidences = torch.zeros(len(layouts), longest)
        mask = torch.zeros(len(layouts), longest, dtype=torch.bool)
        for row, (layout, (width, height)) in enumerate(zip(layouts, sizes, strict=True)):
            letterbox = Letterbox.fit(width, height, self.size)
            for column, detection in enumerate(layout):
                x0, y0, x1, y1 = letterbox.to_model(detection.bbox)
                boxes[row, column] = torch.tensor([x0, y0, x1 - x0, y1 - y0]) / self.size
                labels[row, column] = BY_CODE[detection.label].index
                confidences[row, column] = detection.confidence
                mask[row, column] = True
        return boxes, labels, confidences, mask

    def batch(
        self,
        letterboxed: Sequence[Pixels],
        descriptions: Sequence[str],
        detections: Sequence[Sequence[Detection]],
        sizes: Sequence[tuple[int, int]],
    ) -> Inputs:
        return Inputs(
            self.images(letterboxed),
            *self.texts(descriptions),
            *self.layouts(detections, sizes),
        )

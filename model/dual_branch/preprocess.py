"""The dual-branch classifier's preprocessing for training and serving: frames to tensors."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from detector.boxes import area
from detector.frame import Frame, Pixels
from detector.letterbox import crop
from model.dual_branch.network import DualBranchConfig, Layout, Size

SCREEN: Size = (852, 1136)
"""Rows and columns of the Voluson screen that published weights were trained on."""
BANNER_ROWS = 68
BANNER_RGB = (19, 22, 25)
"""The published code covers so many upper rows, where the screen has its text, in this colour."""
_Triple = tuple[float, float, float]
NORMALISATION: dict[Layout, tuple[_Triple, _Triple]] = {
    # ImageNet's, which the backbones' own weights expect.
    Layout.REGION: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Layout.PUBLISHED: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of red, green and blue in 0..1."""


class Preprocessor:
    """Frames to the network's input, as the config's layout says."""

    def __init__(self, config: DualBranchConfig) -> None:
        self.layout = config.layout
        rows, columns = zip(*config.sizes, strict=True)
        self.size: Size = SCREEN if self.layout is Layout.PUBLISHED else (max(rows), max(columns))
        mean, deviation = NORMALISATION[self.layout]
        self._mean = torch.tensor(mean).view(1, 3, 1, 1)
        self._deviation = torch.tensor(deviation).view(1, 3, 1, 1)

    def canvas(self, frame: Frame) -> Pixels:
        """RGB of `size`, (rows, columns, 3): the frame's largest tissue region with its aspect
        kept and black around, or the published screen."""
        if self.layout is Layout.PUBLISHED:
            return published_screen(frame.pixels)
        region = max(frame.regions, key=lambda each: area(each.bbox))
        return fit(crop(frame, region).pixels, self.size)

    def normalise(self, canvases: Sequence[Pixels]) -> Tensor:
        """(B, 3, rows, columns) float32."""
        stacked = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).float().div_(255)
        return (stacked - self._mean) / self._deviation


def fit(pixels: Pixels, size: Size) -> Pixels:
    """The picture scaled into rows x columns with its aspect kept, centred on black, antialiased
    where it shrinks."""
    rows, columns = pixels.shape[:2]
    scale = min(size[0] / rows, size[1] / columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(
        np.ascontiguousarray(pixels), (width, height), interpolation=method
    )
    return canvas


def published_screen(pixels: Pixels) -> Pixels:
    """The whole picture stretched to 852 x 1136 between corner pixels, its banner covered.

    It changes the aspect and may cover anatomy: published weights have seen nothing else.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    screen = interpolate(tensor, SCREEN, mode="bilinear", align_corners=True)[0].round().byte()
    canvas: Pixels = screen.permute(1, 2, 0).contiguous().numpy()
    canvas[:BANNER_ROWS] = BANNER_RGB
    return canvas

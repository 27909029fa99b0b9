"""SonoNet-16 without its classes: a network trained on planes of fetal ultrasound.

Baumgartner et al. 2017, SonoNet: Real-Time Detection and Localisation of Fetal Standard Scan Planes
in Freehand Ultrasound (IEEE Trans. Med. Imaging 36).
"""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

_CHANNELS = (1, 16, 32, 64, 128, 128)
_CONVOLUTIONS = (2, 2, 3, 3, 3)
_FROZEN_BLOCKS = 3
_SCALE = 255.0
"""The published network reads a picture of mean 0 and standard deviation 255."""


class SonoNet(nn.Module):
    """Grey pictures (B, 1, S, S) -> features (B, 128, S / 32, S / 32).

    The published network's features have a stride of 16; theirs are averaged over 2 x 2.
    """

    channels = _CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _block(before, after, count)
            for (before, after), count in zip(pairwise(_CHANNELS), _CONVOLUTIONS, strict=True)
        )

    def forward(self, grey: Tensor) -> Tensor:
        features = grey
        for number, block in enumerate(self.blocks):
            features = block(max_pool2d(features, 2) if number else features)
        return avg_pool2d(features, 2)

    def freeze_early(self) -> None:
        """Stop training the first blocks."""
        self.blocks[:_FROZEN_BLOCKS].requires_grad_(False)

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Load the published weights, but for the layers of the classes.

        Raises ValueError on another network's.
        """
        prefix = "features."
        own = {
            f"blocks.{name.removeprefix(prefix)}": tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
        counts = {name: t for name, t in self.state_dict().items() if "num_batches" in name}
        try:
            self.load_state_dict(own | counts)
        except RuntimeError as error:
            raise ValueError("these weights are another network's") from error


def normalise_picture(grey: Tensor, fill: float) -> Tensor:
    """(B, 1, H, W) with a mean of 0 and a standard deviation of 255 in each picture, rows and
    columns of the letterbox left out, which become 0.

    Brightness and contrast of a whole picture vanish by it, as the published network wants it.
    `fill` is the value of the letterbox's border.
    """
    is_border = (grey - fill).abs() < 1e-3
    rows = ~is_border.all(3, keepdim=True)
    columns = ~is_border.all(2, keepdim=True)
    inside = (rows & columns).to(grey.dtype)
    count = inside.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (grey * inside).sum((2, 3), keepdim=True) / count
    centred = (grey - mean) * inside
    deviation = (centred.square().sum((2, 3), keepdim=True) / count).sqrt()
    # A picture of one grey level has none.
    return centred / deviation.clamp_min(1e-3) * _SCALE


def _block(before: int, after: int, count: int) -> nn.Sequential:
    widths = [before] + [after] * count
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            for inputs, outputs in pairwise(widths)
        )
    )

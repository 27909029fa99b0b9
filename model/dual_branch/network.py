"""The dual-branch network: a shallow backbone sees the whole, a detailed one the detail.

arXiv 2506.08623: each branch reads the picture at a size of its own; their pooled features stand
one after the other before one linear layer. The backbones are timm's, with torchvision's constants
of batch normalisation, so that published checkpoints give the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Size = tuple[int, int]
"""Rows and columns in pixels."""
PUBLISHED_CLASSES = (
    "Femur",
    "Head (PPP, Tectum)",
    "Head (Cerebellum)",
    "Head (Sagittal)",
    "Other",
    "Stomach",
    "Bladder (CDC)",
    "Nasal triangle",
    "Shoulder bone",
    "Spine",
    "Kidneys",
    "Umbilical cord (Anterior abdominal wall)",
    "Placenta (Umbilical cord)",
    "Slice through three vessels",
    "Four-chamber heart section",
    "Cervix",
)
"""The published classes in the order of the published head."""
MAX_SIDE = 2048
"""Pixels; a longer side of a branch's picture is a slip of the keyboard."""
MIN_SIDE = 32
"""Pixels: the coarsest stride of the backbones."""


class Layout(StrEnum):
    """How a picture becomes the network's input (`model.dual_branch.preprocess`)."""

    REGION = "region"
    """The tissue region with its aspect kept, antialiased, by ImageNet's mean and deviation."""
    PUBLISHED = "published"
    """The whole screen stretched to 852 x 1136 with 68 covered rows: what published weights know.
    """


@dataclass(frozen=True, slots=True)
class Branch:
    """A backbone by its name in timm, the width of its pooled features, and its picture's size."""

    backbone: str
    channels: int
    size: Size


@dataclass(frozen=True, slots=True)
class Architecture:
    """One or two branches, the shallow one first; `zero_head`: the head begins with zeros."""

    branches: tuple[Branch, ...]
    zero_head: bool = False
    may_be_gated: bool = False


def _efficientnet(name: str, channels: int, side: int) -> Branch:
    return Branch(f"efficientnet_{name}", channels, (side, side))


# A third, two thirds and 0.54 of the published 852 x 1136, rounded down as torch does.
_RESNET18 = Branch("resnet18", 512, (281, 374))
ARCHITECTURES: Mapping[str, Architecture] = {
    "efficientnet-b0-b6": Architecture(
        (_efficientnet("b0", 1280, 224), _efficientnet("b6", 2304, 528))
    ),
    "resnet18-resnet34": Architecture(
        (_RESNET18, Branch("resnet34", 512, (570, 761))), zero_head=True
    ),
    "resnet34-efficientnet-b6": Architecture(
        (Branch("resnet34", 512, (256, 256)), _efficientnet("b6", 2304, 528))
    ),
    "resnet18-densenet201": Architecture(
        (_RESNET18, Branch("densenet201", 1920, (460, 613))), may_be_gated=True
    ),
    "resnet18": Architecture((_RESNET18,)),
    "efficientnet-b7": Architecture((_efficientnet("b7", 2560, 600),)),
}
"""The published ones. "A-B" is shallow A and detailed B."""
_EFFICIENTNETS_OF_TENSORFLOW = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")
"""torchvision gives these TensorFlow's constants of batch normalisation."""


@dataclass(frozen=True, slots=True)
class DualBranchConfig:
    """What decides the network, and the classes that its outputs mean.

    `sizes`: rows and columns of each branch's picture, the shallow one's first. `gated`: features
    are weighted by a learnt share, a for the shallow and 1 - a for the detailed branch. Raises
    ValueError on what no network can be made of.
    """

    architecture: str
    classes: tuple[str, ...]
    sizes: tuple[Size, ...] = ()
    layout: Layout = Layout.REGION
    gated: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture {self.architecture!r} is none of {', '.join(ARCHITECTURES)}"
            )
        architecture = ARCHITECTURES[self.architecture]
        check_classes(self.classes)
        sizes = self.sizes or tuple(branch.size for branch in architecture.branches)
        object.__setattr__(self, "sizes", sizes)
        if len(sizes) != len(architecture.branches):
            raise ValueError(
                f"{self.architecture} has {len(architecture.branches)} branches, not {len(sizes)}"
            )
        if not all(MIN_SIDE <= side <= MAX_SIDE for size in sizes for side in size):
            raise ValueError(f"the sides of a branch's picture are {MIN_SIDE} to {MAX_SIDE} pixels")
        if self.gated and not architecture.may_be_gated:
            raise ValueError(f"{self.architecture} has no gate")

    @property
    def branches(self) -> tuple[Branch, ...]:
        return ARCHITECTURES[self.architecture].branches

    @property
    def channels(self) -> int:
        """Features before the head."""
        return sum(branch.channels for branch in self.branches)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "classes": list(self.classes),
            "sizes": [list(size) for size in self.sizes],
            "layout": self.layout.value,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError where the values describe no network."""
        return cls(
            str(values["architecture"]),
            tuple(map(str, values["classes"])),
            tuple((int(rows), int(columns)) for rows, columns in values["sizes"]),
            Layout(values["layout"]),
            bool(values["gated"]),
        )


def check_classes(classes: Sequence[str]) -> None:
    """Raises ValueError unless there are two classes at least, each named, none twice."""
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} classes: two are needed at least")
    for number, name in enumerate(classes):
        if not name.strip():
            raise ValueError("a class has no name")
        if name in classes[:number]:
            raise ValueError(f"class {name!r} is named twice")


class DualBranch(nn.Module):
    """Pictures (B, 3, H, W), normalised, H x W the largest branch's size or the published screen's
    -> logits (B, C) in the order of `config.classes`.

    Weights are random: nothing is downloaded.
    """

    def __init__(self, config: DualBranchConfig) -> None:
        super().__init__()
        self.config = config
        self.branches = nn.ModuleList(build_backbone(branch.backbone) for branch in config.branches)
        self.gate = nn.Parameter(torch.tensor(0.5)) if config.gated else None
        self.head = nn.Linear(config.channels, len(config.classes))
        if ARCHITECTURES[config.architecture].zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def features(self, pictures: Tensor) -> Tensor:
        """(B, F) pooled features of the branches, one after the other, before the head."""
        features = [
            branch(self._resize(pictures, size))
            for branch, size in zip(self.branches, self.config.sizes, strict=True)
        ]
        if self.gate is not None:
            shallow, detailed = features
            features = [self.gate * shallow, (1 - self.gate) * detailed]
        return torch.cat(features, dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(pictures))
        return logits

    def freeze_backbones(self) -> None:
        """Let only head and gate learn, as published `finetune_backbone=False`."""
        self.branches.requires_grad_(False)

    def _resize(self, pictures: Tensor, size: Size) -> Tensor:
        if tuple(pictures.shape[2:]) == size:
            return pictures
        if self.config.layout is Layout.PUBLISHED:
            return interpolate(pictures, size, mode="bilinear", align_corners=True)
        # Without antialiasing the shallow branch would see a grating in fine speckle. In float32:
        # half precision has no antialiased kernel on every device.
        return interpolate(
            pictures.float(), size, mode="bilinear", align_corners=False, antialias=True
        ).to(pictures.dtype)


def build_backbone(name: str) -> nn.Module:
    """timm's network of that name without its classes: pictures -> pooled features (B, F)."""
    # Imported here: it is slow, and only this family's networks need it.
    from timm import create_model

    constants: dict[str, Any] = {}
    if name in _EFFICIENTNETS_OF_TENSORFLOW:
        constants = {"bn_eps": 1e-3, "bn_momentum": 0.01}
    network: nn.Module = create_model(name, pretrained=False, num_classes=0, **constants)
    return network

"""Frozen image towers by name: pictures to features, one row a picture."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detector.console import UsageError
from detector.frame import Pixels
from detector.letterbox import Letterbox
from model.spatialclip.backbone import SONONET, HybridEmbed
from model.spatialclip.preprocess import FILL, Preprocessor

Features = npt.NDArray[np.float32]
EFFICIENTNET, CLIP, SPATIALCLIP = "efficientnet-lite0", "clip", "spatialclip"
SPELLINGS = (
    f"{EFFICIENTNET}, {SONONET}=FILE.safetensors, {CLIP}=FOLDER, {SPATIALCLIP}=FOLDER, or two of"
    ' them joined by "+"'
)
CNN_SIZE = 288  # Side in pixels of the square that the convolutional networks read.
TOWER_VERSION = 1
"""Raise this when a tower gives other features of the same picture: caches are then made anew."""


@dataclass(frozen=True, slots=True)
class ImageTower:
    """`name` is as typed, without folders; `key` is of its weights, for caches. `features` gives
    (B, D) float32 of RGB pictures of any sizes, of `batch` pictures best. `parts` are the towers
    whose features stand side by side in its own."""

    name: str
    key: str
    features: Callable[[Sequence[Pixels]], Features]
    batch: int = 2
    parts: tuple["ImageTower", ...] = ()


def load_tower(text: str, device: torch.device | None = None) -> ImageTower:
    """The tower of a name as in SPELLINGS; of joined ones the features stand side by side.

    Raises UsageError on no tower's name or another network's file, QCError on a wrong folder.
    """
    device = device or torch.device("cpu")
    parts = tuple(_load_one(part, device) for part in text.split("+"))
    # Two at a time stay in a CPU's cache; a GPU wants more.
    parts = tuple(replace(part, batch=2 if device.type == "cpu" else 32) for part in parts)
    if len(parts) == 1:
        return parts[0]

    def features(pictures: Sequence[Pixels]) -> Features:
        return np.concatenate([part.features(pictures) for part in parts], 1)

    name, key = ("+".join(getattr(part, each) for part in parts) for each in ("name", "key"))
    return ImageTower(name, key, features, parts[0].batch, parts)


def _load_one(text: str, device: torch.device) -> ImageTower:
    kind, _, place = text.partition("=")
    path = Path(place)
    if kind == EFFICIENTNET and not place:
        return _convolutional(kind, _efficientnet(), device)
    if kind == SONONET and place:
        return _convolutional(kind, _sononet(path), device)
    if kind == CLIP and place:
        return _clip(path, device)
    if kind == SPATIALCLIP and place:
        return _spatialclip(path, device)
    raise UsageError(f"there is no tower {text!r}; give {SPELLINGS}")


def _efficientnet() -> HybridEmbed:
    from training.train.small_spatialclip import imagenet_weights

    backbone = HybridEmbed("tf_efficientnet_lite0", 1)
    backbone.load_pretrained(imagenet_weights())
    return backbone


def _sononet(path: Path) -> HybridEmbed:
    backbone = HybridEmbed(SONONET, 1)
    try:
        backbone.load_sononet(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(f"{path.name} is no SonoNet-16: {str(error).splitlines()[0]}") from None
    return backbone


def _convolutional(name: str, backbone: HybridEmbed, device: torch.device) -> ImageTower:
    preprocessor = Preprocessor(None, CNN_SIZE)
    backbone.to(device).eval()

    @torch.inference_mode()
    def features(pictures: Sequence[Pixels]) -> Features:
        squares = [preprocessor.letterbox(each) for each in pictures]
        maps = backbone.forward_features(preprocessor.images(squares).to(device))
        inside = torch.stack([_inside(each, maps.shape[-1]) for each in pictures]).to(device)
        return _array(pool(maps, inside))

    return ImageTower(name, _key(name, backbone.networks), features)


def pool(maps: Tensor, inside: Tensor) -> Tensor:
    """(B, C, h, w) features and (B, h, w) where the picture is -> (B, 2C): their mean and their
    maximum over the picture, without the letterbox's border."""
    mask = inside[:, None].to(maps.dtype)
    mean = (maps * mask).sum((2, 3)) / mask.sum((2, 3))
    highest = maps.masked_fill(~inside[:, None], -torch.inf).amax((2, 3))
    return torch.cat((mean, highest), 1)


def _inside(picture: Pixels, cells: int) -> Tensor:
    """(cells, cells) True where a cell's centre lies in the picture, not in the border."""
    height, width = picture.shape[:2]
    letterbox = Letterbox.fit(width, height, CNN_SIZE)
    x0, y0, x1, y1 = letterbox.to_model((0, 0, width, height))
    centres = (torch.arange(cells) + 0.5) * CNN_SIZE / cells
    rows, columns = (centres >= y0) & (centres <= y1), (centres >= x0) & (centres <= x1)
    return rows[:, None] & columns[None]


def _clip(folder: Path, device: torch.device) -> ImageTower:
    from model.fetalclip.checkpoint import load_fetalclip
    from model.fetalclip.preprocess import images

    network = load_fetalclip(folder, device)

    def features(pictures: Sequence[Pixels]) -> Features:
        return _array(network.image_features(images(pictures, network.architecture.image)))

    return ImageTower(f"{CLIP}={folder.name}", _key(CLIP, network.clip.vision_model), features)


def _spatialclip(folder: Path, device: torch.device) -> ImageTower:
    from model.spatialclip.checkpoint import load_spatialclip

    model = load_spatialclip(folder, device)
    size = int(model.config.clip["vision_config"]["image_size"])
    preprocessor = Preprocessor(None, size)
    tower = model.trimodal_clip

    @torch.inference_mode()
    def features(pictures: Sequence[Pixels]) -> Features:
        squares = [preprocessor.letterbox(each) for each in pictures]
        return _array(tower.encode_image(preprocessor.images(squares).to(device)))

    return ImageTower(f"{SPATIALCLIP}={folder.name}", _key(SPATIALCLIP, model), features)


def _array(features: Tensor) -> Features:
    array: Features = features.float().cpu().numpy()
    return array


def _key(name: str, network: nn.Module | Any) -> str:
    digest = hashlib.sha256(repr((name, TOWER_VERSION, FILL, CNN_SIZE)).encode())
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]

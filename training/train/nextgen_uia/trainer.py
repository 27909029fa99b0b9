"""Train a head on a tower, with or without adapters: classes of pictures, or masks.

From top to bottom: a training, what it begins with, what a batch and a validation are, pictures,
prediction. Recipe: `training.adapter_recipes`; the loop: `training.train.loop`. The test split is
never read here.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.console import UsageError
from detector.frame import Pixels
from model.nextgen_uia import checkpoint
from model.nextgen_uia.adapters import (
    AdapterConfig,
    adapter_parameters,
    add_adapters,
    set_training_mode,
)
from model.nextgen_uia.network import (
    AdaptedNetwork,
    ClipTower,
    HeadConfig,
    SonoNetTower,
    Task,
    Tower,
)
from model.nextgen_uia.preprocess import Mask, fit_mask, normalise, square, unfit
from model.spatialclip.preprocess import FILL
from training.adapter_recipes import HeadRecipe
from training.data.augment import retone
from training.data.labelled import read_first_frame
from training.data.lesions import Lesion, count_lesions, lesions_hash, read_truth
from training.evaluation.metrics.multiclass import confusion_matrix, macro_f1
from training.evaluation.metrics.segmentation import agreement
from training.train import runs
from training.train.loop import EpochTraining, check_parts, train_epochs, trainable_parameters
from training.train.nextgen_uia.frozen_features import FrozenFeatures
from training.train.nextgen_uia.losses import dice_ce_loss, focal_loss

BETAS = (0.9, 0.95)
MAX_SCALE, MAX_SHIFT = math.log(1.2), 0.08
_MEMORY = 1 << 30
"""Bytes of squares that are kept; the others are read again."""


def train_head(
    tower: Tower,
    config: HeadConfig,
    training: Sequence[Lesion],
    validation: Sequence[Lesion] | None,
    out: Path,
    recipe: HeadRecipe,
    *,
    adapters: AdapterConfig | None = None,
    start: checkpoint.Trained | None = None,
    learnt_before: Set[str] | None = frozenset(),
    features: FrozenFeatures | None = None,
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train, write what learnt, of the epoch of the best validation, to `out`, and return the facts
    of training.json. The score is the mean Dice of pictures, or macro-F1. Without `validation`,
    as for a few shots, the last epoch is written.

    New `adapters`, or those of `start`, learn with the head: of blocks that it reads.
    `learnt_before` are the SHA-256 of the pictures that the start learnt from, None where unknown.
    With `features` the tower's frozen image networks are asked once for each copy of a picture.
    A checkpoint after each epoch allows `resume`, to the same losses. Raises UsageError where
    nothing could be learnt or validated, QCError where a loss is not finite.
    """
    if validation is not None:
        check_parts(training, validation, recipe.batch)
    torch.manual_seed(recipe.seed)
    device = next(tower.parameters()).device
    sha256 = checkpoint.tower_sha256(tower)
    adapters = _begin_with(tower, adapters, start)
    network = AdaptedNetwork(tower, config).to(device)
    run = _Run(network, adapters, training, validation, recipe, sha256, features)
    train_epochs(run, out, resume=resume)
    facts = {
        "command": command,
        "recipe": recipe.to_json(),
        "head": config.to_json(),
        "adapters": None if adapters is None else adapters.to_json(),
        "tower": tower.facts() | {"sha256": sha256},
        "losses": run.losses,
        "scores": run.validations,
        "best epoch": run.best_epoch,
        "learnt parameters": sum(p.numel() for _, p in run.parameters),
        "training": count_lesions(training) | {"sha256": run.facts["pictures"]},
        "validation": None
        if validation is None
        else count_lesions(validation) | {"score": run.best_value},
    }
    checkpoint.save_trained(
        out,
        tower,
        sha256,
        adapters=adapters,
        head=network.head,
        head_config=config,
        tuned=recipe.tune_tower or (start is not None and start.tuned),
        recipe=recipe.to_json(),
    )
    runs.write_learnt(out, (lesion.path for lesion in training), learnt_before)
    runs.write_validated(out, (lesion.path for lesion in validation or ()))
    runs.write_facts(out, facts)
    return facts


def _begin_with(
    tower: Tower, adapters: AdapterConfig | None, start: checkpoint.Trained | None
) -> AdapterConfig | None:
    """Put the adapters in; those of blocks behind the last that the head reads would learn
    nothing."""
    last = range(max(tower.layers) + 1)
    if start is not None:
        checkpoint.apply_adapters(start, tower, tuple(last))
        return (
            None if start.adapters is None else checkpoint.limit_layers(start.adapters, tuple(last))
        )
    if adapters is None:
        return None
    if isinstance(tower, SonoNetTower):
        raise UsageError("--adapter: SonoNet has no attention blocks; give --adapter none")
    adapters = checkpoint.limit_layers(adapters, tuple(last))
    add_adapters(tower, adapters)
    return adapters


class _Run(EpochTraining):
    """Pictures with their class or mask; adapters, head and a tuned tower learn."""

    network: AdaptedNetwork
    recipe: HeadRecipe

    def __init__(
        self,
        network: AdaptedNetwork,
        adapters: AdapterConfig | None,
        training: Sequence[Lesion],
        validation: Sequence[Lesion] | None,
        recipe: HeadRecipe,
        sha256: str,
        features: FrozenFeatures | None,
    ) -> None:
        network.tower.requires_grad_(recipe.tune_tower)
        of_adapters = () if adapters is None else tuple(adapter_parameters(network.tower))
        for _, parameter in of_adapters:
            parameter.requires_grad_(True)
        parameters = trainable_parameters(network)
        super().__init__(
            network,
            parameters,
            _optimizer(parameters, {id(p) for _, p in of_adapters}, recipe),
            recipe,
            {
                **recipe.to_json(),
                "head": network.head.config.to_json(),
                "adapters": None if adapters is None else adapters.to_json(),
                "tower": sha256,
                "pictures": lesions_hash(training),
                **({} if features is None else FrozenFeatures.facts),
            },
            len(training),
            recipe.patience,
        )
        side, config = network.tower.side, network.head.config
        self.pictures = Pictures(training, side, config, recipe.copies, features)
        self.held_out = (
            None if validation is None else Pictures(validation, side, config, features=features)
        )

    def batch(self, rows: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        return self.pictures.batch(rows, generator if self.recipe.augment else None)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, target = (each.to(self.device) for each in batch)
        logits = answer(self.network, self.pictures, inputs)
        return _loss(logits, target, self.network.head.config, self.recipe)

    def validate(self) -> dict[str, float]:
        if self.held_out is None:
            # Of numbers of epochs the last one is the highest.
            return {"epoch": float(self.epoch + 1)}
        return {"score": validation_score(self.network, self.held_out, self.recipe.batch)}

    def train_mode(self) -> None:
        """What is frozen evaluates: its dropout and statistics stay out of it."""
        self.network.head.train()
        if self.recipe.tune_tower:
            self.network.tower.train()
        elif isinstance(self.network.tower, ClipTower):
            set_training_mode(self.network.tower)
        else:
            self.network.tower.eval()


def _optimizer(
    parameters: Sequence[tuple[str, nn.Parameter]], of_adapters: set[int], recipe: HeadRecipe
) -> torch.optim.Optimizer:
    """A tuned tower has a share of the learning rate; vectors do not decay."""

    def share(name: str, parameter: nn.Parameter) -> float:
        is_tower = name.startswith("tower.") and id(parameter) not in of_adapters
        return recipe.tower_rate if is_tower else 1.0

    return torch.optim.AdamW(
        [
            {
                "params": [p],
                "peak": recipe.learning_rate * share(n, p),
                "weight_decay": recipe.weight_decay if p.ndim > 1 else 0.0,
            }
            for n, p in parameters
        ],
        betas=BETAS,
    )


def _loss(logits: Tensor, target: Tensor, config: HeadConfig, recipe: HeadRecipe) -> Tensor:
    if config.task is Task.SEGMENTATION:
        return dice_ce_loss(logits, target)
    return focal_loss(logits, target, recipe.focal_gamma)


class Pictures:
    """Squares of pictures, and of their masks, read once while memory lasts.

    With `copies` a training draws from the square and so many augmented copies of it, else it
    augments anew. With `features` inputs are those of the tower's image networks.
    """

    def __init__(
        self,
        lesions: Sequence[Lesion],
        side: int,
        config: HeadConfig,
        copies: int = 0,
        features: FrozenFeatures | None = None,
    ) -> None:
        self.lesions = lesions
        self.side = side
        self.config = config
        self.copies = copies
        self.features = features
        self._squares: dict[tuple[int, int], tuple[Pixels, Mask | None]] = {}
        self._features: dict[tuple[int, int], npt.NDArray[np.float16]] = {}
        self._most = _MEMORY // (4 * side * side)

    def __len__(self) -> int:
        return len(self.lesions)

    def square(self, index: int, copy: int = 0) -> tuple[Pixels, Mask | None]:
        """The picture (side, side, 3) and its mask (side, side); from 1 on an augmented copy, the
        same one each time. Raises QCError, SampleError."""
        stored = self._squares.get((index, copy))
        if stored is None:
            stored = self._augment_copy(index, copy) if copy else self._read(index)
            if len(self._squares) < self._most:
                self._squares[index, copy] = stored
        return stored

    def batch(
        self, indices: Sequence[int], generator: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (as `inputs`), and classes (B,) or masks (B, side, side); augmented with a
        generator."""
        draws = [self._draw(index, generator) for index in indices]
        targets = [
            np.asarray(
                self.config.classes.index(self.lesions[index].label) if mask is None else mask,
                np.int64,
            )
            for index, (_, mask) in zip(indices, draws, strict=True)
        ]
        return self._stack([inputs for inputs, _ in draws]), torch.from_numpy(np.stack(targets))

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """(B, 3, side, side) of the pictures as they are, or what the image networks give."""
        return self._stack([self._input(index, 0) for index in indices])

    def _draw(
        self, index: int, generator: np.random.Generator | None
    ) -> tuple[npt.NDArray[Any], Mask | None]:
        if generator is None or self.copies:
            copy = 0 if generator is None else int(generator.integers(self.copies + 1))
            return self._input(index, copy), self._mask(index, copy)
        pixels, mask = augment(*self.square(index), generator)
        return pixels if self.features is None else self.features.read(pixels), mask

    def _mask(self, index: int, copy: int) -> Mask | None:
        """Of classes no square is needed, whose features may be known."""
        return self.square(index, copy)[1] if self.config.task is Task.SEGMENTATION else None

    def _input(self, index: int, copy: int) -> npt.NDArray[Any]:
        if self.features is None:
            return self.square(index, copy)[0]
        features = self._features.get((index, copy))
        if features is None:
            features = self.features.read(self.square(index, copy)[0])
            if len(self._features) * features.nbytes < _MEMORY:
                self._features[index, copy] = features
        return features

    def _stack(self, inputs: Sequence[npt.NDArray[Any]]) -> Tensor:
        if self.features is None:
            return normalise(inputs)
        return torch.from_numpy(np.stack(inputs)).float()

    def _read(self, index: int) -> tuple[Pixels, Mask | None]:
        lesion = self.lesions[index]
        pixels = read_first_frame(lesion.path).pixels
        mask = None
        if self.config.task is Task.SEGMENTATION:
            mask = fit_mask(read_truth(lesion, *pixels.shape[:2]), self.side)
        return square(pixels, self.side), mask

    def _augment_copy(self, index: int, copy: int) -> tuple[Pixels, Mask | None]:
        """By the picture itself, so that another division of the patients has the same copies."""
        pixels, mask = self.square(index)
        key = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
        return augment(pixels, mask, np.random.default_rng((key, copy)))


def augment(
    pixels: Pixels, mask: Mask | None, generator: np.random.Generator
) -> tuple[Pixels, Mask | None]:
    """A square and its mask scaled, moved and mirrored left to right alike, the square re-toned.

    Nothing is turned upside down or solarised: no probe shows it so.
    """
    side = pixels.shape[0]
    scale = math.exp(generator.uniform(-MAX_SCALE, MAX_SCALE))
    shift = generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * side + side * (1 - scale) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    if generator.random() < 0.5:
        # The picture's columns run the other way.
        matrix = matrix @ np.array([[-1.0, 0, side - 1], [0, 1, 0], [0, 0, 1]])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    moved = np.asarray(
        cv2.warpAffine(pixels, matrix, (side, side), flags=method, borderValue=(FILL, FILL, FILL)),
        np.uint8,
    )
    if mask is not None:
        mask = np.asarray(
            cv2.warpAffine(mask, matrix, (side, side), flags=cv2.INTER_NEAREST), np.uint8
        )
    return retone(moved, generator), mask


@torch.inference_mode()
def predict(
    network: AdaptedNetwork, pictures: Pictures, batch: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Of each picture the softmax over classes: (C,), or (C, side, side) of its square."""
    network.eval()
    for start in range(0, len(pictures), batch):
        indices = range(start, min(start + batch, len(pictures)))
        logits = answer(network, pictures, pictures.inputs(indices).to(network.device))
        yield from logits.float().softmax(1).cpu().numpy()


def answer(network: AdaptedNetwork, pictures: Pictures, inputs: Tensor) -> Tensor:
    """The logits of inputs as `pictures` gives them."""
    if pictures.features is None:
        return network(inputs)  # type: ignore[no-any-return]
    return network.forward_features(inputs)


def predict_mask(probability: npt.NDArray[np.float32], height: int, width: int) -> Mask:
    """(C, side, side) of a square -> (height, width) of its picture: the most probable class."""
    return np.asarray(unfit(probability, height, width).argmax(0), np.uint8)


@torch.inference_mode()
def segment_picture(network: AdaptedNetwork, pixels: Pixels) -> Mask:
    """(H, W, 3) a picture -> (H, W): the most probable class of each pixel."""
    network.eval()
    inputs = normalise([square(pixels, network.tower.side)]).to(network.device)
    (probability,) = network(inputs).float().softmax(1).cpu().numpy()
    return predict_mask(probability, *pixels.shape[:2])


def validation_score(network: AdaptedNetwork, pictures: Pictures, batch: int) -> float:
    """Mean Dice of the squares, or macro-F1 of the classes; not finite where the network's answers
    are not."""
    answers = list(predict(network, pictures, batch))
    if not all(np.isfinite(each).all() for each in answers):
        return math.nan
    classes = network.head.config.classes
    if network.head.config.task is Task.CLASSIFICATION:
        labels = [lesion.label for lesion in pictures.lesions]
        return macro_f1(
            confusion_matrix(labels, [classes[int(each.argmax())] for each in answers], classes)
        )
    values = []
    for index, each in enumerate(answers):
        mask = pictures.square(index)[1]
        assert mask is not None
        values.append(agreement(np.asarray(each.argmax(0), np.uint8), mask).dice)
    return float(np.mean(values))

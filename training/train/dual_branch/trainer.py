"""Train the dual-branch classifier on frames labelled with their plane.

From top to bottom: prediction, the pictures of a run, augmentation, a training, what a batch and a
validation are. Recipe: `training.family_recipes`; the loop: `training.train.loop`.
"""

import math
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detector.console import UsageError
from detector.frame import Frame, Pixels
from model.dual_branch.checkpoint import load_backbones, save_dual_branch
from model.dual_branch.network import DualBranch, DualBranchConfig
from model.dual_branch.preprocess import Preprocessor
from training.data.augment import retone
from training.data.planes import Plane, count_planes, planes_hash, read_frame
from training.data.samples import file_hash
from training.evaluation.abstention import Abstention, fit_abstention, save_abstention
from training.evaluation.metrics.multiclass import confusion_matrix, macro_f1
from training.family_recipes import DualBranchRecipe
from training.train import runs
from training.train.dual_branch.losses import ImbalanceLoss
from training.train.loop import EpochTraining, check_parts, train_epochs, trainable_parameters
from training.train.precision import autocast

CACHE_BYTES = 2 << 30
"""Preprocessed pictures are held in memory up to this much in all; the others are read each epoch.
"""
MAX_SCALE, MAX_SHIFT = 0.15, 0.0425
"""Augmentation: natural logarithm of the zoom, and share of each side (the published shift)."""


@torch.no_grad()
def predict(network: DualBranch, pictures: "Pictures", batch: int = 16) -> npt.NDArray[np.float64]:
    """(N, C) probabilities of the classes, unaugmented, in float32."""
    network.eval()
    rows = []
    for start in range(0, len(pictures), batch):
        indices = range(start, min(start + batch, len(pictures)))
        tensor = pictures.preprocessor.normalise([pictures.canvas(i) for i in indices])
        rows.append(network(tensor.to(network.device)).double().softmax(-1).cpu())
    return np.asarray(torch.cat(rows).numpy(), np.float64)


@torch.no_grad()
def classify_frame(
    network: DualBranch, preprocessor: Preprocessor, frame: Frame
) -> dict[str, float]:
    """The probability of each class for one frame."""
    tensor = preprocessor.normalise([preprocessor.canvas(frame)]).to(network.device)
    shares = network.eval()(tensor).double().softmax(-1)[0].tolist()
    return dict(zip(network.config.classes, shares, strict=True))


class Pictures:
    """The canvases of planes, made when they are first asked for."""

    def __init__(
        self, planes: Sequence[Plane], preprocessor: Preprocessor, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.planes = planes
        self.preprocessor = preprocessor
        rows, columns = preprocessor.size
        self._slots = cache_bytes // (rows * columns * 3)
        self._canvases: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.planes)

    def canvas(self, index: int) -> Pixels:
        """The plane's picture (rows, columns, 3). Raises QCError naming its row."""
        canvas = self._canvases.get(index)
        if canvas is None:
            canvas = self.preprocessor.canvas(read_frame(self.planes[index]))
            if len(self._canvases) < self._slots:
                self._canvases[index] = canvas
        return canvas


def augment(canvas: Pixels, generator: np.random.Generator) -> Pixels:
    """The picture scaled, moved, mirrored left to right and re-toned.

    One scale serves both axes: the shape of the anatomy tells the plane. Nothing is turned upside
    down, as no probe does.
    """
    rows, columns = canvas.shape[:2]
    scale = math.exp(generator.uniform(-MAX_SCALE, MAX_SCALE))
    shift_x, shift_y = generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * (columns, rows)
    left, top = columns * (1 - scale) / 2 + shift_x, rows * (1 - scale) / 2 + shift_y
    matrix = np.array([[scale, 0, left], [0, scale, top]])
    if generator.random() < 0.5:
        # Columns, the second axis: the third one is colour, whose mirror image is BGR.
        canvas = np.ascontiguousarray(canvas[:, ::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    moved = np.asarray(cv2.warpAffine(canvas, matrix, (columns, rows), flags=method), np.uint8)
    return retone(moved, generator)


def train_dual_branch(
    config: DualBranchConfig,
    training: Sequence[Plane],
    validation: Sequence[Plane],
    out: Path,
    recipe: DualBranchRecipe,
    *,
    device: torch.device | str = "cpu",
    start: DualBranch | None = None,
    backbones: Mapping[str, Path] | None = None,
    learnt_before: Set[str] | None = frozenset(),
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train, write the epoch of the best macro F1 on `validation` to `out` and return the run's
    facts, those of training.json.

    `start` is a network whose backbones it begins with, and whose head where its classes are the
    same; `learnt_before` the SHA-256 of the pictures that it learnt from, None where unknown.
    `backbones` are files of weights in timm's names, by the backbones' names. A checkpoint after
    each epoch allows `resume`, to the same losses. Raises UsageError where nothing could be learnt
    or validated, QCError where a loss is not finite or a file is of another backbone.
    """
    check_parts(training, validation, recipe.batch)
    torch.manual_seed(recipe.seed)
    network = DualBranch(config)
    if start is not None:
        load_start(network, start)
    load_backbones(network, backbones or {})
    if recipe.frozen_backbones:
        network.freeze_backbones()
    run = _Run(network.to(device), recipe, training, validation)
    train_epochs(run, out, resume=resume)
    abstention = _write_model(out, run, training, validation, learnt_before)
    facts = {
        "command": command,
        "config": config.to_json(),
        "recipe": recipe.to_json(),
        "start": None if start is None else start.config.to_json(),
        "backbones": {name: file_hash(path) for name, path in (backbones or {}).items()},
        "losses": run.losses,
        "best epoch": run.best_epoch,
        "training": {
            "images": len(training),
            "sha256": run.facts["pictures"],
            "data": count_planes(training),
        },
        "validation": {
            "images": len(validation),
            "macro F1": run.best_value,
            "abstention": abstention.to_json(),
            "data": count_planes(validation),
        },
    }
    runs.write_facts(out, facts)
    return facts


def _write_model(
    out: Path,
    run: "_Run",
    training: Sequence[Plane],
    validation: Sequence[Plane],
    learnt_before: Set[str] | None,
) -> Abstention:
    """Write the network, below which probability it names no class, and what it has seen."""
    save_dual_branch(out, run.network, run.recipe.to_json())
    classes = run.network.config.classes
    abstention = fit_abstention(
        predict(run.network, run.held_out),
        [classes.index(plane.label) for plane in validation],
        [plane.group for plane in validation],
    )
    save_abstention(out / runs.ABSTENTION, abstention)
    runs.write_learnt(out, (plane.path for plane in training), learnt_before)
    runs.write_validated(out, (plane.path for plane in validation))
    return abstention


def load_start(network: DualBranch, start: DualBranch) -> None:
    """Copy the start's backbones and gate, and its head where both have the same classes.

    Raises UsageError on another architecture.
    """
    if start.config.architecture != network.config.architecture:
        raise UsageError(
            f"--start is {start.config.architecture}, not {network.config.architecture}: give"
            f" --architecture {start.config.architecture}"
        )
    network.branches.load_state_dict(start.branches.state_dict())
    if start.gate is not None and network.gate is not None:
        network.gate.data.copy_(start.gate.data)
    if start.config.classes == network.config.classes:
        network.head.load_state_dict(start.head.state_dict())


class _Run(EpochTraining):
    """Planes and their classes; all weights are kept, with the statistics of normalisation."""

    weights_key = "network"
    network: DualBranch
    recipe: DualBranchRecipe

    def __init__(
        self,
        network: DualBranch,
        recipe: DualBranchRecipe,
        training: Sequence[Plane],
        validation: Sequence[Plane],
    ) -> None:
        super().__init__(
            network,
            trainable_parameters(network),
            torch.optim.AdamW(_parameter_groups(network, recipe)),
            recipe,
            recipe.to_json() | network.config.to_json() | {"pictures": planes_hash(training)},
            len(training),
        )
        classes = network.config.classes
        self.pictures, self.held_out = (
            Pictures(planes, Preprocessor(network.config)) for planes in (training, validation)
        )
        self.targets = torch.tensor([classes.index(plane.label) for plane in training])
        counts = torch.bincount(self.targets, minlength=len(classes)).tolist()
        self.imbalance_loss = ImbalanceLoss(recipe, counts).to(self.device)

    def batch(self, rows: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Normalised pictures (B, 3, H, W) and their classes (B,)."""
        canvases = [self.pictures.canvas(row) for row in rows]
        if self.recipe.augment:
            canvases = [augment(canvas, generator) for canvas in canvases]
        return self.pictures.preprocessor.normalise(canvases), self.targets[rows]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        pictures, targets = (each.to(self.device) for each in batch)
        with autocast(self.device):
            logits = self.network(pictures)
        value: Tensor = self.imbalance_loss(logits, targets, self.epoch)
        return value

    def validate(self) -> dict[str, float]:
        classes = self.network.config.classes
        predicted = [classes[i] for i in predict(self.network, self.held_out).argmax(1)]
        truth = [plane.label for plane in self.held_out.planes]
        confusion = confusion_matrix(truth, predicted, classes)
        accuracy = float(np.trace(confusion) / confusion.sum())
        return {"macro F1": macro_f1(confusion), "accuracy": accuracy}

    def train_mode(self) -> None:
        self.network.train()
        if self.recipe.frozen_backbones:
            # Their batch statistics stay, too.
            self.network.branches.eval()

    def rate(self, step: int) -> float:
        return super().rate(step) if self.recipe.cosine else 1.0

    def weights(self) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(weights)


def _parameter_groups(network: DualBranch, recipe: DualBranchRecipe) -> list[dict[str, Any]]:
    """AdamW's groups, every trainable parameter once: vectors and the gate do not decay."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = (
        ([p for p in trainable if p.ndim > 1], recipe.weight_decay),
        ([p for p in trainable if p.ndim <= 1], 0.0),
    )
    return [
        {"params": parameters, "lr": recipe.learning_rate, "weight_decay": decay}
        for parameters, decay in groups
    ]

"""Train the dual-branch classifier on frames labelled with their plane.

From top to bottom: prediction, the pictures of a run, augmentation, the loop over epochs, one run's
state. Recipe: `training.family_recipes`; losses: beside this file.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from detector.console import UsageError
from detector.frame import Frame, Pixels
from model.dual_branch.checkpoint import save_dual_branch
from model.dual_branch.network import DualBranch, DualBranchConfig
from model.dual_branch.preprocess import Preprocessor
from training.data.augment import retone
from training.data.planes import Plane, count_planes, planes_hash, read_frame
from training.data.samples import file_hash
from training.evaluation.multiclass import confusion_matrix, macro_f1
from training.family_recipes import DualBranchRecipe
from training.train import runs
from training.train.imbalance_losses import ImbalanceLoss
from training.train.optim import schedule
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
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train, write the epoch of the best macro F1 on `validation` to `out` and return the run's
    facts, those of training.json.

    `start` is a network whose backbones it begins with, and whose head where its classes are the
    same. A checkpoint after each epoch allows `resume`, to the same losses. Raises UsageError
    where nothing could be learnt or validated, QCError where a loss is not finite.
    """
    check_training(training, validation, recipe)
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    network = DualBranch(config)
    if start is not None:
        load_start(network, start)
    if recipe.frozen_backbones:
        network.freeze_backbones()
    run = _Run(network.to(device), recipe, training)
    checkpoint = out / runs.CHECKPOINT
    out.mkdir(parents=True, exist_ok=True)
    if resume and checkpoint.is_file():
        with runs.reading(checkpoint):
            run.load(checkpoint)
        console.print(f"resumed after epoch {run.epoch} of {recipe.epochs}")
    held_out = Pictures(validation, run.pictures.preprocessor)
    truth = [plane.label for plane in validation]
    console.print(f"{len(training)} pictures, {run.steps} steps an epoch, on {network.device}")
    # Figures of an epoch that a kill left half written are written anew.
    with SummaryWriter(str(out / runs.LOGS), purge_step=run.epoch + 1) as writer:
        while run.epoch < recipe.epochs:
            started = time.monotonic()
            loss = run.train_epoch(console)
            predicted = [config.classes[i] for i in predict(network, held_out).argmax(1)]
            confusion = confusion_matrix(truth, predicted, config.classes)
            score = macro_f1(confusion)
            accuracy = float(np.trace(confusion) / confusion.sum())
            run.end_epoch(loss, score)
            writer.add_scalar("loss/train", loss, run.epoch)
            writer.add_scalar("validation/macro F1", score, run.epoch)
            writer.add_scalar("validation/accuracy", accuracy, run.epoch)
            console.print(
                f"epoch {run.epoch}/{recipe.epochs} loss {loss:.4f} macro F1 {score:.3f} accuracy"
                f" {accuracy:.3f} ({time.monotonic() - started:.0f} s)",
                soft_wrap=True,
            )
            run.save(checkpoint)
    network.load_state_dict(run.best)
    runs.check_network(network)
    facts = {
        "command": command,
        "config": config.to_json(),
        "recipe": recipe.to_json(),
        "start": None if start is None else start.config.to_json(),
        "losses": run.losses,
        "best epoch": run.best_epoch,
        "training": {
            "images": len(training),
            "sha256": run.facts["pictures"],
            "data": count_planes(training),
        },
        "validation": {
            "images": len(validation),
            "macro F1": run.best_score,
            "data": count_planes(validation),
        },
    }
    save_dual_branch(out, network, recipe.to_json())
    learnt = sorted({file_hash(plane.path) for plane in training})
    (out / runs.PICTURES).write_text("".join(f"{line}\n" for line in learnt), encoding="ascii")
    runs.write_facts(out, facts)
    return facts


def check_training(
    training: Sequence[Plane], validation: Sequence[Plane], recipe: DualBranchRecipe
) -> None:
    """Raises UsageError where a run could not train or validate, or would leak a patient."""
    if not training:
        raise UsageError("no picture is left to learn from: hold out fewer (--held-out)")
    if not validation:
        raise UsageError(
            "no picture is held out to validate with: give a larger --held-out, another --seed, or"
            " rows of split val"
        )
    if len(training) < recipe.batch:
        raise UsageError(
            f"{len(training)} pictures an epoch are fewer than a batch of {recipe.batch}: give"
            f" --batch {len(training)} or less"
        )
    patients = {plane.patient: plane for plane in training}
    for plane in validation:
        if plane.patient in patients:
            raise UsageError(
                f"{plane.location} is held out, but its patient is learnt from in"
                f" {patients[plane.patient].location}"
            )


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


class _Run:
    """State of a run: weights, optimiser, epoch, losses, and the best weights so far."""

    def __init__(
        self, network: DualBranch, recipe: DualBranchRecipe, training: Sequence[Plane]
    ) -> None:
        classes = network.config.classes
        self.network = network
        self.recipe = recipe
        self.pictures = Pictures(training, Preprocessor(network.config))
        self.targets = torch.tensor([classes.index(plane.label) for plane in training])
        counts = torch.bincount(self.targets, minlength=len(classes)).tolist()
        self.loss = ImbalanceLoss(recipe, counts).to(network.device)
        self.optimizer = torch.optim.AdamW(_parameter_groups(network, recipe))
        self.facts = (
            recipe.to_json() | network.config.to_json() | {"pictures": planes_hash(training)}
        )
        self.steps = len(training) // recipe.batch
        self.epoch = 0
        self.losses: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_score = 0, -1.0

    def train_epoch(self, console: Console) -> float:
        """Train one epoch; returns its mean loss."""
        recipe, device = self.recipe, self.network.device
        order = np.random.default_rng((recipe.seed, self.epoch)).permutation(len(self.pictures))
        starts = range(0, self.steps * recipe.batch, recipe.batch)
        self.network.train()
        if recipe.frozen_backbones:
            # Their batch statistics stay, too.
            self.network.branches.eval()
        values: list[float] = []
        with ThreadPoolExecutor(1) as executor:
            pending = executor.submit(self._batch, order, 0)
            for start in track(
                starts,
                f"epoch {self.epoch + 1}",
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ):
                pictures, targets = pending.result()
                if start + recipe.batch in starts:
                    pending = executor.submit(self._batch, order, start + recipe.batch)
                step = self.epoch * self.steps + len(values)
                for group in self.optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * self._rate(step)
                with autocast(device):
                    logits = self.network(pictures.to(device))
                value = self.loss(logits, targets.to(device), self.epoch)
                values.append(float(value.detach()))
                runs.check_loss(values[-1], step)
                self.optimizer.zero_grad(set_to_none=True)
                value.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                self.optimizer.step()
        return float(np.mean(values))

    def end_epoch(self, loss: float, score: float) -> None:
        """Count the epoch; of equal scores the earlier one stays the best."""
        self.epoch += 1
        self.losses.append(loss)
        if score > self.best_score:
            self.best = deepcopy(self.network.state_dict())
            self.best_epoch, self.best_score = self.epoch, score

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "run": self.facts,
                "place": [self.epoch, self.best_epoch, self.best_score],
                "losses": self.losses,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.network.device)
        runs.check_resumed(state["run"], self.facts)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.losses = state["best"], state["losses"]
        self.epoch, self.best_epoch, self.best_score = state["place"]

    def _rate(self, step: int) -> float:
        if not self.recipe.cosine:
            return 1.0
        return schedule(step, self.recipe.epochs * self.steps, self.steps)

    def _batch(self, order: npt.NDArray[np.intp], start: int) -> tuple[Tensor, Tensor]:
        """Normalised pictures (B, 3, H, W) and their classes (B,); the same for the same seed,
        epoch and place, whatever was drawn before."""
        generator = np.random.default_rng((self.recipe.seed, self.epoch, start))
        indices = order[start : start + self.recipe.batch]
        canvases = [self.pictures.canvas(int(index)) for index in indices]
        if self.recipe.augment:
            canvases = [augment(canvas, generator) for canvas in canvases]
        return self.pictures.preprocessor.normalise(canvases), self.targets[indices]


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

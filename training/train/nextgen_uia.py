"""Train a head on a tower, with or without adapters: classes of pictures, or masks.

From top to bottom: the loop over epochs, what a run was given, its state and its epoch, pictures,
prediction. Recipe: `training.adapter_recipes`. The test split is never read here.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

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
from training.data.samples import file_hash
from training.evaluation.multiclass import confusion_matrix, macro_f1
from training.evaluation.segmentation import agreement
from training.train import runs
from training.train.adapter_losses import dice_ce_loss, focal_loss
from training.train.optim import schedule

BETAS = (0.9, 0.95)
MAX_SCALE, MAX_SHIFT = math.log(1.2), 0.08
_MEMORY = 1 << 30
"""Bytes of squares that are kept; the others are read again."""


def train_head(
    tower: Tower,
    config: HeadConfig,
    training: Sequence[Lesion],
    validation: Sequence[Lesion],
    out: Path,
    recipe: HeadRecipe,
    *,
    adapters: AdapterConfig | None = None,
    start: checkpoint.Trained | None = None,
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train, write what learnt, of the epoch of the best validation, to `out`, and return the facts
    of training.json. The score is the mean Dice of pictures, or macro-F1.

    New `adapters`, or those of `start`, learn with the head: of blocks that it reads. A checkpoint
    after each epoch allows `resume`, to the same losses. Raises UsageError where nothing could be
    learnt or validated, QCError where a loss is not finite or no validation was.
    """
    check_training(training, validation, recipe)
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    device = next(tower.parameters()).device
    sha256 = checkpoint.tower_sha256(tower)
    adapters = _begin_with(tower, adapters, start)
    network = AdaptedNetwork(tower, config).to(device)
    run = _Run(network, adapters, training, recipe, sha256)
    path = out / runs.CHECKPOINT
    out.mkdir(parents=True, exist_ok=True)
    if resume and path.is_file():
        with runs.reading(path):
            run.load(path)
        console.print(f"resumed after epoch {run.epoch} of {recipe.epochs}")
    held_out = Pictures(validation, tower.side, config)
    with SummaryWriter(str(out / runs.LOGS), purge_step=run.epoch + 1) as writer:
        while run.epoch < recipe.epochs and run.epoch - run.best_epoch < recipe.patience:
            started = time.monotonic()
            loss = run.train_epoch()
            score = validation_score(network, held_out, recipe.batch)
            run.end_epoch(loss, score)
            writer.add_scalar("loss/train", loss, run.epoch)
            writer.add_scalar("validation/score", score, run.epoch)
            console.print(
                f"epoch {run.epoch}/{recipe.epochs} loss {loss:.4f} validation {score:.4f}"
                f" ({time.monotonic() - started:.0f} s)",
                soft_wrap=True,
            )
            run.save(path)
    if not run.best:
        raise UsageError(
            "no validation gave a finite score: look at the pictures held out, or lower"
            " --learning-rate"
        )
    run.load_learnt(run.best)
    runs.check_network(network)
    facts = {
        "command": command,
        "recipe": recipe.to_json(),
        "head": config.to_json(),
        "adapters": None if adapters is None else adapters.to_json(),
        "tower": tower.facts() | {"sha256": sha256},
        "losses": run.losses,
        "scores": run.scores,
        "best epoch": run.best_epoch,
        "learnt parameters": sum(p.numel() for _, p in run.parameters),
        "training": count_lesions(training) | {"sha256": run.facts["pictures"]},
        "validation": count_lesions(validation) | {"score": run.best_score},
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
    learnt = sorted({file_hash(lesion.image) for lesion in training})
    (out / runs.PICTURES).write_text("".join(f"{line}\n" for line in learnt), encoding="ascii")
    runs.write_facts(out, facts)
    return facts


def check_training(
    training: Sequence[Lesion], validation: Sequence[Lesion], recipe: HeadRecipe
) -> None:
    """Raises UsageError where a run could not train or validate, or would leak a patient."""
    if not training:
        raise UsageError("no picture is left to learn from: hold out fewer")
    if not validation:
        raise UsageError("no picture is held out to validate with: give a larger --validation")
    if len(training) < recipe.batch:
        raise UsageError(
            f"{len(training)} pictures an epoch are fewer than a batch of {recipe.batch}: give"
            f" --batch {len(training)} or less"
        )
    groups = {lesion.group: lesion for lesion in training}
    for lesion in validation:
        if lesion.group in groups:
            raise UsageError(
                f"{lesion.location} validates, but its patient is learnt from in"
                f" {groups[lesion.group].location}"
            )


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


class _Run:
    """State of a run: what learns, optimiser, epoch, losses, and the best so far."""

    def __init__(
        self,
        network: AdaptedNetwork,
        adapters: AdapterConfig | None,
        training: Sequence[Lesion],
        recipe: HeadRecipe,
        sha256: str,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.pictures = Pictures(training, network.tower.side, network.head.config)
        network.tower.requires_grad_(recipe.tune_tower)
        of_adapters: list[tuple[str, nn.Parameter]] = []
        if adapters is not None:
            of_adapters = list(adapter_parameters(network.tower))
        for _, parameter in of_adapters:
            parameter.requires_grad_(True)
        # A parameter that stands at several names, as LoRA's of q, k and v, is named once.
        self.parameters = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        is_adapter = {id(parameter) for _, parameter in of_adapters}
        rates = [
            recipe.tower_rate if n.startswith("tower.") and id(p) not in is_adapter else 1.0
            for n, p in self.parameters
        ]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p],
                    "peak": recipe.learning_rate * rate,
                    "weight_decay": recipe.weight_decay if p.ndim > 1 else 0.0,
                }
                for (_, p), rate in zip(self.parameters, rates, strict=True)
            ],
            betas=BETAS,
        )
        self.facts = {
            **recipe.to_json(),
            "head": network.head.config.to_json(),
            "adapters": None if adapters is None else adapters.to_json(),
            "tower": sha256,
            "pictures": lesions_hash(training),
        }
        self.steps = len(training) // recipe.batch
        self.epoch, self.best_epoch, self.best_score = 0, 0, -1.0
        self.losses: list[float] = []
        self.scores: list[float | None] = []
        self.best: dict[str, Tensor] = {}

    def train_epoch(self) -> float:
        """Train one epoch; returns its mean loss."""
        recipe, device = self.recipe, self.network.device
        order = np.random.default_rng((recipe.seed, self.epoch)).permutation(len(self.pictures))
        total = recipe.epochs * self.steps
        self._train_mode()
        values: list[float] = []
        for start in range(0, self.steps * recipe.batch, recipe.batch):
            step = self.epoch * self.steps + len(values)
            # Dropout of a step is the same after a resumption.
            torch.manual_seed(recipe.seed + 1_000_003 * (step + 1))
            generator = np.random.default_rng((recipe.seed, self.epoch, start))
            indices = order[start : start + recipe.batch]
            inputs, target = self.pictures.batch(indices, generator if recipe.augment else None)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, total, self.steps)
            logits = self.network(inputs.to(device))
            loss = _loss(logits, target.to(device), self.network.head.config, recipe)
            values.append(float(loss.detach()))
            runs.check_loss(values[-1], step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([p for _, p in self.parameters], 1.0)
            self.optimizer.step()
        return float(np.mean(values))

    def end_epoch(self, loss: float, score: float) -> None:
        """Count the epoch. A score that is not finite is never the best; of equal ones the earlier
        is."""
        self.epoch += 1
        self.losses.append(loss)
        self.scores.append(score if math.isfinite(score) else None)
        if math.isfinite(score) and score > self.best_score:
            self.best = {n: p.detach().clone() for n, p in self.parameters}
            self.best_epoch, self.best_score = self.epoch, score

    def load_learnt(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(values[name])
        self.network.eval()

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "learnt": {n: p.detach() for n, p in self.parameters},
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "run": self.facts,
                "place": [self.epoch, self.best_epoch, self.best_score],
                "losses": self.losses,
                "scores": self.scores,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.network.device)
        runs.check_resumed(state["run"], self.facts)
        self.load_learnt(state["learnt"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.losses, self.scores = state["best"], state["losses"], state["scores"]
        self.epoch, self.best_epoch, self.best_score = state["place"]

    def _train_mode(self) -> None:
        """What is frozen evaluates: its dropout and statistics stay out of it."""
        self.network.head.train()
        if self.recipe.tune_tower:
            self.network.tower.train()
        elif isinstance(self.network.tower, ClipTower):
            set_training_mode(self.network.tower)
        else:
            self.network.tower.eval()


def _loss(logits: Tensor, target: Tensor, config: HeadConfig, recipe: HeadRecipe) -> Tensor:
    if config.task is Task.SEGMENTATION:
        return dice_ce_loss(logits, target)
    return focal_loss(logits, target, recipe.focal_gamma)


class Pictures:
    """Squares of pictures, and of their masks, read once while memory lasts."""

    def __init__(self, lesions: Sequence[Lesion], side: int, config: HeadConfig) -> None:
        self.lesions = lesions
        self.side = side
        self.config = config
        self._squares: dict[int, tuple[Pixels, Mask | None]] = {}
        self._most = _MEMORY // (4 * side * side)

    def __len__(self) -> int:
        return len(self.lesions)

    def square(self, index: int) -> tuple[Pixels, Mask | None]:
        """The picture (side, side, 3) and its mask (side, side). Raises QCError, SampleError."""
        stored = self._squares.get(index)
        if stored is None:
            lesion = self.lesions[index]
            pixels = read_first_frame(lesion.image).pixels
            mask = None
            if self.config.task is Task.SEGMENTATION:
                mask = fit_mask(read_truth(lesion, *pixels.shape[:2]), self.side)
            stored = (square(pixels, self.side), mask)
            if len(self._squares) < self._most:
                self._squares[index] = stored
        return stored

    def batch(
        self, indices: npt.NDArray[np.intp] | Sequence[int], generator: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, 3, side, side), and classes (B,) or masks (B, side, side); augmented with a
        generator."""
        squares: list[Pixels] = []
        targets: list[npt.NDArray[np.int64]] = []
        for index in indices:
            pixels, mask = self.square(int(index))
            if generator is not None:
                pixels, mask = augment(pixels, mask, generator)
            squares.append(pixels)
            label = self.lesions[int(index)].label
            targets.append(
                np.asarray(self.config.classes.index(label) if mask is None else mask, np.int64)
            )
        return normalise(squares), torch.from_numpy(np.stack(targets))


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
        inputs = normalise([pictures.square(index)[0] for index in indices])
        yield from network(inputs.to(network.device)).float().softmax(1).cpu().numpy()


def predict_mask(probability: npt.NDArray[np.float32], height: int, width: int) -> Mask:
    """(C, side, side) of a square -> (height, width) of its picture: the most probable class."""
    return np.asarray(unfit(probability, height, width).argmax(0), np.uint8)


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

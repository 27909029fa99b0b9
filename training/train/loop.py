"""A training by epochs that goes on where it was killed: the loop that the families share.

Each epoch has every picture once, in an order that seed and epoch decide; each step draws from a
generator of its own. So a run that was stopped after any epoch goes on to the same losses. A family
says how its batches, its loss and its validation are made (`EpochTraining`).
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from detector.console import UsageError
from training.train import runs
from training.train.optim import schedule


class Recipe(Protocol):
    """What the loop reads of a family's recipe."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Grouped(Protocol):
    """A picture that knows whose it is, and where it is listed."""

    @property
    def group(self) -> str: ...
    @property
    def location(self) -> str: ...


class EpochTraining(ABC):
    """State of a run: what learns, optimiser, epoch, losses, validations, and the best weights.

    `parameters` are what learns of the network, by name; `facts` are what a resumed run has to have
    again; `count` is the number of pictures to learn from. Without `patience` all epochs of the
    recipe are run.
    """

    weights_key: ClassVar[str] = "learnt"
    """The name of the weights in a checkpoint, and below that of the validations."""
    validations_key: ClassVar[str] = "scores"
    worst: ClassVar[float] = -1.0
    """Before any validation. Where it is infinite, lower values are better."""

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[tuple[str, nn.Parameter]],
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        facts: Mapping[str, Any],
        count: int,
        patience: float = math.inf,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.recipe = recipe
        self.facts = dict(facts)
        self.count = count
        self.patience = patience
        self.parameters = parameters
        self.device = parameters[0][1].device
        self.steps = count // recipe.batch
        self.epoch, self.best_epoch, self.best_value = 0, 0, self.worst
        self.losses: list[float] = []
        self.validations: list[float | None] = []
        self.best: dict[str, Tensor] = {}

    @abstractmethod
    def batch(self, rows: Sequence[int], generator: np.random.Generator) -> Any:
        """Inputs and targets of these pictures, on the CPU; made in a thread of its own while the
        step before is computed."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch, with gradients."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures of the pictures held out, by name; the best epoch is chosen by the first."""

    def train_mode(self) -> None:
        """What learns trains, and what is frozen evaluates."""
        self.network.train()

    def rate(self, step: int) -> float:
        """Share of the highest learning rate: an epoch of warm-up, then a cosine."""
        return schedule(step, self.recipe.epochs * self.steps, self.steps)

    def weights(self) -> dict[str, Tensor]:
        """What checkpoints keep: all that learns."""
        return {name: parameter.detach() for name, parameter in self.parameters}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """The inverse of `weights`."""
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(weights[name])
        self.network.eval()

    @property
    def is_finished(self) -> bool:
        return self.epoch >= self.recipe.epochs or self.epoch - self.best_epoch >= self.patience

    def train_epoch(self, console: Console) -> float:
        """Train one epoch; returns its mean loss. Raises QCError on a loss that is not finite."""
        recipe = self.recipe
        order = np.random.default_rng((recipe.seed, self.epoch)).permutation(self.count)
        starts = range(0, self.steps * recipe.batch, recipe.batch)

        def draw(start: int) -> Any:
            generator = np.random.default_rng((recipe.seed, self.epoch, start))
            return self.batch(order[start : start + recipe.batch].tolist(), generator)

        self.train_mode()
        values: list[float] = []
        with ThreadPoolExecutor(1) as executor:
            pending = executor.submit(draw, 0)
            for start in track(
                starts,
                f"epoch {self.epoch + 1}",
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ):
                batch = pending.result()
                if start + recipe.batch in starts:
                    pending = executor.submit(draw, start + recipe.batch)
                values.append(self._step(batch, self.epoch * self.steps + len(values)))
        return float(np.mean(values))

    def end_epoch(self, loss: float, value: float) -> None:
        """Count the epoch. A validation that is not finite is never the best; of equal ones the
        earlier is."""
        self.epoch += 1
        self.losses.append(loss)
        self.validations.append(value if math.isfinite(value) else None)
        if math.isfinite(value) and self._is_better(value):
            self.best = {name: tensor.clone() for name, tensor in self.weights().items()}
            self.best_epoch, self.best_value = self.epoch, value

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                self.weights_key: self.weights(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "run": self.facts,
                "place": [self.epoch, self.best_epoch, self.best_value],
                "losses": self.losses,
                self.validations_key: self.validations,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Raises UsageError where the checkpoint is of another run, or broken."""
        with runs.reading(path):
            state = torch.load(path, weights_only=True, map_location=self.device)
            runs.check_resumed(state["run"], self.facts)
            self.load_weights(state[self.weights_key])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best, self.losses = state["best"], state["losses"]
            self.validations = state.get(self.validations_key, [])
            self.epoch, self.best_epoch, self.best_value = state["place"]

    def _step(self, batch: Any, step: int) -> float:
        # Dropout of a step is the same after a resumption.
        torch.manual_seed(self.recipe.seed + 1_000_003 * (step + 1))
        for group in self.optimizer.param_groups:
            peak = group.get("peak", self.recipe.learning_rate)
            group["lr"] = peak * self.rate(step)
        loss = self.loss(batch)
        value = float(loss.detach())
        runs.check_loss(value, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for _, p in self.parameters], 1.0)
        self.optimizer.step()
        return value

    def _is_better(self, value: float) -> bool:
        return value < self.best_value if self.worst == math.inf else value > self.best_value


def train_epochs(training: EpochTraining, out: Path, *, resume: bool = False) -> None:
    """Run the epochs that are left, with a checkpoint in `out` after each, and give the network the
    weights of the best one.

    Raises UsageError on a checkpoint of another run and where no validation was finite, QCError on
    a loss or a weight that is not finite.
    """
    console = Console(stderr=True)
    checkpoint = out / runs.CHECKPOINT
    out.mkdir(parents=True, exist_ok=True)
    epochs = training.recipe.epochs
    if resume and checkpoint.is_file():
        training.load(checkpoint)
        console.print(f"resumed after epoch {training.epoch} of {epochs}")
    console.print(
        f"{training.count} pictures, {training.steps} steps an epoch, on {training.device}"
    )
    # Figures of an epoch that a kill left half written are written anew.
    with SummaryWriter(str(out / runs.LOGS), purge_step=training.epoch + 1) as writer:
        while not training.is_finished:
            started = time.monotonic()
            loss = training.train_epoch(console)
            figures = training.validate()
            training.end_epoch(loss, next(iter(figures.values())))
            writer.add_scalar("loss/train", loss, training.epoch)
            for name, value in figures.items():
                writer.add_scalar(f"validation/{name}", value, training.epoch)
            console.print(
                f"epoch {training.epoch}/{epochs} loss {loss:.4f} validation"
                + "".join(f" {name} {value:.4f}" for name, value in figures.items())
                + f" ({time.monotonic() - started:.0f} s)",
                soft_wrap=True,
            )
            training.save(checkpoint)
    if not training.best:
        raise UsageError(
            "no validation gave a finite value: look at the pictures held out, or lower"
            " --learning-rate"
        )
    training.load_weights(training.best)
    runs.check_network(training.network)


def check_parts(training: Sequence[Grouped], validation: Sequence[Grouped], batch: int) -> None:
    """Raises UsageError where a run could not train or validate, or would leak a patient."""
    if not training:
        raise UsageError("no picture is left to learn from: hold out fewer (--held-out)")
    if not validation:
        raise UsageError(
            "no picture is held out to validate with: hold out more, give another --seed, or rows"
            " of split val"
        )
    if len(training) < batch:
        raise UsageError(
            f"{len(training)} pictures an epoch are fewer than a batch of {batch}: give --batch"
            f" {len(training)} or less"
        )
    groups = {picture.group: picture for picture in training}
    for picture in validation:
        if picture.group in groups:
            raise UsageError(
                f"{picture.location} is held out, but its patient is learnt from in"
                f" {groups[picture.group].location}"
            )


def trainable_parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What learns of a network. A parameter that stands at several names, as LoRA's of q, k and v,
    is named once."""
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]

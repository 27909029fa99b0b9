"""What the shared loop promises every family: order, schedule, best epoch, resumption."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from detector.console import UsageError
from detector.errors import QCError
from training.train.loop import EpochTraining, train_epochs, trainable_parameters
from training.train.optim import schedule


@dataclass(frozen=True, slots=True)
class Recipe:
    epochs: int = 3
    batch: int = 2
    learning_rate: float = 0.1
    seed: int = 0


class Line(EpochTraining):
    """Learns a line through five points, with dropout, and says what it was asked."""

    network: nn.Sequential

    def __init__(self, recipe: Recipe, scores: Sequence[float] = (), **options: Any) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Dropout(0.3), nn.Linear(1, 1))
        parameters = trainable_parameters(network)
        optimizer = torch.optim.SGD([p for _, p in parameters], lr=0.1)
        super().__init__(network, parameters, optimizer, recipe, {"data": "line"}, 5, **options)
        self.scores = list(scores)
        self.rows: list[list[int]] = []
        self.draws: list[float] = []
        self.rates: list[float] = []
        self.modes: list[bool] = []

    def batch(self, rows: Sequence[int], generator: np.random.Generator) -> Tensor:
        self.rows.append(list(rows))
        self.draws.append(float(generator.random()))
        return torch.tensor([[float(row)] for row in rows])

    def loss(self, batch: Tensor) -> Tensor:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.modes.append(self.network.training)
        value: Tensor = (self.network(batch) - 2 * batch).square().mean()
        return value

    def validate(self) -> dict[str, float]:
        self.network.eval()
        return {"score": self.scores[self.epoch] if self.scores else -float(self.epoch)}


class LineOfLosses(Line):
    worst = math.inf


def test_an_epoch_has_each_picture_once_but_for_the_rest(tmp_path: Path) -> None:
    line = Line(Recipe())
    train_epochs(line, tmp_path)
    epochs = [line.rows[step] + line.rows[step + 1] for step in (0, 2, 4)]
    assert [len(set(epoch)) for epoch in epochs] == [4, 4, 4]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set(line.draws)) == 6
    again = Line(Recipe())
    train_epochs(again, tmp_path / "again")
    assert (again.rows, again.draws, again.losses) == (line.rows, line.draws, line.losses)


def test_the_rate_warms_up_for_an_epoch_and_falls_by_a_cosine(tmp_path: Path) -> None:
    line = Line(Recipe())
    train_epochs(line, tmp_path)
    assert line.rates == pytest.approx([0.1 * schedule(step, 6, 2) for step in range(6)])


def test_an_epoch_after_a_validation_trains(tmp_path: Path) -> None:
    """SpatialCLIP's published loop stays in evaluation after its first validation."""
    line = Line(Recipe())
    train_epochs(line, tmp_path)
    assert line.modes == [True] * 6


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_dies_after_any_epoch_goes_on_to_the_same(stop: int, tmp_path: Path) -> None:
    whole = Line(Recipe())
    train_epochs(whole, tmp_path / "whole")
    first = Line(Recipe())
    out = tmp_path / "killed"
    out.mkdir()
    for _ in range(stop):
        first.end_epoch(first.train_epoch(Console(quiet=True)), first.validate()["score"])
    first.save(out / "checkpoint.pt")
    # The process that goes on has other random numbers behind it.
    again = Line(Recipe())
    torch.manual_seed(99)
    train_epochs(again, out, resume=True)
    assert again.losses == whole.losses
    assert again.validations == whole.validations
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.network.parameters(), whole.network.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "scores", "best"),
    [
        (Line, [0.1, 0.5, 0.5], 2),
        (Line, [math.nan, 0.2, math.inf], 2),
        (LineOfLosses, [0.4, 0.1, 0.2], 2),
        (LineOfLosses, [math.nan, math.nan, 9.0], 3),
    ],
)
def test_the_best_epoch_is_the_first_of_the_best_finite_ones(
    kind: type[Line], scores: list[float], best: int, tmp_path: Path
) -> None:
    line = kind(Recipe(), scores)
    train_epochs(line, tmp_path)
    assert line.best_epoch == best
    assert line.best_value == scores[best - 1]
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert torch.equal(line.network[1].weight, state["best"]["1.weight"])


def test_without_a_finite_validation_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no validation gave a finite value"):
        train_epochs(Line(Recipe(), [math.nan] * 3), tmp_path)


def test_patience_ends_a_run(tmp_path: Path) -> None:
    line = Line(Recipe(epochs=9), [0.3, 0.2, 0.1, *[0.9] * 6], patience=2)
    train_epochs(line, tmp_path)
    assert (line.epoch, line.best_epoch) == (3, 1)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """NextGen-UIA skips such a step, and goes on."""
    with pytest.raises(QCError, match="the loss of step"):
        train_epochs(Line(Recipe(learning_rate=1e30)), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_checkpoints_of_other_recipes_and_broken_ones_are_one_line(tmp_path: Path) -> None:
    line = Line(Recipe(epochs=1))
    train_epochs(line, tmp_path)
    other = Line(Recipe(epochs=1))
    other.facts["data"] = "circle"
    with pytest.raises(UsageError, match="another data"):
        train_epochs(other, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"broken")
    with pytest.raises(UsageError, match="is broken or of another recipe"):
        train_epochs(Line(Recipe(epochs=1)), tmp_path, resume=True)

"""Tune adapters of CLIP's image tower on pictures and their captions, by symmetric InfoNCE.

The text tower is frozen and evaluates: each caption is encoded once. From top to bottom: the loop
over epochs, a run's state, pairs.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import normalize

from detector.console import UsageError
from model.fetalclip.network import FetalClip
from model.fetalclip.preprocess import TextEncoder, images, resize, square
from model.nextgen_uia import checkpoint
from model.nextgen_uia.adapters import (
    AdapterConfig,
    adapter_parameters,
    add_adapters,
    set_training_mode,
)
from model.nextgen_uia.network import ClipTower
from training.adapter_recipes import CaptionRecipe
from training.data.captions import Captioned, captions_hash
from training.data.labelled import read_first_frame
from training.data.samples import file_hash
from training.train import runs
from training.train.losses import contrastive_loss
from training.train.optim import schedule


def tune_on_captions(
    network: FetalClip,
    encoder: TextEncoder,
    training: Sequence[Captioned],
    validation: Sequence[Captioned],
    out: Path,
    recipe: CaptionRecipe,
    adapters: AdapterConfig,
    *,
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train new adapters, write those of the lowest loss on `validation` to `out`, and return the
    facts of training.json.

    A checkpoint after each epoch allows `resume`, to the same losses. Raises UsageError where
    nothing could be learnt or validated, QCError where a loss is not finite.
    """
    check_pairs(training, validation, recipe)
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    tower = ClipTower(network.clip, adapters.layers)
    sha256 = checkpoint.tower_sha256(tower)
    add_adapters(network.clip, adapters)
    run = _Run(network, encoder, training, recipe, adapters, sha256)
    path = out / runs.CHECKPOINT
    out.mkdir(parents=True, exist_ok=True)
    if resume and path.is_file():
        with runs.reading(path):
            run.load(path)
        console.print(f"resumed after epoch {run.epoch} of {recipe.epochs}")
    held_out = Pairs(validation, network, encoder)
    while run.epoch < recipe.epochs and run.epoch - run.best_epoch < recipe.patience:
        started = time.monotonic()
        loss = run.train_epoch()
        validated = validation_loss(network, held_out, recipe)
        run.end_epoch(loss, validated)
        console.print(
            f"epoch {run.epoch}/{recipe.epochs} loss {loss:.4f} validation {validated:.4f}"
            f" ({time.monotonic() - started:.0f} s)",
            soft_wrap=True,
        )
        run.save(path)
    if not run.best:
        raise UsageError("no validation gave a finite loss: lower --learning-rate")
    run.load_learnt(run.best)
    facts = {
        "command": command,
        "recipe": recipe.to_json(),
        "adapters": adapters.to_json(),
        "tower": tower.facts() | {"sha256": sha256},
        "losses": run.losses,
        "validation losses": run.validated,
        "best epoch": run.best_epoch,
        "learnt parameters": sum(p.numel() for _, p in run.parameters),
        "training": {"pairs": len(training), "sha256": run.facts["pairs"]},
        "validation": {"pairs": len(validation), "loss": run.best_loss},
    }
    checkpoint.save_trained(out, tower, sha256, adapters=adapters, recipe=recipe.to_json())
    learnt = sorted({file_hash(pair.image) for pair in training})
    (out / runs.PICTURES).write_text("".join(f"{line}\n" for line in learnt), encoding="ascii")
    runs.write_facts(out, facts)
    return facts


def check_pairs(
    training: Sequence[Captioned], validation: Sequence[Captioned], recipe: CaptionRecipe
) -> None:
    """Raises UsageError where a run could not train or validate."""
    if len(training) < recipe.batch:
        raise UsageError(
            f"{len(training)} pairs to learn from are fewer than a batch of {recipe.batch}: give"
            " --batch, or more pairs"
        )
    if len(validation) < 2:
        raise UsageError(
            "two pairs at least have to validate: give a larger --validation, or another --seed"
        )


def apply_to(network: FetalClip, folder: Path) -> None:
    """Give the network the adapters in the folder. Raises QCError on a mismatch."""
    trained = checkpoint.read_trained(folder)
    layers = tuple(trained.tower.get("layers", ()))
    known = tuple(n for n in layers if n < len(network.clip.vision_model.encoder.layers))
    checkpoint.apply_adapters(trained, ClipTower(network.clip, known or (0,)))
    network.clip.eval()


class Pairs:
    """Pictures and the unit features of their captions, (N, d)."""

    def __init__(
        self, pairs: Sequence[Captioned], network: FetalClip, encoder: TextEncoder
    ) -> None:
        self.pairs = pairs
        self.side = network.architecture.image
        texts = list(dict.fromkeys(pair.caption for pair in pairs))
        network.clip.eval()
        features = [
            network.text_features(encoder.tokens(texts[start : start + 64]))
            for start in range(0, len(texts), 64)
        ]
        index = {text: number for number, text in enumerate(texts)}
        rows = [index[pair.caption] for pair in pairs]
        # A copy outside of inference mode, so that losses can be derived.
        self.texts = normalize(torch.cat(features), dim=-1)[rows].clone()
        self._squares: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def pictures(self, indices: Sequence[int]) -> Tensor:
        """(B, 3, S, S) by FetalCLIP's preprocessing."""
        for index in indices:
            if index not in self._squares:
                pixels = read_first_frame(self.pairs[index].image).pixels
                self._squares[index] = resize(square(pixels), self.side)
        return images([self._squares[index] for index in indices], self.side)


def encode_pictures(network: FetalClip, pixel_values: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, d) of unit length, with gradients of what learns."""
    clip = network.clip
    pooled = clip.vision_model(pixel_values=pixel_values.to(network.device)).pooler_output
    features: Tensor = clip.visual_projection(pooled)
    return normalize(features, dim=-1)


@torch.no_grad()
def picture_features(network: FetalClip, pairs: Pairs, batch: int) -> Tensor:
    """(N, d) of all pictures, of unit length."""
    network.clip.eval()
    return torch.cat(
        [
            encode_pictures(
                network, pairs.pictures(range(start, min(start + batch, len(pairs.pairs))))
            )
            for start in range(0, len(pairs.pairs), batch)
        ]
    )


def validation_loss(network: FetalClip, pairs: Pairs, recipe: CaptionRecipe) -> float:
    """Mean loss of the batches, each as large as in training but for the last; not finite where one
    is not."""
    features = picture_features(network, pairs, recipe.batch)
    scale = torch.tensor(1 / recipe.temperature)
    values = []
    for start in range(0, len(features), recipe.batch):
        rows = slice(start, start + recipe.batch)
        captions = [pair.caption for pair in pairs.pairs[rows]]
        if len(captions) > 1:
            values.append(
                float(contrastive_loss(features[rows], pairs.texts[rows], scale, captions))
            )
    return float(np.mean(values))


class _Run:
    """State of a run: adapters, optimiser, epoch, losses, and the best so far."""

    def __init__(
        self,
        network: FetalClip,
        encoder: TextEncoder,
        training: Sequence[Captioned],
        recipe: CaptionRecipe,
        adapters: AdapterConfig,
        sha256: str,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.pairs = Pairs(training, network, encoder)
        self.parameters = list(adapter_parameters(network.clip))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p], "weight_decay": recipe.weight_decay if p.ndim > 1 else 0.0}
                for _, p in self.parameters
            ],
            betas=(0.9, 0.95),
        )
        self.facts = {
            **recipe.to_json(),
            "adapters": adapters.to_json(),
            "tower": sha256,
            "pairs": captions_hash(training),
        }
        self.steps = len(training) // recipe.batch
        self.epoch, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.losses: list[float] = []
        self.validated: list[float | None] = []
        self.best: dict[str, Tensor] = {}

    def train_epoch(self) -> float:
        """Train one epoch; returns its mean loss."""
        recipe, scale = self.recipe, torch.tensor(1 / self.recipe.temperature)
        generator = np.random.default_rng((recipe.seed, self.epoch))
        order = [int(each) for each in generator.permutation(len(self.pairs.pairs))]
        set_training_mode(self.network.clip)
        values: list[float] = []
        for start in range(0, self.steps * recipe.batch, recipe.batch):
            step = self.epoch * self.steps + len(values)
            # Dropout of a step is the same after a resumption.
            torch.manual_seed(recipe.seed + 1_000_003 * (step + 1))
            rows = order[start : start + recipe.batch]
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(
                    step, recipe.epochs * self.steps, self.steps
                )
            features = encode_pictures(self.network, self.pairs.pictures(rows))
            captions = [self.pairs.pairs[row].caption for row in rows]
            loss = contrastive_loss(features, self.pairs.texts[rows], scale, captions)
            values.append(float(loss.detach()))
            runs.check_loss(values[-1], step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([p for _, p in self.parameters], 1.0)
            self.optimizer.step()
        return float(np.mean(values))

    def end_epoch(self, loss: float, validated: float) -> None:
        """Count the epoch. A validation that is not finite is never the best."""
        self.epoch += 1
        self.losses.append(loss)
        self.validated.append(validated if math.isfinite(validated) else None)
        if math.isfinite(validated) and validated < self.best_loss:
            self.best = {n: p.detach().clone() for n, p in self.parameters}
            self.best_epoch, self.best_loss = self.epoch, validated

    def load_learnt(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(values[name])
        self.network.clip.eval()

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "learnt": {n: p.detach() for n, p in self.parameters},
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "run": self.facts,
                "place": [self.epoch, self.best_epoch, self.best_loss],
                "losses": self.losses,
                "validated": self.validated,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.network.device)
        runs.check_resumed(state["run"], self.facts)
        self.load_learnt(state["learnt"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.losses, self.validated = state["best"], state["losses"], state["validated"]
        self.epoch, self.best_epoch, self.best_loss = state["place"]

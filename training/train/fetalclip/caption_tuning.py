"""Tune adapters of CLIP's image tower on pictures and their captions, by symmetric InfoNCE.

The text tower is frozen and evaluates: each caption is encoded once. From top to bottom: a
training, pairs, what a batch and a validation are. The loop: `training.train.loop`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
from training.train import runs
from training.train.loop import EpochTraining, Recipe, train_epochs
from training.train.losses import contrastive_loss

_Batch = tuple[Tensor, Sequence[int]]


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
    torch.manual_seed(recipe.seed)
    tower = ClipTower(network.clip, adapters.layers)
    sha256 = checkpoint.tower_sha256(tower)
    add_adapters(network.clip, adapters)
    run = _Run(network, encoder, training, validation, recipe, adapters, sha256)
    train_epochs(run, out, resume=resume)
    facts = {
        "command": command,
        "recipe": recipe.to_json(),
        "adapters": adapters.to_json(),
        "tower": tower.facts() | {"sha256": sha256},
        "losses": run.losses,
        "validation losses": run.validations,
        "best epoch": run.best_epoch,
        "learnt parameters": sum(p.numel() for _, p in run.parameters),
        "training": {"pairs": len(training), "sha256": run.facts["pairs"]},
        "validation": {"pairs": len(validation), "loss": run.best_value},
    }
    checkpoint.save_trained(out, tower, sha256, adapters=adapters, recipe=recipe.to_json())
    runs.write_learnt(out, (pair.image for pair in training), set())
    runs.write_validated(out, (pair.image for pair in validation))
    runs.write_facts(out, facts)
    return facts


def check_pairs(
    training: Sequence[Captioned], validation: Sequence[Captioned], recipe: Recipe
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


class _Run(EpochTraining):
    """Pictures and their captions; adapters learn. The lowest loss is the best."""

    validations_key = "validated"
    worst = math.inf
    recipe: CaptionRecipe

    def __init__(
        self,
        network: FetalClip,
        encoder: TextEncoder,
        training: Sequence[Captioned],
        validation: Sequence[Captioned],
        recipe: CaptionRecipe,
        adapters: AdapterConfig,
        sha256: str,
    ) -> None:
        parameters = list(adapter_parameters(network.clip))
        super().__init__(
            network.clip,
            parameters,
            torch.optim.AdamW(
                [
                    {"params": [p], "weight_decay": recipe.weight_decay if p.ndim > 1 else 0.0}
                    for _, p in parameters
                ],
                betas=(0.9, 0.95),
            ),
            recipe,
            {
                **recipe.to_json(),
                "adapters": adapters.to_json(),
                "tower": sha256,
                "pairs": captions_hash(training),
            },
            len(training),
            recipe.patience,
        )
        self.clip = network
        self.pairs, self.held_out = (
            Pairs(part, network, encoder) for part in (training, validation)
        )
        self.scale = torch.tensor(1 / recipe.temperature)

    def batch(self, rows: Sequence[int], generator: np.random.Generator) -> _Batch:
        return self.pairs.pictures(rows), rows

    def loss(self, batch: _Batch) -> Tensor:
        pictures, rows = batch
        features = encode_pictures(self.clip, pictures)
        captions = [self.pairs.pairs[row].caption for row in rows]
        return contrastive_loss(features, self.pairs.texts[rows], self.scale, captions)

    def validate(self) -> dict[str, float]:
        return {"loss": validation_loss(self.clip, self.held_out, self.recipe)}

    def train_mode(self) -> None:
        set_training_mode(self.network)

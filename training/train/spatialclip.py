"""Train SpatialCLIP on what serving sees: the detector's boxes and the describer's words.

From top to bottom: prediction, the loop over epochs, one run's state and its epoch, the optimiser's
groups, the validation metrics. Recipe: `training.recipes`; batches and losses: beside this file.

Of the default bundle's small CLIP only the backbone is pretrained. So it first learns as a whole,
from simulations, and the published three stages then follow on real pictures.
"""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from detector.anatomy import View
from detector.console import UsageError
from model.spatialclip.network import VIEWS, SpatialClip
from model.spatialclip.preprocess import Preprocessor
from model.spatialclip.stages import Stage, set_stage
from training.data.prepared import PreparedSample
from training.data.samples import Sample, count_samples, data_hash
from training.recipes import SpatialClipRecipe
from training.train import runs
from training.train.batches import NO_VIEW, make_batch, modality_mask, view_index
from training.train.lora import add_adapters, merge_adapters
from training.train.losses import CriteriaHeads, class_weights, spatialclip_loss
from training.train.optim import draw_epoch, schedule, update_average

HEADS = ("gate_proj.", "classifier.", "view_head.", "trimodal_clip.pooled_projection.")
"""Parameters that learn at `head_rate`: linear layers on features of unit length."""
BACKBONE = (".patch_embedding.features.", ".patch_embedding.sononet.")
"""Parameters that learn at `backbone_rate`: they are pretrained."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs of the network over N samples."""

    logit: npt.NDArray[np.float64]  # (N,) of standard.
    views: npt.NDArray[np.float64]  # (N, 5) probabilities, in the order of VIEWS.
    gates: npt.NDArray[np.float64]  # (N, 3) weights of image, text and layout.
    image: npt.NDArray[np.float64]  # (N, d) image features.


@torch.no_grad()
def predict(
    network: SpatialClip, samples: Sequence[PreparedSample], preprocessor: Preprocessor
) -> Predictions:
    """What the network says of the samples, unaugmented, in float32."""
    network.eval()
    rows = []
    for start in range(0, len(samples), 32):
        inputs = make_batch(samples[start : start + 32], preprocessor).inputs
        rows.append(network(**inputs.arguments()))
    stacked = [
        torch.cat([getattr(row, name) for row in rows])
        for name in ("logit", "view_logits", "gates", "image")
    ]
    return Predictions(
        stacked[0].double().numpy(),
        stacked[1].double().softmax(-1).numpy(),
        stacked[2].double().numpy(),
        stacked[3].double().numpy(),
    )


def train_spatialclip(
    network: SpatialClip,
    training: Sequence[PreparedSample],
    validation: Sequence[PreparedSample],
    preprocessor: Preprocessor,
    out: Path,
    recipe: SpatialClipRecipe,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Train the network in place and return the run's facts, those of training.json.

    A checkpoint in `out` after each epoch allows `resume`.

    With `ema_decay` the network ends as the moving average of its weights. Raises UsageError where
    an epoch has no batch or nothing validates, QCError where a loss is not finite.
    """
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    check_training([item.sample for item in training], [item.sample for item in validation], recipe)
    run = _Run(network, recipe, training, preprocessor)
    checkpoint = out / runs.CHECKPOINT
    if resume and checkpoint.is_file():
        with runs.reading(checkpoint):
            run.load(checkpoint)
        console.print(f"resumed after epoch {run.epoch} of stage {run.stage.name}")
    writer = SummaryWriter(str(out / "tensorboard"))
    metrics: dict[str, float] = {}
    while run.begin_epoch():
        started = time.monotonic()
        loss = run.train_epoch()
        metrics = validation_metrics(predict(run.average, validation, preprocessor), validation)
        for name, value in metrics.items():
            writer.add_scalar(f"validation/{name}", value, run.epochs_done)
        writer.add_scalar("loss/train", loss, run.epochs_done)
        line = " ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        console.print(
            f"{run.stage.name} epoch {run.epoch}/{run.epochs} loss {loss:.3f} {line}"
            f" ({time.monotonic() - started:.0f} s)",
            soft_wrap=True,
        )
        run.save(checkpoint)
    if not metrics:
        metrics = validation_metrics(predict(run.average, validation, preprocessor), validation)
    run.end_stage()
    network.load_state_dict(run.average.state_dict())
    runs.check_network(network)
    return {
        "recipe": recipe.to_json(),
        "training": {
            "images": len(training),
            "sha256": run.facts["pictures"],
            "data": count_samples([item.sample for item in training]),
        },
        "validation": {"images": len(validation), **metrics},
        "validation data": count_samples([item.sample for item in validation]),
    }


def stage_plan(recipe: SpatialClipRecipe) -> tuple[tuple[Stage, int], ...]:
    """(stage, epochs) in order: all at once, or the published three that have any epochs."""
    if not any(recipe.stages):
        return ((Stage.ALL, recipe.epochs),)
    published = (Stage.FUSION, Stage.PROJECTION, Stage.TOP)
    return tuple((s, n) for s, n in zip(published, recipe.stages, strict=True) if n)


def check_training(
    training: Sequence[Sample], validation: Sequence[Sample], recipe: SpatialClipRecipe
) -> None:
    """Raises UsageError where a run could not train or validate."""
    order = picture_order(training, recipe, np.random.default_rng(0))
    runs.check_division(training, validation, len(order), recipe.batch)
    labels = {sample.standard for sample in training if sample.view is not View.OTHER}
    if not {True, False} <= labels:
        raise UsageError(
            "pictures to learn from must be standard and non-standard ones: there is one class only"
        )


def picture_order(
    samples: Sequence[Sample], recipe: SpatialClipRecipe, generator: np.random.Generator
) -> list[int]:
    """Indices of the samples of one epoch, in random order; see `simulated_ratio`."""
    if recipe.simulated_ratio == 0:
        return [int(i) for i in generator.permutation(len(samples))]
    return draw_epoch(samples, recipe, generator)


class _Run:
    """State of a run: stage, epoch, weights, their average, and the optimiser of the stage."""

    def __init__(
        self,
        network: SpatialClip,
        recipe: SpatialClipRecipe,
        training: Sequence[PreparedSample],
        preprocessor: Preprocessor,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.plan = stage_plan(recipe)
        self.training = training
        self.preprocessor = preprocessor
        self.heads = CriteriaHeads(network.config.dim)
        self.average = deepcopy(network) if recipe.ema_decay else network
        self.samples = [item.sample for item in training]
        views = [s for s in self.samples if s.view is not View.OTHER]
        standard = [s.standard for s in views if s.standard is not None]
        self.class_weight = class_weights(standard) if recipe.class_balanced else torch.ones(2)
        self.facts = recipe.to_json() | {"pictures": data_hash(self.samples)}
        order = picture_order(self.samples, recipe, np.random.default_rng(0))
        self.steps = len(order) // recipe.batch
        self.reference: SpatialClip | None = None
        self.stage_index, self.epoch, self.step, self.epochs_done = 0, 0, 0, 0
        self._begin_stage()

    @property
    def stage(self) -> Stage:
        return self.plan[self.stage_index][0]

    @property
    def epochs(self) -> int:
        return self.plan[self.stage_index][1]

    def begin_epoch(self) -> bool:
        """Begin the next stage where this one has all its epochs; False when all stages have."""
        if self.epoch == self.epochs and self.stage_index + 1 < len(self.plan):
            self.end_stage()
            self.stage_index, self.epoch, self.step = self.stage_index + 1, 0, 0
            self._begin_stage()
        return self.epoch < self.epochs

    def train_epoch(self) -> float:
        """Train one epoch; returns its mean loss."""
        recipe, total = self.recipe, self.epochs * self.steps
        warmup = max(1, round(recipe.warmup * total))
        generator = np.random.default_rng((recipe.seed, self.epochs_done))
        dropout = torch.Generator().manual_seed(recipe.seed + 1000 * self.epochs_done)
        self.network.train()
        values: list[float] = []
        order = picture_order(self.samples, recipe, generator)
        for start in range(0, self.steps * recipe.batch, recipe.batch):
            items = [self.training[i] for i in order[start : start + recipe.batch]]
            batch = make_batch(items, self.preprocessor, generator, recipe.clean_fraction)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(self.step, total, warmup)
            rate = 0.0 if self.stage is Stage.FUSION else recipe.modality_dropout
            present = modality_mask(len(batch.view), rate, dropout)
            loss = spatialclip_loss(
                self.network,
                self.heads,
                batch,
                recipe,
                self.stage,
                present,
                self.class_weight,
                self.reference,
            )
            values.append(float(loss.detach()))
            runs.check_loss(values[-1], self.epochs_done * self.steps + len(values))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(
                [p for group in self.optimizer.param_groups for p in group["params"]], 1.0
            )
            self.optimizer.step()
            self.step += 1
            if recipe.ema_decay:
                step = self.epochs_done * self.steps + len(values) - 1
                update_average(self.average, self.network, step, recipe.ema_decay)
        self.epoch += 1
        self.epochs_done += 1
        return float(np.mean(values))

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "before": None if self.reference is None else self.reference.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "run": self.facts,
                "place": [self.stage_index, self.epoch, self.step, self.epochs_done],
                # Dropout goes on with the numbers that it would have had.
                "random": torch.get_rng_state(),
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        runs.check_resumed(state.get("run"), self.facts)
        self.end_stage()
        self.stage_index, self.epoch, self.step, self.epochs_done = state["place"]
        self._begin_stage()
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        if self.reference is not None:
            self.reference.load_state_dict(state["before"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        if "random" in state:  # Earlier checkpoints have none.
            torch.set_rng_state(state["random"])

    def _begin_stage(self) -> None:
        """Set which parameters the stage trains, and make a new optimiser of exactly these."""
        has_adapters = self.stage is Stage.TOP and self.recipe.lora_rank > 0
        set_stage(self.network, Stage.PROJECTION if has_adapters else self.stage)
        backbone = self.network.trimodal_clip.stem
        if backbone is not None and not self.recipe.backbone_rate:
            backbone.networks.requires_grad_(False)
        self.reference = None
        if self.stage is Stage.TOP and self.recipe.preservation_weight:
            self.reference = deepcopy(self.network).requires_grad_(False).eval()
        if has_adapters:
            for network in self._networks():
                # The average starts from the same adapters.
                torch.manual_seed(self.recipe.seed)
                add_adapters(network, self.recipe.lora_rank)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, self.heads, self.recipe))

    def end_stage(self) -> None:
        """Merge the adapters of the network, and of its average, into the weights."""
        if self.stage is Stage.TOP and self.recipe.lora_rank:
            for network in self._networks():
                merge_adapters(network)

    def _networks(self) -> list[SpatialClip]:
        return [self.network] if self.average is self.network else [self.network, self.average]


def parameter_groups(
    network: SpatialClip, heads: CriteriaHeads, recipe: SpatialClipRecipe
) -> list[dict[str, Any]]:
    """AdamW's groups, every trainable parameter once: matrices decay, vectors and linear heads do
    not; linear heads learn faster, the backbone slower. "peak" is the learning rate after warm-up.
    """
    of_heads = list(heads.parameters())
    of_backbone: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            if name.startswith(HEADS):
                of_heads.append(parameter)
            elif any(part in name for part in BACKBONE):
                of_backbone.append(parameter)
            else:
                others.append(parameter)
    rate = recipe.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": of_heads, "peak": rate * recipe.head_rate, "weight_decay": 0.0}
    ]
    for parameters, peak in ((others, rate), (of_backbone, rate * recipe.backbone_rate)):
        for decay in (recipe.weight_decay, 0.0):
            selected = [p for p in parameters if (p.ndim > 1) == (decay > 0)]
            if selected:
                groups.append({"params": selected, "peak": peak, "weight_decay": decay})
    return groups


def _set_name(sample: Sample) -> str:
    if sample.simulated:
        return "simulated"
    return "simulated (real)" if sample.source == "simulated" else sample.source


def validation_metrics(
    predictions: Predictions, samples: Sequence[PreparedSample]
) -> dict[str, float]:
    """View accuracy over the samples of known view, and AUROC of standard among those of the four
    views: of simulated ones and of each real set that has both classes, for sets differ in more
    than quality."""
    from sklearn.metrics import roc_auc_score

    views = np.array([view_index(item.sample) for item in samples])
    standard = np.array([item.sample.standard is True for item in samples])
    is_labelled = np.array([item.sample.standard is not None for item in samples])
    sets = np.array([_set_name(item.sample) for item in samples])
    has_quality = is_labelled & (views != VIEWS.index(View.OTHER))
    has_view = views != NO_VIEW
    metrics: dict[str, float] = {}
    if has_view.any():
        is_right = predictions.views.argmax(1) == views
        metrics["view accuracy"] = float(np.mean(is_right[has_view]))
    for name in sorted(set(sets)):
        rows = has_quality & (sets == name)
        if len(set(standard[rows])) == 2:
            metrics[f"AUROC {name}"] = float(roc_auc_score(standard[rows], predictions.logit[rows]))
    return metrics

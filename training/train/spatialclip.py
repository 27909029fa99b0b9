"""Train SpatialCLIP on what serving sees: the detector's boxes and the describer's words.

One file reads top to bottom: recipe, batches, losses, loop. Of the default bundle's small CLIP only
the image stem is pretrained, so that it first learns whole, from simulations; the published three
stages then follow on real pictures. One bit a picture teaches an untrained encoder little, so it is
also asked which criteria each phantom fails; the heads for that are dropped after training.
"""

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from detector.anatomy import View
from detector.console import UsageError
from model.criteria.rules import RULES
from model.spatialclip.network import VIEWS, SpatialClip, SpatialClipOutput
from model.spatialclip.preprocess import Inputs, Preprocessor
from model.spatialclip.stages import Stage, set_stage
from training.data.augment import augment
from training.data.prepared import ModelInput, PreparedSample
from training.data.samples import Sample, counts, data_hash
from training.recipes import SpatialClipRecipe
from training.train import runs
from training.train.lora import add_adapters, merge_adapters
from training.train.losses import class_weights, contrastive, quality_loss
from training.train.optim import epoch_order, schedule, update_average
from training.train.precision import autocast

CRITERIA = tuple(sorted({rule.code for rules in RULES.values() for rule in rules}))
NO_VIEW = -1
"""View index of a picture whose view is not told: it teaches and judges none."""
ALONE = torch.eye(3, dtype=torch.bool)
"""One modality present: (3, 3)."""
GATE_PRIOR = (0.4, 0.2, 0.4)
"""Gate weights of image, text and layout that `hold_gates` pulls towards. Text only restates the
layout, without positions and confidences, and changes at a threshold: half the weight."""
HEADS = ("gate_proj.", "classifier.", "view_head.", "trimodal_clip.pooled_projection.")
STEM = ".patch_embedding.features."


class CriteriaHeads(nn.Module):
    """Which criteria are met, from the image alone and from all three features: (B, C) logits."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_image = nn.Linear(dim, len(CRITERIA))
        self.of_all = nn.Linear(3 * dim, len(CRITERIA))

    def forward(self, image: Tensor, text: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat((image, text, spatial), dim=-1).float()
        return self.of_image(image.float()), self.of_all(joined)


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and truths: standard (B,), view index (B,) or NO_VIEW, which rows have a quality
    truth, and criteria (B, C): 1 met, 0 not met, NaN unknown. `copies` are what the stem saw of
    JPEG copies of the rows `copied` (K,)."""

    inputs: Inputs
    standard: Tensor
    view: Tensor
    judged: Tensor
    criteria: Tensor
    words: list[str]
    copies: Tensor | None = None
    copied: tuple[int, ...] = ()


def make_batch(
    items: Sequence[PreparedSample],
    preprocessor: Preprocessor,
    generator: np.random.Generator | None = None,
    as_seen: float = 0.0,
) -> Batch:
    """A batch, varied at random when a generator is given, but for the share `as_seen`; from the
    items' sights where they have some."""
    plain = [generator is None or generator.random() < as_seen for _ in items]
    shown = [
        item.unaugmented() if is_plain or generator is None else _varied(item, generator)
        for item, is_plain in zip(items, plain, strict=True)
    ]
    copied: list[int] = []
    if generator is not None:
        copied = [i for i, item in enumerate(items) if plain[i] and item.jpeg_features]
    copies = [
        items[i].jpeg_features[int(generator.integers(len(items[i].jpeg_features)))]
        for i in copied
        if generator
    ]
    pictures, words = [s.picture for s in shown], [s.description for s in shown]
    seen = bool(items) and bool(items[0].augmented)
    return Batch(
        Inputs(
            torch.from_numpy(np.stack(pictures)).float() if seen else preprocessor.images(pictures),
            *preprocessor.texts(words),
            *preprocessor.layouts([s.detections for s in shown], [s.size for s in shown]),
            has_features=seen,
        ),
        torch.tensor([float(item.sample.standard) for item in items]),
        torch.tensor([view_index(item.sample) for item in items]),
        torch.tensor([item.sample.view is not View.OTHER for item in items]),
        torch.tensor(
            [[item.sample.criteria.get(code, math.nan) for code in CRITERIA] for item in items]
        ),
        words,
        torch.from_numpy(np.stack(copies)).float() if copies else None,
        tuple(copied),
    )


def _varied(item: PreparedSample, generator: np.random.Generator) -> ModelInput:
    if len(item.augmented) < 2:
        return augment(item, generator)
    return item.augmented[1 + int(generator.integers(len(item.augmented) - 1))]


def modality_mask(batch: int, rate: float, generator: torch.Generator) -> Tensor:
    """(B, 3) True: present. At most one modality of a row is dropped."""
    dropped = torch.rand(batch, generator=generator) < 3 * rate
    which = torch.randint(0, 3, (batch,), generator=generator)
    present = torch.ones(batch, 3, dtype=torch.bool)
    present[torch.arange(batch), which] = ~dropped
    return present


def losses(
    network: SpatialClip,
    heads: CriteriaHeads,
    batch: Batch,
    recipe: SpatialClipRecipe,
    stage: Stage,
    present: Tensor,
    weights: Tensor,
    before: SpatialClip | None,
) -> Tensor:
    """Quality and criteria (where known), view, and the losses of the stage, weighted, summed.

    `weights` (2,) are those of non-standard and standard; `before` is the network as the stage
    found it, whose image and text features are to be preserved.
    """
    inputs = batch.inputs.arguments()
    with autocast(network.device):
        features = network.encode(**inputs)
        output = network.fuse(*features, present)
        alone = [network.fuse(*features, only.expand(len(present), 3)) for only in ALONE]
        change = copy_change(network, features, batch) if recipe.jpeg_consistency_weight else None
    target = batch.standard * (1 - 2 * recipe.label_smoothing) + recipe.label_smoothing
    judged = batch.judged.float() * weights[batch.standard.long()]
    judged = judged / judged.sum().clamp(min=1e-6)

    def quality(said: SpatialClipOutput) -> Tensor:
        return (quality_loss(said.logit.float(), target, recipe.focal_gamma) * judged).sum()

    total = quality(output)
    if recipe.unimodal_weight:
        total = total + recipe.unimodal_weight * sum(map(quality, alone))
    if recipe.gate_prior_weight and network.gate_proj is not None:
        whole = output.gates[present.all(-1)].float().clamp(min=1e-6)
        shares = torch.tensor(GATE_PRIOR)
        total = total + recipe.gate_prior_weight * (shares * (shares / whole).log()).sum() / len(
            present
        )
    if change is not None:
        total = total + recipe.jpeg_consistency_weight * change
    named = batch.view != NO_VIEW
    if named.any():
        total = total + F.cross_entropy(
            output.view_logits[named].float(),
            batch.view[named],
            label_smoothing=recipe.label_smoothing,
        )
    known = ~batch.criteria.isnan()
    if known.any():
        for logits in heads(*features):
            total = total + recipe.criteria_weight * F.binary_cross_entropy_with_logits(
                logits[known], batch.criteria[known]
            )
    image, text, spatial = (feature.float() for feature in features)
    if stage is not Stage.FUSION:
        scale = network.trimodal_clip.scale()
        for weight, a, b in (
            (recipe.image_text_weight, image, text),
            (recipe.image_spatial_weight, image, spatial),
            (recipe.text_spatial_weight, text, spatial),
        ):
            total = total + weight * contrastive(a, b, scale, batch.words)
    if before is not None:
        with torch.no_grad():
            was = before.encode(**inputs)
        for now, then in zip((image, text), was[:2], strict=True):
            total = total + recipe.preservation_weight * (1 - (now * then.float()).sum(-1)).mean()
    return total


def copy_change(
    network: SpatialClip, features: tuple[Tensor, Tensor, Tensor], batch: Batch
) -> Tensor | None:
    """The mean squared difference between the logits of pictures and of their JPEG copies, whole
    and of the image alone; None where none is copied."""
    if batch.copies is None:
        return None
    image, text, spatial = (feature[list(batch.copied)] for feature in features)
    again = network.trimodal_clip.encode_features(batch.copies)
    differences = [
        network.fuse(image, text, spatial, present).logit.float()
        - network.fuse(again, text, spatial, present).logit.float()
        for present in (None, ALONE[:1].expand(len(image), 3))
    ]
    return torch.stack(differences).square().mean()


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs over samples: logit (N,), view probabilities (N, 5), gates (N, 3), image features."""

    logit: npt.NDArray[np.float64]
    views: npt.NDArray[np.float64]
    gates: npt.NDArray[np.float64]
    image: npt.NDArray[np.float64]


@torch.no_grad()
def predict(
    network: SpatialClip, evidence: Sequence[PreparedSample], preprocessor: Preprocessor
) -> Predictions:
    """The network in evaluation, unmirrored, in float32."""
    network.eval()
    rows = []
    for start in range(0, len(evidence), 32):
        inputs = make_batch(evidence[start : start + 32], preprocessor).inputs
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
    """Train in place and return the run's facts; a checkpoint after each epoch allows resuming.

    With `ema_decay` the network ends as the moving average of its weights. Raises UsageError where
    an epoch has no batch or nothing validates, QCError where a loss is not finite.
    """
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    check_training([e.sample for e in training], [e.sample for e in validation], recipe)
    run = _Run(network, recipe, training, preprocessor)
    checkpoint = out / runs.CHECKPOINT
    if resume and checkpoint.is_file():
        with runs.reading(checkpoint):
            run.load(checkpoint)
        console.print(f"resumed after epoch {run.epoch} of stage {run.stage.name}")
    writer = SummaryWriter(str(out / "tensorboard"))
    figures = {}
    while run.begin_epoch():
        started = time.monotonic()
        loss = run.train_epoch()
        figures = summarise(predict(run.average, validation, preprocessor), validation)
        for name, figure in figures.items():
            writer.add_scalar(f"validation/{name}", figure, run.epochs_done)
        writer.add_scalar("loss/train", loss, run.epochs_done)
        shown = " ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
        console.print(
            f"{run.stage.name} epoch {run.epoch}/{run.epochs} loss {loss:.3f} {shown}"
            f" ({time.monotonic() - started:.0f} s)",
            soft_wrap=True,
        )
        run.save(checkpoint)
    if not figures:
        figures = summarise(predict(run.average, validation, preprocessor), validation)
    run.end_stage()
    network.load_state_dict(run.average.state_dict())
    runs.check_network(network)
    return {
        "recipe": recipe.to_json(),
        "training": {
            "images": len(training),
            "sha256": run.facts["pictures"],
            "data": counts([item.sample for item in training]),
        },
        "validation": {"images": len(validation), **figures},
        "validation data": counts([item.sample for item in validation]),
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
    if len({sample.standard for sample in training if sample.view is not View.OTHER}) < 2:
        raise UsageError(
            "pictures to learn from must be standard and non-standard ones: there is one class only"
        )


def picture_order(
    samples: Sequence[Sample], recipe: SpatialClipRecipe, generator: np.random.Generator
) -> list[int]:
    """The pictures of one epoch; see `SpatialClipRecipe.simulated_ratio`."""
    if recipe.simulated_ratio == 0:
        return [int(i) for i in generator.permutation(len(samples))]
    return epoch_order([sample.simulated for sample in samples], recipe.simulated_ratio, generator)


class _Run:
    """Where a run is: stage, epoch, weights, their average, and the optimiser of the stage."""

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
        judged = [e.sample.standard for e in training if e.sample.view is not View.OTHER]
        self.weights = class_weights(judged) if recipe.class_balanced else torch.ones(2)
        self.samples = [e.sample for e in training]
        self.facts = recipe.to_json() | {"pictures": data_hash(self.samples)}
        order = picture_order(self.samples, recipe, np.random.default_rng(0))
        self.steps = len(order) // recipe.batch
        self.before: SpatialClip | None = None
        self.part, self.epoch, self.step, self.epochs_done = 0, 0, 0, 0
        self._begin_stage()

    @property
    def stage(self) -> Stage:
        return self.plan[self.part][0]

    @property
    def epochs(self) -> int:
        return self.plan[self.part][1]

    def begin_epoch(self) -> bool:
        """Go to the next stage where this one is done; False when all are."""
        if self.epoch == self.epochs and self.part + 1 < len(self.plan):
            self.end_stage()
            self.part, self.epoch, self.step = self.part + 1, 0, 0
            self._begin_stage()
        return self.epoch < self.epochs

    def train_epoch(self) -> float:
        """The mean loss."""
        recipe, total = self.recipe, self.epochs * self.steps
        warm = max(1, round(recipe.warmup * total))
        generator = np.random.default_rng((recipe.seed, self.epochs_done))
        dropout = torch.Generator().manual_seed(recipe.seed + 1000 * self.epochs_done)
        self.network.train()
        values: list[float] = []
        order = picture_order(self.samples, recipe, generator)
        for start in range(0, self.steps * recipe.batch, recipe.batch):
            chosen = [self.training[i] for i in order[start : start + recipe.batch]]
            batch = make_batch(chosen, self.preprocessor, generator, recipe.clean_fraction)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(self.step, total, warm)
            rate = 0.0 if self.stage is Stage.FUSION else recipe.modality_dropout
            present = modality_mask(len(batch.view), rate, dropout)
            loss = losses(
                self.network,
                self.heads,
                batch,
                recipe,
                self.stage,
                present,
                self.weights,
                self.before,
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
                done = self.epochs_done * self.steps + len(values) - 1
                update_average(self.average, self.network, done, recipe.ema_decay)
        self.epoch += 1
        self.epochs_done += 1
        return float(np.mean(values))

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "before": None if self.before is None else self.before.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "run": self.facts,
                "place": [self.part, self.epoch, self.step, self.epochs_done],
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        runs.check_resumed(state.get("run"), self.facts)
        self.end_stage()
        self.part, self.epoch, self.step, self.epochs_done = state["place"]
        self._begin_stage()
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        if self.before is not None:
            self.before.load_state_dict(state["before"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _begin_stage(self) -> None:
        """A new optimiser holds exactly what the stage trains."""
        adapted = self.stage is Stage.TOP and self.recipe.lora_rank > 0
        set_stage(self.network, Stage.PROJECTION if adapted else self.stage)
        self.before = None
        if self.stage is Stage.TOP and self.recipe.preservation_weight:
            self.before = deepcopy(self.network).requires_grad_(False).eval()
        if adapted:
            for each in self._copies():
                # The average starts from the same adapters.
                torch.manual_seed(self.recipe.seed)
                add_adapters(each, self.recipe.lora_rank)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, self.heads, self.recipe))

    def end_stage(self) -> None:
        """Leave the network, and its average, without adapters."""
        if self.stage is Stage.TOP and self.recipe.lora_rank:
            for each in self._copies():
                merge_adapters(each)

    def _copies(self) -> list[SpatialClip]:
        return [self.network] if self.average is self.network else [self.network, self.average]


def parameter_groups(
    network: SpatialClip, heads: CriteriaHeads, recipe: SpatialClipRecipe
) -> list[dict[str, Any]]:
    """Every trainable parameter once: matrices decay, vectors do not; linear heads learn faster,
    the image network slower."""
    fast = list(heads.parameters())
    slow: list[nn.Parameter] = []
    stem: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = fast if name.startswith(HEADS) else stem if STEM in name else slow
            part.append(parameter)
    rate = recipe.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": fast, "peak": rate * recipe.head_rate, "weight_decay": 0.0}
    ]
    for parameters, peak in ((slow, rate), (stem, rate * recipe.backbone_rate)):
        for decay in (recipe.weight_decay, 0.0):
            chosen = [p for p in parameters if (p.ndim > 1) == (decay > 0)]
            if chosen:
                groups.append({"params": chosen, "peak": peak, "weight_decay": decay})
    return groups


def view_index(sample: Sample) -> int:
    """The sample's place among VIEWS; NO_VIEW where it names no view."""
    return NO_VIEW if sample.view is None else VIEWS.index(sample.view)


def _set_name(sample: Sample) -> str:
    if sample.simulated:
        return "simulated"
    return "simulated (real)" if sample.source == "simulated" else sample.source


def summarise(predictions: Predictions, evidence: Sequence[PreparedSample]) -> dict[str, float]:
    """View accuracy over all that name one; AUROC of standard among pictures of the four views, of
    simulated ones and of each real set that has both classes: sets differ in more than quality."""
    from sklearn.metrics import roc_auc_score

    views = np.array([view_index(item.sample) for item in evidence])
    standard = np.array([item.sample.standard for item in evidence])
    sets = np.array([_set_name(item.sample) for item in evidence])
    judged, named = views != VIEWS.index(View.OTHER), views != NO_VIEW
    figures: dict[str, float] = {}
    if named.any():
        right = predictions.views.argmax(1) == views
        figures["view accuracy"] = float(np.mean(right[named]))
    for name in sorted(set(sets)):
        rows = judged & (sets == name)
        if len(set(standard[rows])) == 2:
            figures[f"AUROC {name}"] = float(roc_auc_score(standard[rows], predictions.logit[rows]))
    return figures

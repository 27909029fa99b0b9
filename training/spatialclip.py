"""Train SpatialCLIP on what serving sees: the detector's boxes and the describer's words.

One file reads top to bottom: batches, losses, loop. Of the default bundle's small CLIP only the
image stem is pretrained, so that it is trained whole in one stage; the published three stages need
a pretrained CLIP. One bit a picture teaches an untrained encoder little, so it is also asked which
criteria each phantom fails; the heads for that are dropped after training.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from detector.frame import Pixels
from detector.vocabulary import View
from model.criteria_table import RULES
from model.inputs import Inputs, Preprocessor
from model.spatialclip import VIEWS, SpatialClip, SpatialClipOutput
from training.detector import schedule
from training.evidence import Evidence
from training.samples import data_hash


@dataclass(frozen=True, slots=True)
class SpatialClipRecipe:
    """What decides a run, beside its data. Contrastive weights follow the published ones.

    `head_rate` times the learning rate goes to the linear heads: on features of unit length their
    weights must grow long before a logit says anything. `stem_rate` times it goes to the image
    network, which is already trained.
    """

    epochs: int = 16
    batch: int = 64
    learning_rate: float = 6e-4
    weight_decay: float = 0.05
    warmup_steps: int = 100
    image_text: float = 0.06
    image_spatial: float = 0.04
    text_spatial: float = 0.04
    criteria: float = 1.0
    head_rate: float = 10.0
    stem_rate: float = 0.2
    modality_dropout: float = 0.1
    smoothing: float = 0.02
    seed: int = 0


CRITERIA = tuple(sorted({rule.code for rules in RULES.values() for rule in rules}))
HEADS = ("gate_proj.", "classifier.", "view_head.")
STEM = ".patch_embedding.features."


class CriteriaHeads(nn.Module):
    """Which criteria are met, from the image alone and from all three features: (B, C) logits."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_image = nn.Linear(dim, len(CRITERIA))
        self.of_all = nn.Linear(3 * dim, len(CRITERIA))

    def forward(self, output: SpatialClipOutput) -> tuple[Tensor, Tensor]:
        features = torch.cat((output.image, output.text, output.spatial), dim=-1).float()
        return self.of_image(output.image.float()), self.of_all(features)


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and truths: standard (B,), view index (B,), which rows have a quality truth, and
    criteria (B, C): 1 met, 0 not met, NaN unknown."""

    inputs: Inputs
    standard: Tensor
    view: Tensor
    judged: Tensor
    criteria: Tensor
    words: list[str]


def make_batch(
    items: Sequence[Evidence],
    preprocessor: Preprocessor,
    generator: np.random.Generator | None = None,
) -> Batch:
    """A batch, mirrored and re-toned at random when a generator is given."""
    pictures, words, boxes = [], [], []
    for item in items:
        flip = int(generator is not None and generator.random() < 0.5)
        picture = item.picture[:, ::-1] if flip else item.picture
        if generator is not None:
            picture = retone(picture, generator)
        pictures.append(np.ascontiguousarray(picture))
        words.append(item.descriptions[flip])
        boxes.append(item.detections[flip])
    return Batch(
        preprocessor.batch(pictures, words, boxes, [item.size for item in items]),
        torch.tensor([float(item.sample.standard) for item in items]),
        torch.tensor([VIEWS.index(item.sample.view or View.OTHER) for item in items]),
        torch.tensor([item.sample.view is not View.OTHER for item in items]),
        torch.tensor(
            [[item.sample.criteria.get(code, math.nan) for code in CRITERIA] for item in items]
        ),
        words,
    )


def retone(picture: Pixels, generator: np.random.Generator) -> Pixels:
    """A slightly other gain and gamma; small, since gain and sharpness are themselves judged."""
    gamma = math.exp(generator.normal(0, 0.06))
    gain = math.exp(generator.normal(0, 0.04))
    curve = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, curve), np.uint8)


def contrastive(a: Tensor, b: Tensor, scale: Tensor, words: Sequence[str]) -> Tensor:
    """Symmetric InfoNCE in which equal captions count as matches, not as negatives."""
    index = {word: i for i, word in enumerate(dict.fromkeys(words))}
    keys = torch.tensor([index[word] for word in words], device=a.device)
    same = (keys[:, None] == keys[None, :]).float()
    targets = same / same.sum(1, keepdim=True)
    logits = scale * a @ b.T
    return 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))


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
    present: Tensor,
) -> Tensor:
    """Quality and criteria (where known), view, and the contrastive losses, weighted, summed."""
    inputs = batch.inputs
    with torch.autocast(network.device.type, torch.bfloat16):
        output = network(
            **{name: getattr(inputs, name) for name in inputs.__slots__}, present=present
        )
    target = batch.standard * (1 - 2 * recipe.smoothing) + recipe.smoothing
    per_row = F.binary_cross_entropy_with_logits(output.logit.float(), target, reduction="none")
    judged = batch.judged.float()
    total = (per_row * judged).sum() / judged.sum().clamp(min=1)
    total = total + F.cross_entropy(
        output.view_logits.float(), batch.view, label_smoothing=recipe.smoothing
    )
    known = ~batch.criteria.isnan()
    if known.any():
        for logits in heads(output):
            total = total + recipe.criteria * F.binary_cross_entropy_with_logits(
                logits[known], batch.criteria[known]
            )
    scale = network.trimodal_clip.scale()
    image, text, spatial = (f.float() for f in (output.image, output.text, output.spatial))
    for weight, a, b in (
        (recipe.image_text, image, text),
        (recipe.image_spatial, image, spatial),
        (recipe.text_spatial, text, spatial),
    ):
        total = total + weight * contrastive(a, b, scale, batch.words)
    return total


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs over samples: logit (N,), view probabilities (N, 5), gates (N, 3), image features."""

    logit: npt.NDArray[np.float64]
    views: npt.NDArray[np.float64]
    gates: npt.NDArray[np.float64]
    image: npt.NDArray[np.float64]


@torch.no_grad()
def predict(
    network: SpatialClip, evidence: Sequence[Evidence], preprocessor: Preprocessor
) -> Predictions:
    """The network in evaluation, unmirrored, in float32."""
    network.eval()
    rows = []
    for start in range(0, len(evidence), 32):
        inputs = make_batch(evidence[start : start + 32], preprocessor).inputs
        rows.append(network(**{name: getattr(inputs, name) for name in inputs.__slots__}))
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


def epoch_batches(
    evidence: Sequence[Evidence],
    preprocessor: Preprocessor,
    recipe: SpatialClipRecipe,
    epoch: int,
) -> Iterator[Batch]:
    """One shuffled, augmented epoch; the same for the same seed and epoch."""
    generator = np.random.default_rng((recipe.seed, epoch))
    order = generator.permutation(len(evidence))
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        chosen = [evidence[i] for i in order[start : start + recipe.batch]]
        yield make_batch(chosen, preprocessor, generator)


def train_spatialclip(
    network: SpatialClip,
    training: Sequence[Evidence],
    validation: Sequence[Evidence],
    preprocessor: Preprocessor,
    out: Path,
    recipe: SpatialClipRecipe,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Train in place and return the run's facts; a checkpoint after each epoch allows resuming."""
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    heads = CriteriaHeads(network.config.dim)
    optimizer = torch.optim.AdamW(parameter_groups(network, heads, recipe))
    epoch, step = 0, 0
    total_steps = recipe.epochs * (len(training) // recipe.batch)
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, step = state["epoch"], state["step"]
        console.print(f"resumed after epoch {epoch} of {recipe.epochs}")
    dropout = torch.Generator().manual_seed(recipe.seed)
    writer = SummaryWriter(str(out / "tensorboard"))
    while epoch < recipe.epochs:
        network.train()
        started, values = time.monotonic(), []
        for batch in epoch_batches(training, preprocessor, recipe, epoch):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, total_steps, recipe.warmup_steps)
            present = modality_mask(len(batch.view), recipe.modality_dropout, dropout)
            loss = losses(network, heads, batch, recipe, present)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            values.append(float(loss.detach()))
        epoch += 1
        figures = summarise(predict(network, validation, preprocessor), validation)
        for name, figure in figures.items():
            writer.add_scalar(f"validation/{name}", figure, epoch)
        writer.add_scalar("loss/train", float(np.mean(values)), epoch)
        shown = " ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
        console.print(
            f"epoch {epoch}/{recipe.epochs} loss {np.mean(values):.3f} {shown}"
            f" ({time.monotonic() - started:.0f} s)"
        )
        torch.save(
            {
                "network": network.state_dict(),
                "heads": heads.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "step": step,
            },
            checkpoint,
        )
    return {
        "recipe": asdict(recipe),
        "training": {
            "images": len(training),
            "sha256": data_hash([item.sample for item in training]),
        },
        "validation": {"images": len(validation), **figures},
    }


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
    for parameters, peak in ((slow, rate), (stem, rate * recipe.stem_rate)):
        for decay in (recipe.weight_decay, 0.0):
            chosen = [p for p in parameters if (p.ndim > 1) == (decay > 0)]
            if chosen:
                groups.append({"params": chosen, "peak": peak, "weight_decay": decay})
    return groups


def summarise(predictions: Predictions, evidence: Sequence[Evidence]) -> dict[str, float]:
    """View accuracy over all, AUROC of standard among the four views, by simulated and real."""
    from sklearn.metrics import roc_auc_score

    views = np.array([VIEWS.index(item.sample.view or View.OTHER) for item in evidence])
    standard = np.array([item.sample.standard for item in evidence])
    real = np.array([item.sample.source.startswith("set") for item in evidence])
    judged = views != VIEWS.index(View.OTHER)
    figures = {"view accuracy": float(np.mean(predictions.views.argmax(1) == views))}
    for name, rows in (("AUROC simulated", judged & ~real), ("AUROC real", judged & real)):
        if len(set(standard[rows])) == 2:
            figures[name] = float(roc_auc_score(standard[rows], predictions.logit[rows]))
    return figures

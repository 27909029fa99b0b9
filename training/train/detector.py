"""Train the anatomy detector: YOLO11 on boxed pictures, from scratch or from other weights.

From top to bottom: data, augmentation, batches, loss, loop, evaluation, export.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from detector.anatomy import LABELS, View
from detector.boxes import Box
from detector.console import UsageError
from detector.frame import Pixels
from detector.letterbox import Letterbox
from detector.sides import name_plexuses, names_in_mirror_image
from detector.yolo.yolo import YoloDetector, build_network, save_detector
from training.augment import scanner
from training.data.regions import match_regions, read_region
from training.data.samples import Sample, count_samples, data_hash, file_hash
from training.evaluation.metrics.detection import DetectorScore, score_detector
from training.recipes import DetectorRecipe
from training.train import runs
from training.train.optim import draw_epoch, restarted_schedule, update_average
from training.train.precision import autocast
from training.train.start import Start, load_start

CODES = tuple(label.code for label in LABELS if label.code != "UNKNOWN")
"""Labels of the detector, in the order of its classes."""

FILL = 128
"""Grey level around a letterboxed picture, as in serving."""


@dataclass(slots=True)
class Picture:
    """A letterboxed training picture and its boxes in the letterboxed frame."""

    pixels: Pixels
    boxes: list[tuple[str, Box]]
    annotated: frozenset[str]
    sample: Sample


def load_picture(sample: Sample, size: int) -> Picture:
    """The sample's region letterboxed to (size, size, 3), as serving does it."""
    crop, truths = read_region(sample)
    letterbox = Letterbox.fit(crop.shape[1], crop.shape[0], size)
    boxes = [(truth.label, letterbox.to_model(truth.bbox)) for truth in truths]
    return Picture(letterbox.apply(crop, fill=FILL), boxes, sample.annotated, sample)


def load_pictures(samples: Sequence[Sample], size: int, folder: Path) -> list[Picture]:
    """`load_picture` of each, their pixels in an unnamed file of `folder`: gigabytes, of which the
    system keeps in memory what it can spare."""
    with TemporaryFile(dir=folder) as file:
        stack = np.memmap(file, np.uint8, "w+", shape=(len(samples), size, size, 3))

    def load(index: int) -> Picture:
        picture = load_picture(samples[index], size)
        stack[index] = picture.pixels
        picture.pixels = stack[index]
        return picture

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(load, range(len(samples))))


def canvas(size: int) -> tuple[int, int]:
    """(width, height) in pixels of a training picture: ultrasound is wider than high, so that the
    square of serving would spend a quarter of each step on grey rows."""
    return size, max(32, round(size * 0.75 / 32) * 32)


def augment(picture: Picture, recipe: DetectorRecipe, generator: np.random.Generator) -> Picture:
    """A scaled, moved, mirrored and restyled copy (H, W, 3) with its boxes, but for those of which
    less than half is left."""
    stands = picture.sample.simulated and picture.sample.view is View.HEAD
    # Phantoms' heads stand, most real ones lie. Only where asked: a draw more changes all others.
    if stands and recipe.lying_fraction and generator.random() < recipe.lying_fraction:
        picture = lay_down(picture)
    size = picture.pixels.shape[0]
    width, height = canvas(size)
    scale = math.exp(generator.uniform(math.log(0.65), math.log(1.3)))
    mirrored = generator.random() < 0.5
    shift = generator.uniform(-0.12, 0.12, 2) * size + size * (1 - scale) / 2
    shift[1] -= (size - height) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    names = {code: code for code in CODES}
    if mirrored:
        matrix = np.array([[-scale, 0, size - shift[0]], [0, scale, shift[1]]])
        names |= names_in_mirror_image(dict(picture.boxes))
    border = int(generator.integers(0, 160))
    pixels = cv2.warpAffine(
        picture.pixels,
        matrix,
        (width, height),
        flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        borderValue=(border, border, border),
    )
    boxes = []
    for code, (x0, y0, x1, y1) in picture.boxes:
        xs = sorted((matrix[0, 0] * x0 + matrix[0, 2], matrix[0, 0] * x1 + matrix[0, 2]))
        ys = (matrix[1, 1] * y0 + matrix[1, 2], matrix[1, 1] * y1 + matrix[1, 2])
        clipped = np.clip([xs[0], ys[0], xs[1], ys[1]], 0, np.array([width, height, width, height]))
        visible = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
        # A box that lost most of itself at the border no longer shows its structure.
        if visible >= 0.5 * (xs[1] - xs[0]) * (ys[1] - ys[0]):
            box = (clipped[0], clipped[1], clipped[2], clipped[3])
            boxes.append((names.get(code, code), box))
    annotated = frozenset(names.get(code, code) for code in picture.annotated)
    return Picture(scanner.restyle(pixels, generator), boxes, annotated, picture.sample)


def lay_down(picture: Picture) -> Picture:
    """The picture turned by a right angle, its plexuses named anew; as it is where they cannot be
    (without a falx between them)."""
    size = picture.pixels.shape[0]
    boxes = {code: (y0, size - x1, y1, size - x0) for code, (x0, y0, x1, y1) in picture.boxes}
    named = name_plexuses(boxes)
    if named is None:
        return picture
    turned = np.ascontiguousarray(np.rot90(picture.pixels))
    return Picture(turned, list(named.items()), picture.annotated, picture.sample)


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures, their boxes, and which labels each was annotated for."""

    images: Tensor  # (B, 3, H, W) within 0 and 1.
    targets: dict[str, Tensor]  # As ultralytics' loss takes them.
    annotated: Tensor  # (B, C) bool, in the order of CODES.


def collate(pictures: Sequence[Picture]) -> Batch:
    """The batch of the pictures; boxes become centre-x, centre-y, width and height, as shares of
    the picture."""
    height, width = pictures[0].pixels.shape[:2]
    images = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    rows = [
        (
            *(index, CODES.index(code)),
            *((x0 + x1) / 2 / width, (y0 + y1) / 2 / height),
            *((x1 - x0) / width, (y1 - y0) / height),
        )
        for index, picture in enumerate(pictures)
        for code, (x0, y0, x1, y1) in picture.boxes
        # A label outside the vocabulary has no class.
        if code in CODES
    ]
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    is_annotated = [[code in picture.annotated for code in CODES] for picture in pictures]
    return Batch(
        images.permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=torch.channels_last),
        {"batch_idx": table[:, 0], "cls": table[:, 1], "bboxes": table[:, 2:]},
        torch.tensor(is_annotated),
    )


def batches(pictures: Sequence[Picture], recipe: DetectorRecipe, epoch: int) -> Iterator[Batch]:
    """One shuffled, augmented epoch; the same for the same seed and epoch."""
    generator = np.random.default_rng((recipe.seed, epoch))
    order = draw_epoch([p.sample for p in pictures], recipe, generator)
    starts = range(0, len(order) - recipe.batch + 1, recipe.batch)

    def make(start: int) -> Batch:
        own = np.random.default_rng((recipe.seed, epoch, start))
        selected = [pictures[i] for i in order[start : start + recipe.batch]]
        return collate([augment(p, recipe, own) for p in selected])

    with ThreadPoolExecutor(1) as executor:
        pending = executor.submit(make, 0)
        for start in starts:
            batch = pending.result()
            if start + recipe.batch in starts:
                pending = executor.submit(make, start + recipe.batch)
            yield batch


class DetectionLoss:
    """ultralytics' detection loss, without the labels that a picture was not annotated for."""

    def __init__(self, network: nn.Module) -> None:
        from ultralytics.utils.loss import v8DetectionLoss

        network.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)  # type: ignore[assignment]
        self.loss = v8DetectionLoss(network)

    def __call__(self, output: dict[str, Any], batch: Batch) -> Tensor:
        scores = output["scores"].float()
        # A very negative logit costs nothing and gets no gradient: unannotated is not negative.
        scores = scores.masked_fill(~batch.annotated[:, :, None].to(scores.device), -30.0)
        parts, _ = self.loss(
            {"boxes": output["boxes"].float(), "scores": scores, "feats": output["feats"]},
            batch.targets,
        )
        total: Tensor = parts.sum() / len(batch.images)
        return total


def train_detector(
    training: Sequence[Sample],
    validation: Sequence[Sample],
    out: Path,
    recipe: DetectorRecipe,
    *,
    start: Start | None = None,
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train, export to `out` (architecture, safetensors) and return the run's facts.

    A checkpoint is
    written after each epoch; `resume` goes on from it. Raises UsageError where an epoch has no
    batch or nothing validates, QCError where a loss is not finite: then no weights are written.
    """
    epoch_size = check_training(training, validation, recipe)
    console = Console(stderr=True)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    network = build_network(f"yolo11{recipe.scale}.yaml", len(CODES)).to(
        memory_format=torch.channels_last
    )
    if start is not None:
        load_start(network, start)
    loss = DetectionLoss(network)
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, recipe.weight_decay), recipe.learning_rate
    )
    average = deepcopy(network).eval()
    steps_per_epoch = epoch_size // recipe.batch
    total_steps = recipe.epochs * steps_per_epoch
    epoch, step = 0, 0
    checkpoint = out / runs.CHECKPOINT
    run = recipe.to_json() | {"pictures": data_hash(training)}
    if resume and checkpoint.is_file():
        with runs.reading(checkpoint):
            state = torch.load(checkpoint, weights_only=True)
            runs.check_resumed(state.get("run"), run)
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            epoch, step = state["epoch"], state["step"]
        console.print(f"resumed after epoch {epoch} of {recipe.epochs}")

    pictures = load_pictures(training, recipe.size, out)
    console.print(f"{len(pictures)} pictures, {steps_per_epoch} steps an epoch")
    writer = SummaryWriter(str(out / "tensorboard"))
    validation_score = None
    while epoch < recipe.epochs:
        network.train()
        started, losses = time.monotonic(), []
        for batch in batches(pictures, recipe, epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * restarted_schedule(
                    step, total_steps, recipe.warmup_steps, recipe.restart * steps_per_epoch
                )
            output = _forward(network, batch.images, recipe)
            value = loss(output, batch)
            losses.append(float(value.detach()))
            runs.check_loss(losses[-1], step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            step += 1
            update_average(average, network, step, recipe.ema_decay)
        epoch += 1
        writer.add_scalar("loss/train", float(np.mean(losses)), epoch)
        line = f"epoch {epoch}/{recipe.epochs} loss {np.mean(losses):.3f}"
        if epoch % 5 == 0 or epoch == recipe.epochs:
            validation_score = evaluate_detector(_as_detector(average, recipe), validation)
            writer.add_scalar("map50/validation", validation_score.map50, epoch)
            line += f" validation mAP50 {validation_score.map50:.3f}"
        console.print(f"{line} ({time.monotonic() - started:.0f} s)")
        _save_checkpoint(checkpoint, network, average, optimizer, epoch, step, run)

    if validation_score is None:  # It was resumed after its last epoch.
        validation_score = evaluate_detector(_as_detector(average, recipe), validation)
    runs.check_network(average)
    save_detector(out, average, CODES, recipe.size, mirrored=recipe.mirrored)
    facts: dict[str, Any] = {
        "command": command,
        "recipe": recipe.to_json(),
        "start": None if start is None else file_hash(start.weights),
        "training": {
            "images": len(training),
            "sha256": run["pictures"],
            "data": count_samples(training),
        },
        "validation": {
            "images": len(validation),
            "data": count_samples(validation),
            "map50": validation_score.map50,
            "ap50": validation_score.ap50,
            "truths": validation_score.truths,
        },
    }
    if start is not None:
        facts["start file"] = start.weights.name
        facts["start data"] = start.data()
    runs.write_pictures(out, training, set() if start is None else start.pictures())
    runs.write_facts(out, facts)
    return facts


def _forward(network: Any, images: Tensor, recipe: DetectorRecipe) -> dict[str, Tensor]:
    """The raw output in training mode, in bfloat16 where that is quicker; with `float32_head` the
    head, whose logits and distances have few digits in bfloat16, in full precision."""
    if not recipe.float32_head:
        with autocast("cpu"):
            return network(images)  # type: ignore[no-any-return]
    *body, head = network.model
    outputs: list[Tensor | None] = []
    with autocast("cpu"):
        x = images
        for module in body:
            x = module(_inputs(module.f, x, outputs))
            outputs.append(x if module.i in network.save else None)
    return head([t.float() for t in _inputs(head.f, x, outputs)])  # type: ignore[no-any-return]


def _inputs(source: int | Sequence[int], x: Tensor, outputs: Sequence[Tensor | None]) -> Any:
    """What a module of ultralytics' graph reads: the tensor before it, or other modules'."""
    if isinstance(source, int):
        return x if source == -1 else outputs[source]
    return [x if index == -1 else outputs[index] for index in source]


def check_training(
    training: Sequence[Sample], validation: Sequence[Sample], recipe: DetectorRecipe
) -> int:
    """Pictures an epoch; raises UsageError where a run could not train or validate."""
    epoch_size = len(draw_epoch(training, recipe, np.random.default_rng(0)))
    runs.check_division(training, validation, epoch_size, recipe.batch)
    for purpose, samples in (("learn from", training), ("validate with", validation)):
        if not any(box.label in CODES for sample in samples for box in sample.boxes):
            raise UsageError(f"no picture to {purpose} has a box of a known structure")
    return epoch_size


def evaluate_detector(detector: YoloDetector, samples: Sequence[Sample]) -> DetectorScore:
    """AP50 per label of the detector as it serves, on the samples' regions."""
    return score_detector(match_regions(detector, samples))


def _as_detector(network: nn.Module, recipe: DetectorRecipe) -> YoloDetector:
    return YoloDetector(deepcopy(network).eval(), CODES, recipe.size, mirrored=recipe.mirrored)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: weights decay; biases and normalisation do not."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    undecayed = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]


def _save_checkpoint(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    step: int,
    run: Mapping[str, Any],
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "step": step,
            "run": dict(run),
        },
        partial,
    )
    partial.replace(path)

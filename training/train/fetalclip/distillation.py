"""Teach a small CLIP what a FetalCLIP knows, by pictures and captions (as MobileFetalCLIP does).

Loss: CLIP's, and the cross-entropy between the teacher's and the student's similarities of a
batch, divided into pairs that match (weight 1) and the others (weight beta). Beta falls with the
epochs from coupled (the student takes over what the teacher confuses) to repulsive (it is pushed
away from that).

From top to bottom: a training, its loss, pairs and their augmentation.
The loop: `training.train.loop`.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from detector.frame import Pixels
from model.fetalclip.checkpoint import save_fetalclip
from model.fetalclip.network import FetalClip
from model.fetalclip.preprocess import TextEncoder, images, resize, square
from training.data.captions import Captioned, captions_hash
from training.data.labelled import read_first_frame
from training.fetalclip_recipes import DistillationRecipe
from training.train import runs
from training.train.fetalclip.caption_tuning import check_pairs, encode_pictures
from training.train.loop import EpochTraining, train_epochs
from training.train.losses import contrastive_loss

MAX_ANGLE, MAX_SHIFT, MAX_TONE = 7.0, 0.05, 0.15
MAX_SCALE = math.log(100.0)
"""The learnt scale of similarities is at most 100, as CLIP has it."""
_BETAS = (0.9, 0.98)
_MEMORY = 1 << 30
"""Bytes of squares that are kept; the others are read again."""

_Batch = tuple[Tensor, Tensor, Tensor, Sequence[int]]
"""Pictures for the teacher and for the student, tokens, and the rows of the pairs."""


def distil(
    teacher: FetalClip,
    student: FetalClip,
    encoder: TextEncoder,
    training: Sequence[Captioned],
    validation: Sequence[Captioned],
    out: Path,
    recipe: DistillationRecipe,
    *,
    teacher_sha256: str = "",
    learnt_before: Set[str] | None = frozenset(),
    resume: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train the student, write that of the lowest contrastive loss on `validation` to `out` as a
    FetalCLIP folder with the tokenizer, and return the facts of training.json.

    `learnt_before` are the SHA-256 of the pictures that the student learnt from already, None where
    unknown.
    A checkpoint after each epoch allows `resume`, to the same losses. Raises UsageError where
    nothing could be learnt or validated, QCError where a loss is not finite.
    """
    check_pairs(training, validation, recipe)
    run = _Run(teacher, student, encoder, training, validation, recipe, teacher_sha256)
    train_epochs(run, out, resume=resume)
    source = {
        "student of": teacher_sha256,
        "recipe": recipe.to_json(),
        "pairs sha256": run.facts["pairs"],
    }
    save_fetalclip(out, student, encoder.tokenizer, source)
    facts = {
        "command": command,
        "recipe": recipe.to_json(),
        "teacher": {"sha256": teacher_sha256, "parameters": _count(teacher)},
        "student": {"parameters": _count(student)},
        "losses": run.losses,
        "validation losses": run.validations,
        "best epoch": run.best_epoch,
        "training": {"pairs": len(training), "sha256": run.facts["pairs"]},
        "validation": {"pairs": len(validation), "loss": run.best_value},
    }
    runs.write_learnt(out, (pair.image for pair in training), learnt_before)
    runs.write_validated(out, (pair.image for pair in validation))
    runs.write_facts(out, facts)
    return facts


def beta_of(epoch: int, recipe: DistillationRecipe) -> float:
    """Weight of the pairs that do not match, in that epoch from 0."""
    share = epoch / max(1, recipe.epochs - 1)
    return recipe.beta_start + (recipe.beta_end - recipe.beta_start) * min(1.0, share)


def distillation_loss(
    student: Tensor, teacher: Tensor, is_match: Tensor, beta: float, temperature: float
) -> Tensor:
    """() of logits (B, B), pictures in rows and captions in columns, and where they match: mean
    over rows, and over both directions, of the cross-entropy -p log q, p the teacher's softmax at
    the temperature, q the student's at none; terms that do not match weigh `beta`."""
    weights = torch.where(is_match, 1.0, beta)
    total = student.new_zeros(())
    for q, p, w in ((student, teacher, weights), (student.T, teacher.T, weights.T)):
        terms = -(p / temperature).softmax(-1) * log_softmax(q, -1)
        total = total + (w * terms).sum(-1).mean()
    return total / 2


def encode_texts(network: FetalClip, tokens: Tensor) -> Tensor:
    """(B, L) tokens -> (B, d) of unit length, with gradients."""
    pooled = network.clip.text_model(input_ids=tokens.to(network.device)).pooler_output
    return normalize(network.clip.text_projection(pooled), dim=-1)


class _Run(EpochTraining):
    """Pictures and their captions; the whole student learns. The lowest loss is the best."""

    validations_key = "validated"
    worst = math.inf
    recipe: DistillationRecipe

    def __init__(
        self,
        teacher: FetalClip,
        student: FetalClip,
        encoder: TextEncoder,
        training: Sequence[Captioned],
        validation: Sequence[Captioned],
        recipe: DistillationRecipe,
        teacher_sha256: str,
    ) -> None:
        teacher.clip.requires_grad_(False).eval()
        parameters = list(student.clip.named_parameters())
        super().__init__(
            student.clip,
            parameters,
            torch.optim.AdamW(
                [
                    {"params": [p], "weight_decay": recipe.weight_decay if p.ndim > 1 else 0.0}
                    for _, p in parameters
                ],
                betas=_BETAS,
                eps=1e-6,
            ),
            recipe,
            {
                **recipe.to_json(),
                "teacher": teacher_sha256,
                "student": asdict(student.architecture),
                "pairs": captions_hash(training),
            },
            len(training),
            recipe.patience,
        )
        self.teacher, self.student, self.encoder = teacher, student, encoder
        self.pairs, self.held_out = (Squares(part, teacher) for part in (training, validation))
        self.texts = self._teacher_texts(training)
        self.features: dict[int, Tensor] = {}

    def batch(self, rows: Sequence[int], generator: np.random.Generator) -> _Batch:
        return self._inputs(self.pairs, rows, generator if self.recipe.augment else None)

    def loss(self, batch: _Batch) -> Tensor:
        for_teacher, for_student, tokens, rows = batch
        captions = [self.pairs.pairs[row].caption for row in rows]
        pictures = encode_pictures(self.student, for_student)
        texts = encode_texts(self.student, tokens)
        scale = self.student.clip.logit_scale.clamp(max=MAX_SCALE).exp()
        own = contrastive_loss(pictures, texts, scale, captions)
        features = self._teacher_features(for_teacher, rows)
        similarities = self.teacher.clip.logit_scale.exp() * features @ self.texts[list(rows)].T
        return own + self.recipe.distillation_weight * distillation_loss(
            scale * pictures @ texts.T,
            similarities,
            _matches(captions).to(self.device),
            beta_of(self.epoch, self.recipe),
            self.recipe.temperature,
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """CLIP's loss of the student alone, in batches as large as in training."""
        self.network.eval()
        values, size = [], self.recipe.batch
        for start in range(0, len(self.held_out.pairs), size):
            rows = range(start, min(start + size, len(self.held_out.pairs)))
            if len(rows) < 2:
                continue
            _, pictures, tokens, _ = self._inputs(self.held_out, rows, None)
            captions = [self.held_out.pairs[row].caption for row in rows]
            scale = self.student.clip.logit_scale.clamp(max=MAX_SCALE).exp()
            features = encode_pictures(self.student, pictures)
            texts = encode_texts(self.student, tokens)
            values.append(float(contrastive_loss(features, texts, scale, captions)))
        return {"loss": float(np.mean(values))}

    def _inputs(
        self, pairs: "Squares", rows: Sequence[int], generator: np.random.Generator | None
    ) -> _Batch:
        """The teacher sees the very picture that the student sees."""
        squares = [pairs.square(row) for row in rows]
        if generator is not None:
            squares = [augment(each, generator) for each in squares]
        sides = (self.teacher.architecture.image, self.student.architecture.image)
        tokens = self.encoder.tokens([pairs.pairs[row].caption for row in rows])
        return images(squares, sides[0]), images(squares, sides[1]), tokens, rows

    @torch.no_grad()
    def _teacher_features(self, pictures: Tensor, rows: Sequence[int]) -> Tensor:
        """(B, d) the teacher's features, kept where pictures are not varied."""
        if self.recipe.augment:
            return encode_pictures(self.teacher, pictures)
        if any(row not in self.features for row in rows):
            self.features |= zip(rows, encode_pictures(self.teacher, pictures), strict=True)
        return torch.stack([self.features[row] for row in rows])

    @torch.no_grad()
    def _teacher_texts(self, training: Sequence[Captioned]) -> Tensor:
        """(N, d) the teacher's features of all captions, each encoded once."""
        texts = list(dict.fromkeys(pair.caption for pair in training))
        features = torch.cat(
            [
                encode_texts(self.teacher, self.encoder.tokens(texts[start : start + 64]))
                for start in range(0, len(texts), 64)
            ]
        )
        row_of = {text: number for number, text in enumerate(texts)}
        return features[[row_of[pair.caption] for pair in training]]


class Squares:
    """Black squares (S, S, 3) of pictures, of the teacher's size, read once while memory lasts."""

    def __init__(self, pairs: Sequence[Captioned], teacher: FetalClip) -> None:
        self.pairs = pairs
        self.side = teacher.architecture.image
        self._squares: dict[int, Pixels] = {}

    def square(self, row: int) -> Pixels:
        """Raises QCError on an unreadable picture."""
        stored = self._squares.get(row)
        if stored is None:
            stored = resize(square(read_first_frame(self.pairs[row].image).pixels), self.side)
            if len(self._squares) < _MEMORY // stored.nbytes:
                self._squares[row] = stored
        return stored


def augment(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """A square turned by up to 7 degrees, moved by up to 5 % and re-toned by up to 15 %. Nothing is
    mirrored: captions may say a side."""
    side = pixels.shape[0]
    matrix = cv2.getRotationMatrix2D(
        ((side - 1) / 2, (side - 1) / 2), generator.uniform(-MAX_ANGLE, MAX_ANGLE), 1.0
    )
    matrix[:, 2] += generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * side
    levels = np.asarray(cv2.warpAffine(pixels, matrix, (side, side)), np.float32)
    brightness, contrast = 1 + generator.uniform(-MAX_TONE, MAX_TONE, 2)
    mean = levels.mean()
    levels = (levels * brightness - mean) * contrast + mean
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _matches(captions: Sequence[str]) -> Tensor:
    """(B, B) True where two captions are equal."""
    key_of = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    keys = torch.tensor([key_of[text] for text in captions])
    return keys[:, None] == keys[None]


def _count(network: FetalClip) -> int:
    return sum(parameter.numel() for parameter in network.clip.parameters())

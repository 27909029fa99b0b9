"""Loaded parts that give opinions: a class of each tissue region, by prompts or by a head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import QCError
from detector.frame import Pixels
from model.bundle.manifest import incomplete, mismatch
from model.dual_branch.checkpoint import load_dual_branch
from model.dual_branch.network import Layout
from model.dual_branch.preprocess import Preprocessor, fit, published_screen
from model.fetalclip.checkpoint import load_fetalclip
from model.fetalclip.network import FetalClip
from model.fetalclip.preprocess import TextEncoder, images
from model.fetalclip.prompts import read_prompts
from model.fetalclip.zero_shot import ZeroShotClassifier
from model.nextgen_uia.checkpoint import load_network, load_tower, read_trained
from model.nextgen_uia.network import Task
from model.nextgen_uia.preprocess import normalise, square
from model.parts.opinion import LOW_PROBABILITY, LOW_SIMILARITY, Opinion
from model.parts.part import (
    MODEL,
    PROMPTS,
    TOWER,
    TOWER_FILE,
    Family,
    Part,
    RejectThresholds,
)


@dataclass(frozen=True, slots=True)
class ClassAnswer:
    """A picture's most probable class, its probability, and with prompts the cosine to it."""

    label: str
    probability: float
    cosine: float | None = None


class ViewModel(Protocol):
    """A network that names a class of a region."""

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of its outputs."""

    def classify(self, screen: Pixels, regions: Sequence[Pixels]) -> list[ClassAnswer]:
        """Of each region's pixels (H, W, 3) RGB; `screen` is the whole frame that they are of."""


class PromptedClip:
    """FetalCLIP by the prompts of the part."""

    def __init__(self, network: FetalClip, classifier: ZeroShotClassifier) -> None:
        self._network, self._classifier = network, classifier
        self.classes = classifier.classes

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "PromptedClip":
        if not (folder / PROMPTS).is_file():
            raise incomplete(
                "it has no prompts, so that it names no class: make it again with bundle part"
                " --prompts"
            )
        network = load_fetalclip(folder / MODEL, device)
        encoder = TextEncoder.load(folder / MODEL, network.architecture)
        try:
            prompts = read_prompts(folder / PROMPTS)
        except UsageError as error:
            raise mismatch(str(error)) from None
        return cls(network, ZeroShotClassifier(network, encoder, prompts))

    def classify(self, screen: Pixels, regions: Sequence[Pixels]) -> list[ClassAnswer]:
        pictures = images(regions, self._network.architecture.image)
        answers = self._classifier.classify(self._network.image_features(pictures))
        return [ClassAnswer(each.closest, each.probability, each.cosine) for each in answers]


class DualBranchModel:
    """The dual-branch classifier, which sees regions, or the whole screen, as it learnt to."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._network = load_dual_branch(folder, device)
        self._preprocessor = Preprocessor(self._network.config)
        self.classes = self._network.config.classes

    @torch.inference_mode()
    def classify(self, screen: Pixels, regions: Sequence[Pixels]) -> list[ClassAnswer]:
        if self._preprocessor.layout is Layout.PUBLISHED:
            return self._answers([published_screen(screen)]) * len(regions)
        return self._answers([fit(each, self._preprocessor.size) for each in regions])

    def _answers(self, canvases: Sequence[Pixels]) -> list[ClassAnswer]:
        pictures = self._preprocessor.normalise(canvases).to(self._network.device)
        return _most_probable(self._network(pictures), self.classes)


class HeadOnTower:
    """A classifying head on layers of a tower, with or without adapters (NextGen-UIA)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        trained = read_trained(folder / MODEL)
        if trained.head is None or trained.head.task is not Task.CLASSIFICATION:
            raise mismatch("it has no head that names classes")
        layers = tuple(int(each) for each in trained.tower.get("layers", ()))
        side = int(trained.tower.get("side", 224))
        tower = folder / TOWER if (folder / TOWER).is_dir() else folder / TOWER_FILE
        network = load_network(folder / MODEL, load_tower(tower, layers, side))
        self._network = network.to(device)
        self.classes = trained.head.classes

    @torch.inference_mode()
    def classify(self, screen: Pixels, regions: Sequence[Pixels]) -> list[ClassAnswer]:
        side = self._network.tower.side
        pictures = normalise([square(each, side) for each in regions])
        return _most_probable(self._network(pictures.to(self._network.device)), self.classes)


def load_view_model(family: Family, folder: Path, device: torch.device) -> ViewModel:
    """The network in a part's folder, on the device. Raises QCError BUNDLE_INCOMPLETE,
    BUNDLE_MISMATCH."""
    if family is Family.FETALCLIP:
        return PromptedClip.load(folder, device)
    if family is Family.DUAL_BRANCH:
        return DualBranchModel(folder / MODEL, device)
    return HeadOnTower(folder, device)


def check_classes(classes: Sequence[str], views: Mapping[str, Sequence[View]]) -> None:
    """Raises QCError BUNDLE_MISMATCH unless exactly the network's classes have views."""
    missing = [name for name in classes if name not in views]
    unknown = [name for name in views if name not in classes]
    if missing:
        raise mismatch(f"the views of class {missing[0]!r} are not stated (null: none of ours)")
    if unknown:
        raise mismatch(f"there is no class {unknown[0]!r}; the network's are {', '.join(classes)}")


class OpinionModel:
    """A part in its role: opinions on the regions of a frame."""

    def __init__(self, role: str, part: Part, model: ViewModel) -> None:
        self.role, self.part_id = role, part.id
        self._model = model
        self._views: dict[str, tuple[View, ...]] = part.views
        self._reject: RejectThresholds = part.reject

    @classmethod
    def load(cls, role: str, part: Part, device: torch.device) -> "OpinionModel":
        """Raises QCError as `load_view_model` and `check_classes`, with the part's name."""
        try:
            model = load_view_model(part.family, part.path, device)
            check_classes(model.classes, part.views)
        except QCError as error:
            raise QCError(error.code, f"part {part.id.name}: {error.message}") from None
        return cls(role, part, model)

    def opinions(self, screen: Pixels, regions: Sequence[Pixels]) -> list[Opinion]:
        """One a region; `screen` is the whole frame."""
        return [self._opinion(each) for each in self._model.classify(screen, regions)]

    def _opinion(self, answer: ClassAnswer) -> Opinion:
        reason = None
        if answer.cosine is not None and answer.cosine < self._reject.min_cosine:
            reason = LOW_SIMILARITY
        elif answer.probability < self._reject.min_probability:
            reason = LOW_PROBABILITY
        return Opinion(
            self.role,
            self.part_id,
            answer.label,
            answer.probability,
            () if reason else self._views[answer.label],
            reason,
        )


def _most_probable(logits: Tensor, classes: Sequence[str]) -> list[ClassAnswer]:
    """The class of each row of logits (B, C)."""
    probabilities, indices = logits.double().softmax(-1).max(-1)
    return [
        ClassAnswer(classes[index], min(1.0, probability))
        for index, probability in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]

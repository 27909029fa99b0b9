"""How many patients adapters need: macro-F1 by the number of patients to learn from.

As `training.features.few_shot` asks it of a linear probe, over the same five folds of patients. A
trial is a training of its own; each is written when it is done, so that a killed curve goes on.
"""

import json
import math
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from detector.console import UsageError
from model.nextgen_uia.adapters import AdapterConfig
from model.nextgen_uia.checkpoint import load_network, tower_sha256
from model.nextgen_uia.network import HeadConfig, Tower
from training.adapter_recipes import HeadRecipe
from training.data.labelled import draw_shots
from training.data.lesions import Lesion, lesions_hash
from training.data.samples import SampleError
from training.evaluation.metrics.multiclass import confusion_matrix, macro_f1
from training.features.few_shot import SHOTS, curve_point
from training.features.probe import FOLDS, folds_of
from training.train.nextgen_uia.frozen_features import FrozenFeatures
from training.train.nextgen_uia.trainer import Pictures, predict, train_head
from training.train.runs import check_resumed

TRIALS = "trials.jsonl"
"""Its first line says of what curve they are."""


@dataclass(frozen=True, slots=True)
class FewShotPlan:
    """What decides the curve, beside the pictures, the tower and the recipe."""

    shots: tuple[int, ...] = SHOTS  # Patients of each class.
    repeats: int = 1  # Draws of the patients in each fold.
    steps: int = 100  # Of a training: few pictures have many epochs.
    seed: int = 0  # Of folds, draws and trainings.


def adapter_few_shot_curve(
    tower: Tower,
    config: HeadConfig,
    pictures: Sequence[Lesion],
    out: Path,
    recipe: HeadRecipe,
    plan: FewShotPlan,
    adapters: AdapterConfig | None,
    features: FrozenFeatures | None = None,
) -> list[dict[str, Any]]:
    """Points as of `training.features.few_shot.few_shot_curve`.

    In each of five folds of patients the support is drawn `repeats` times from the other folds: of
    each class that many patients; a larger support has the smaller one in it. Nobody else validates
    and the last epoch counts: patients to validate with would be more shots. Goes on with the
    trials that `out` has. With `features` the frozen image networks are asked once for each copy
    of a picture. Raises UsageError where a class has fewer patients.
    """
    fold_of = folds_of([picture.group for picture in pictures], FOLDS, plan.seed)
    supports = _draw(pictures, fold_of.tolist(), plan)
    facts = {
        **recipe.to_json(),
        **asdict(plan),
        "shots": list(plan.shots),
        "head": config.to_json(),
        "adapters": None if adapters is None else adapters.to_json(),
        "tower": tower_sha256(tower),
        "pictures": lesions_hash(pictures),
        **({} if features is None else FrozenFeatures.facts),
    }
    trials = _Trials(out / TRIALS, facts)
    scores = np.zeros((len(plan.shots), plan.repeats, FOLDS))
    for fold in range(FOLDS):
        inside = [p for p, each in zip(pictures, fold_of, strict=True) if each == fold]
        inside_pictures = Pictures(inside, tower.side, config, features=features)
        for repeat, (row, count) in product(range(plan.repeats), enumerate(plan.shots)):
            key = (fold, repeat, count)
            if key not in trials.scores:
                folder = out / f"trial-{fold}-{repeat}-{count}"
                support = supports[key]
                own = _recipe(recipe, plan, len(support), plan.seed + repeat)
                train_head(
                    deepcopy(tower), config, support, None, folder, own, adapters=adapters,
                    features=features, resume=True,
                )  # fmt: skip
                trials.add(key, _score(folder, tower, inside_pictures, recipe.batch))
                shutil.rmtree(folder)
            scores[row, repeat, fold] = trials.scores[key]
    return [curve_point(count, each) for count, each in zip(plan.shots, scores, strict=True)]


def _draw(
    pictures: Sequence[Lesion], fold_of: Sequence[int], plan: FewShotPlan
) -> dict[tuple[int, int, int], list[Lesion]]:
    """The support of each fold, repetition and count, all drawn before anything is learnt."""
    supports = {}
    for fold in range(FOLDS):
        others = [p for p, each in zip(pictures, fold_of, strict=True) if each != fold]
        if len(others) == len(pictures):
            raise UsageError("too few patients: one of the five folds is empty")
        for repeat, count in product(range(plan.repeats), plan.shots):
            try:
                # Another seed than that of the folds, which hashes the patients, too.
                draw = draw_shots(others, count, plan.seed + 1 + repeat)
            except SampleError as error:
                raise UsageError(f"{error}: leave it out, or give fewer --patients") from None
            supports[fold, repeat, count] = draw
    return supports


def _recipe(recipe: HeadRecipe, plan: FewShotPlan, pictures: int, seed: int) -> HeadRecipe:
    batch = min(recipe.batch, pictures)
    epochs = math.ceil(plan.steps / (pictures // batch))
    return replace(recipe, batch=batch, epochs=epochs, seed=seed)


def _score(folder: Path, tower: Tower, pictures: Pictures, batch: int) -> float:
    network = load_network(folder, deepcopy(tower)).to(next(tower.parameters()).device)
    classes = network.head.config.classes
    predicted = [classes[int(each.argmax())] for each in predict(network, pictures, batch)]
    labels = [lesion.label for lesion in pictures.lesions]
    return macro_f1(confusion_matrix(labels, predicted, classes))


class _Trials:
    """Scores by (fold, repetition, patients), each on disk when it is known."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self.scores: dict[tuple[int, int, int], float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _read_lines(path)
        if not lines:
            path.write_text(json.dumps(facts) + "\n", encoding="utf-8")
            return
        check_resumed(lines[0], facts)
        for line in lines[1:]:
            key = (line["fold"], line["repeat"], line["patients"])
            self.scores[key] = line["macro F1"]

    def add(self, key: tuple[int, int, int], score: float) -> None:
        names = ("fold", "repeat", "patients")
        line = dict(zip(names, key, strict=True)) | {"macro F1": score}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.scores[key] = score


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a kill may have left a part of the last one, which is cut off."""
    if not path.is_file():
        return []
    whole, _, part = path.read_text(encoding="utf-8").rpartition("\n")
    if part:
        path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        raise UsageError(f"{path.name} is broken: begin anew (--force)") from None

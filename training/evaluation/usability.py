"""How well usable frames are told from others, by a head's probability or by the area of a mask.

FetalCLIP-IQA has fixed thresholds (0.5; 1 % of the pixels) and counts frames. Here the threshold is
chosen on patients who validate, and intervals are over patients: of frames one in eleven is usable,
so that a model that calls none usable is right in 91 %.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detector.console import UsageError
from model.nextgen_uia.checkpoint import WEIGHTS
from model.nextgen_uia.network import AdaptedNetwork, Task
from training.data.labelled import read_first_frame
from training.data.samples import file_hash
from training.evaluation.metrics.classification import metric_with_interval, sensitivity_at
from training.evaluation.metrics.curves import auroc, average_precision
from training.train import runs
from training.train.nextgen_uia.trainer import Pictures, predict, predict_mask

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
CLASSES = ("unusable", "usable")
PUBLISHED = {Task.CLASSIFICATION: 0.5, Task.SEGMENTATION: 0.01}
"""The published thresholds: of the probability, and of the share of the picture."""
_WEIGHTS = "weights sha256"


@dataclass(frozen=True, slots=True)
class UsabilityThreshold:
    """A frame is usable from this score on; the F1 there, of so many pictures of patients who
    validate."""

    threshold: float
    f1: float
    pictures: int
    groups: int

    def save(self, run: Path) -> None:
        """Write it to the run, with the SHA-256 of the weights that it goes with."""
        facts = asdict(self) | {_WEIGHTS: file_hash(run / WEIGHTS)}
        text = json.dumps(facts, indent=1) + "\n"
        (run / runs.USABILITY).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, run: Path) -> Self:
        """Raises UsageError where the run has none, or one of other weights."""
        try:
            facts = json.loads((run / runs.USABILITY).read_text(encoding="utf-8"))
            if facts.pop(_WEIGHTS) != file_hash(run / WEIGHTS):
                raise ValueError("the run was trained on since")
            threshold = cls(**facts)
            if not 0 <= float(threshold.threshold) <= 1:
                raise ValueError("the threshold lies outside 0 and 1")
        except FileNotFoundError:
            reason = f"{runs.USABILITY} is missing"
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{runs.USABILITY}: {error}"
        else:
            return threshold
        raise UsageError(
            f"{run} has no threshold of usable frames ({reason}): choose one by qc-model iqa"
            " calibrate"
        )


def usability_scores(network: AdaptedNetwork, pictures: Pictures, batch: int) -> Floats:
    """(N,) of each picture: the probability that it is usable (of CLASSES), or the share of it that
    a mask covers. Raises QCError on an unreadable picture."""
    answers = predict(network, pictures, batch)
    if network.head.config.task is Task.CLASSIFICATION:
        return np.array([float(each[1]) for each in answers])
    shares = []
    for lesion, probability in zip(pictures.lesions, answers, strict=True):
        height, width = read_first_frame(lesion.path).pixels.shape[:2]
        shares.append(float((predict_mask(probability, height, width) > 0).mean()))
    return np.array(shares)


def choose_threshold(
    scores: Floats, usable: Bools, groups: Sequence[Hashable]
) -> UsabilityThreshold:
    """The threshold of the highest F1; of equal ones the highest, which calls fewer usable.

    Raises UsageError where there is not a picture of either class.
    """
    if usable.all() or not usable.any():
        raise UsageError("a threshold needs usable and unusable pictures that validate")
    best = max(np.unique(scores), key=lambda each: (_f1(scores >= each, usable), each))
    return UsabilityThreshold(
        float(best), _f1(scores >= best, usable), len(scores), len(set(groups))
    )


def usability_metrics(
    scores: Floats,
    usable: Bools,
    groups: Sequence[Hashable],
    threshold: float,
    *,
    resamples: int = 1000,
) -> dict[str, Any]:
    """AUROC, PR-AUC and sensitivity at a specificity of 95 %, and at the threshold F1, precision,
    recall, specificity and accuracy, each as {"value", "interval"} of 95 % over resampled groups;
    how many are usable, and the accuracy of calling none so."""
    if not len(scores) == len(usable) == len(groups) or not len(scores):
        raise ValueError(f"{len(scores)} scores, {len(usable)} labels, {len(groups)} groups")
    is_positive = scores >= threshold
    metrics = {
        "AUROC": lambda rows: auroc(scores[rows], usable[rows]),
        "PR-AUC": lambda rows: average_precision(scores[rows], usable[rows]),
        "sensitivity at specificity 0.95": lambda rows: sensitivity_at(scores[rows], usable[rows]),
        "F1": lambda rows: _f1(is_positive[rows], usable[rows]),
        "precision": lambda rows: _share(usable[rows][is_positive[rows]]),
        "recall": lambda rows: _share(is_positive[rows][usable[rows]]),
        "specificity": lambda rows: _share(~is_positive[rows][~usable[rows]]),
        "accuracy": lambda rows: float(np.mean(is_positive[rows] == usable[rows])),
    }
    everyone = np.arange(len(scores))
    return {
        "pictures": len(scores),
        "groups": len(set(groups)),
        "usable": int(usable.sum()),
        "threshold": threshold,
        "accuracy of calling none usable": float(np.mean(~usable)),
        "confusion": {
            "usable": _counts(is_positive[usable]),
            "unusable": _counts(is_positive[~usable]),
        },
        **{
            name: metric_with_interval(metric, everyone, groups, resamples)
            for name, metric in metrics.items()
        },
    }


def _counts(is_positive: Bools) -> dict[str, int]:
    return {
        "called usable": int(is_positive.sum()),
        "called unusable": int((~is_positive).sum()),
    }


def _f1(is_positive: Bools, usable: Bools) -> float:
    total = int(is_positive.sum() + usable.sum())
    return 2 * int((is_positive & usable).sum()) / total if total else 0.0


def _share(values: Bools) -> float:
    return float(values.mean()) if len(values) else float("nan")

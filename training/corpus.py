"""The pictures a run uses, and their division by group."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from detector.console import UsageError
from training.fetus_framework import read_fetus_framework
from training.samples import Sample, SampleError, read_samples


def gather(
    samples: Sequence[Path] | None, fetus_framework: Path | None, splits: Sequence[str] | None
) -> list[Sample]:
    """Samples of the JSON files and of the Fetus Framework's splits; raises UsageError."""
    try:
        found = [sample for path in samples or () for sample in read_samples(path)]
        if fetus_framework is not None:
            found += read_fetus_framework(
                fetus_framework, tuple(splits or ("set1_train", "set2_train"))
            )
    except SampleError as error:
        raise UsageError(str(error)) from None
    if not found:
        raise UsageError("no pictures; give --samples or --fetus-framework")
    return found


def divide(
    samples: Sequence[Sample], held_out: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, validation): whole groups, chosen by a hash of seed and group name.

    The hash makes the division stay as it is when other pictures join.
    """
    training: list[Sample] = []
    validation: list[Sample] = []
    for sample in samples:
        (validation if place(sample.group, seed) < held_out else training).append(sample)
    return training, validation


def fold_of(sample: Sample, folds: int, seed: int) -> int:
    """The one fold map of all stages: which fold, 0 to folds - 1, holds the sample's group out."""
    return int(place(sample.group, seed) * folds)


def without_fold(
    samples: Sequence[Sample], fold: int, folds: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, held out): the real pictures of the fold are held out, simulated ones never."""
    training: list[Sample] = []
    held: list[Sample] = []
    for sample in samples:
        outside = sample.simulated or fold_of(sample, folds, seed) != fold
        (training if outside else held).append(sample)
    return training, held


def place(group: str, seed: int) -> float:
    """Where in [0, 1) a group falls."""
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32

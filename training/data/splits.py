"""Loads the samples of a run and divides them by group."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from detector.anatomy import View
from detector.console import UsageError
from training.data.fetal_planes import read_fetal_planes
from training.data.fetus_framework import SPLITS, read_fetus_framework
from training.data.heads import read_hc18, read_head_structures
from training.data.samples import Origin, Sample, SampleError, read_samples


def load(
    samples: Sequence[Path] | None,
    fetus_framework: Path | None,
    splits: Sequence[str] | None,
    origin: Origin | None = None,
) -> list[Sample]:
    """Load the samples of the JSON files and of the Fetus Framework's splits; raises UsageError.

    `origin` is given to samples of the JSON files that name none.
    """
    of_files, of_framework = load_parts(samples, fetus_framework, splits, origin)
    return of_files + of_framework


def load_parts(
    samples: Sequence[Path] | None,
    fetus_framework: Path | None,
    splits: Sequence[str] | None,
    origin: Origin | None = None,
) -> tuple[list[Sample], list[Sample]]:
    """What `load` gives: the samples of the JSON files, and those of the Fetus Framework."""
    try:
        of_files = [sample for path in samples or () for sample in read_samples(path, origin)]
        of_framework = []
        if fetus_framework is not None:
            of_framework = read_fetus_framework(fetus_framework, tuple(splits or SPLITS))
    except SampleError as error:
        raise UsageError(str(error)) from None
    every = of_files + of_framework
    if not every:
        raise UsageError("no pictures; give --samples or --fetus-framework")
    _refuse_duplicates(every)
    return of_files, of_framework


def load_unlabelled(
    hc18: Path | None, head_structures: Path | None, fetal_planes: Path | None
) -> list[Sample]:
    """Real pictures without a quality label, of the data sets in these folders.

    Raises UsageError.
    """
    readers = (
        (hc18, read_hc18),
        (head_structures, read_head_structures),
        (fetal_planes, read_fetal_planes),
    )
    try:
        return [sample for folder, read in readers if folder is not None for sample in read(folder)]
    except SampleError as error:
        raise UsageError(str(error)) from None


def require_simulated(samples: list[Sample], option: str) -> list[Sample]:
    """Return the samples, which no fold holds out; raises UsageError on a real picture of one of
    the four views."""
    for sample in samples:
        if not sample.simulated and sample.view is not View.OTHER:
            raise UsageError(
                f"{option}: {sample.location} is a real picture, which no fold would hold out:"
                " simulated ones and negatives belong there"
            )
    return samples


def _refuse_duplicates(samples: Sequence[Sample]) -> None:
    """Raises UsageError where two files have the same picture: it would count twice, in two
    groups."""
    first: dict[Path, Sample] = {}
    for sample in samples:
        earlier = first.setdefault(sample.image.resolve(), sample)
        if earlier is not sample:
            raise UsageError(
                f"{sample.image.name} is given twice: {earlier.location} and {sample.location};"
                " take one of them out"
            )


def split_by_group(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, validation): about `share` of the groups validate, chosen by `group_hash`, so that
    the division stays as it is when other pictures join."""
    training: list[Sample] = []
    validation: list[Sample] = []
    for sample in samples:
        (validation if group_hash(sample.group, seed) < share else training).append(sample)
    return training, validation


def fold_of(sample: Sample, folds: int, seed: int) -> int:
    """The fold, 0 to folds - 1, that holds the sample's group out; the same for all models."""
    return int(group_hash(sample.group, seed) * folds)


def leave_fold_out(
    samples: Sequence[Sample], fold: int, folds: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, held out): the real pictures of the fold are held out, simulated ones never.

    A simulated picture made of a held-out one is in neither list.
    """
    held_out = [s for s in samples if not s.simulated and fold_of(s, folds, seed) == fold]
    groups = {sample.group for sample in held_out}
    return [sample for sample in samples if sample.group not in groups], held_out


def group_hash(group: str, seed: int) -> float:
    """A number in [0, 1) from the group's name and the seed."""
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32

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
        digest = hashlib.sha256(f"{seed}/{sample.group}".encode()).digest()
        held = int.from_bytes(digest[:4]) < held_out * 2**32
        (validation if held else training).append(sample)
    return training, validation

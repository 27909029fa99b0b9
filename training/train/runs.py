"""The folder of a training run: begin, resume, check and finish it."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.tensors import find_problem
from training.data.samples import Sample, file_hash

FACTS, CHECKPOINT, LOGS = "training.json", "checkpoint.pt", "tensorboard"
PICTURES = "pictures.txt"
"""Its lines are the SHA-256 of each picture that the folder's model, and its start, learnt from."""
VALIDATED = "validated.txt"
"""Likewise of each picture by which the best epoch was chosen."""
ABSTENTION = "abstention.json"
"""Below which probability a classifier names no class."""
USABILITY = "usability.json"
"""From which score on a frame is usable."""
_LENGTH = ("epochs", "stages", "restart")
"""Fields of a recipe that may differ where a run is resumed."""
_FILES = {
    "detector": ("architecture.yaml", "detector.json", "weights.safetensors"),
    "describer": ("config.json", "model.safetensors"),
    "spatialclip": ("config.json", "weights.safetensors"),
}


def begin_run(out: Path, *, resume: bool = False, force: bool = False) -> None:
    """Make the run's folder; an existing one is resumed (`resume`), removed (`force`) or refused.

    Raises UsageError on an existing run, and on a path that is no folder.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    if resume and force:
        raise UsageError("--resume goes on with the run in --out, --force removes it: give one")
    if not resume and is_run(out):
        if not force:
            raise UsageError(
                f"{out} holds a run: name another folder with --out,"
                " go on with it (--resume, where the command has it), or replace it (--force)"
            )
        remove_run(out)
    out.mkdir(parents=True, exist_ok=True)


def is_run(folder: Path) -> bool:
    """True where a training has written, finished or not."""
    return any((folder / name).exists() for name in (FACTS, CHECKPOINT)) or any(
        folder.glob("*.safetensors")
    )


def remove_run(folder: Path) -> None:
    """Remove what trainings write; other files in the folder stay."""
    shutil.rmtree(folder / LOGS, ignore_errors=True)
    names = [CHECKPOINT, FACTS, PICTURES, VALIDATED, ABSTENTION, USABILITY, "checkpoint.partial"]
    for path in (*(folder / name for name in names), *folder.glob("*.safetensors")):
        path.unlink(missing_ok=True)


def read_run(folder: Path, part: str) -> dict[str, Any]:
    """The facts of a finished run of that part ("detector", …), whose weights are sound.

    Raises UsageError naming the folder and what it lacks.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}: give that of a trained {part}")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(
            f"{folder} holds no finished run of a {part}: {FACTS} is missing"
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{folder}: {FACTS} is no JSON: train the {part} again") from None
    if not isinstance(facts, dict):
        raise UsageError(f"{folder}: {FACTS} holds no facts: train the {part} again")
    bad = not_finite(facts)
    if bad:
        raise UsageError(
            f"{folder}: {bad} is no finite number: the run failed, train the {part} again"
        )
    check_weights(folder, part)
    return facts


def check_weights(folder: Path, part: str) -> None:
    """Raises UsageError where the folder lacks a file of that part or its weights are not sound."""
    for name in _FILES[part]:
        path = folder / name
        if not path.is_file():
            raise UsageError(f"{folder} holds no trained {part}: {name} is missing")
        problem = find_problem(path) if path.suffix == ".safetensors" else None
        if problem:
            raise UsageError(f"{path}: {problem}: train the {part} again")


def write_pictures(out: Path, samples: Sequence[Sample], before: set[str] | None) -> None:
    """Write which pictures the model learnt from, `before` at its start; nothing where those are
    unknown (None)."""
    write_learnt(out, (sample.image for sample in samples), before)


def write_learnt(out: Path, pictures: Iterable[Path], before: Set[str] | None) -> None:
    """As `write_pictures`, of files."""
    (out / PICTURES).unlink(missing_ok=True)
    if before is not None:
        _write_hashes(out / PICTURES, {file_hash(path) for path in pictures} | before)


def write_validated(out: Path, pictures: Iterable[Path]) -> None:
    """Write by which pictures the run chose its best epoch."""
    _write_hashes(out / VALIDATED, {file_hash(path) for path in pictures})


def _write_hashes(path: Path, hashes: Set[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in sorted(hashes)), encoding="ascii")


def learnt_pictures(run: Path) -> set[str] | None:
    """SHA-256 of the pictures that the model of the folder learnt from; None where unknown."""
    return _read_hashes(run / PICTURES)


def _read_hashes(path: Path) -> set[str] | None:
    try:
        return set(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return None


def refuse_learnt(
    run: Path,
    pictures: Iterable[Path],
    advice: str = "judge on others (--fold, --held-out and --seed as in training), or give"
    " --with-learnt",
) -> None:
    """Raises UsageError where the model of the folder learnt from some of these files."""
    learnt = learnt_pictures(run) or set()
    names = [path.name for path in sorted(set(pictures)) if file_hash(path) in learnt]
    if names:
        raise UsageError(
            f"the model learnt from {len(names)} of these files, the first is {names[0]}: {advice}"
        )


def assign_judges(runs: Sequence[Path], pictures: Sequence[Path]) -> list[list[int]]:
    """Of each run the numbers of the pictures that it judges: a picture is judged by the first run
    that neither learnt from it nor chose its best epoch by it.

    So of runs over folds each judges the fold that it left out. Raises UsageError where every run
    has seen a picture, or one does not say what it has seen.
    """
    seen: list[set[str]] = []
    for run in runs:
        learnt, validated = learnt_pictures(run), _read_hashes(run / VALIDATED)
        if learnt is None or validated is None:
            raise UsageError(
                f"{run} does not say which pictures its model has seen: judge it alone, or train it"
                " again"
            )
        seen.append(learnt | validated)
    judged: list[list[int]] = [[] for _ in runs]
    for number, path in enumerate(pictures):
        sha256 = file_hash(path)
        judge = next((k for k, hashes in enumerate(seen) if sha256 not in hashes), None)
        if judge is None:
            raise UsageError(
                f"each of the {len(runs)} models learnt from {path.name}, or was chosen by it: give"
                " the model that left it out, too"
            )
        judged[judge].append(number)
    return judged


def not_finite(facts: Any, name: str = "") -> str:
    """The name of the first number of plain values that is not finite; empty if all are."""
    if isinstance(facts, float):
        return "" if math.isfinite(facts) else name
    parts: Sequence[tuple[str, Any]] = ()
    if isinstance(facts, Mapping):
        parts = [(f"{name} {key}".strip(), value) for key, value in facts.items()]
    elif isinstance(facts, list | tuple):
        parts = [(name, value) for value in facts]
    return next((bad for key, value in parts if (bad := not_finite(value, key))), "")


def write_facts(out: Path, facts: Mapping[str, Any]) -> None:
    """Write training.json, last of all: a folder that has it holds a finished run.

    Raises QCError on a figure that is not finite."""
    bad = not_finite(facts)
    if bad:
        raise QCError(ErrorCode.INTERNAL, f"training failed: {bad} is no finite number")
    partial = out / f"{FACTS}.partial"
    partial.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(out / FACTS)


def check_loss(loss: float, step: int) -> None:
    """Raises QCError where a loss is not finite: the weights after it are not, either."""
    if not math.isfinite(loss):
        raise QCError(
            ErrorCode.INTERNAL,
            f"training stopped: the loss of step {step} is {loss}; no weights were written."
            " Try a lower learning rate, and look at the pictures and boxes",
        )


def check_network(network: nn.Module) -> None:
    """Raises QCError where a weight is not finite: such a network is not written."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise QCError(ErrorCode.INTERNAL, f"training failed: {name} is no longer finite")


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Raises UsageError where the checkpoint is broken or of another recipe."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        # A broken archive, or tensors of other names and shapes, can fail in many ways.
        raise UsageError(
            f"{checkpoint} is broken or of another recipe ({type(error).__name__}):"
            " --force begins the run anew"
        ) from error


def check_resumed(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raises UsageError where the resumed run had another recipe or other pictures.

    Both are plain values by name. More epochs may follow; earlier checkpoints record nothing.
    """
    if before is None:
        return
    names = [*now, *(name for name in before if name not in now)]
    changed = [name for name in names if name not in _LENGTH and before.get(name) != now.get(name)]
    if changed:
        raise UsageError(
            f"--resume: the run had another {', '.join(changed)}: give the same options and"
            " pictures, or begin anew (--force)"
        )


def data_of(run: Path) -> list[dict[str, Any]] | None:
    """Counts of what the model of the folder learnt from, and of what its start did; None where its
    run does not record them."""
    try:
        facts = json.loads((run / FACTS).read_text(encoding="utf-8"))
        return [*facts["training"]["data"], *(facts.get("start data") or ())]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_division(
    training: Sequence[Sample], held_out: Sequence[Sample], epoch_size: int, batch: int
) -> None:
    """Raises UsageError where there is nothing to learn from or to validate with, or where the
    pictures of an epoch are fewer than a batch."""
    if not training:
        raise UsageError("no picture is left to learn from: hold out fewer (--held-out)")
    if not held_out:
        groups = len({sample.group for sample in training})
        raise UsageError(
            f"no picture is held out to validate with: none of the {groups} groups falls into"
            " that share; give a larger --held-out, another --seed or more pictures"
        )
    if epoch_size < batch:
        raise UsageError(
            f"{epoch_size} pictures an epoch are fewer than a batch of {batch}:"
            f" give --batch {epoch_size} or less, or {batch - epoch_size} more pictures to learn"
            " from"
        )

"""Times a bundle by every runtime and precision that this machine has, says which it has not, and
measures whether verdicts stay in precision fast."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from model.bundle.bundle import Bundle
from model.bundle.extend import add_record
from model.device import choose_device
from model.judge import Judge
from model.runtime.agreement import measure_agreement
from model.runtime.bench import STAGES, Seconds, time_stages
from model.runtime.precision import (
    DETECTOR,
    EXACT,
    FAST,
    IMAGE_TOWER,
    MIN_PICTURES,
    OPENVINO,
    SONONET,
    PrecisionRecord,
    bfloat16_flag,
    fast_networks,
    is_fast_allowed,
    no_bfloat16,
)
from model.runtime.runtime import TORCH, Runtime, cache_folder, choose_runtime
from qc_daemon.operations.bundles import bundle_folder
from qc_daemon.score.decode import DecodeProcess, choose_frames
from qc_daemon.score.files import list_files
from qc_daemon.score.parts import named_parts
from qc_daemon.settings import ScoreSettings

ROUNDS = 3
COLUMNS = (
    *("part", "runtime", "precision", "device"),
    *("cpu seconds", "clock seconds", "cpu ratio", "clock ratio"),
)
_DIGITS = 5
# What may run in bfloat16, the fastest first; where too much changes, the next is tried.
_CHOICES: tuple[tuple[str, ...], ...] = ((DETECTOR, IMAGE_TOWER), (IMAGE_TOWER,), (SONONET,))
PASSES = 1 + len(_CHOICES)
"""`record_agreement` calls `after_each` at most so many times for each frame."""


class Candidate(NamedTuple):
    """A way to run the networks."""

    runtime: str
    precision: str
    device: str

    def __str__(self) -> str:
        return f"{self.runtime} in precision {self.precision} on {self.device}"


_REFERENCE = Candidate(TORCH, EXACT, "cpu")
_CANDIDATES = (
    _REFERENCE,
    Candidate(OPENVINO, EXACT, "cpu"),
    Candidate(OPENVINO, FAST, "cpu"),
    Candidate(TORCH, EXACT, "cuda"),
)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A row for each part by each candidate, and lines on what runs here and what does not."""

    rows: list[dict[str, Any]]
    notes: list[str]


def run_bench(
    settings: ScoreSettings,
    frames: Sequence[Frame],
    after_each: Callable[[], None] = lambda: None,
) -> BenchReport:
    """Time the settings' bundle on these frames, ROUNDS times and once before to warm up;
    `after_each` runs after each. Precision fast is timed even where the bundle does not allow it.

    Raises QCError on a bundle that cannot be used.
    """
    bundle = Bundle.open(settings.bundle)
    judges: dict[str, Judge] = {}
    candidates: dict[str, Candidate] = {}
    notes: list[str] = []
    for candidate in _CANDIDATES:
        try:
            runtime = _runtime(candidate, bundle.manifest, notes)
            judges[str(candidate)] = _open(bundle, settings, candidate.device, runtime)
        except QCError as error:
            if candidate is _REFERENCE:
                raise
            notes.append(f"{candidate} does not run here: {error.message}")
        else:
            candidates[str(candidate)] = candidate
    seconds = time_stages(judges, frames, ROUNDS, after_each)
    reference = seconds[str(_REFERENCE)]
    rows = [
        _row(part, candidate, seconds[name][part], reference[part])
        for part in STAGES
        for name, candidate in candidates.items()
    ]
    return BenchReport(rows, [*notes, _in_use(settings, bundle.manifest)])


def record_agreement(
    settings: ScoreSettings,
    frames: Callable[[], Iterable[Frame]],
    out: Path,
    after_each: Callable[[], None] = lambda: None,
) -> PrecisionRecord:
    """Compare precision fast with exact on these frames, which are the same at each call, and write
    the settings' bundle with the record as a new one, `out`. Where too much changes with the
    detector and all image networks in bfloat16, fewer are.

    Raises UsageError where too few pictures are of scanners, QCError where the CPU does not compute
    in bfloat16, a bundle cannot be used or written, or verdicts change too much: nothing is written
    then.
    """
    if out.exists():
        raise UsageError(f"{out} exists: name a new folder for the bundle")
    bundle = Bundle.open(settings.bundle)
    flag = bfloat16_flag()
    if flag is None:
        raise no_bfloat16()
    exact = _open(bundle, settings, "cpu", TORCH)
    has_sononet = exact.spatialclip.trimodal_clip.has_sononet
    judgements = []
    real = 0
    for frame in frames():
        judgements.append(exact.judge(frame))
        real += 0 if frame.simulated else len(judgements[-1])
        after_each()
    if real < MIN_PICTURES:
        raise _too_few(real)
    # Networks that have run hold much memory.
    del exact
    shortcoming = None
    for parts in _CHOICES if has_sononet else _CHOICES[:-1]:
        record = measure_agreement(
            judgements,
            _open(bundle, settings, "cpu", _bfloat16(parts)),
            frames(),
            version=version(OPENVINO),
            parts=parts,
            cpu_flag=flag,
            after_each=after_each,
        )
        shortcoming = record.shortcoming
        if shortcoming is None:
            add_record(bundle_folder(settings.bundle), record, out, name=None, version=None)
            return record
    former = "; the bundle's own record still allows precision fast"
    raise QCError(
        ErrorCode.BUNDLE_MISMATCH,
        f"no record is written: {shortcoming}{former if is_fast_allowed(bundle.manifest) else ''}",
    )


def count_files_to_record(paths: Sequence[Path], most: int) -> int:
    """How many of these files and folders `read_frames` reads. Raises UsageError for fewer than a
    record needs."""
    count = min(most, len(list_files(paths)))
    if count < MIN_PICTURES:
        raise _too_few(count)
    return count


def _too_few(count: int) -> UsageError:
    return UsageError(
        f"a record needs {MIN_PICTURES} pictures of scanners, and here are {count}: give more"
        " files, and --pictures"
    )


def read_frames(
    paths: Sequence[Path], settings: ScoreSettings, most: int, report: Callable[[str], object]
) -> Iterator[Frame]:
    """The middle frame of at most so many of these files and folders, evenly spread. `report` gets
    a line for each file that cannot be read or shows no ultrasound."""
    files = list_files(paths)
    if not files or not most:
        return
    step = max(1.0, len(files) / most)
    chosen = [files[int(number * step)] for number in range(min(most, len(files)))]
    with DecodeProcess.of(settings) as decoder:
        for path in chosen:
            try:
                summary = decoder.summary(path)
                for frame in decoder.frames(path, choose_frames(summary, 1)):
                    if frame.regions:
                        yield frame
                    else:
                        report(f"{path.name}: no region of ultrasound, left out")
            except QCError as error:
                report(f"{path.name}: {error}, left out")


def _runtime(candidate: Candidate, manifest: Mapping[str, Any], notes: list[str]) -> str | Runtime:
    """What `Judge.open` takes; a line is added to `notes` where the bundle does not allow it."""
    if candidate.precision == EXACT:
        return candidate.runtime
    flag = bfloat16_flag()
    if flag is None:
        raise no_bfloat16()
    try:
        return _bfloat16(fast_networks(manifest, flag))
    except QCError as error:
        runtime = _bfloat16(_CHOICES[0])
        notes.append(f"{candidate} is timed but not allowed: {error.message}")
        return runtime


def _bfloat16(parts: Sequence[str]) -> Runtime:
    # Raises where openvino is not installed.
    choose_runtime(OPENVINO, choose_device("cpu"))
    from model.runtime.openvino_cpu import OpenVinoRuntime

    return OpenVinoRuntime(cache_folder(), parts)


def _open(bundle: Bundle, settings: ScoreSettings, device: str, runtime: str | Runtime) -> Judge:
    backbone, opinion_parts = named_parts(bundle, settings, needs_parts=False)
    return Judge.open(bundle, device, settings.augment, backbone, opinion_parts, runtime)


def _row(part: str, candidate: Candidate, seconds: Seconds, reference: Seconds) -> dict[str, Any]:
    return {
        "part": part,
        **candidate._asdict(),
        "cpu seconds": round(seconds.cpu, _DIGITS),
        "clock seconds": round(seconds.clock, _DIGITS),
        "cpu ratio": _ratio(seconds.cpu, reference.cpu),
        "clock ratio": _ratio(seconds.clock, reference.clock),
    }


def _ratio(value: float, reference: float) -> float | None:
    return round(value / reference, 3) if reference else None


def _in_use(settings: ScoreSettings, manifest: Mapping[str, Any]) -> str:
    try:
        device = choose_device(settings.device)
        runtime = choose_runtime(
            settings.runtime, device, precision=settings.precision, manifest=manifest
        )
    except QCError as error:
        return f"the settings cannot be used here: {error.message}"
    return f"the settings take {runtime.facts}, on {device}"

"""Times a bundle by every runtime that this machine has, and says which it has not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.errors import QCError
from detector.frame import Frame
from model.bundle.bundle import Bundle
from model.device import choose_device
from model.judge import Judge
from model.runtime.bench import PARTS, Seconds, time_parts
from model.runtime.runtime import OPENVINO, TORCH, cache_folder, choose_runtime
from qc_daemon.score.decode import DecodeProcess, choose_frames
from qc_daemon.score.files import list_files
from qc_daemon.score.parts import named_parts
from qc_daemon.settings import ScoreSettings

ROUNDS = 3
COLUMNS = (
    *("part", "runtime", "device", "cpu seconds", "clock seconds", "cpu ratio", "clock ratio"),
)
_REFERENCE = (TORCH, "cpu")
_CANDIDATES = (_REFERENCE, (OPENVINO, "cpu"), (TORCH, "cuda"))
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A row for each part by each runtime, and lines on what runs here and what does not."""

    rows: list[dict[str, Any]]
    notes: list[str]


def run_bench(
    settings: ScoreSettings,
    frames: Sequence[Frame],
    after_each: Callable[[], None] = lambda: None,
) -> BenchReport:
    """Time the settings' bundle on these frames, ROUNDS times and once before to warm up;
    `after_each` runs after each. Raises QCError on a bundle that cannot be used."""
    bundle = Bundle.open(settings.bundle)
    judges: dict[tuple[str, str], Judge] = {}
    notes = []
    for runtime, device in _CANDIDATES:
        try:
            judges[runtime, device] = _open(bundle, settings, runtime, device)
        except QCError as error:
            if (runtime, device) == _REFERENCE:
                raise
            notes.append(f"{runtime} on {device} does not run here: {error.message}")
    names = {pair: ", ".join(pair) for pair in judges}
    seconds = time_parts(
        {names[pair]: judge for pair, judge in judges.items()}, frames, ROUNDS, after_each
    )
    reference = seconds[names[_REFERENCE]]
    rows = [
        _row(part, pair, seconds[names[pair]][part], reference[part])
        for part in PARTS
        for pair in judges
    ]
    return BenchReport(rows, [*notes, _in_use(settings)])


def read_frames(
    paths: Sequence[Path], settings: ScoreSettings, most: int, report: Callable[[str], None]
) -> Iterator[Frame]:
    """The middle frame of at most so many of these files and folders, evenly spread. `report` gets
    a line for each file that cannot be read or shows no ultrasound."""
    files = list_files(paths)
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


def _open(bundle: Bundle, settings: ScoreSettings, runtime: str, device: str) -> Judge:
    backbone, opinion_parts = named_parts(bundle, settings, needs_parts=False)
    return Judge.open(bundle, device, settings.augment, backbone, opinion_parts, runtime)


def _row(part: str, pair: tuple[str, str], seconds: Seconds, reference: Seconds) -> dict[str, Any]:
    runtime, device = pair
    return {
        "part": part,
        "runtime": runtime,
        "device": device,
        "cpu seconds": round(seconds.cpu, _DIGITS),
        "clock seconds": round(seconds.clock, _DIGITS),
        "cpu ratio": _ratio(seconds.cpu, reference.cpu),
        "clock ratio": _ratio(seconds.clock, reference.clock),
    }


def _ratio(value: float, reference: float) -> float | None:
    return round(value / reference, 3) if reference else None


def _in_use(settings: ScoreSettings) -> str:
    try:
        device = choose_device(settings.device)
        facts = choose_runtime(settings.runtime, device, cache_folder()).facts
    except QCError as error:
        return f"the settings cannot be used here: {error.message}"
    return f"the settings take {facts}, on {device}"

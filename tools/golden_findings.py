"""Findings of the default bundle on a fixed set of pictures, as JSON lines: run as a module.

A change that must not alter a verdict is proved by equal output before and after it. The phantoms'
part is kept in `tests/model/golden_findings.jsonl`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from detector.anatomy import View
from detector.console import run
from detector.errors import QCError
from detector.frame import Frame, Region
from detector.imaging.reader import read_frames
from model.bundle.bundle import Bundle
from model.finding import Finding
from model.judge import Judge
from training.phantom import make
from training.phantom.defects import APPLICABLE, Defect
from training.phantom.simulate import VIEWS

# The seed of the first phantom; the others follow it one by one.
_FIRST_SEED = 4_100

# Each view is shown once without a defect and with this many, evenly chosen of those it can have.
_DEFECTS_PER_VIEW = 4

# This many phantoms show no view that is judged.
_OTHERS = 4


def phantom_findings(judge: Judge) -> Iterator[dict[str, Any]]:
    """The finding of each phantom of the fixed set (24), as its JSON object."""
    for seed, (view, defect) in enumerate(_phantoms(), _FIRST_SEED):
        standard = True if defect is None and view is not View.OTHER else None
        phantom = make(seed, view, standard, defect)
        spacing = (phantom.spacing_mm, phantom.spacing_mm)
        frame = Frame(1, phantom.pixels, (Region(0, phantom.region, spacing),), simulated=True)
        yield from _findings(judge, f"{view.value} {defect.value if defect else '-'}", frame)


def file_findings(judge: Judge, folder: Path) -> Iterator[dict[str, Any]]:
    """The findings of each frame of the folder's files that can be read, by name."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            for frame in read_frames(path):
                yield from _findings(judge, str(path.relative_to(folder)), frame)
        except QCError as error:
            print(f"{path.name}: {error}", file=sys.stderr)


def _phantoms() -> Iterator[tuple[View, Defect | None]]:
    for view in VIEWS:
        yield view, None
        defects = APPLICABLE[view]
        for number in range(_DEFECTS_PER_VIEW):
            yield view, defects[number * len(defects) // _DEFECTS_PER_VIEW]
    for _ in range(_OTHERS):
        yield View.OTHER, None


def _findings(judge: Judge, source: str, frame: Frame) -> Iterator[dict[str, Any]]:
    for judgement in judge.judge(frame):
        yield Finding(judgement, judge.bundle_id, frame.number, source=source).to_json()


def main(
    folder: Annotated[
        Path | None, typer.Option(help="Judge the readable files of this folder, too.")
    ] = None,
) -> None:
    """Write the findings to standard output, one a line."""
    judge = Judge.open(Bundle.open("default"), device="cpu")
    for finding in phantom_findings(judge):
        print(json.dumps(finding))
    for finding in file_findings(judge, folder) if folder else ():
        print(json.dumps(finding))


if __name__ == "__main__":
    sys.exit(run(lambda: typer.run(main)))

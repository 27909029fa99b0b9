"""`qc-model phantom`: write phantom pictures or exams."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from detector.anatomy import View
from detector.console import UsageError
from training.data.dataset_folder import SAMPLES, TRUTH, begin_dataset
from training.phantom.dataset import write_dataset, write_exams
from training.phantom.simulate import VIEWS


class Format(StrEnum):
    """What is written."""

    PNG = "png"
    DICOM = "dicom"


def phantom(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures (png) or exams (dicom).", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Sets of unlike seeds share no picture.", min=0)] = 0,
    view: Annotated[
        list[View] | None, typer.Option(help="Views to show; repeatable. Default: the four.")
    ] = None,
    other_share: Annotated[
        float, typer.Option(help="Share of pictures of none of the four views.", min=0, max=1)
    ] = 0.0,
    format: Annotated[
        Format, typer.Option(help="PNG, samples.json and CSVs, or DICOM exams.")
    ] = Format.PNG,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the phantoms that --out holds already.")
    ] = False,
) -> None:
    """Make ultrasound phantoms whose truth is known; their origin is "simulated".

    Examples:

    qc-model phantom --out runs/phantoms --count 4000 --other-share 0.1 --workers 2

    qc-model phantom --out runs/nt --count 200 --seed 7 --view NT

    qc-model phantom --out runs/exams --count 3 --format dicom
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise UsageError("name the folder to write to with --out")
    views = tuple(view) if view else VIEWS
    if format is Format.DICOM and other_share:
        raise UsageError("--other-share goes with --format png only; use --view OTHER for DICOM")
    try:
        begin_dataset(out, TRUTH if format is Format.DICOM else SAMPLES, force=force)
        if format is Format.DICOM:
            path = write_exams(out, count, seed, views, workers)
        else:
            path = write_dataset(out, count, seed, views, other_share, workers)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror or error}") from None
    typer.echo(str(path))

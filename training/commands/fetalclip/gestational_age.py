"""`qc-model gestational-age`: the age of a fetal head by prompts of each day."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from training.commands.answers import (
    Format,
    FormatOption,
    OutOption,
    answer_each,
    check_target,
    write_records,
)
from training.commands.fetalclip.zero_shot import ModelFolder
from training.commands.options import Device, Spacing

COLUMNS = ("source", "age", "days", "reason", "spacing_mm", "head_circumference_mm", "plausible")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is known of a picture besides its pixels; None: unknown."""

    spacing_mm: float | None = None
    head_circumference_mm: float | None = None
    known_days: float | None = None


def gestational_age(
    model: ModelFolder,
    templates: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON list of prompts of fetal heads with {weeks}, {day} and {pixel_spacing}.",
        ),
    ],
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Axial heads: pictures, DICOM, folders.")
    ],
    spacing: Spacing = None,
    measurements: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV with file and any of pixel_mm, hc_mm (head circumference), ga_weeks (an age"
            " known otherwise).",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Where encoded prompts are kept, a file for each spacing."
        ),
    ] = None,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
) -> None:
    """Estimate the age of second- and third-trimester heads; never of a first-trimester one.

    Example: qc-model gestational-age --model fetalclip --templates age.json heads
    --measurements heads/labels.csv --cache runs/prompts --format csv
    """
    from model.device import choose_device
    from model.fetalclip.age_prompts import AgePrompts
    from model.fetalclip.checkpoint import WEIGHTS, file_sha256, load_fetalclip
    from model.fetalclip.preprocess import TextEncoder
    from model.fetalclip.prompts import read_templates
    from training.data.labelled import list_pictures

    check_target(out, force=force)
    texts = read_templates(templates)
    by_name = {} if measurements is None else read_measurements(measurements)
    files = list_pictures(paths)
    network = load_fetalclip(model, choose_device(device))
    encoder = TextEncoder.load(model, network.architecture)
    digest = file_sha256(model / WEIGHTS) if cache else ""
    prompts = AgePrompts(network, encoder, texts, cache, digest)
    records = answer_each(
        files,
        lambda path: _estimate(prompts, path, by_name.get(path.name, Measurement()), spacing),
    )
    write_records(records, COLUMNS, format, out)


def read_measurements(path: Path) -> dict[str, Measurement]:
    """By file name. Raises UsageError on a row whose number is none or not above 0, and on a file
    twice."""
    from training.data.csv_rows import read_number, read_rows
    from training.data.samples import SampleError

    def number(row: dict[str, str], column: str, where: str) -> float | None:
        if not row.get(column):
            return None
        value = read_number(row, column, where)
        if value <= 0:
            raise SampleError(f"{where}: {column} {row[column]!r} is not above 0")
        return value

    by_name: dict[str, Measurement] = {}
    try:
        for index, row in enumerate(read_rows(path, ("file",), "measured"), 1):
            where = f"{path.name}: row {index}"
            weeks = number(row, "ga_weeks", where)
            name = Path(row["file"]).name
            if name in by_name:
                raise SampleError(f"{where}: {name} again")
            by_name[name] = Measurement(
                number(row, "pixel_mm", where),
                number(row, "hc_mm", where),
                None if weeks is None else 7 * weeks,
            )
    except SampleError as error:
        raise UsageError(str(error)) from None
    return by_name


def _estimate(
    prompts: Any, path: Path, measurement: Measurement, spacing: float | None
) -> dict[str, Any]:
    from model.fetalclip import gestational_age as ages
    from model.fetalclip.age_prompts import network_spacing
    from model.fetalclip.preprocess import images
    from training.data.labelled import read_first_frame

    frame = read_first_frame(path)
    native = measurement.spacing_mm or header_spacing(frame) or spacing
    if native is None:
        raise QCError(
            ErrorCode.UNREADABLE,
            f"{path.name} does not say how large a pixel is: give --spacing or --measurements",
        )
    size = prompts.network.architecture.image
    height, width = frame.pixels.shape[:2]
    scaled_mm = network_spacing(width, height, native, size)
    features = prompts.network.image_features(images([frame.pixels], size))
    (similarity,) = prompts.similarity(features, scaled_mm)
    estimate = ages.estimate_age(
        similarity,
        known_days=measurement.known_days,
        head_circumference_mm=measurement.head_circumference_mm,
    )
    circumference_mm = measurement.head_circumference_mm
    return {
        "days": estimate.days,
        "age": None if estimate.days is None else ages.in_words(estimate.days),
        "reason": estimate.reason,
        "why": ages.REASONS.get(estimate.reason or ""),
        "spacing_mm": round(scaled_mm, 2),
        "head_circumference_mm": circumference_mm,
        "plausible": None
        if estimate.days is None or circumference_mm is None
        else bool(ages.is_plausible(circumference_mm, estimate.days)),
    }


def header_spacing(frame: Frame) -> float | None:
    """The side of a pixel in mm of the first region that says it."""
    for region in frame.regions:
        if region.spacing_mm is not None:
            return sum(region.spacing_mm) / 2
    return None

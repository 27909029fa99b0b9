"""The commands on models: `bundle list|show|verify|bench|build|part|extend|activate`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector import console
from detector.console import UsageError
from detector.plain_text import visible
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import Format as OutputFormat
from qc_daemon.cli.output import (
    parse_format,
    progress_bar,
    say,
    say_notes,
    write_list,
    write_record,
)
from qc_daemon.settings import load

if TYPE_CHECKING:
    from detector.frame import Frame
    from qc_daemon.settings import ScoreSettings

_BENCH_PICTURES, _RECORD_PICTURES = 8, 600
Name = Annotated[
    str | None,
    typer.Argument(
        help="A shipped bundle's name or a folder; without, the settings' score.bundle.",
        show_default=False,
    ),
]
Parts = Annotated[
    list[Path] | None,
    typer.Option(
        "--part",
        exists=True,
        file_okay=False,
        help="Folder of a part (bundle part) to put into it; repeatable.",
    ),
]
bundle = typer.Typer(no_args_is_help=True, help="Models: list, verify, build, activate.")


@bundle.command("list")
def bundle_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List shipped bundles and the active one.

    Example: qc-daemon bundle list --config qc-daemon.toml
    """
    from qc_daemon.operations.bundles import list_bundles

    output_format = parse_format(format)
    rows = list_bundles(load_settings(config))
    write_list("bundles", first_page(rows, limit, output_format), output_format)


@bundle.command("show")
def bundle_show(name: Name = None, config: Config = None, format: Format = "table") -> None:
    """Show the manifest and model card of a bundle, or of a part.

    Example: qc-daemon bundle show default --format json
    """
    from qc_daemon.operations.bundles import describe_bundle, show_bundle, without_references

    output_format = parse_format(format)
    name = name or load(config).score.bundle
    if output_format == "table":
        typer.echo(describe_bundle(name))
    else:
        details = show_bundle(name)
        write_record(
            details if output_format == "json" else without_references(details), output_format
        )


@bundle.command("verify")
def bundle_verify(name: Name = None, config: Config = None) -> None:
    """Check every file of a bundle, or of a part, against its manifest.

    Example: qc-daemon bundle verify mine/
    """
    from qc_daemon.operations.bundles import bundle_folder, verify_folder

    problems = verify_folder(bundle_folder(name or load(config).score.bundle))
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(console.FAILED)
    say("verified: every file is as the manifest says")


@bundle.command("bench")
def bundle_bench(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="DICOM or picture files, or folders of them; without, simulated pictures.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="A shipped bundle's name or a folder; else what score.bundle says."),
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="At most so many; default 8, and with --record 600.",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Compare the verdicts in precision fast with the exact ones, and write a bundle"
            " that records it into this new folder.",
        ),
    ] = None,
    config: Config = None,
    format: Format = "table",
) -> None:
    """Time the models by each runtime and precision of this machine, and say which it has not.

    Each part alone and a whole image, picture by picture in turn: medians of CPU seconds and of
    seconds by the clock, and ratios to torch on the CPU, the reference.

    With --record nothing is timed: at least 300 pictures of the files must be of scanners, not
    simulated, and the new bundle allows score.precision fast on CPUs like this one. Where verdicts
    change too much none is written.

    Example: qc-daemon bundle bench --pictures 16 --format json

    Example: qc-daemon bundle bench exam/ --record mine
    """
    output_format = parse_format(format)
    settings = load(config).score
    settings.bundle = bundle or settings.bundle
    if record is not None:
        _record(paths or [], settings, pictures or _RECORD_PICTURES, record, output_format)
        return
    from qc_daemon.operations.bundle_bench import COLUMNS, ROUNDS, read_frames, run_bench

    count = pictures or _BENCH_PICTURES
    if paths:
        frames = list(read_frames(paths, settings, count, _warn))
        if not frames:
            names = ", ".join(map(str, paths))
            raise UsageError(f"{names}: no pictures there; give DICOM or picture files")
    else:
        from qc_daemon.cli.demo import phantom_frames

        frames = list(phantom_frames(count))
    with progress_bar() as bar:
        task = bar.add_task("Timing", total=len(frames) * (ROUNDS + 1))
        report = run_bench(settings, frames, lambda: bar.advance(task))
    write_list("parts", report.rows, output_format, columns=COLUMNS)
    if output_format == "table":
        say_notes(report.notes)
    else:
        for note in report.notes:
            _warn(note)


@bundle.command("build")
def bundle_build(
    out: Annotated[Path, typer.Option(help="The new bundle's folder.")],
    detector: Annotated[
        Path, typer.Option(exists=True, help="YOLO folder, or a .pt with --trust.")
    ],
    describer: Annotated[Path, typer.Option(exists=True, file_okay=False, help="BioGPT folder.")],
    spatialclip: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="SpatialCLIP or CLIP folder.")
    ],
    name: Annotated[str, typer.Option(help="Its name, as lists and reports show it.")] = "custom",
    version: Annotated[str, typer.Option(help="Its version, as reports show it.")] = "1",
    clip: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="CLIP folder under a SpatialCLIP checkpoint."
        ),
    ] = None,
    part: Parts = None,
    backbone: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of the part with the CLIP that SpatialCLIP was trained on: it is not"
            " stored again.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle a .pt that you trust, once.")
    ] = False,
) -> None:
    """Make a bundle of local model folders.

    Example: qc-daemon bundle build --out mine --detector yolo/ --describer biogpt/
    --spatialclip spatialclip/ --name mine
    """
    from model.bundle.build import build

    new_bundle = build(
        detector,
        describer,
        spatialclip,
        out,
        name=name,
        version=version,
        trust=trust,
        clip=clip,
        parts=part or (),
        backbone=backbone,
    )
    say(f"{out}: {new_bundle.id.name} {new_bundle.id.version}, model_id {new_bundle.id.model_id}")


@bundle.command("part")
def bundle_part(
    family: Annotated[str, typer.Option(help="fetalclip, dual-branch or nextgen-uia.")],
    model: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder that its converter or trainer wrote."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The part's new folder.")],
    name: Annotated[str, typer.Option(help="Its name, as settings and reports have it.")],
    version: Annotated[str, typer.Option(help="Its version, as reports show it.")] = "1",
    prompts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Of FetalCLIP: the prompts of each class (JSON). Without, it is a backbone only.",
        ),
    ] = None,
    views: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The view, or list of views, that each class stands for (JSON); null: none."
            " Default: classes are NT, CRL, HEAD, ABDOMEN, OTHER.",
        ),
    ] = None,
    tower: Annotated[
        Path | None,
        typer.Option(exists=True, help="Of NextGen-UIA: what its head was trained on."),
    ] = None,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Below it no class is named.")
    ] = 0.0,
    min_cosine: Annotated[
        float, typer.Option(min=-1, max=1, help="With prompts: below it no class is named.")
    ] = -1.0,
    card: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its model card (Markdown).")
    ] = None,
) -> None:
    """Make a part of a model of another family, for a second opinion, or as a backbone.

    Example: qc-daemon bundle part --family fetalclip --model fetalclip --prompts planes.json
    --views views.json --name fetal --out parts/fetal
    """
    from model.parts.build import build_part
    from model.parts.part import Family, RejectThresholds

    if family not in set(Family):
        raise UsageError(f"--family {family}: give one of {', '.join(Family)}")
    part = build_part(
        Family(family),
        model,
        out,
        name=name,
        version=version,
        prompts=prompts,
        views=views,
        tower=tower,
        reject=RejectThresholds(min_probability, min_cosine),
        card=card,
    )
    say(f"{out}: {part.id.name} {part.id.version}, model_id {part.id.model_id}")


@bundle.command("extend")
def bundle_extend(
    base: Annotated[str, typer.Argument(help="A shipped bundle's name or a folder.")],
    part: Annotated[
        list[Path], typer.Option("--part", exists=True, file_okay=False, help="Part; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="The new bundle's folder.")],
    name: Annotated[
        str | None, typer.Option(help="Its name; default: the base's.", show_default=False)
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="Its version; default: the base's and the parts.", show_default=False),
    ] = None,
) -> None:
    """Make a bundle of another one and parts; its own models stay as they are.

    Example: qc-daemon bundle extend default --part parts/fetal --out mine --name mine
    """
    from model.bundle.extend import extend
    from qc_daemon.operations.bundles import bundle_folder

    new_bundle = extend(bundle_folder(base), part, out, name=name, version=version)
    say(f"{out}: {new_bundle.id.name} {new_bundle.id.version}, model_id {new_bundle.id.model_id}")


@bundle.command("activate")
def bundle_activate(
    name: Annotated[str, typer.Argument(help="A shipped bundle's name or a folder.")],
    config: Config = None,
) -> None:
    """Score new exams with this bundle.

    Example: qc-daemon bundle activate ./mine --config qc-daemon.toml
    """
    from qc_daemon.operations.bundles import activate_bundle

    say(f"active: model_id {activate_bundle(load_settings(config), name)}")


def _record(
    paths: list[Path], settings: "ScoreSettings", count: int, out: Path, output_format: OutputFormat
) -> None:
    from qc_daemon.operations.bundle_bench import (
        PASSES,
        count_files_to_record,
        read_frames,
        record_agreement,
    )

    count = count_files_to_record(paths, count)
    # Each of several passes reads them again: as many are more than memory should hold.
    unreadable: dict[str, None] = {}

    def frames() -> "Iterator[Frame]":
        return read_frames(paths, settings, count, unreadable.setdefault)

    try:
        with progress_bar() as bar:
            task = bar.add_task("Comparing", total=count * PASSES)
            outcome = record_agreement(settings, frames, out, lambda: bar.advance(task))
    finally:
        for line in unreadable:
            _warn(line)
    write_record(outcome.to_json(), output_format)


def _warn(line: str) -> None:
    typer.echo(visible(line), err=True)

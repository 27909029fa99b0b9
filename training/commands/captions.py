"""`qc-model train captions` and `qc-model nextgen-uia retrieval`: pictures and their captions."""

import json
from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError
from training.adapter_recipes import CaptionRecipe
from training.commands.answers import check_target, write_json
from training.commands.lesion_sources import AdapterName
from training.commands.options import (
    BatchOfPictures,
    Device,
    Epochs,
    FiguresOut,
    Force,
    ForceFiles,
    LearningRate,
    Out,
    Patience,
    Resume,
    Seed,
    finite,
    typed_command,
)

_RECIPE = CaptionRecipe()

Model = Annotated[
    Path,
    typer.Option(
        "--model", exists=True, file_okay=False, help="A CLIP folder with its tokenizer, as"
        " qc-model fetalclip convert writes with --vocabulary."
    ),
]  # fmt: skip
Captions = Annotated[
    list[Path],
    typer.Option(
        "--captions",
        exists=True,
        dir_okay=False,
        help="CSV of pictures and captions, the pictures in images beside it; repeatable.",
    ),
]
FileColumn = Annotated[str, typer.Option(help="Its column of file names.")]
CaptionColumn = Annotated[str, typer.Option(help="Its column of captions.")]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Its column of patients or cases; default: each picture is its own."),
]
Validation = Annotated[
    float,
    typer.Option(
        min=0.01, max=0.9, callback=finite, help="Share of patients or cases that validates."
    ),
]

BatchOfPairs = Annotated[int, typer.Option(min=2, help="Pairs a step.")]


def train(
    model: Model,
    captions: Captions,
    out: Out,
    file_column: FileColumn = "filename",
    caption_column: CaptionColumn = "Caption",
    group_column: GroupColumn = None,
    validation: Validation = 0.1,
    adapter: Annotated[AdapterName, typer.Option(help="What learns.")] = AdapterName.HYBRID,
    last: Annotated[
        int | None, typer.Option(min=1, help="Only the last so many blocks; default: all.")
    ] = None,
    epochs: Epochs = _RECIPE.epochs,
    batch: BatchOfPairs = _RECIPE.batch,
    learning_rate: LearningRate = _RECIPE.learning_rate,
    patience: Patience = _RECIPE.patience,
    seed: Seed = _RECIPE.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Tune adapters of CLIP's image tower on pictures and their captions.

    Example: qc-model train captions --model clip --captions medpix/medpix.csv
    --captions pmc/pmc.csv --group-column case --out runs/captions
    """
    from model.device import choose_device
    from model.fetalclip.checkpoint import load_fetalclip
    from model.fetalclip.preprocess import TextEncoder
    from model.nextgen_uia.adapters import AdapterConfig, Kind
    from training.data.captions import divide_captions, read_captions
    from training.data.samples import SampleError
    from training.train import runs
    from training.train.fetalclip.caption_tuning import check_pairs, tune_on_captions

    if adapter is AdapterName.NONE:
        raise UsageError("--adapter none: nothing would learn; give another one")
    recipe = CaptionRecipe(
        epochs=epochs, batch=batch, learning_rate=learning_rate, patience=patience, seed=seed
    )
    try:
        pairs = read_captions(
            captions,
            file_column=file_column,
            caption_column=caption_column,
            group_column=group_column,
        )
    except SampleError as error:
        raise UsageError(str(error)) from None
    training_part, validation_part = divide_captions(pairs, validation, seed)
    check_pairs(training_part, validation_part, recipe)
    network = load_fetalclip(model, choose_device(device))
    encoder = TextEncoder.load(model, network.architecture)
    blocks = tuple(range(network.architecture.vision_layers))[-(last or 0) :]
    runs.begin_run(out, resume=resume, force=force)
    facts = tune_on_captions(
        network,
        encoder,
        training_part,
        validation_part,
        out,
        recipe,
        AdapterConfig(Kind(adapter.value), blocks),
        resume=resume,
        command=typed_command(),
    )
    answer = {name: facts[name] for name in ("best epoch", "learnt parameters")}
    typer.echo(json.dumps(answer | {"validation": facts["validation"]["loss"]}, indent=1))


def retrieval(
    model: Model,
    captions: Captions,
    adapters: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of adapters for its image tower."),
    ] = None,
    file_column: FileColumn = "filename",
    caption_column: CaptionColumn = "Caption",
    group_column: GroupColumn = None,
    validation: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.9, help="As in training: only its validation. Default: all."),
    ] = None,
    batch: BatchOfPictures = 32,
    seed: Seed = 0,
    out: FiguresOut = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Print how well captions find their picture and pictures their caption: recall, ranks.

    Example: qc-model nextgen-uia retrieval --model clip --adapters runs/captions
    --captions rocov2/test.csv
    """
    from model.device import choose_device
    from model.fetalclip.checkpoint import load_fetalclip
    from model.fetalclip.preprocess import TextEncoder
    from training.data.captions import captions_hash, divide_captions, read_captions
    from training.data.samples import SampleError
    from training.evaluation.metrics.retrieval import retrieval_metrics
    from training.train.fetalclip.caption_tuning import Pairs, apply_to, picture_features

    check_target(out, force=force)
    try:
        pairs = read_captions(
            captions,
            file_column=file_column,
            caption_column=caption_column,
            group_column=group_column,
        )
    except SampleError as error:
        raise UsageError(str(error)) from None
    if validation is not None:
        pairs = divide_captions(pairs, validation, seed)[1]
    if not pairs:
        raise UsageError("no pair is left to judge on: give a larger --validation")
    network = load_fetalclip(model)
    encoder = TextEncoder.load(model, network.architecture)
    if adapters is not None:
        apply_to(network, adapters)
    network.to(choose_device(device))
    judged = Pairs(pairs, network, encoder)
    similarity = picture_features(network, judged, batch) @ judged.texts.T
    figures = retrieval_metrics(
        similarity.cpu().numpy(),
        [pair.caption for pair in pairs],
        [str(pair.image) for pair in pairs],
    )
    figures |= {"data sha256": captions_hash(pairs), "command": typed_command()}
    typer.echo(json.dumps(figures, indent=1))
    write_json(figures, out)

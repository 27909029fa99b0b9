"""`qc-model explain`: where in a picture a class's logit comes from, drawn and checked."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.console import UsageError
from training.commands.answers import (
    Format,
    FormatOption,
    OutOption,
    answer_each,
    check_folder,
    check_target,
    file_stem,
    write_records,
)
from training.commands.options import Device

if TYPE_CHECKING:
    from detector.frame import Pixels
    from model.fetalclip.explain import Explained

    Subject = tuple[Explained, tuple[str, ...], Any, int]


class Method(StrEnum):
    """How a map is made; `model.fetalclip.explain.Method` without torch."""

    GRADIENT = "gradient"
    ATTENTION = "attention"


COLUMNS = ("source", "label", "probability", "method", "area", "random_area", "better_than", "map")


def explain(
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Pictures, DICOM files and folders of them.")
    ],
    maps: Annotated[Path, typer.Option(file_okay=False, help="Folder of the drawn maps (PNG).")],
    model: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A folder that qc-model fetalclip convert wrote, for classes of --prompts.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON of each class's prompts."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="A head of qc-model iqa train, with its --tower."
        ),
    ] = None,
    tower: Annotated[
        Path | None, typer.Option(exists=True, help="The tower that --run was trained on.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="A class to explain; repeatable. Default: the most probable one."
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="Gradients at the last block, or attention of all blocks.")
    ] = Method.GRADIENT,
    orders: Annotated[
        int, typer.Option(min=1, help="Random orders of deletion that a map is compared with.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the random orders.")] = 0,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    device: Device = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file of --out, and maps.")
    ] = False,
) -> None:
    """Draw where each picture speaks for a class, and delete it there to see whether that is so.

    `area` is the mean of the class's contrast while patches are deleted, the map's highest first;
    `random_area` that of random orders; `better_than` the share of them that take less away: 0.5 is
    a map that says nothing.

    Example: qc-model explain --model fetalclip --prompts planes.json head.png --maps maps
    --class brain --class abdomen

    Example: qc-model explain --run runs/iqa --tower fetalclip frames --maps maps
    --class usable --method attention
    """
    from model.fetalclip import explain as maps_of
    from training.data.labelled import list_pictures, read_first_frame

    check_target(out, force=force)
    check_folder(maps, force=force)
    explained, classes, inputs, side = _subject(model, prompts, run, tower, device)
    for name in label or ():
        if name not in classes:
            raise UsageError(f"--class {name}: there is none, but {', '.join(classes)}")
    if method is Method.ATTENTION and explained.vision is None:
        raise UsageError("--method attention: this tower has none; give gradient")
    files = list_pictures(paths)
    maps.mkdir(parents=True, exist_ok=True)

    def answer(path: Path, number: int) -> list[dict[str, Any]]:
        pixels = read_first_frame(path).pixels
        height, width = pixels.shape[:2]
        place = maps_of.place_in_square(height, width, side)
        values = inputs(pixels)
        probabilities = _probabilities(explained, values)
        best = max(range(len(classes)), key=probabilities.__getitem__)
        answers = []
        for name in label or [classes[best]]:
            index = classes.index(name)
            patches = maps_of.explain(explained, values, index, maps_of.Method(method.value))
            deletion = maps_of.check_by_deletion(
                explained.scores, values, index, patches, place, orders=orders, seed=seed
            )
            file = maps / f"{number:04}-{file_stem(path.stem)}-{file_stem(name)}.png"
            _save(maps_of.draw_map(pixels, patches, place, side), file)
            answers.append(
                {
                    "label": name,
                    "probability": probabilities[index],
                    "method": method.value,
                    "area": deletion.area,
                    "random_area": deletion.random_area,
                    "better_than": deletion.better_than,
                    "curve": list(deletion.curve),
                    "map": file.name,
                }
            )
        return answers

    records: list[dict[str, Any]] = []
    for number, path in enumerate(files, 1):
        (record,) = answer_each([path], lambda path, n=number: {"classes": answer(path, n)})  # type: ignore[misc]
        records += [record | each for each in record.pop("classes", [{}])]
    write_records(records, COLUMNS, format, out)


def _subject(
    model: Path | None, prompts: Path | None, run: Path | None, tower: Path | None, device: str
) -> "Subject":
    """What is explained, its classes, pictures to inputs (1, 3, S, S), and S."""
    by_prompts, by_run = (model, prompts), (run, tower)
    if (None in by_prompts) == (None in by_run) or (any(by_prompts) and any(by_run)):
        raise UsageError("give --model with --prompts, or --run with --tower")
    if model is not None and prompts is not None:
        return _zero_shot(model, prompts, device)
    assert run is not None
    assert tower is not None
    return _head(run, tower, device)


def _zero_shot(model: Path, prompts: Path, device: str) -> "Subject":
    from model.device import choose_device
    from model.fetalclip.checkpoint import load_fetalclip
    from model.fetalclip.explain import of_prompts
    from model.fetalclip.preprocess import TextEncoder, images
    from model.fetalclip.prompts import read_prompts
    from model.fetalclip.zero_shot import ZeroShotClassifier

    classes = read_prompts(prompts)
    network = load_fetalclip(model, choose_device(device))
    encoder = TextEncoder.load(model, network.architecture)
    classifier = ZeroShotClassifier(network, encoder, classes)
    network.clip.requires_grad_(False)
    side = network.architecture.image
    return (
        of_prompts(network, classifier.directions),
        classifier.classes,
        lambda pixels: images([pixels], side).to(network.device),
        side,
    )


def _head(run: Path, tower: Path, device: str) -> "Subject":
    from model.device import choose_device
    from model.fetalclip.explain import of_network
    from model.nextgen_uia.checkpoint import load_run
    from model.nextgen_uia.preprocess import normalise, square

    network = load_run(run, tower).to(choose_device(device))
    network.requires_grad_(False)
    try:
        explained = of_network(network)
    except ValueError as error:
        raise UsageError(f"--run {run}: {error}") from None
    side = network.tower.side
    return (
        explained,
        network.head.config.classes,
        lambda pixels: normalise([square(pixels, side)]).to(network.device),
        side,
    )


def _probabilities(explained: "Explained", values: Any) -> list[float]:
    import torch

    with torch.no_grad():
        return explained.scores(values)[0].float().softmax(-1).tolist()  # type: ignore[no-any-return]


def _save(pixels: "Pixels", file: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(file)

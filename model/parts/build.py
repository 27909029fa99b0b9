"""Make a part of a model in a local folder."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from detector.anatomy import View
from model.bundle.manifest import incomplete, mismatch
from model.fetalclip.checkpoint import load_fetalclip
from model.nextgen_uia.checkpoint import tower_files
from model.parts.part import (
    CARD,
    MODEL,
    PROMPTS,
    REQUIRED_FILES,
    TOWER,
    TOWER_FILE,
    Family,
    Part,
    RejectThresholds,
    read_json,
    read_views,
    views_json,
    write_part,
)
from model.parts.view_models import check_classes, load_view_model

_TOKENIZER = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_FETALCLIP_FACTS = "fetalclip.json"


def build_part(
    family: Family,
    model: Path,
    out: Path,
    *,
    name: str,
    version: str,
    prompts: Path | None = None,
    views: Path | None = None,
    tower: Path | None = None,
    reject: RejectThresholds | None = None,
    card: Path | None = None,
) -> Part:
    """Compose `out`, which must not exist, and open it.

    `model`: the folder that the family's converter or trainer wrote. `prompts`: of FetalCLIP, a
    JSON object class -> list of prompts; without, the part is a backbone and names no class.
    `views`: a JSON object with the view, or the list of views, that each class stands for, null for
    none of ours; without, classes are views' codes. `tower`: of NextGen-UIA, what its head was
    trained on. `card`: its model card; without, one that says what is known.
    Raises QCError; nothing is left of a part that could not be made.
    """
    if out.exists():
        raise mismatch(f"{out} exists: name a new folder for the part")
    if prompts is not None and family is not Family.FETALCLIP:
        raise mismatch(f"prompts are of the family {Family.FETALCLIP}, not of {family}")
    if (tower is not None) != (family is Family.NEXTGEN_UIA):
        raise mismatch(
            f"a tower goes with a head of the family {Family.NEXTGEN_UIA}, and with it alone"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "part"
        _copy_all(_model_files(family, model), folder / MODEL)
        if prompts is not None:
            _copy_all([prompts], folder, PROMPTS)
        if tower is not None and tower.is_dir():
            _copy_all([tower / each for each in tower_files(tower)], folder / TOWER)
        elif tower is not None:
            _copy_all([tower], folder, TOWER_FILE)
        class_views: dict[str, tuple[View, ...]] = {}
        if family is Family.FETALCLIP and prompts is None:
            load_fetalclip(folder / MODEL)
        else:
            classes = load_view_model(family, folder, torch.device("cpu")).classes
            class_views = _read_views(views, classes)
        rules = reject or RejectThresholds()
        text = (
            card.read_text(encoding="utf-8") if card else _card(family, name, version, class_views)
        )
        (folder / CARD).write_text(text, encoding="utf-8")
        write_part(
            folder,
            {
                "family": family.value,
                "name": name,
                "version": version,
                "views": views_json(class_views),
                "reject": rules.to_json(),
            },
        )
        Part.open(folder)
        folder.rename(out)
    return Part.open(out, hashed=False)


def _model_files(family: Family, model: Path) -> Iterator[Path]:
    """The files of a model that a part needs: a run's folder has more."""
    for name in REQUIRED_FILES[family]:
        yield model / name.removeprefix(f"{MODEL}/")
    if family is Family.FETALCLIP:
        for pattern in (_FETALCLIP_FACTS, *_TOKENIZER):
            yield from sorted(model.glob(pattern))


def _copy_all(
    files: Sequence[Path] | Iterator[Path], folder: Path, name: str | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        try:
            shutil.copyfile(path, folder / (name or path.name))
        except OSError as error:
            raise incomplete(f"{path} cannot be read: {error.strerror}") from None


def _read_views(views: Path | None, classes: Sequence[str]) -> dict[str, tuple[View, ...]]:
    try:
        if views is None:
            mapping = read_views({name: name for name in classes})
        else:
            data = read_json(views)
            if not isinstance(data, dict):
                raise ValueError("an object is expected, class -> view or list of views")
            mapping = read_views(data)
    except (ValueError, TypeError) as error:
        where = "--views is needed" if views is None else views.name
        raise mismatch(f"{where}: {error}") from None
    check_classes(classes, mapping)
    return mapping


def _card(family: Family, name: str, version: str, views: Mapping[str, tuple[View, ...]]) -> str:
    rows = [f"| {label} | {', '.join(each) or 'none of ours'} |" for label, each in views.items()]
    table = ["", "| class | stands for |", "|---|---|", *rows] if rows else []
    lines = [
        f"# {name} {version}",
        "",
        f"A model of the family {family.value}, as `bundle part` took it over. Nothing was measured"
        " of it here. What it learnt from and its licence are those of its makers. Not for clinical"
        " use.",
        *table,
    ]
    return "\n".join(lines) + "\n"

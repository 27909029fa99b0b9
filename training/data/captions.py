"""Pictures with their captions: CSVs with the pictures beside them, divided by patient or case."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.csv_rows import read_rows
from training.data.labelled import LabelledPicture, group_key
from training.data.samples import SampleError, file_hash
from training.data.splits import group_hash


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture and what its report says of it."""

    image: Path
    caption: str
    group: str  # Patient or case, or the picture itself where no column names it: never divided.
    location: str


def read_captions(
    paths: Sequence[Path],
    *,
    file_column: str = "filename",
    caption_column: str = "Caption",
    group_column: str | None = None,
) -> list[Captioned]:
    """Read CSVs, in the order of their rows. A picture lies in `images` beside its CSV, or beside
    it. Captions lose surplus white space only.

    Raises SampleError, in one line: a column, a picture or a caption that is missing, a pair twice.
    """
    columns = (file_column, caption_column, *([group_column] if group_column else []))
    pairs: list[Captioned] = []
    first: dict[tuple[Path, str], Captioned] = {}
    for path in paths:
        for number, row in enumerate(read_rows(path, columns, "captioned"), 1):
            where = f"{path.name}: row {number}"
            image = _find(path.parent, row[file_column], where)
            caption = " ".join(row[caption_column].split())
            if not caption:
                raise SampleError(f"{where}: the caption is empty")
            # From its CSV on, so that a copy of the data elsewhere is divided the same.
            group = os.path.relpath(image, path.parent)
            if group_column:
                # Two CSVs may number their cases alike.
                group = f"{path.stem}/{group_key(row[group_column])}"
            pair = Captioned(image, caption, group, where)
            same = first.setdefault((image.resolve(), caption), pair)
            if same is not pair:
                raise SampleError(f"{where}: the pair of {same.location} again")
            pairs.append(pair)
    if not pairs:
        raise SampleError("no pairs of pictures and captions there")
    return pairs


def caption_by_class(
    pictures: Sequence[LabelledPicture], prompts: Mapping[str, Sequence[str]]
) -> list[Captioned]:
    """Pictures without reports: each has one of its class's prompts for a caption, by its name, so
    that it is the same in every run. Raises SampleError on a class without prompts."""
    pairs = []
    for picture in pictures:
        texts = prompts.get(picture.label)
        if not texts:
            raise SampleError(
                f"{picture.location}: class {picture.label!r} has no prompts, but"
                f" {', '.join(prompts)} have"
            )
        number = int(hashlib.sha256(picture.path.name.encode()).hexdigest()[:8], 16)
        caption = texts[number % len(texts)]
        pairs.append(Captioned(picture.path, caption, picture.group, picture.location))
    return pairs


def divide_captions(
    pairs: Sequence[Captioned], share: float, seed: int
) -> tuple[list[Captioned], list[Captioned]]:
    """(training, validation): about `share` of the groups validate; the same for the same seed."""
    parts: tuple[list[Captioned], list[Captioned]] = ([], [])
    for pair in pairs:
        parts[group_hash(pair.group, seed) < share].append(pair)
    return parts


def captions_hash(pairs: Iterable[Captioned]) -> str:
    """SHA-256 over pictures and captions."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{file_hash(pair.image)} {pair.caption}\n".encode())
    return digest.hexdigest()


def _find(folder: Path, name: str, where: str) -> Path:
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise SampleError(f"{where}: {name!r} does not lie below the CSV's folder")
    for path in (folder / "images" / relative, folder / relative):
        if path.is_file():
            return path
    raise SampleError(f"{where}: no picture {name!r}, neither in images nor beside the CSV")

"""Pictures with one class each: read from any data set's CSV, checked, divided by patient.

The readers of planes (`planes`) and of lesions (`lesions`) add what their data sets have beside it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from detector.imaging.reader import read_frames
from training.data.csv_rows import read_rows
from training.data.samples import SampleError
from training.data.splits import group_hash

SPLITS = ("train", "val", "test")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ""})
"""Of a folder, files with these endings are taken for pictures."""


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture, its class, and the patient it is of: a group is never divided."""

    path: Path
    label: str  # Name of its class; empty where none is told.
    group: str  # The patient or case, as `group_key` gives it.
    split: str = ""  # The data set's own division; empty: none.
    location: str = ""  # File and row, for messages.

    @property
    def content(self) -> Hashable:
        """What no other picture of a data set may be."""
        return self.path.resolve()

    @classmethod
    def of(cls, other: "LabelledPicture") -> Self:
        """The same picture, of another reader."""
        return cls(other.path, other.label, other.group, other.split, other.location)


P = TypeVar("P", bound=LabelledPicture)


def read_labelled(
    path: Path,
    *,
    label_column: str = "plane",
    group_column: str = "patient",
    file_column: str = "file",
    rename: Mapping[str, str] | None = None,
) -> list[LabelledPicture]:
    """Read a CSV with a picture a row, in its order; files are relative to its folder.

    `rename` gives classes other names. A column `split` is read where there is one.
    Raises UsageError: a column or a file that is missing, a file twice, a patient in two splits.
    """
    columns = (file_column, label_column, group_column)
    try:
        rows = read_rows(path, columns, "labelled")
        if not rows:
            raise SampleError(f"{path} has no rows")
        names = rename or {}
        unknown = sorted(set(names) - {row[label_column] for row in rows})
        if unknown:
            raise SampleError(f"{path.name} has no class {unknown[0]!r} to rename")
        pictures = [
            LabelledPicture(
                path.parent / row[file_column],
                names.get(row[label_column], row[label_column]),
                group_key(row[group_column]),
                row.get("split") or "",
                f"{path.name}: row {number}",
            )
            for number, row in enumerate(rows, 1)
        ]
        for picture in pictures:
            if not picture.path.is_file():
                raise SampleError(f"{picture.location}: {picture.path.name} is no file there")
        check_pictures(pictures)
    except SampleError as error:
        raise UsageError(str(error)) from None
    return pictures


def check_pictures(pictures: Sequence[LabelledPicture]) -> None:
    """Raises SampleError where there is none, on one that is given twice, and on a patient in two
    splits: figures would be of patients that were learnt from."""
    if not pictures:
        raise SampleError("no pictures there")
    first: dict[Hashable, LabelledPicture] = {}
    of_group: dict[str, LabelledPicture] = {}
    for picture in pictures:
        same = first.setdefault(picture.content, picture)
        if same is not picture:
            raise SampleError(f"{picture.location}: the picture of {same.location} again")
        other = of_group.setdefault(picture.group, picture)
        if other.split != picture.split:
            raise SampleError(
                f"{picture.location} ({picture.split or 'no split'}) and {other.location}"
                f" ({other.split or 'no split'}) are of one patient: put them into one split"
            )


def check_split_names(pictures: Sequence[LabelledPicture]) -> None:
    """Raises SampleError on a split that is none of SPLITS."""
    for picture in pictures:
        if picture.split and picture.split not in SPLITS:
            raise SampleError(
                f"{picture.location}: split {picture.split!r} is none of {', '.join(SPLITS)}"
            )


def check_labels(pictures: Sequence[LabelledPicture], classes: Sequence[str]) -> None:
    """Raises SampleError on a picture whose class is none of `classes`."""
    for picture in pictures:
        if picture.label not in classes:
            raise SampleError(
                f"{picture.location}: class {picture.label!r} is none of {', '.join(classes)};"
                " correct it, or leave it out (--leave-out)"
            )


def check_present(pictures: Sequence[LabelledPicture], classes: Sequence[str], split: str) -> None:
    """Raises SampleError where a class has no picture in this split: it could not be learnt, or not
    be validated."""
    present = {picture.label for picture in pictures}
    missing = [name for name in classes if name not in present]
    if missing:
        raise SampleError(
            f"split {split} has no picture of {', '.join(map(repr, missing))}: add some, or leave"
            " the class out"
        )


def leave_out(
    pictures: Sequence[P], classes: Sequence[str], option: str = "--leave-out"
) -> list[P]:
    """The pictures without those of these classes; raises SampleError on a class that is none."""
    labels = {picture.label for picture in pictures}
    for name in classes:
        if name not in labels:
            raise SampleError(
                f"{option} {name}: the data have no such class, but {', '.join(sorted(labels))}"
            )
    return [picture for picture in pictures if picture.label not in classes]


def divide(
    pictures: Sequence[P], held_out: float, validation: float, seed: int
) -> dict[str, list[P]]:
    """The pictures of each split: as the data set says; where it says nothing, about `held_out` of
    the patients are for testing and about `validation` of the others validate.

    Raises SampleError where some have a split and others have none, or one that is none.
    """
    check_split_names(pictures)
    if any(picture.split for picture in pictures):
        unsplit = next((picture for picture in pictures if not picture.split), None)
        if unsplit is not None:
            raise SampleError(f"{unsplit.location}: split is missing, which other rows have")
        return _parts(pictures)

    def split(group: str) -> str:
        place = group_hash(group, seed)
        if place < held_out:
            return "test"
        return "val" if place < held_out + (1 - held_out) * validation else "train"

    return _parts([replace(picture, split=split(picture.group)) for picture in pictures])


def leave_fold_out(
    pictures: Sequence[P], fold: int, folds: int, seed: int
) -> tuple[list[P], list[P]]:
    """(training, held out): the patients of that fold are held out.

    Raises SampleError where the data set has splits of its own.
    """
    if any(picture.split for picture in pictures):
        raise SampleError("--fold goes with data without splits; these have their own")
    is_held_out = [int(group_hash(picture.group, seed) * folds) == fold for picture in pictures]
    training, held_out = (
        [p for p, each in zip(pictures, is_held_out, strict=True) if each is side]
        for side in (False, True)
    )
    return training, held_out


def divide_fold(
    pictures: Sequence[P], fold: int, folds: int, validation: float, seed: int
) -> dict[str, list[P]]:
    """The pictures of each split: the patients of that fold are for testing, about `validation` of
    the others validate. Raises SampleError where the data set has splits of its own."""
    others, held_out = leave_fold_out(pictures, fold, folds, seed)
    # Another seed: of the same numbers the first fold has the lowest.
    parts = divide(others, 0, validation, seed + 1)
    return parts | {"test": [replace(picture, split="test") for picture in held_out]}


def draw_shots(pictures: Sequence[P], shots: int, seed: int) -> list[P]:
    """The pictures of `shots` patients of each class, drawn at random; a smaller draw is part of a
    larger one. Without classes, of `shots` patients.

    Raises SampleError where a class has fewer patients.
    """
    groups: dict[str, set[str]] = {}
    for picture in pictures:
        groups.setdefault(picture.label, set()).add(picture.group)
    shot_groups: set[tuple[str, str]] = set()
    for label, members in sorted(groups.items()):
        if len(members) < shots:
            what = f"class {label!r} has" if label else "there are"
            raise SampleError(f"{what} {len(members)} patients to learn from, fewer than {shots}")
        order = sorted(members, key=lambda group: (group_hash(group, seed), group))
        shot_groups |= {(label, group) for group in order[:shots]}
    return [picture for picture in pictures if (picture.label, picture.group) in shot_groups]


def group_key(group: str) -> str:
    """A patient's identifier as it is compared: 010 and 10 are one patient."""
    return group.strip().lstrip("0") or "0"


def _parts(pictures: Sequence[P]) -> dict[str, list[P]]:
    return {name: [picture for picture in pictures if picture.split == name] for name in SPLITS}


def list_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and the pictures and DICOM files below folders, in a fixed order.

    Raises UsageError where there is none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(
                each
                for each in path.rglob("*")
                if each.is_file() and each.suffix.lower() in _SUFFIXES
            )
        else:
            files.append(path)
    if not files:
        raise UsageError("no pictures there: give files, or a folder with PNG, JPEG, … or DICOM")
    return files


def read_first_frame(path: Path) -> Frame:
    """The first frame of a picture or DICOM file. Raises QCError, whose message names the file."""
    try:
        return next(iter(read_frames(path, [1])))
    except QCError as error:
        raise QCError(error.code, f"{path.name}: {error.message}") from error
    except StopIteration:
        raise QCError(ErrorCode.NO_FRAMES, f"{path.name} has no frames") from None

"""Pictures with one class each, read from any data set's CSV, and their first frames."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from detector.imaging.reader import read_frames
from training.data.csv_rows import read_rows
from training.data.samples import SampleError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ""})
"""Of a folder, files with these endings are taken for pictures."""


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture, its class, and the patient it is of: a group is never divided."""

    path: Path
    label: str
    group: str
    split: str = ""  # the data set's own division; empty: none


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
    except SampleError as error:
        raise UsageError(str(error)) from None
    if not rows:
        raise UsageError(f"{path} has no rows")
    names = rename or {}
    unknown = sorted(set(names) - {row[label_column] for row in rows})
    if unknown:
        raise UsageError(f"{path.name} has no class {unknown[0]!r} to rename")
    pictures = [
        LabelledPicture(
            path.parent / row[file_column],
            names.get(row[label_column], row[label_column]),
            row[group_column],
            row.get("split") or "",
        )
        for row in rows
    ]
    _check_files(pictures, path)
    check_splits(pictures, path.name)
    return pictures


def _check_files(pictures: Sequence[LabelledPicture], path: Path) -> None:
    rows: dict[Path, int] = {}
    for number, picture in enumerate(pictures, 1):
        if not picture.path.is_file():
            raise UsageError(f"{path.name}: row {number}: {picture.path.name} is no file there")
        first = rows.setdefault(picture.path, number)
        if first != number:
            raise UsageError(
                f"{path.name}: rows {first} and {number} both name {picture.path.name}"
            )


def check_splits(pictures: Sequence[LabelledPicture], name: str) -> None:
    """Raises UsageError where one patient stands in two splits: figures would be of patients that
    were learnt from. Identifiers are compared without leading zeros: 010 and 10 are one patient."""
    first: dict[str, tuple[int, str]] = {}
    for number, picture in enumerate(pictures, 1):
        row, split = first.setdefault(group_key(picture.group), (number, picture.split))
        if split != picture.split:
            raise UsageError(
                f"{name}: rows {row} and {number} are of one patient, in splits {split or 'none'!r}"
                f" and {picture.split or 'none'!r}: give each patient one split"
            )


def group_key(group: str) -> str:
    """A patient's identifier as it is compared."""
    return group.strip().lstrip("0") or "0"


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


def by_group(pictures: Collection[LabelledPicture]) -> dict[str, list[LabelledPicture]]:
    """The pictures of each patient."""
    groups: dict[str, list[LabelledPicture]] = defaultdict(list)
    for picture in pictures:
        groups[group_key(picture.group)].append(picture)
    return dict(groups)


def batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    """The paths, `size` at a time."""
    for start in range(0, len(paths), size):
        yield paths[start : start + size]

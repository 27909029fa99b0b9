"""Rows of a data set's CSV files, read strictly."""

import csv
import math
from pathlib import Path

from detector.boxes import Box
from training.data.samples import SampleError

CORNERS = ("x_min", "y_min", "x_max", "y_max")


def read_rows(path: Path, columns: tuple[str, ...], dataset: str) -> list[dict[str, str]]:
    """The rows of a CSV file in which each of the columns has a value.

    Raises SampleError naming the file and the row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SampleError(
            f"{path.parent} is no {dataset} folder: {path.name}: {error.strerror}"
        ) from None
    except (ValueError, csv.Error) as error:
        raise SampleError(f"{path} is no CSV: {error}") from None
    for number, row in enumerate(rows, 1):
        lacking = [column for column in columns if not row.get(column)]
        if lacking or None in row:
            what = f"{lacking[0]} is missing" if lacking else "it has more cells than the header"
            raise SampleError(f"{path}: row {number}: {what}")
    return rows


def read_number(row: dict[str, str], column: str, where: str) -> float:
    """The finite number in a column; raises SampleError, which names `where`."""
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SampleError(f"{where}: {column} {row[column]!r} is no number")
    return value


def read_box(row: dict[str, str], where: str) -> Box:
    """The corner box of a row, in pixels; raises SampleError on one without area."""
    x0, y0, x1, y1 = (read_number(row, corner, where) for corner in CORNERS)
    if not (x0 < x1 and y0 < y1):
        raise SampleError(f"{where}: box {[x0, y0, x1, y1]} has no area")
    return (x0, y0, x1, y1)


def check_pictures(folder: Path, pictures: list[Path]) -> None:
    """Raises SampleError where a listed picture has no file."""
    missing = [path.name for path in pictures if not path.is_file()]
    if missing:
        raise SampleError(
            f"{folder} lacks {len(missing)} of its pictures, the first is {missing[0]}"
        )

"""Rows as an Apache Parquet file, by polars."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, BinaryIO

_BATCH = 50_000


def write_parquet(rows: Iterable[dict[str, Any]], columns: Sequence[str], file: BinaryIO) -> None:
    """Write the rows, a column for each of `columns` in their order.

    A column has the type that all its values fit in, and text where it has none.
    """
    # Imported here: other commands do without it.
    import polars

    schema = dict.fromkeys(columns)
    frames = [polars.DataFrame(schema=schema)]
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH)):
        frames.append(polars.DataFrame(batch, schema, strict=False, infer_schema_length=None))
    table = polars.concat(frames, how="vertical_relaxed")
    nothing = polars.selectors.by_dtype(polars.Null)
    table.with_columns(nothing.cast(polars.String)).write_parquet(file)

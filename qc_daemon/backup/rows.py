"""Rows of a database of any version of the tables, and values of them as commands have them."""

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, inspect, text

# So many rows are asked for at once: a statement has a limited number of parameters.
_PAGE = 500

Row = dict[str, Any]


class Tables:
    """Rows of a database of any version: a column that it lacks is None, a table is empty."""

    def __init__(self, connection: Connection, schema_name: str | None = None) -> None:
        self._connection = connection
        self._schema = schema_name
        self._columns: dict[str, frozenset[str]] = {}
        inspector = inspect(connection)
        for name in inspector.get_table_names(schema=schema_name):
            self._columns[name] = frozenset(
                column["name"] for column in inspector.get_columns(name, schema=schema_name)
            )

    @property
    def names(self) -> frozenset[str]:
        """The names of its tables."""
        return frozenset(self._columns)

    def rows(self, table: str, columns: Sequence[str]) -> list[Row]:
        """All rows of a table."""
        return self._select(table, columns, "")

    def rows_of(
        self, table: str, columns: Sequence[str], column: str, values: Sequence[Any]
    ) -> list[Row]:
        """The rows that have one of these values in a column, by id."""
        if column not in self._columns.get(table, ()):
            return []
        rows = []
        for start in range(0, len(values), _PAGE):
            page = [getattr(each, "value", each) for each in values[start : start + _PAGE]]
            rows += self._select(table, columns, f'WHERE "{column}" IN :values', page)
        return rows

    def by_id(
        self, table: str, columns: Sequence[str], rows: Iterable[Row], column: str = "id"
    ) -> dict[int, Row]:
        """The rows of a table, by id, whose ids stand in a column of these rows."""
        ids = sorted({row[column] for row in rows if row[column] is not None})
        return {row["id"]: row for row in self.rows_of(table, columns, "id", ids)}

    def _select(
        self, table: str, columns: Sequence[str], where: str, values: Sequence[Any] = ()
    ) -> list[Row]:
        existing = self._columns.get(table, frozenset())
        present = [name for name in columns if name in existing]
        if not present:
            return []
        name = f'"{table}"' if self._schema is None else f'"{self._schema}"."{table}"'
        listed = ", ".join(f'"{column}"' for column in present)
        order = ' ORDER BY "id"' if "id" in existing else ""
        statement = text(f"SELECT {listed} FROM {name} {where}{order}")
        if where:
            statement = statement.bindparams(bindparam("values", expanding=True))
        result = self._connection.execute(statement, {"values": list(values)} if where else {})
        empty = dict.fromkeys(columns)
        return [empty | dict(row) for row in result.mappings()]


def option(name: str, value: str | None) -> list[str]:
    """`--name=value`, for a value that begins with a dash is no option; nothing for no value."""
    return [] if value is None else [f"{name}={value}"]


def is_same(one: Row, other: Row, *columns: str) -> bool:
    return all(one[column] == other[column] for column in columns)


def arguments(argument: str, options: Sequence[str] = ()) -> str:
    """Options and argument, quoted for a shell; one that begins with a dash is no option."""
    end = ["--"] if argument.startswith("-") else []
    return shlex.join([*options, *end, argument])


def iso(value: Any) -> str | None:
    """A stored moment, ISO 8601 in UTC to the second: SQLite has a text without a zone."""
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="seconds")

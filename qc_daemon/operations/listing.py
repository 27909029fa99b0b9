"""The rows of a list, and how many there are in all."""

from collections.abc import Iterable
from typing import Any


class Listing(list[dict[str, Any]]):
    """Rows of a list; `total` is how many match in all, more than these where a limit cut off, or
    None if there are more, uncounted."""

    def __init__(self, rows: Iterable[dict[str, Any]], total: int | None) -> None:
        super().__init__(rows)
        self.total = total

"""A report as blocks in their order, whatever it is written as."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from detector.frame import Pixels
from qc_daemon.audit.charts.drawing import Chart, Table


@dataclass(frozen=True, slots=True)
class Heading:
    """The beginning of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences; small ones are notes."""

    text: str
    is_small: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list of short lines; with `is_command` they are typed into a shell."""

    lines: tuple[str, ...]
    is_command: bool = False


@dataclass(frozen=True, slots=True)
class Callout:
    """What a reader must not miss, in a frame: a line in bold and sentences below."""

    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChartBlock:
    """A chart with the table of its numbers; `name` is unique in the document."""

    name: str
    chart: Chart


@dataclass(frozen=True, slots=True)
class TableBlock:
    """A table of its own."""

    table: Table


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture (rows, columns, 3; RGB) with a heading and lines below it."""

    pixels: Pixels
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Pictures side by side, three a row."""

    pictures: tuple[Picture, ...]


Block = Heading | Paragraph | Items | Callout | ChartBlock | TableBlock | Pictures


@dataclass(frozen=True, slots=True)
class Document:
    """A report: title and what stands below it, facts as (name, value), and the blocks.

    `notice` stands on every page: whose it is and what it is not. `created` is a moment of the data
    that it was made of, so that the same data make the same bytes. `page_of` has the fields `page`
    and `pages`; `numbers` is the heading of the tables of charts.
    """

    title: str
    language: str
    notice: str
    facts: tuple[tuple[str, str], ...]
    blocks: tuple[Block, ...]
    created: datetime
    page_of: str
    numbers: str

    def charts(self) -> Iterator[ChartBlock]:
        """The charts, in order."""
        return (block for block in self.blocks if isinstance(block, ChartBlock))

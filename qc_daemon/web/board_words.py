"""Tiles of the live board in words: few, as they are read from across a room."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from gettext import NullTranslations

from detector.errors import ErrorCode
from model.finding import STANDARD, Finding
from qc_daemon.language.catalogues import translations
from qc_daemon.operations.board import BoardTile, ViewLine
from qc_daemon.report.sr.codes import FLAGS, VIEWS
from qc_daemon.report.summary import words

# More would not be read; the exam's page has all.
_MAX_FAULTS = 2


@dataclass(frozen=True, slots=True)
class ViewText:
    """A view of a tile; `changes` are pairs of what is wrong and what to do."""

    code: str
    meaning: str
    status: str
    changes: tuple[tuple[str, str], ...]
    count: int


@dataclass(frozen=True, slots=True)
class TileText:
    """What a tile says, in one language."""

    views: tuple[ViewText, ...]
    problems: tuple[tuple[int, str], ...]


def tile_text(tile: BoardTile, language: str) -> TileText:
    """The views of the tile, and how many objects could not be judged for which reason."""
    t = translations(language)
    return TileText(
        tuple(_view(line, t) for line in tile.views), tuple(_problems(tile.quarantined, t))
    )


def _view(line: ViewLine, t: NullTranslations) -> ViewText:
    return ViewText(
        code=line.view.value,
        meaning=t.gettext(VIEWS[line.view].meaning),
        status=line.status,
        changes=() if line.best is None else tuple(_changes(line.best, t)),
        count=line.count,
    )


def _changes(finding: Finding, t: NullTranslations) -> Iterator[tuple[str, str]]:
    """What to change; of a view that a person decides also what speaks for that."""
    judgement = finding.judgement
    if judgement.quality == STANDARD:
        return
    faults = words.faults(judgement)[:_MAX_FAULTS]
    yield from ((words.statement(each, t), words.fix(each, t)) for each in faults)
    if not faults:
        yield from ((t.gettext(FLAGS[flag].meaning), "") for flag in judgement.flags[:_MAX_FAULTS])


def _problems(codes: tuple[str, ...], t: NullTranslations) -> Iterator[tuple[int, str]]:
    # What holds no picture, as a machine's report without measurements, is not missed.
    counts = Counter(code for code in codes if code != ErrorCode.NOT_AN_IMAGE)
    for code, count in counts.items():
        message = words.OTHER_OMISSION
        if code in list(ErrorCode):
            message = words.OMISSIONS.get(ErrorCode(code), words.OTHER_OMISSION)
        yield count, t.gettext(message)

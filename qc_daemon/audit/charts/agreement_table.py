"""The table of two readers' answers as a chart: counts, and by how much grey how many they are."""

from collections.abc import Sequence

from qc_daemon.audit.charts.axes import EDGE
from qc_daemon.audit.charts.drawing import (
    SMALL,
    TEXT,
    Anchor,
    Area,
    Chart,
    Drawing,
    Line,
    Shape,
    Table,
    Text,
    Tone,
    shorten,
)
from qc_daemon.language.fonts import text_width
from qc_daemon.language.wording import Wording

_ROW = 30.0
_MIN_COLUMN, _MAX_COLUMN = 90.0, 170.0
_MAX_LABEL = 200.0


def agreement_chart(
    counts: Sequence[Sequence[int]],
    answers: Sequence[str],
    first: str,
    second: str,
    title: str,
    w: Wording,
) -> Chart:
    """Counts (k, k): row i, column j for answer i of `first` and j of `second`. Where
    they agree has a frame. Raises ValueError unless there is a row and a column for each answer."""
    if not answers or any(len(row) != len(answers) for row in (counts, *counts)):
        raise ValueError("a square table with a row for each answer is needed")
    k, most = len(answers), max(1, *(count for row in counts for count in row))
    label = min(_MAX_LABEL, max(text_width(each, TEXT) for each in (*answers, first)))
    column = min(_MAX_COLUMN, max(_MIN_COLUMN, *(text_width(a, TEXT) + 12 for a in answers)))
    left, top = EDGE + label + 12, EDGE + 40
    width = left + k * column + EDGE
    shapes: list[Shape] = [
        Text(
            left + k * column / 2,
            EDGE + 12,
            shorten(second, TEXT, k * column, bold=True),
            TEXT,
            Anchor.MIDDLE,
            bold=True,
        ),
        Text(EDGE, EDGE + 32, shorten(first, TEXT, label, bold=True), TEXT, bold=True),
    ]
    for j, answer in enumerate(answers):
        text = shorten(answer, SMALL, column - 8)
        shapes.append(
            Text(left + (j + 0.5) * column, EDGE + 32, text, SMALL, Anchor.MIDDLE, Tone.MIDDLE)
        )
    for i, row in enumerate(counts):
        y = top + i * _ROW
        shapes.append(Text(EDGE, y + 19, shorten(answers[i], TEXT, label), TEXT))
        for j, count in enumerate(row):
            x = left + j * column
            box = ((x, y), (x + column, y), (x + column, y + _ROW), (x, y + _ROW))
            tone = Tone.LIGHT if count > most / 2 else Tone.PALE if count else Tone.PAPER
            shapes.append(Area(box, tone))
            shapes.append(Line((*box, box[0]), Tone.MIDDLE, 0.8))
            shapes.append(
                Text(x + column / 2, y + 19, str(count), TEXT, Anchor.MIDDLE, bold=i == j)
            )
    for i in range(k):
        x, y = left + i * column, top + i * _ROW
        inner = ((x, y), (x + column, y), (x + column, y + _ROW), (x, y + _ROW), (x, y))
        shapes.append(Line(inner, Tone.INK, 2.0))
    total = sum(map(sum, counts))
    agreements = sum(counts[i][i] for i in range(k))
    description = w.gettext("{agreed} of {total} answers agree (framed).").format(
        agreed=agreements, total=total
    )
    table = Table(
        title,
        (f"{first} \\ {second}", *answers),
        tuple((answers[i], *map(str, row)) for i, row in enumerate(counts)),
    )
    return Chart(Drawing(width, top + k * _ROW + EDGE, title, description, tuple(shapes)), table)

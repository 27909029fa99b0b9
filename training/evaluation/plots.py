"""The report's plots, each as an inline SVG element.

Colours are Okabe and Ito's, told apart with any colour vision; where two things share a plot their
marks or lines differ too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#595959"
_MARKS = (("o", BLUE), ("s", VERMILION), ("^", GREEN))
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
    # The same figures give the same bytes.
    "svg.hashsalt": "qc-model",
}
_SQUARE = (3.6, 3.4)
_WIDE = 5.4


def roc(curve: Mapping[str, Sequence[float]], auroc: Mapping[str, Any]) -> str:
    """ROC curve of `curves.roc`."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
        axes.plot(curve["false positive rate"], curve["true positive rate"], color=BLUE)
        axes.set(
            xlabel="1 − specificity", ylabel="sensitivity", title=f"ROC, {format_metric(auroc)}"
        )
        _unit(axes)
        axes.legend(loc="lower right")

    return _render_svg("ROC curve", draw)


def precision_recall(
    curve: Mapping[str, Sequence[float]], area: Mapping[str, Any], share: float
) -> str:
    """Precision-recall curve of `curves.precision_recall`; `share` of the pictures is standard."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(share, color=GREY, linestyle=":", label="chance")
        # Precision holds from each recall back to the one before.
        recall, precision = [0.0, *curve["recall"]], [*curve["precision"][:1], *curve["precision"]]
        axes.step(recall, precision, where="pre", color=BLUE)
        axes.set(xlabel="recall", ylabel="precision", title=f"Precision, {format_metric(area)}")
        _unit(axes)
        axes.legend(loc="lower left")

    return _render_svg("precision-recall curve", draw)


def reliability(bins: Sequence[Mapping[str, Any]], error: Mapping[str, Any]) -> str:
    """Observed against predicted share with Wilson intervals; below, the pictures of each bin."""
    at = [each["predicted"] for each in bins]
    observed = [each["observed"] for each in bins]
    counts = [each["pictures"] for each in bins]
    # The interval of a bin always covers its share; rounding may say otherwise.
    whiskers = [
        [max(0.0, each["observed"] - each["interval"][0]) for each in bins],
        [max(0.0, each["interval"][1] - each["observed"]) for each in bins],
    ]

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        above.errorbar(at, observed, yerr=whiskers, fmt="o", ms=4, color=BLUE, elinewidth=1)
        above.set(ylabel="observed share", title=f"Reliability, ECE {format_metric(error)}")
        _unit(above)
        below.vlines(at, 0, counts, color=BLUE, linewidth=2)
        below.set(
            xlabel="predicted probability (dotted: calibrated)",
            ylabel="pictures",
            ylim=(0, 1.3 * max(counts)),
        )

    return _render_svg(
        "reliability: observed share against predicted probability", draw, (3.6, 4.2)
    )


def risk_coverage(curve: Mapping[str, Sequence[float]]) -> str:
    """Risk-coverage curve of `classification.risk_coverage`."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(curve["coverage"], curve["risk"], color=BLUE)
        axes.set(
            xlabel="coverage: share decided, surest first",
            ylabel="risk: error rate of the decided",
            title=f"Risk and coverage, {curve['risk'][-1]:.3f} at all",
            xlim=(0, 1.02),
            ylim=(0, max(0.05, 1.15 * max(curve["risk"]))),
        )

    return _render_svg("risk-coverage curve", draw)


def gates(weights: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Mean and SD of each branch's weight, a row for each predicted view."""
    names = list(weights)
    ends = [
        weight["mean"] + side * weight["SD"]
        for branches in weights.values()
        for weight in branches.values()
        for side in (-1, 1)
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for k, branch in enumerate(weights[names[0]]):
            mark, colour = _MARKS[k]
            axes.errorbar(
                [weights[name][branch]["mean"] for name in names],
                [row + 0.22 * (k - 1) for row in range(len(names))],
                xerr=[weights[name][branch]["SD"] for name in names],
                fmt=mark,
                ms=5,
                color=colour,
                elinewidth=1,
                label=branch,
            )
        _rows(axes, names)
        axes.set(xlabel="gate weight, mean ± SD", xlim=(min(0, *ends) - 0.02, max(1, *ends) + 0.02))
        axes.set_title("Gates by named view", loc="left")
        _legend_above(axes)

    return _render_svg("gate weights by view", draw, (_WIDE, 1.5 + 0.45 * len(names)))


def bars(
    title: str,
    label: str,
    values: Mapping[str, float | None],
    intervals: Mapping[str, Sequence[float | None]] | None = None,
    start: float = 0.0,
) -> str:
    """A bar from `start` for each name, with its interval where one is given.

    Where a value lies below `start` all bars begin at 0: a bar down to a value would look like one
    up from it.
    """
    bars = {name: value for name, value in values.items() if value is not None}
    if any(value < start for value in bars.values()):
        start = 0.0
    lows = [low for low, _ in (intervals or {}).values() if low is not None]
    lowest = min([start, *bars.values(), *lows])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (name, value) in enumerate(bars.items()):
            axes.barh(row, value - start, left=start, height=0.6, color="#9ecae9")
            low, high = (intervals or {}).get(name, (None, None))
            if low is not None and high is not None:
                axes.hlines(row, low, high, color="#000000", linewidth=1.2)
                axes.vlines((low, high), row - 0.12, row + 0.12, color="#000000", linewidth=1.2)
            axes.annotate(
                f"{value:.3f}",
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        _rows(axes, list(bars))
        axes.set(xlabel=label, xlim=(lowest, 1.0))
        axes.set_title(title, loc="left")

    return _render_svg(title, draw, (_WIDE, 1.1 + 0.27 * len(bars)))


def format_metric(metric: Mapping[str, Any]) -> str:
    """A metric and its interval, short."""
    if metric["value"] is None:
        return "undefined"
    low, high = metric["interval"]
    interval = "" if low is None or high is None else f" ({low:.3f}–{high:.3f})"
    return f"{metric['value']:.3f}{interval}"


def _render_svg(
    name: str, draw: Callable[[Figure], None], size: tuple[float, float] = _SQUARE
) -> str:
    """The figure as an SVG element without metadata or namespaces, labelled as one image."""
    buffer = StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # In HTML neither name space is declared.
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def _unit(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=_FIFTHS, yticks=_FIFTHS)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names down the side, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2)


_FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)

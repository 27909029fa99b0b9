"""What readers said in the window, and how far answers agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qc_daemon.audit.statistics.agreement import Agreement, bootstrap_tables, cross_table
from qc_daemon.audit.statistics.benchmark import Ints
from qc_daemon.audit.statistics.history import rounded

ANSWERS = ("standard", "non-standard")


@dataclass(frozen=True, slots=True)
class ReadingPair:
    """Two answers on one image, "standard" or "non-standard", and the image's exam."""

    first: str
    second: str
    exam: int


@dataclass(frozen=True, slots=True)
class Readings:
    """What readers said in the window: the models' and a blinded reader's answers, the first and
    the second reader's; and how many readings saw the models' answer before, which say nothing of
    agreement."""

    model_first: Sequence[ReadingPair] = ()
    first_second: Sequence[ReadingPair] = ()
    unblinded: int = 0


NO_READINGS = Readings()


def agreement_tables(readings: Readings) -> dict[str, Any]:
    """Tables of the models against blinded readers, and of first against second readers; None where
    there was no pair."""
    return {
        "model_first": _agreement_table(readings.model_first, readings.unblinded),
        "first_second": _agreement_table(readings.first_second, 0),
    }


def _agreement_table(pairs: Sequence[ReadingPair], left_out: int) -> dict[str, Any] | None:
    return agreement_table(
        [pair.first for pair in pairs],
        [pair.second for pair in pairs],
        [pair.exam for pair in pairs],
        ANSWERS,
        left_out,
    )


def agreement_table(
    first: Sequence[str],
    second: Sequence[str],
    exams: Sequence[int],
    answers: Sequence[str],
    left_out: int,
) -> dict[str, Any] | None:
    """Raw table of two answers on each image, kappa and AC1 with intervals by exam; None for no
    image. `left_out` is how many images or readings do not count."""
    if not first:
        return None
    table = cross_table(first, second, answers)
    agreement, k = Agreement.of(table), len(answers)
    place = {answer: index for index, answer in enumerate(answers)}
    cells = np.array([place[a] * k + place[b] for a, b in zip(first, second, strict=True)])

    def figure(name: str) -> Callable[[Ints], float]:
        return lambda counts: float(getattr(Agreement.of(counts.reshape(k, k)), name))

    intervals = bootstrap_tables(
        cells, exams, k * k, {name: figure(name) for name in ("kappa", "ac1")}
    )
    return {
        "answers": list(answers),
        "table": table.tolist(),
        "n": len(first),
        "exams": len(set(exams)),
        "observed": rounded(agreement.observed),
        "kappa": rounded(agreement.kappa),
        "kappa_low": rounded(intervals["kappa"][0]),
        "kappa_high": rounded(intervals["kappa"][1]),
        "ac1": rounded(agreement.ac1),
        "ac1_low": rounded(intervals["ac1"][0]),
        "ac1_high": rounded(intervals["ac1"][1]),
        "prevalence": [rounded(each) for each in agreement.prevalence.tolist()],
        "left_out": left_out,
    }

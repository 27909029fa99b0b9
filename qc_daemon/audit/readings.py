"""What readers said in the window, and how far answers agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qc_daemon.audit.agreement import Agreement, bootstrap_interval, cross_table
from qc_daemon.audit.benchmark import Ints
from qc_daemon.audit.history import rounded

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
    """Raw table, kappa and AC1 with intervals by exam; None for no pair."""
    if not pairs:
        return None
    first = np.array([ANSWERS.index(pair.first) for pair in pairs])
    second = np.array([ANSWERS.index(pair.second) for pair in pairs])
    table = cross_table([p.first for p in pairs], [p.second for p in pairs], ANSWERS)
    agreement = Agreement.of(table)
    exams = [pair.exam for pair in pairs]

    def figure(name: str) -> Callable[[Ints], float]:
        def of(rows: Ints) -> float:
            counts = np.bincount(first[rows] * 2 + second[rows], minlength=4).reshape(2, 2)
            return float(getattr(Agreement.of(counts), name))

        return of

    intervals = {name: bootstrap_interval(figure(name), exams) for name in ("kappa", "ac1")}
    return {
        "answers": list(ANSWERS),
        "table": table.tolist(),
        "n": len(pairs),
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

"""Which of many subjects are named, and for which measures: false discoveries are bounded.

People differ in how many measures speak against one: of a person whose pictures are poor, most do.
Adjusted over all people and measures at once, these would let in others by chance. So each person
is tested as one first (Simes 1986, over her measures), people are adjusted (Benjamini and Hochberg
1995), and then the measures of those that are named (Benjamini and Bogomolov 2014).
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from qc_daemon.audit.statistics.proportions import adjust

Subject = TypeVar("Subject", bound=Hashable)


def simes(p_values: list[float]) -> float:
    """The p-value of all together: that any one of them is no chance. 1 of none."""
    ordered = np.sort(p_values)
    if not len(ordered):
        return 1.0
    return float(min(1.0, (ordered * len(ordered) / np.arange(1, len(ordered) + 1)).min()))


def adjust_families(
    p_values: Mapping[tuple[Subject, str], float], level: float
) -> dict[tuple[Subject, str], float]:
    """The adjusted p-value of each (subject, measure): at most `level` where it may be called."""
    families: dict[Subject, dict[str, float]] = {}
    for (subject, measure), p in p_values.items():
        families.setdefault(subject, {})[measure] = p
    of_subject = dict(
        zip(
            families,
            adjust([simes(list(family.values())) for family in families.values()]).tolist(),
            strict=True,
        )
    )
    named = sum(q <= level for q in of_subject.values())
    factor = len(families) / max(1, named)
    adjusted = {}
    for subject, family in families.items():
        q_values = adjust(list(family.values())).tolist()
        for measure, q in zip(family, q_values, strict=True):
            adjusted[subject, measure] = min(1.0, max(of_subject[subject], q * factor))
    return adjusted

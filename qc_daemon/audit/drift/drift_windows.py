"""The days that drift compares: a subject's reference and its newest ones; and what a test says."""

from dataclasses import dataclass

import numpy as np

from qc_daemon.audit.measures import MONTH
from qc_daemon.audit.statistics.benchmark import Floats, Ints

REFERENCE_DAYS = 182
RECENT_DAYS = 28
LONGEST_RECENT_DAYS = 182
OWN, OTHERS, BUNDLE = "own", "others", "bundle"
"""Whose values are a reference: the subject's own, the other subjects', or the bundle's."""


@dataclass(frozen=True, slots=True)
class DriftTest:
    """`index` is the distance of `n` recent values from `reference_n` (PSI; MMD^2 of embeddings),
    `shift` that of their means. `before` and `after` are the means in the feature's own unit.
    `is_relevant`: the change is large enough to matter, whatever its p-value. `compared_with` says
    whose values the reference is: one of OWN, OTHERS and BUNDLE."""

    n: int
    reference_n: int
    index: float
    shift: float | None
    p: float
    before: float | None = None
    after: float | None = None
    energy: float | None = None
    is_relevant: bool = True
    compared_with: str = OWN


@dataclass(frozen=True, slots=True)
class Month:
    """A feature's mean in four weeks from `day` (ordinal) on, with its standard error."""

    day: int
    n: int
    value: float
    error: float


def reference_ends(subject: Ints, day: Ints, subjects: int, least: int) -> Ints:
    """(subjects,) The day after each subject's reference: half a year, longer where that has fewer
    than `least` values."""
    ends = np.zeros(subjects, np.int64)
    order = np.argsort(subject, kind="stable")
    starts = np.searchsorted(subject[order], np.arange(subjects + 1))
    for each in range(subjects):
        days = day[order[starts[each] : starts[each + 1]]]
        if len(days):
            enough = int(days[min(least, len(days)) - 1]) + 1
            ends[each] = max(int(days[0]) + REFERENCE_DAYS, enough)
    return ends


def recent_window(day: Ints, look: int, reference_n: int, least: int) -> tuple[int, int] | None:
    """From where to where in days (n,) in order the newest values up to a day lie: those of four
    weeks, of up to half a year where these are fewer than `least`, none of the reference; None for
    too few."""
    end = int(np.searchsorted(day, look, side="right"))
    start = int(np.searchsorted(day, look - RECENT_DAYS, side="right"))
    longest = int(np.searchsorted(day, look - LONGEST_RECENT_DAYS, side="right"))
    start = max(longest, min(start, end - least), reference_n)
    return None if end - start < least else (start, end)


def ramp_begin(day: Ints, value: Floats, least: int) -> int | None:
    """The day from which on the mean leads away from the reference, about: where a flat line and
    then a rising one fit best. None for fewer than 2 x `least` values."""
    if len(value) < 2 * least:
        return None
    places = np.arange(int(day[0]) + REFERENCE_DAYS // 2, int(day[-1]) - MONTH, MONTH // 4)
    best, best_gain = None, 0.0
    centred = value - value.mean()
    for place in places.tolist():
        ramp = np.maximum(day - place, 0).astype(float)
        ramp -= ramp.mean()
        spread = float(ramp @ ramp)
        gain = float(ramp @ centred) ** 2 / spread if spread > 0 else 0.0
        if gain > best_gain:
            best, best_gain = place, gain
    return best

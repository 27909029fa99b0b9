"""A change of the models: all devices and all persons move on one day.

A lab's figures can move because people do, because a machine does, or because the models do. What
moves everybody at once is the models', with a new bundle or without, and is named as such; nobody
is called for it, for persons are compared with others in the same quarter, before or after it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from qc_daemon.audit.measures import Frame
from qc_daemon.audit.statistics.benchmark import Bools, Floats, Ints

WINDOW = 56
"""Days before and after that are compared."""
SCORE = 4.5
"""Score from which a step is a change; one at a new bundle needs a little less."""
SCORE_AT_BUNDLE = 3.5
_SHARE_MOVED = 0.75
_MIN_SIDE = 20
_NEAR = 14


@dataclass(frozen=True, slots=True)
class ModelChange:
    """From `day` (ordinal) on log odds are `shift` higher; `p` is corrected for the number of days
    that were tried. `devices` and `persons`: how many moved the same way, of how many."""

    day: int
    before: float
    after: float
    p: float
    devices: tuple[int, int]
    persons: tuple[int, int]
    is_bundle_change: bool

    @property
    def shift(self) -> float:
        return self.after - self.before


def case_residuals(frame: Frame, values: Floats, rows: Ints) -> Floats:
    """(rows,) Values less the mean of their case (view, age, body mass index), that of their view
    where the case is rare."""
    cell, view = frame.cell[rows], frame.rows.view[rows]
    by_view = np.bincount(view, values) / np.maximum(np.bincount(view), 1)
    centred = values - by_view[view]
    n = np.bincount(cell)
    mean = np.bincount(cell, centred) / (n + 20.0)
    return np.asarray(centred - mean[cell])


def model_changes(frame: Frame) -> list[ModelChange]:
    """The changes, oldest first."""
    rows = frame.rows
    row_index = np.flatnonzero(np.isfinite(rows.log_odds) & (rows.device >= 0))
    if len(row_index) < 4 * _MIN_SIDE:
        return []
    residual = case_residuals(frame, rows.log_odds[row_index], row_index)
    first = int(rows.day[row_index].min())
    day = rows.day[row_index] - first
    days = int(day.max()) + 1
    search = _Search(residual, day, rows.device[row_index], rows.exam[row_index], days)
    starts = [int(each) - first for each in _bundle_days(frame)]
    level = SCORE * np.ones(days)
    for start in starts:
        level[max(0, start - 3) : start + 4] = SCORE_AT_BUNDLE
    changes: list[ModelChange] = []
    score = np.where(search.is_common, np.abs(search.score), 0.0)
    while (score > level).any():
        peak = int(np.argmax(np.where(score > level, score, 0.0)))
        place = search.refine(peak)
        near = [start for start in starts if abs(start - place) <= _NEAR]
        place = min(near, key=lambda start: abs(start - place)) if near else place
        changes.append(_describe(frame, search, row_index, place, first, bool(near), score[peak]))
        score[max(0, peak - WINDOW) : peak + WINDOW + 1] = 0.0
    return sorted(changes, key=lambda change: change.day)


def _bundle_days(frame: Frame) -> Ints:
    """The first day of each bundle but the first."""
    rows = frame.rows
    days = np.full(len(rows.bundles), np.iinfo(np.int64).max)
    np.minimum.at(days, rows.bundle, rows.day)
    return np.sort(days)[1:]


class _Search:
    """Steps of the devices' daily means, WINDOW days before and after each day."""

    def __init__(self, value: Floats, day: Ints, device: Ints, exam: Ints, days: int) -> None:
        self.value, self.day = value, day
        devices = int(device.max()) + 1
        place = device * days + day
        shape = (devices, days)
        n = np.bincount(place, minlength=devices * days).reshape(shape)
        total = np.bincount(place, value, minlength=devices * days).reshape(shape).astype(float)
        mean = value.mean()
        sums = np.bincount(exam, value - mean)
        # Images of one exam are alike.
        self.variance = float(np.square(sums).sum() / len(value))
        self.step, self.error = _steps(n, total, self.variance)
        # Scores that are all the same have no error, and have not changed.
        is_known = np.isfinite(self.step) & (self.error > 0)
        weight = 1 / np.square(np.where(is_known, self.error, np.inf))
        sum_of_weights = np.maximum(weight.sum(axis=0), 1e-12)
        self.pooled = (np.where(is_known, self.step, 0.0) * weight).sum(axis=0) / sum_of_weights
        self.score = self.pooled * np.sqrt(sum_of_weights)
        self.has_moved = is_known & (self.step * np.sign(self.pooled) > 0)
        counted = np.maximum(is_known.sum(axis=0), 1)
        middle = _median(np.where(is_known, self.step * np.sign(self.pooled), np.nan))
        self.is_common = (
            (self.has_moved.sum(axis=0) >= _SHARE_MOVED * counted)
            & (middle >= 0.5 * np.abs(self.pooled))
            & (is_known.sum(axis=0) >= min(2, devices))
        )

    def refine(self, peak: int) -> int:
        """The day at which two means fit best."""
        low, high = max(0, peak - WINDOW), min(self.score.size, peak + WINDOW)
        inside = (self.day >= low) & (self.day < high)
        n = np.bincount(self.day[inside] - low, minlength=high - low).astype(float)
        total = np.bincount(self.day[inside] - low, self.value[inside], minlength=high - low)
        before_n, before = np.cumsum(n)[:-1], np.cumsum(total)[:-1]
        after_n, after = n.sum() - before_n, total.sum() - before
        # At an end of the window there may be days without images: that side has no mean.
        has_both = (before_n > 0) & (after_n > 0)
        after_mean, before_mean = (
            np.divide(total, n, out=np.zeros_like(n), where=has_both)
            for total, n in ((after, after_n), (before, before_n))
        )
        gain = np.square(after_mean - before_mean) * after_n * before_n
        # Split s: from day s + 1 on it is the other mean; days without images change nothing.
        split = int(np.argmax(gain)) + 1
        while split < len(n) - 1 and n[split] == 0:
            split += 1
        return low + split


def _median(values: Floats) -> Floats:
    empty = np.asarray(~np.isfinite(values).any(axis=0))
    filled = np.where(empty[None, :], 0.0, values)
    return np.asarray(np.nanmedian(filled, axis=0))


def _steps(n: Ints, total: Floats, variance: float) -> tuple[Floats, Floats]:
    """(devices, days) Mean after less mean before each day, and its standard error; NaN where
    either side has too few."""
    zero = np.zeros((len(n), 1))
    counts, sums = (np.hstack((zero, np.cumsum(each, axis=1))) for each in (n, total))
    days = n.shape[1]
    place = np.arange(days)
    low, high = np.maximum(place - WINDOW, 0), np.minimum(place + WINDOW, days)
    before_n, after_n = counts[:, place] - counts[:, low], counts[:, high] - counts[:, place]
    before, after = sums[:, place] - sums[:, low], sums[:, high] - sums[:, place]
    enough = (before_n >= _MIN_SIDE) & (after_n >= _MIN_SIDE)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(enough, after / after_n - before / before_n, np.nan)
        error = np.where(enough, np.sqrt(variance * (1 / before_n + 1 / after_n)), np.nan)
    return step, error


def _describe(
    frame: Frame,
    search: _Search,
    row_index: Ints,
    place: int,
    first: int,
    is_bundle_change: bool,
    score: float,
) -> ModelChange:
    before = (search.day < place) & (search.day >= place - WINDOW)
    after = (search.day >= place) & (search.day < place + WINDOW)
    means = [float(search.value[side].mean()) for side in (before, after)]
    days_tried = max(1.0, len(search.score) / _NEAR)
    p = min(1.0, days_tried * 2 * float(stats.norm.sf(score)))
    sign = np.sign(means[1] - means[0])
    return ModelChange(
        day=first + place,
        before=means[0],
        after=means[1],
        p=p,
        devices=_moved(frame.rows.device[row_index], search.value, before, after, sign),
        persons=_moved(frame.rows.person[row_index], search.value, before, after, sign),
        is_bundle_change=is_bundle_change,
    )


def _moved(
    subject: Ints, value: Floats, before: Bools, after: Bools, sign: float
) -> tuple[int, int]:
    """How many subjects with enough images on both sides moved that way, of how many."""
    is_known = subject >= 0
    size = int(subject.max()) + 1 if is_known.any() else 0
    counts: list[Ints] = []
    means: list[Floats] = []
    for side in (before & is_known, after & is_known):
        n = np.bincount(subject[side], minlength=size)
        counts.append(n)
        means.append(np.bincount(subject[side], value[side], minlength=size) / np.maximum(n, 1))
    enough = (counts[0] >= _MIN_SIDE) & (counts[1] >= _MIN_SIDE)
    moved = enough & ((means[1] - means[0]) * sign > 0)
    return int(moved.sum()), int(enough.sum())

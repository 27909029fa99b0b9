"""Drift of the pictures themselves: image statistics, and embeddings.

Machines differ for good, and no change of the models moves a picture's statistics: each subject is
compared with its own reference, the half-year that it began with; before that is over, with the
bundle's (`bundle_reference`). What the view, gestational age and body mass index explain is taken
out, and a site's values are taken from those of their device, so that another machine at a site is
no drift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from model.image_features import STATISTICS
from qc_daemon.audit.drift.changes import case_residuals
from qc_daemon.audit.drift.drift_windows import (
    DriftTest,
    Month,
    ramp_begin,
    recent_window,
    reference_ends,
)
from qc_daemon.audit.measures import MONTH, Frame, Kind
from qc_daemon.audit.rows import Embeddings
from qc_daemon.audit.statistics.benchmark import Bools, Floats, Ints
from qc_daemon.audit.statistics.distances import (
    MIN_SAMPLE,
    ReferenceBins,
    compare_samples,
    stability_index,
)
from qc_daemon.audit.statistics.history import week_of

STATISTIC = "image:"
"""Features that are image statistics begin so, as `image:mean`."""
STATISTIC_FEATURES = tuple(f"{STATISTIC}{name}" for name in STATISTICS)
EMBEDDING = "embedding"
STATISTIC_WORDS = {
    "mean": "mean grey level",
    "deviation": "spread of grey levels",
    "percentile_1": "darkest grey level (1st percentile)",
    "median": "median grey level",
    "percentile_99": "brightest grey level (99th percentile)",
    "black": "share of black pixels",
    "saturated": "share of saturated pixels",
    "sharpness": "sharpness (variance of the Laplacian)",
    "noise": "noise in grey levels",
    "entropy": "entropy of grey levels in bits",
    "colour": "share of coloured pixels",
    "width": "width in pixels",
    "height": "height in pixels",
    "spacing": "mm a pixel",
}
"""The image statistics in the words of an alarm."""
LEAST_EFFECT = 0.05
"""Of a million pictures the smallest change is beyond chance. One that matters has a PSI, less what
chance adds to it, of at least this: that of a mean that moved by 0.22 standard deviations, for of
two normal laws d apart it is d^2."""
MIN_EMBEDDINGS, MOST_EMBEDDINGS = 100, 200
"""Of fewer on a side nothing is said; of more so many are compared, by lot: the cost of a test does
not grow with the findings."""
MIN_EXAMS = 20
# Skewed ones are compared by their logarithm.
_LOGARITHMIC = frozenset(("saturated", "sharpness", "noise", "spacing"))
_TINY = 1e-4
# A machine's setting, not the case's.
_SIZES = frozenset(("width", "height"))
_DIGITS = 9


@dataclass(frozen=True, slots=True, eq=False)
class SubjectRows:
    """The rows (n,) of pictures with a view by subject and time, their subjects and days, and where
    each subject's start."""

    row: Ints
    subject: Ints
    day: Ints
    starts: Ints

    @classmethod
    def of(
        cls, frame: Frame, kind: Kind, subjects: int, is_left_out: Bools | None
    ) -> "SubjectRows":
        rows = frame.rows
        column = {"person": rows.person, "device": rows.device, "site": rows.site}[kind]
        usual = rows.is_view & (column >= 0)
        if is_left_out is not None:
            usual &= ~is_left_out
        row = np.flatnonzero(usual)
        row = row[np.argsort(column[row], kind="stable")]
        return cls._at(row, column[row], rows.day[row], subjects)

    @classmethod
    def _at(cls, row: Ints, subject: Ints, day: Ints, subjects: int) -> "SubjectRows":
        return cls(row, subject, day, np.searchsorted(subject, np.arange(subjects + 1)))

    def only(self, is_kept: Bools) -> "SubjectRows":
        """Those rows (n,) alone; these themselves where all are kept, for of a million they are
        large."""
        if is_kept.all():
            return self
        subjects = len(self.starts) - 1
        return self._at(self.row[is_kept], self.subject[is_kept], self.day[is_kept], subjects)


@dataclass(frozen=True, slots=True, eq=False)
class StatisticSamples:
    """An image statistic (n,) by subject and time, each taken from the mean of the subject's
    reference, which is `before` (its logarithm of a skewed one) and ends before the day `ends`;
    `inflation` is how many times a mean's variance is that of independent pictures."""

    name: str
    value: Floats
    day: Ints
    starts: Ints
    reference_n: Ints
    ends: Ints
    before: Floats
    inflation: float

    @classmethod
    def of(cls, frame: Frame, feature: str, every: SubjectRows) -> "StatisticSamples":
        rows, name = frame.rows, feature.removeprefix(STATISTIC)
        column = rows.statistics[:, STATISTICS.index(name)]
        own = every.only(np.isfinite(column[every.row]))
        row, subject, day, starts = own.row, own.subject, own.day, own.starts
        value, subjects = comparable(name, column[row]), len(starts) - 1
        if not len(row):
            empty = np.zeros(subjects)
            none = empty.astype(np.int64)
            return cls(name, value, day, starts, none, none, empty, 1.0)
        ends = reference_ends(subject, day, subjects, MIN_SAMPLE)
        early = day < ends[subject]
        n = np.bincount(subject[early], minlength=subjects)
        before = np.bincount(subject[early], value[early], minlength=subjects) / np.maximum(n, 1)
        value = _from_device(value, rows.device[row], day)
        if name not in _SIZES:
            value = case_residuals(frame, value, row)
        mean = np.bincount(subject[early], value[early], minlength=subjects) / np.maximum(n, 1)
        value = np.round(value - mean[subject], _DIGITS)
        week = week_of(day)
        clusters = (rows.exam[row[early]], subject[early] * (int(week.max()) + 1) + week[early])
        inflation = max(1.0, *(inflation_of(value[early], each) for each in clusters))
        reference_n = np.where(n >= MIN_SAMPLE, n, 0)
        return cls(name, value, day, starts, reference_n, ends, before, inflation)

    def has_reference(self, subject: int, look: int) -> bool:
        """Whether the subject's own reference is over on a day."""
        return bool(self.reference_n[subject]) and look >= int(self.ends[subject])

    def test(self, subject: int, look: int, drifting: frozenset[int]) -> DriftTest | None:
        """The newest values up to a day against the subject's reference; None for too few."""
        own = slice(int(self.starts[subject]), int(self.starts[subject + 1]))
        n = int(self.reference_n[subject])
        window = recent_window(self.day[own], look, n, MIN_SAMPLE) if n else None
        if window is None:
            return None
        reference, recent = self.value[own][:n], self.value[own][slice(*window)]
        comparison = compare_values(reference, recent, self.inflation)
        return DriftTest(
            len(recent),
            len(reference),
            comparison.index,
            comparison.shift,
            comparison.p,
            before=in_unit(self.name, float(self.before[subject])),
            after=in_unit(self.name, float(self.before[subject]) + comparison.shift),
            is_relevant=comparison.effect >= LEAST_EFFECT,
        )

    def begin(self, subject: int, drifting: frozenset[int]) -> int | None:
        """The day from which on the mean leads away from the reference, about."""
        own = slice(int(self.starts[subject]), int(self.starts[subject + 1]))
        return ramp_begin(self.day[own], self.value[own], MIN_SAMPLE)

    def months(self, subject: int) -> list[Month]:
        """The means of four weeks each, back from the newest value, in the statistic's own unit."""
        own = slice(int(self.starts[subject]), int(self.starts[subject + 1]))
        day, value = self.day[own], self.value[own]
        if not len(day):
            return []
        block = (int(day[-1]) - day) // MONTH
        spread = float(np.sqrt(self.inflation) * value.std())
        months = []
        for each in np.unique(block)[::-1].tolist():
            inside = value[block == each]
            level = float(self.before[subject]) + float(inside.mean())
            error = spread / float(np.sqrt(len(inside)))
            middle, above = (in_unit(self.name, each) for each in (level, level + error))
            start = int(day[-1]) - MONTH * (each + 1) + 1
            months.append(Month(start, len(inside), middle, above - middle))
        return months


@dataclass(frozen=True, slots=True)
class ValueComparison:
    """`index` is PSI over the reference's deciles, `shift` that of the mean; `effect` the larger of
    PSI less what chance adds and of the squared shift in the reference's standard deviations."""

    index: float
    shift: float
    p: float
    effect: float


def compare_values(reference: Floats, recent: Floats, inflation: float) -> ValueComparison:
    """Recent values (m,) and a reference's (n,), neither empty."""
    sizes = 1 / len(reference) + 1 / len(recent)
    shift = float(recent.mean() - reference.mean())
    pooled = float(np.concatenate((reference, recent)).var())
    error = float(np.sqrt(inflation * pooled * sizes))
    normal = 2 * float(stats.norm.sf(abs(shift) / error)) if error > 0 else 1.0
    if reference.min() == reference.max():
        # Pictures all of one size have no deciles.
        index, law, by_chance = _index_of_others(reference, recent), 1.0, 0.0
    else:
        bins = ReferenceBins.of(reference)
        index, freedom = bins.stability_index(recent), len(bins.shares) - 1
        law = float(stats.chi2.sf(index / sizes / inflation, freedom))
        by_chance = freedom * sizes * inflation
    variance = float(reference.var()) or pooled
    effect = shift**2 / variance if variance > 0 else 0.0
    # Two tests of one question.
    p = min(1.0, 2 * min(law, normal))
    return ValueComparison(index, shift, p, max(index - by_chance, effect))


def comparable(name: str, values: npt.NDArray[np.floating[Any]]) -> Floats:
    """Values (n,) of a statistic as they are compared: the logarithm of a skewed one."""
    own = values.astype(np.float64)
    return np.log(np.maximum(own, _TINY)) if name in _LOGARITHMIC else own


def in_unit(name: str, value: float) -> float:
    """A comparable value in the statistic's own unit."""
    return float(np.exp(value)) if name in _LOGARITHMIC else value


def _from_device(value: Floats, device: Ints, day: Ints) -> Floats:
    """Values less the mean of their device's first half-year; pictures without a device are one."""
    place = device + 1
    devices = int(place.max()) + 1
    order = np.argsort(day, kind="stable")
    ends = reference_ends(place[order], day[order], devices, MIN_SAMPLE)
    early = day < ends[place]
    n = np.bincount(place[early], minlength=devices)
    mean = np.bincount(place[early], value[early], minlength=devices) / np.maximum(n, 1)
    return np.asarray(value - mean[place])


def inflation_of(value: Floats, cluster: Ints) -> float:
    """The variance of clusters' sums over that of as many independent values."""
    spread = float(np.square(value).sum())
    codes = np.unique(cluster, return_inverse=True)[1]
    return float(np.square(np.bincount(codes, value)).sum()) / spread if spread > 0 else 1.0


def _index_of_others(reference: Floats, recent: Floats) -> float:
    """PSI of two bins: the reference's one value, and all others, of which it has half a one."""
    n, m = len(reference), len(recent)
    other = np.clip(float((recent != reference[0]).sum()), 0.5, m - 0.5) / m
    return stability_index([1 - 0.5 / n, 0.5 / n], [1 - other, other])


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """A subject's embeddings (m, d) of its newest models, in the order of time, less the mean of
    their view; `rank` (m,) sorts them at random. Their reference ends before the day `end`."""

    day: Ints
    exam: Ints
    rank: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float32]
    reference_n: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingSamples:
    """The embeddings of each subject: of one bundle, for those of two cannot be compared."""

    by_subject: Mapping[int, _Pictures]

    @classmethod
    def of(
        cls, frame: Frame, kind: Kind, subjects: int, is_left_out: Bools | None
    ) -> "EmbeddingSamples":
        rows = frame.rows
        column = {"person": rows.person, "device": rows.device, "site": rows.site}[kind]
        by_subject: dict[int, _Pictures] = {}
        newest = np.full(subjects, -1)
        for embeddings in rows.embeddings.values():
            usual = rows.is_view[embeddings.row] & (column[embeddings.row] >= 0)
            if is_left_out is not None:
                usual &= ~is_left_out[embeddings.row]
            subject = np.where(usual, column[embeddings.row], -1)
            centred = _centred(frame, embeddings)
            for each in range(subjects):
                own = np.flatnonzero(subject == each)
                if len(own) and int(embeddings.row[own[-1]]) > newest[each]:
                    newest[each] = int(embeddings.row[own[-1]])
                    by_subject[each] = _pictures(frame, embeddings, centred, own)
        return cls(by_subject)

    def has_reference(self, subject: int, look: int) -> bool:
        """Whether the subject's own reference is over on a day."""
        own = self.by_subject.get(subject)
        return own is not None and bool(own.reference_n) and look >= own.end

    def test(self, subject: int, look: int, drifting: frozenset[int]) -> DriftTest | None:
        """The newest embeddings up to a day against the subject's reference: unbiased MMD^2 and
        energy distance; None for too few pictures or exams."""
        sides = self._sides(subject, look)
        if sides is None:
            return None
        own, (reference, recent) = self.by_subject[subject], sides
        return compare_embeddings(
            own.values[reference],
            own.values[recent],
            own.exam[reference].tolist(),
            own.exam[recent].tolist(),
            # Of the findings and the day: the same audit says the same again.
            seed=int(own.rank[reference].min()) % 2**32 + look,
        )

    def begin(self, subject: int, drifting: frozenset[int]) -> int | None:
        """The day from which on embeddings leave the reference, about: along the line from its
        mean to that of the newest."""
        own = self.by_subject[subject]
        sides = self._sides(subject, int(own.day[-1]))
        if sides is None:
            return None
        means = [own.values[side].mean(axis=0, dtype=np.float64) for side in sides]
        return ramp_begin(own.day, own.values @ (means[1] - means[0]), MIN_EMBEDDINGS)

    def months(self, subject: int) -> list[Month]:
        """None: an embedding is no number."""
        return []

    def _sides(self, subject: int, look: int) -> tuple[Ints, Ints] | None:
        own = self.by_subject.get(subject)
        window = None
        if own is not None and own.reference_n:
            window = recent_window(own.day, look, own.reference_n, MIN_EMBEDDINGS)
        if own is None or window is None:
            return None
        reference = by_lot(np.arange(own.reference_n), own.rank)
        recent = np.arange(*window)
        recent = recent[~np.isin(own.exam[recent], own.exam[: own.reference_n])]
        recent = by_lot(recent, own.rank)
        if len(recent) < MIN_EMBEDDINGS:
            return None
        exams = min(len(np.unique(own.exam[side])) for side in (reference, recent))
        return None if exams < MIN_EXAMS else (reference, recent)


def compare_embeddings(
    reference: npt.NDArray[np.float32],
    recent: npt.NDArray[np.float32],
    reference_exam: Sequence[int],
    recent_exam: Sequence[int],
    seed: int,
) -> DriftTest:
    """Embeddings (n, d) and (m, d) of these exams: unbiased MMD^2 and energy distance, each with
    half of the chance to err."""
    comparison = compare_samples(reference, recent, reference_exam, recent_exam, seed=seed)
    return DriftTest(
        len(recent),
        len(reference),
        comparison.discrepancy,
        None,
        p=min(1.0, 2 * min(comparison.discrepancy_p, comparison.energy_p)),
        energy=comparison.energy,
    )


def by_lot(places: Ints, rank: npt.NDArray[np.uint64]) -> Ints:
    """At most MOST_EMBEDDINGS of the places, in order."""
    return np.sort(places[np.argsort(rank[places], kind="stable")[:MOST_EMBEDDINGS]])


def _centred(frame: Frame, embeddings: Embeddings) -> npt.NDArray[np.float32]:
    """(m, d) Embeddings less the mean of their view: which views are made is no drift."""
    view = frame.rows.view[embeddings.row]
    values = embeddings.values.astype(np.float32)
    for each in np.unique(view):
        of_view = view == each
        values[of_view] -= values[of_view].mean(axis=0, dtype=np.float64).astype(np.float32)
    return values


def _pictures(
    frame: Frame, embeddings: Embeddings, centred: npt.NDArray[np.float32], own: Ints
) -> _Pictures:
    rows, row = frame.rows, embeddings.row[own]
    day, device, values = rows.day[row], rows.device[row], centred[own]
    if len(np.unique(device)) > 1:
        for each in np.unique(device):
            of_device = np.flatnonzero(device == each)
            end = reference_ends(np.zeros(len(of_device), np.int64), day[of_device], 1, 1)[0]
            early = of_device[day[of_device] < end]
            values[of_device] -= values[early].mean(axis=0, dtype=np.float64).astype(np.float32)
    end = reference_ends(np.zeros(len(own), np.int64), day, 1, MIN_EMBEDDINGS)[0]
    n = int((day < end).sum())
    return _Pictures(
        day, rows.exam[row], embeddings.rank[own], values, n if n >= MIN_EMBEDDINGS else 0, int(end)
    )

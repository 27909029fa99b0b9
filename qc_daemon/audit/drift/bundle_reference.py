"""Pictures of a subject without a reference of its own against those that calibrated its bundle.

A device has no reference of its own in its first half-year. Until then the audit says whether its
pictures are like those that the bundle's probabilities rest on. Machines differ for good: only
what lies a whole standard deviation of the bundle's pictures away matters. What is compared is of
one view, that of which the subject has most; what gestational age and body mass index explain is
far less.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model.image_features import STATISTICS
from model.image_reference import ImageReference, ViewReference
from qc_daemon.audit.drift.drift_windows import (
    BUNDLE,
    LONGEST_RECENT_DAYS,
    DriftTest,
    Month,
    recent_window,
)
from qc_daemon.audit.drift.image_drift import (
    MIN_EMBEDDINGS,
    MIN_EXAMS,
    MOST_EMBEDDINGS,
    EmbeddingSamples,
    StatisticSamples,
    SubjectRows,
    by_lot,
    comparable,
    compare_embeddings,
    compare_values,
    in_unit,
    inflation_of,
)
from qc_daemon.audit.rows import Rows
from qc_daemon.audit.statistics.benchmark import Floats, Ints
from qc_daemon.audit.statistics.distances import MIN_SAMPLE

LEAST_EFFECT = 1.0
"""Squared standard deviations of the bundle's pictures: of two normal laws so far apart PSI is as
much."""
MIN_PICTURES = 100
"""Of fewer pictures of a bundle nothing is said."""
# A machine's setting, not the picture's, on which no probability rests.
_NOT_COMPARED = frozenset(("width", "height"))

References = Mapping[str, ImageReference]
"""By model id what a bundle says of its pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class BundlePictures:
    """The pictures of each subject, and the references of the bundles (by their code) that judged
    them."""

    rows: Rows
    of_subjects: SubjectRows
    references: Mapping[int, ImageReference]

    @classmethod
    def of(cls, rows: Rows, of_subjects: SubjectRows, references: References) -> "BundlePictures":
        by_code = {
            code: references[bundle.model_id]
            for code, bundle in enumerate(rows.bundles)
            if bundle.model_id in references
        }
        return cls(rows, of_subjects, by_code)

    def newest(self, subject: int, look: int) -> tuple[int, ViewReference, Ints] | None:
        """The bundle of the subject's newest picture up to a day, its reference of the view that
        the subject has most pictures of, and the rows of these in the half-year up to the day;
        None where the bundle says nothing of any of its views."""
        every = self.of_subjects
        place = slice(int(every.starts[subject]), int(every.starts[subject + 1]))
        own, day = every.row[place], every.day[place]
        first, last = (
            int(np.searchsorted(day, each, side="right"))
            for each in (look - LONGEST_RECENT_DAYS, look)
        )
        own = own[first:last]
        bundle = int(self.rows.bundle[own[-1]]) if len(own) else -1
        if bundle not in self.references:
            return None
        views = self.references[bundle].views
        view_references = {
            self.rows.views.index(view): each
            for view, each in views.items()
            if len(each) >= MIN_PICTURES
        }
        counts = np.bincount(self.rows.view[own], minlength=len(self.rows.views))
        if not view_references:
            return None
        view = max(view_references, key=lambda code: (int(counts[code]), -code))
        return bundle, view_references[view], own[self.rows.view[own] == view]


@dataclass(frozen=True, slots=True, eq=False)
class StatisticOrBundle:
    """An image statistic against the subject's own reference, else the bundle's."""

    own: StatisticSamples
    pictures: BundlePictures

    def test(self, subject: int, look: int, drifting: frozenset[int]) -> DriftTest | None:
        """The newest values up to a day against the reference; None for too few of either."""
        if self.own.has_reference(subject, look):
            return self.own.test(subject, look, drifting)
        newest = self.pictures.newest(subject, look)
        if newest is None or self.own.name in _NOT_COMPARED:
            return None
        _, view, row = newest
        place, rows = STATISTICS.index(self.own.name), self.pictures.rows
        row = row[np.isfinite(rows.statistics[row, place])]
        window = recent_window(rows.day[row], look, 0, MIN_SAMPLE)
        is_known = np.isfinite(view.statistics[:, place])
        reference = comparable(self.own.name, view.statistics[is_known, place])
        if window is None or len(reference) < MIN_PICTURES or reference.min() == reference.max():
            return None
        row = row[slice(*window)]
        recent = comparable(self.own.name, rows.statistics[row, place])
        inflation = max(
            1.0,
            inflation_of(recent - recent.mean(), rows.exam[row]),
            inflation_of(reference - reference.mean(), view.group[is_known]),
        )
        comparison = compare_values(reference, recent, inflation)
        return DriftTest(
            len(recent),
            len(reference),
            comparison.index,
            comparison.shift,
            comparison.p,
            before=in_unit(self.own.name, float(reference.mean())),
            after=in_unit(self.own.name, float(recent.mean())),
            is_relevant=comparison.effect >= LEAST_EFFECT,
            compared_with=BUNDLE,
        )

    def begin(self, subject: int, drifting: frozenset[int]) -> int | None:
        """The day from which on the mean leads away from the subject's own reference, about."""
        return self.own.begin(subject, drifting)

    def months(self, subject: int) -> list[Month]:
        """The means of four weeks each, in the statistic's own unit."""
        return self.own.months(subject)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingsOrBundle:
    """Embeddings against the subject's own reference, else the bundle's."""

    own: EmbeddingSamples
    pictures: BundlePictures

    def test(self, subject: int, look: int, drifting: frozenset[int]) -> DriftTest | None:
        """The newest embeddings up to a day against the reference; None for too few pictures or
        exams, or embeddings of another size than the bundle's."""
        if self.own.has_reference(subject, look):
            return self.own.test(subject, look, drifting)
        newest = self.pictures.newest(subject, look)
        if newest is None or newest[0] not in self.pictures.rows.embeddings:
            return None
        bundle, view, row = newest
        rows, embeddings = self.pictures.rows, self.pictures.rows.embeddings[bundle]
        if embeddings.values.shape[1] != view.embeddings.shape[1]:
            return None
        places = np.flatnonzero(np.isin(embeddings.row, row))
        window = recent_window(rows.day[embeddings.row[places]], look, 0, MIN_EMBEDDINGS)
        if window is None:
            return None
        places = by_lot(places[slice(*window)], embeddings.rank)
        exam = rows.exam[embeddings.row[places]]
        reference, group = view.embeddings[:MOST_EMBEDDINGS], view.group[:MOST_EMBEDDINGS]
        if min(len(np.unique(exam)), len(np.unique(group))) < MIN_EXAMS:
            return None
        recent = embeddings.values[places].astype(np.float32)
        comparison = compare_embeddings(
            reference,
            recent,
            # An exam here is none of the bundle's.
            [-1 - each for each in group.tolist()],
            exam.tolist(),
            seed=int(embeddings.rank[places].min()) % 2**32 + look,
        )
        is_relevant = _effect(reference, recent) >= LEAST_EFFECT
        return replace(comparison, is_relevant=is_relevant, compared_with=BUNDLE)

    def begin(self, subject: int, drifting: frozenset[int]) -> int | None:
        """The day from which on embeddings leave the subject's own reference, about."""
        return self.own.begin(subject, drifting)

    def months(self, subject: int) -> list[Month]:
        """None: an embedding is no number."""
        return self.own.months(subject)


def _effect(reference: npt.NDArray[np.float32], recent: npt.NDArray[np.float32]) -> float:
    """The squared distance between the means (n, d) and (m, d), less what chance adds to it, in
    the reference's standard deviations along the line between them."""
    a, b = reference.astype(np.float64), recent.astype(np.float64)
    line = b.mean(axis=0) - a.mean(axis=0)
    by_chance = float(a.var(axis=0).sum()) / len(a) + float(b.var(axis=0).sum()) / len(b)
    squared = float(line @ line)
    spread: Floats = a @ line
    if squared <= by_chance or float(spread.var()) <= 0:
        return 0.0
    # The spread is along the line times its length.
    return (squared - by_chance) ** 2 / float(spread.var())

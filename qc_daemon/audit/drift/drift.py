"""Drift: pictures of a device (or site) are no longer read as those that it began with.

For each feature of the models' answers a subject's values are taken from the mean of its own first
half-year. What is left of its newest values is compared with what is left of the other subjects'
in the same days: a change of the models, or of the season, moves all of them and is none of a
device. Image statistics and embeddings are compared with the subject's own (`image_drift`), and
with the bundle's while it has none (`bundle_reference`). The
index is PSI over the reference's deciles with its chi squared law, and the shift of the mean with
its normal one, both widened as images of one exam are alike. p-values are adjusted over subjects
and features (Benjamini and Hochberg); an alarm needs SIGNALS of the last NIGHTS weekly looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from scipy import stats

from qc_daemon.audit.drift.bundle_reference import (
    BundlePictures,
    EmbeddingsOrBundle,
    References,
    StatisticOrBundle,
)
from qc_daemon.audit.drift.changes import case_residuals
from qc_daemon.audit.drift.drift_windows import (
    BUNDLE,
    OTHERS,
    OWN,
    DriftTest,
    Month,
    ramp_begin,
    recent_window,
    reference_ends,
)
from qc_daemon.audit.drift.image_drift import (
    EMBEDDING,
    STATISTIC_FEATURES,
    EmbeddingSamples,
    StatisticSamples,
    SubjectRows,
)
from qc_daemon.audit.measures import MONTH, Frame, Kind
from qc_daemon.audit.statistics.benchmark import Bools, Floats, Ints
from qc_daemon.audit.statistics.distances import MIN_SAMPLE, ReferenceBins
from qc_daemon.audit.statistics.proportions import adjust

FEATURES = ("log-odds", "confidence", "detections", "view-probability")
NIGHTS, SIGNALS = 5, 3
STEP = 7
"""Days between two looks."""
LEAST_SHIFT = 0.3
"""Log odds from which a device's drift calls for a new calibration of its site."""
_FEW_SUBJECTS = 3
"""Of fewer subjects nobody can say which one moved: each is compared with its own reference."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A feature of a subject: PSI `value` (MMD^2 of embeddings, with the `energy` distance) and
    `shift` of the mean (its own unit) of `n` recent values against `reference_n`; None where there
    are too few. `before` and `after` are the means of an image statistic, `months` those of an
    alarm. `nights`: whether each look, oldest first, was beyond the false discovery rate. `since`:
    the day (ordinal) it began, about. `compared_with`: whose values the reference is."""

    subject: int
    feature: str
    n: int
    reference_n: int
    value: float | None
    shift: float | None
    p: float | None
    q: float | None
    nights: tuple[bool, ...]
    since: int | None
    before: float | None = None
    after: float | None = None
    energy: float | None = None
    months: tuple[Month, ...] = ()
    compared_with: str | None = None

    @property
    def is_alarm(self) -> bool:
        return sum(self.nights) >= SIGNALS

    @property
    def needs_calibration(self) -> bool:
        """Whether probabilities of the site no longer mean what they meant."""
        is_shifted = self.shift is not None and abs(self.shift) >= LEAST_SHIFT
        return self.is_alarm and self.feature == "log-odds" and is_shifted


class _FeatureSamples(Protocol):
    """A feature's values, which can be tested; `drifting` are subjects that others are not
    compared with."""

    def test(self, subject: int, look: int, drifting: frozenset[int]) -> DriftTest | None: ...

    def begin(self, subject: int, drifting: frozenset[int]) -> int | None: ...

    def months(self, subject: int) -> list[Month]: ...


def drifts(
    frame: Frame,
    kind: Kind,
    level: float,
    is_left_out: Bools | None = None,
    references: References = MappingProxyType({}),
) -> list[Drift]:
    """The drift of each subject and feature; rows (n,) of `is_left_out` count for nothing.
    `references` are the bundles', by their model ids.

    In a second round subjects with an alarm are left out of what the others are compared with.
    """
    subjects = len(frame.names(kind))
    samples: dict[str, _FeatureSamples] = {
        each: _Samples.of(frame, kind, each, subjects, is_left_out) for each in FEATURES
    }
    images = _image_samples(frame, kind, subjects, is_left_out, references)
    tests = _tests(frame, images, subjects, frozenset())
    every = samples | images
    first = _round(
        every, subjects, level, frozenset(), tests | _tests(frame, samples, subjects, frozenset())
    )
    # Whose models' answers moved; the pictures of each are compared with its own.
    drifting = frozenset(
        each.subject for each in first if each.is_alarm and each.feature in FEATURES
    )
    if not drifting or len(drifting) * 2 > subjects:
        return first
    second_tests = _tests(frame, samples, subjects, drifting)
    return _round(every, subjects, level, drifting, tests | second_tests)


def _image_samples(
    frame: Frame, kind: Kind, subjects: int, is_left_out: Bools | None, references: References
) -> dict[str, _FeatureSamples]:
    samples: dict[str, _FeatureSamples] = {}
    every = SubjectRows.of(frame, kind, subjects, is_left_out)
    pictures = BundlePictures.of(frame.rows, every, references)
    if frame.rows.statistics.shape[1]:
        for feature in STATISTIC_FEATURES:
            own = StatisticSamples.of(frame, feature, every)
            samples[feature] = StatisticOrBundle(own, pictures)
    if frame.rows.embeddings:
        embeddings = EmbeddingSamples.of(frame, kind, subjects, is_left_out)
        samples[EMBEDDING] = EmbeddingsOrBundle(embeddings, pictures)
    return samples


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """A feature's values in the order of time, with subject and day, each taken from the mean of
    the subject's reference; and how alike images of an exam are."""

    value: Floats
    subject: Ints
    day: Ints
    reference_n: Ints
    inflation: float

    @classmethod
    def of(
        cls, frame: Frame, kind: Kind, feature: str, subjects: int, is_left_out: Bools | None
    ) -> "_Samples":
        rows = frame.rows
        column = {"person": rows.person, "device": rows.device, "site": rows.site}[kind]
        values = {
            "log-odds": rows.log_odds,
            "confidence": rows.confidence,
            "detections": rows.detections.astype(float),
            "view-probability": rows.view_probability,
        }[feature]
        has_value = rows.is_view & (column >= 0) & np.isfinite(values)
        if is_left_out is not None:
            has_value &= ~is_left_out
        row_index = np.flatnonzero(has_value)
        subject, day = column[row_index], rows.day[row_index]
        if not len(row_index):
            return cls(np.zeros(0), subject, day, np.zeros(subjects, np.int64), 1.0)
        value = case_residuals(frame, values[row_index], row_index)
        end = reference_ends(subject, day, subjects, MIN_SAMPLE)
        early = day < end[subject]
        n = np.bincount(subject[early], minlength=subjects)
        mean = np.bincount(subject[early], value[early], minlength=subjects) / np.maximum(n, 1)
        value = value - mean[subject]
        sums = np.bincount(rows.exam[row_index], value)
        spread = float(np.square(value).sum())
        inflation = max(1.0, float(np.square(sums).sum()) / spread) if spread > 0 else 1.0
        return cls(value, subject, day, np.where(n >= MIN_SAMPLE, n, 0), inflation)

    def test(self, subject: int, look: int, drifting: frozenset[int]) -> DriftTest | None:
        """The newest values up to a day against the others'; None for too few of either."""
        reference_n = int(self.reference_n[subject])
        if not reference_n:
            return None
        own = np.flatnonzero(self.subject == subject)
        window = recent_window(self.day[own], look, reference_n, MIN_SAMPLE)
        if window is None:
            return None
        start, end = window
        reference = self._reference(subject, int(self.day[own[start]]), look, drifting)
        if len(reference) < MIN_SAMPLE or reference.min() == reference.max():
            return None
        recent = self.value[own[start:end]]
        bins = ReferenceBins.of(reference)
        index = bins.stability_index(recent)
        # The subject's own reference is uncertain too.
        sizes = 1 / len(reference) + 1 / len(recent) + 1 / reference_n
        law = float(stats.chi2.sf(index / sizes / self.inflation, len(bins.shares) - 1))
        shift = float(recent.mean() - reference.mean())
        error = float(np.sqrt(self.inflation * self.value.var() * sizes))
        normal = 2 * float(stats.norm.sf(abs(shift) / error)) if error > 0 else 1.0
        # Two tests of one question.
        p = min(1.0, 2 * min(law, normal))
        whose = OWN if self._is_own_reference else OTHERS
        return DriftTest(len(recent), len(reference), float(index), shift, p, compared_with=whose)

    @property
    def _is_own_reference(self) -> bool:
        return int((self.reference_n > 0).sum()) < _FEW_SUBJECTS

    def _reference(self, subject: int, first: int, last: int, drifting: frozenset[int]) -> Floats:
        has_reference = np.flatnonzero(self.reference_n > 0)
        if self._is_own_reference:
            own = np.flatnonzero(self.subject == subject)
            return self.value[own[: int(self.reference_n[subject])]]
        others = np.setdiff1d(has_reference, [subject, *drifting])
        inside = (self.day >= first) & (self.day <= last) & np.isin(self.subject, others)
        return self.value[inside]

    def begin(self, subject: int, drifting: frozenset[int]) -> int | None:
        """The day from which on the mean leads away from the reference and from the others'."""
        values = self.without_common(drifting | {subject}, MONTH)
        own = np.flatnonzero(self.subject == subject)
        return ramp_begin(values.day[own], values.value[own], MIN_SAMPLE)

    def months(self, subject: int) -> list[Month]:
        """None: what is left of an answer has no unit that says anything to anybody."""
        return []

    def without_common(self, drifting: frozenset[int], month: int) -> "_Samples":
        """The values less what the others' had in the same month."""
        if not len(self.value):
            return self
        block = (self.day - self.day.min()) // month
        usual = ~np.isin(self.subject, list(drifting))
        size = int(block.max()) + 1
        n = np.bincount(block[usual], minlength=size)
        mean = np.bincount(block[usual], self.value[usual], minlength=size) / np.maximum(n, 1)
        value = self.value - mean[block]
        return _Samples(value, self.subject, self.day, self.reference_n, self.inflation)


def _tests(
    frame: Frame, samples: Mapping[str, _FeatureSamples], subjects: int, drifting: frozenset[int]
) -> dict[tuple[int, str], list[DriftTest | None]]:
    """The test of each subject and feature at each look, oldest first."""
    looks = [frame.last_day - STEP * back for back in range(NIGHTS - 1, -1, -1)]
    return {
        (subject, feature): [each.test(subject, look, drifting) for look in looks]
        for subject in range(subjects)
        for feature, each in samples.items()
    }


def _round(
    samples: Mapping[str, _FeatureSamples],
    subjects: int,
    level: float,
    drifting: frozenset[int],
    tests: Mapping[tuple[int, str], list[DriftTest | None]],
) -> list[Drift]:
    pairs = [(subject, feature) for subject in range(subjects) for feature in samples]
    q_values: dict[tuple[int, str], list[float | None]] = {pair: [] for pair in pairs}
    for night in range(NIGHTS):
        test_of = {pair: test for pair in pairs if (test := tests[pair][night]) is not None}
        q = adjust([test.p for test in test_of.values()]).tolist()
        adjusted = dict(zip(test_of, q, strict=True))
        for pair in pairs:
            q_values[pair].append(adjusted.get(pair))
    return [
        _drift(pair, samples[pair[1]], tests[pair], q_values[pair], level, drifting)
        for pair in pairs
    ]


def _drift(
    pair: tuple[int, str],
    samples: _FeatureSamples,
    tests: list[DriftTest | None],
    q_values: list[float | None],
    level: float,
    drifting: frozenset[int],
) -> Drift:
    subject, feature = pair
    nights = tuple(
        test is not None and test.is_relevant and q is not None and q <= level
        for test, q in zip(tests, q_values, strict=True)
    )
    newest = tests[-1]
    is_alarm = sum(nights) >= SIGNALS
    # What differs from the bundle's pictures has done so from the first day on.
    is_of_bundle = newest is not None and newest.compared_with == BUNDLE
    return Drift(
        subject,
        feature,
        n=0 if newest is None else newest.n,
        reference_n=0 if newest is None else newest.reference_n,
        value=None if newest is None else newest.index,
        shift=None if newest is None else newest.shift,
        p=None if newest is None else newest.p,
        q=q_values[-1],
        nights=nights,
        since=samples.begin(subject, drifting) if any(nights) and not is_of_bundle else None,
        before=None if newest is None else newest.before,
        after=None if newest is None else newest.after,
        energy=None if newest is None else newest.energy,
        months=tuple(samples.months(subject)) if is_alarm else (),
        compared_with=None if newest is None else newest.compared_with,
    )

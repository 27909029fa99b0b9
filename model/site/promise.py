"""A verdict with a promise: how many of the pictures called standard, or non-standard, are not.

Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052): thresholds are tested one after the
other from the safest on, each by a valid p-value for "more than the tolerated share is wrong", and
the last one passed before the first failure is taken. The share is a ratio, wrong among called: of
the called ones each is wrong or not, so that their number is binomial at each threshold.

What it rests on: exams are independent and of the site as it will be; reviewed ones were drawn from
all of them, with the probability that is one over their weight (a lab that reviews what it likes
learns of what it likes); each exam counts once, so that the share is that of exams with a called
picture. Offsets of views and devices were fitted to the same reviews, and are taken as given.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, expit

from detector.anatomy import View
from model.site.samples import Floats, Samples
from model.site.site_map import SiteMap

TOLERATED = 0.05
CONFIDENCE = 0.9
ALARM_LEVEL = 0.01
"""A promise is broken where so many wrong ones had at most this probability if it held."""
_MOST_MISSING = 10_000
# Thresholds in the bundle's log odds, fixed before anything is read: safest first.
_GRID = np.arange(12.0, -12.01, -0.5)
# The first threshold tested calls at least this share of those that the safest half would: with
# fewer, one wrong picture at the very top would end the search.
_START_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Side:
    """What is promised of the pictures called standard, or of those called non-standard.

    `threshold` is the site's probability from which (down to which) a picture is called so; `wrong`
    of `called` reviewed ones were not. Without a promise `threshold` is None, and `missing` more
    reviews would be needed: an estimate; None where more reviews will not do.
    """

    threshold: float | None
    called: int
    wrong: int
    missing: int | None = None

    @property
    def is_promised(self) -> bool:
        return self.threshold is not None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        body: dict[str, Any] = {"called": self.called, "wrong": self.wrong}
        return body | (
            {"threshold": self.threshold} if self.is_promised else {"missing_reviews": self.missing}
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is none."""
        unknown = set(data) - {"called", "wrong", "threshold", "missing_reviews"}
        if unknown:
            raise ValueError(f"promise has unknown keys: {', '.join(sorted(unknown))}")
        threshold = data.get("threshold")
        if threshold is not None and not 0 <= float(threshold) <= 1:
            raise ValueError(f"threshold {threshold} lies outside 0..1")
        missing = data.get("missing_reviews")
        return cls(
            None if threshold is None else float(threshold),
            int(data["called"]),
            int(data["wrong"]),
            None if missing is None else int(missing),
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What the lab tolerates: the share of poor pictures among those called standard, that of
    standard ones among those called non-standard; the confidence that both are kept."""

    standard: float = TOLERATED
    non_standard: float = TOLERATED
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        if not (0 < self.standard < 0.5 and 0 < self.non_standard < 0.5):
            raise ValueError("a tolerated share lies between 0 and 0.5")
        if not 0.5 <= self.confidence < 1:
            raise ValueError("a confidence lies between 0.5 and 1")

    @property
    def level(self) -> float:
        """How probable a promise may be that is not kept: half the rest for each side."""
        return (1 - self.confidence) / 2


@dataclass(frozen=True, slots=True)
class Promise:
    """Both sides, what was tolerated, how many exams they rest on, and the share of reviewed
    pictures between the thresholds, which is left to people. `views` were among the reviewed ones:
    of others nothing is promised."""

    tolerance: Tolerance
    standard: Side
    non_standard: Side
    exams: int
    left_to_people: float
    views: tuple[View, ...] = ()

    def is_about(self, view: View) -> bool:
        """Whether it holds for this view; one of an earlier version names none."""
        return not self.views or view in self.views

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        body: dict[str, Any] = {
            "tolerated": {
                "standard": self.tolerance.standard,
                "non-standard": self.tolerance.non_standard,
            },
            "confidence": self.tolerance.confidence,
            "standard": self.standard.to_json(),
            "non-standard": self.non_standard.to_json(),
            "exams": self.exams,
            "left_to_people": self.left_to_people,
        }
        return body | ({"views": [view.value for view in self.views]} if self.views else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is none."""
        tolerated = data["tolerated"]
        return cls(
            Tolerance(
                float(tolerated["standard"]),
                float(tolerated["non-standard"]),
                float(data["confidence"]),
            ),
            Side.from_json(data["standard"]),
            Side.from_json(data["non-standard"]),
            int(data["exams"]),
            float(data["left_to_people"]),
            tuple(map(View, data.get("views", ()))),
        )


def make_promise(
    samples: Samples, site_map: SiteMap, review: tuple[float, float], tolerance: Tolerance
) -> Promise:
    """The widest verdicts that keep what is tolerated, from reviewed samples.

    `review` are the probabilities between which no verdict is given where nothing is promised.
    Pictures of one exam are no independent evidence: one of each counts, drawn by its key.
    """
    chosen = one_of_each_exam(samples)
    y, weights = chosen.labels(), chosen.review_weights()
    s = np.array(
        [
            float(site_map.without_offset(odds, row.view, row.device))
            for odds, row in zip(chosen.log_odds, chosen.rows, strict=True)
        ]
    )
    p, level = site_map.probability(s), tolerance.level
    high = _find_threshold(s, 1 - y, 1 - p, weights, tolerance.standard, level)
    low = _find_threshold(-s, y, p, weights, tolerance.non_standard, level)
    top = None if high is None else float(site_map.log_odds_of(high))
    bottom = None if low is None else float(site_map.log_odds_of(-low))
    if top is not None and bottom is not None and top < bottom:
        # Every threshold between is safe on both sides, for the further out the fewer are wrong.
        top = bottom = min(max(0.0, top), bottom)
    p_high, p_low = (None if each is None else float(expit(each)) for each in (top, bottom))
    upper = max(review[1], p_low or 0.0) if p_high is None else p_high
    lower = min(review[0], upper) if p_low is None else p_low
    return Promise(
        tolerance,
        _side(p >= upper, 1 - y, p_high, tolerance.standard, tolerance.level),
        _side(p <= lower, y, p_low, tolerance.non_standard, tolerance.level),
        chosen.exams,
        float(np.mean((p > lower) & (p < upper))) if len(p) else 1.0,
        tuple(sorted({row.view for row in chosen.rows})),
    )


def review_band(promise: Promise, review: tuple[float, float]) -> tuple[float, float]:
    """The probabilities between which the verdict is left to a person: the promised thresholds,
    and those of the bundle where nothing is promised."""
    high = promise.standard.threshold
    low = promise.non_standard.threshold
    if high is None:
        high = max(review[1], low or 0.0)
    if low is None:
        low = min(review[0], high)
    return low, high


@dataclass(frozen=True, slots=True)
class PromiseCheck:
    """What later reviews say of one side: `tail` is the probability of so many wrong ones, or more,
    if just the tolerated share were wrong. It is that of one check: of one that is repeated as
    reviews are added the level is higher (100 checks on the way to 1,000 called, just the tolerated
    5 % wrong: 6 %; 3.5 % wrong: 0.5 %)."""

    called: int
    wrong: int
    tail: float

    @property
    def is_consistent(self) -> bool:
        """Whether the reviews do not speak against the promise."""
        return self.tail > ALARM_LEVEL


def check_promise(
    promise: Promise,
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> dict[str, PromiseCheck]:
    """Each promised side ("standard", "non-standard") against reviews made since, one of each exam.

    `probabilities` (n,) of the site, labels (n,) 1 where standard. The tail is exact (binomial);
    with unequal `weights` (n,), one over the probability that each was drawn, a bound (`p_value`).
    """
    p, y = np.asarray(probabilities, float), np.asarray(labels, float)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, float)
    checks = {}
    if promise.standard.threshold is not None:
        checks["standard"] = _check(
            p >= promise.standard.threshold, 1 - y, w, promise.tolerance.standard
        )
    if promise.non_standard.threshold is not None:
        checks["non-standard"] = _check(
            p <= promise.non_standard.threshold, y, w, promise.tolerance.non_standard
        )
    return checks


def one_of_each_exam(samples: Samples) -> Samples:
    """One sample of each exam, drawn by the hash of its key: the same again for the same keys."""
    first: dict[int, tuple[str, int]] = {}
    for index, (row, exam) in enumerate(zip(samples.rows, samples.exam.tolist(), strict=True)):
        digest = hashlib.sha256(row.key.encode()).hexdigest()
        first[exam] = min(first.get(exam, (digest, index)), (digest, index))
    return samples.at(sorted(index for _, index in first.values()))


def p_value(
    wrong: Floats, weights: Floats, tolerated: float, largest: float | None = None
) -> float:
    """Of "more than `tolerated` of the called are wrong": (n,) wrong 0 or 1, and the weights.

    `largest` is the largest weight that a called one can have, where these may lack it: findings
    that are seldom drawn, and that may all be wrong, are those that are easily missed.
    All of the largest weight: the exact binomial tail. Else each weight times (wrong - tolerated),
    which is bounded and has a mean over 0 under the hypothesis, by Hoeffding and Bentkus (Bates et
    al. 2021, J. ACM 68:43).
    """
    n = len(wrong)
    if n == 0:
        return 1.0
    largest = float(weights.max()) if largest is None else largest
    if float(weights.min()) > (1 - 1e-9) * largest:
        return float(bdtr(int(wrong.sum()), n, tolerated))
    mean = float((weights / largest * (wrong - tolerated)).mean()) + tolerated
    if mean >= tolerated:
        return 1.0
    hoeffding = math.exp(-n * _relative_entropy(mean, tolerated))
    bentkus = math.e * float(bdtr(math.ceil(n * mean - 1e-9), n, tolerated))
    return min(1.0, hoeffding, bentkus)


def least_called(tolerated: float, level: float, wrong: int = 0) -> int:
    """How many must be called for `wrong` of them to pass at this level."""
    return _least(wrong + 1, lambda n: float(bdtr(wrong, n, tolerated)) <= level)


def _least(start: int, passes: Callable[[int], bool]) -> int:
    """The least number from `start` on that passes, all after it doing so too."""
    low, high = start - 1, start
    while not passes(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _find_threshold(
    s: Floats, wrong: Floats, expected: Floats, weights: Floats, tolerated: float, level: float
) -> float | None:
    """The lowest threshold of log odds that passes with all those above it that are tested.

    `expected` is how probable it is that each would be wrong, by the site's map: stopping sooner
    than the test asks never makes it invalid.
    """
    # Where the search starts is chosen by the log odds alone, never by the labels.
    start = max(least_called(tolerated, level), _START_SHARE * float((s >= 0).sum()))
    best, largest = None, float(weights.max(initial=0.0))
    for threshold in _GRID:
        called = s >= threshold
        if called.sum() < start:
            continue
        if p_value(wrong[called], weights[called], tolerated, largest) > level:
            break
        if float((weights * expected)[called].sum() / weights[called].sum()) > tolerated:
            # Luck in a few reviews is no reason to go on where the site's own probabilities do not.
            break
        best = float(threshold)
    return best


def _side(
    called: npt.NDArray[np.bool_],
    wrong: Floats,
    threshold: float | None,
    tolerated: float,
    level: float,
) -> Side:
    count, errors = int(called.sum()), int(wrong[called].sum())
    missing = None if threshold is not None else _missing(called, errors, tolerated, level)
    return Side(threshold, count, errors, missing)


def _missing(
    called: npt.NDArray[np.bool_], errors: int, tolerated: float, level: float
) -> int | None:
    """How many more reviews a promise may need, if called and wrong ones stay as frequent; None
    where it would be more than `_MOST_MISSING`."""
    count, reviews, needed = int(called.sum()), len(called), least_called(tolerated, level)
    if not count:
        return needed - reviews if reviews < needed else None
    # The safest half of those called counts, and it has fewer wrong ones than all of them.
    rate = errors / count / 2
    if rate >= tolerated and count >= needed:
        return None
    # Of fewer the share that is wrong says too little to give up on.
    rate = rate if rate < tolerated else 0.0
    needed = _least(needed, lambda n: float(bdtr(round(rate * n), n, tolerated)) <= level)
    missing = max(1, math.ceil(needed * reviews / count) - reviews)
    return missing if missing <= _MOST_MISSING else None


def _check(
    called: npt.NDArray[np.bool_], wrong: Floats, weights: Floats, tolerated: float
) -> PromiseCheck:
    # As many wrong ones are as few right ones.
    tail = p_value(1 - wrong[called], weights[called], 1 - tolerated, weights.max(initial=0.0))
    return PromiseCheck(int(called.sum()), int(wrong[called].sum()), tail)


def _relative_entropy(a: float, b: float) -> float:
    """Of a coin of probability a from one of b, in nats; a < b."""
    if a <= 0:
        return -math.log(1 - b)
    return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))


def describe(promise: Promise) -> list[str]:
    """The promise in plain sentences, one for each side; where there is none, what is missing."""
    lines = []
    for called, wrong, side, tolerated in _sides(promise):
        if side.is_promised:
            lines.append(
                f"Of the views called {called}, at most {tolerated:.0%} are {wrong} (confidence"
                f" {promise.tolerance.confidence:.0%}, {promise.exams} reviewed exams:"
                f" {side.wrong} of {side.called})."
            )
        elif side.missing is None and not side.called:
            lines.append(
                f"No promise for views called {called}: of {promise.exams} reviewed exams none has"
                " one."
            )
        elif side.missing is None:
            lines.append(
                f"No promise for views called {called}: {side.wrong} of {side.called} reviewed ones"
                f" are {wrong}; name a larger share that you tolerate."
            )
        else:
            lines.append(
                f"No promise for views called {called}: about {side.missing} more"
                f" {'review is' if side.missing == 1 else 'reviews are'} needed."
            )
    return lines


def describe_promised(promise: Promise) -> list[str]:
    """The sentences of `describe` on what is promised."""
    sides = _sides(promise)
    return [
        line
        for line, (_, _, side, _) in zip(describe(promise), sides, strict=True)
        if side.is_promised
    ]


def _sides(promise: Promise) -> tuple[tuple[str, str, Side, float], ...]:
    return (
        ("standard", "not standard", promise.standard, promise.tolerance.standard),
        ("non-standard", "standard", promise.non_standard, promise.tolerance.non_standard),
    )

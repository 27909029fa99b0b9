"""Gestational age by similarity to prompts of each day from 14w0d to 38w6d, after FetalCLIP.

The published answer is the median of the 15 most similar days. It has no meaning in the first
trimester: whatever the head, it is 15w4d or more. So an answer below 17w0d is not given.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int64]

DAYS: Days = np.arange(14 * 7, 39 * 7)
"""The ages that have prompts, in days: the one axis of similarities, answers and tables."""
TOP = 15
"""The answer is the median of so many days."""
FLOOR_DAYS = 17 * 7
"""Answers below are not given. Of the 999 published heads, 95 % of those under 86 mm of head
circumference (none can be of 14 weeks) are answered with less, and 6 % of those of 100 mm or more.
"""
HEAD_RANGE_MM = (100.0, 342.0)
"""Head circumferences for which the published validity is counted."""
# ln of the head circumference in mm = a + b t + c t^2 + d t^3, t in weeks; by centile. WHO fetal
# growth charts (Kiserud et al. 2017, PLoS Med 14(1): e1002220).
_CURVES = {
    2.5: (1.59317517131532, 0.29459800552433, -0.0073860372566707, 6.56951770216148e-5),
    50: (2.09924879247164, 0.253373656106037, -0.00605647816678282, 5.14256072059917e-5),
    97.5: (2.50074069629423, 0.220067854715719, -0.00493623111462443, 3.89066000946519e-5),
}
_CHART_DAYS = np.arange(9 * 7, 42 * 7 + 1)

BELOW_14_WEEKS = "below-14-weeks"
AT_THE_FLOOR = "not-told-from-first-trimester"
REASONS = {
    BELOW_14_WEEKS: "it is known to be of less than 14 weeks, where there are no prompts and the"
    " published answers are a month too high",
    AT_THE_FLOOR: "heads of less than 14 weeks get the same answer as those of 15 to 16 weeks",
}
"""Why there is no answer, in words."""


@dataclass(frozen=True, slots=True)
class AgeEstimate:
    """`days` is None where there is no answer; `reason` then says why, a key of REASONS.

    `median_days` is the published rule's answer, given or not.
    """

    days: int | None
    median_days: int
    reason: str | None = None


def median_of_most_similar(similarity: npt.ArrayLike) -> Days:
    """(N, 175) similarities to the prompts of DAYS -> (N,) days: the median of the TOP highest.

    Raises ValueError on another number of days, or on numbers that are not finite.
    """
    values = np.asarray(similarity, np.float64)
    if values.ndim != 2 or values.shape[1] != len(DAYS):
        raise ValueError(f"similarities are {values.shape}, not (pictures, {len(DAYS)})")
    if not np.isfinite(values).all():
        raise ValueError("similarities that are no finite numbers")
    highest = np.sort(np.argsort(-values, axis=1, kind="stable")[:, :TOP], axis=1)
    median: Days = DAYS[highest[:, TOP // 2]]
    return median


def estimate_age(
    similarity: npt.ArrayLike,
    *,
    known_days: float | None = None,
    head_circumference_mm: float | None = None,
) -> AgeEstimate:
    """The estimate of one picture from its (175,) similarities.

    A known age, as by crown-rump length, or a head circumference whose median age is below 14
    weeks, says that there can be no answer.
    """
    (median,) = median_of_most_similar(np.asarray(similarity)[None]).tolist()
    if head_circumference_mm is not None and known_days is None:
        known_days = float(median_age([head_circumference_mm])[0])
    if known_days is not None and known_days < DAYS[0]:
        return AgeEstimate(None, median, BELOW_14_WEEKS)
    if median < FLOOR_DAYS:
        return AgeEstimate(None, median, AT_THE_FLOOR)
    return AgeEstimate(median, median)


def head_circumference(days: npt.ArrayLike, centile: float = 50) -> Floats:
    """The growth curve's head circumference in mm at an age in days; centile 2.5, 50 or 97.5."""
    weeks = np.asarray(days, np.float64) / 7
    result: Floats = np.exp(np.polynomial.polynomial.polyval(weeks, _CURVES[centile]))
    return result


def median_age(head_circumference_mm: npt.ArrayLike) -> Floats:
    """The age in days whose median head circumference this is, 9 to 42 weeks; the chart begins at
    14 weeks and is extrapolated below."""
    result: Floats = np.interp(
        np.asarray(head_circumference_mm, np.float64), head_circumference(_CHART_DAYS), _CHART_DAYS
    )
    return result


def is_plausible(head_circumference_mm: npt.ArrayLike, days: npt.ArrayLike) -> Any:
    """Whether head circumferences lie within the curve's central 95 % at these ages: the published
    validity. It is consistency of two measurements, and no error of an age."""
    measured = np.asarray(head_circumference_mm, np.float64)
    return (head_circumference(days, 2.5) <= measured) & (
        measured <= head_circumference(days, 97.5)
    )


def in_words(days: int) -> str:
    """As obstetrics writes it: 20w3d."""
    return f"{days // 7}w{days % 7}d"

"""Draws the exams and images of a made-up history, as columns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.phantom.history.plan import (
    CASE_MIX_SHARE,
    DAYS,
    DEVICES,
    DRIFT_LOG_ODDS,
    FIRST,
    MODEL_SHIFT,
    NT_BIAS_LOG10,
    OUTLIER_LOG_ODDS,
    PERSONS,
    SITE_OF_DEVICE,
    TRAINEE_LOG_ODDS,
    Lab,
    few_images_persons,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

VIEWS = ("NT", "CRL", "HEAD", "ABDOMEN")
OTHER = len(VIEWS)
_VIEW_LOG_ODDS = np.array([1.1, 1.7, 1.5, 0.9])
_IMAGES_OF_EXAM = 4.52
"""Images that an exam has on average: 4 views at 1.08, and a fifth of an image of no view."""
AWAY = 0.15
"""Share of exams that are made on a device of another site."""
SHARED = 0.02
"""Share of exams with a second operator."""


@dataclass(frozen=True, slots=True, eq=False)
class Exams:
    """Columns (exams,), in the order of time; NaN and -1: not known."""

    day: Ints
    second: Ints  # of the day, of the first image
    person: Ints
    second_person: Ints
    device: Ints
    gestation: Floats  # days
    states_gestation: npt.NDArray[np.bool_]
    length: Floats  # crown-rump, mm
    translucency: Floats  # NT, mm
    age: Floats  # years
    size: Floats  # m
    weight: Floats  # kg
    states_size: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Columns (images,), in the order of time; `log_odds` is the models' answer, uncalibrated."""

    exam: Ints
    number: Ints  # in the exam, from 1
    second: Ints  # of the day
    view: Ints  # index of VIEWS; OTHER
    is_standard: npt.NDArray[np.bool_]  # in truth
    log_odds: Floats


def draw_exams(lab: Lab, images: int, random: np.random.Generator) -> Exams:
    """Enough exams for so many images."""
    n = max(1, round(images / _IMAGES_OF_EXAM))
    few = few_images_persons(lab)
    work = lab.work.copy()
    work[few] = 0
    person = random.choice(PERSONS, n, p=work / work.sum())
    # Each of these made one exam, somewhere in the history.
    places = random.choice(n, min(n, len(few)), replace=False)
    person[places] = few[: len(places)]
    moment = np.sort(_working_days(random, n) * 86_400 + random.integers(8 * 3600, 16 * 3600, n))
    gestation, bmi = random.uniform(78, 98, n), 19 + random.gamma(3.0, 2.1, n)
    if lab.planted.case_mix_person is not None:
        is_hard = (person == lab.planted.case_mix_person) & (random.random(n) < CASE_MIX_SHARE)
        gestation = np.where(is_hard, random.uniform(77, 82, n), gestation)
        bmi = np.where(is_hard, random.normal(37, 3, n), bmi)
    size = np.round(random.normal(1.66, 0.065, n), 2)
    weight = np.round(bmi * size**2, 1)
    device = _devices(lab, person, random)
    length = np.round(45 + (gestation - 78) * 1.95 + random.normal(0, 2, n), 1)
    is_measured = random.random(n) < 0.85
    return Exams(
        day=moment // 86_400,
        second=moment % 86_400,
        person=person,
        second_person=_second_persons(few, random, n),
        device=device,
        gestation=np.round(gestation),
        states_gestation=random.random(n) < 0.92,
        length=np.where(is_measured, length, np.nan),
        translucency=np.where(is_measured, _translucencies(lab, person, length, random), np.nan),
        age=np.round(random.normal(31.5, 5, n).clip(17, 48), 2),
        size=size,
        weight=weight,
        states_size=lab.sends_size[device] & (random.random(n) < 0.9),
    )


def _working_days(random: np.random.Generator, n: int) -> Ints:
    """Days of the history, few of them on weekends."""
    weekday = (np.arange(DAYS) + FIRST.weekday()) % 7
    weights = np.where(weekday >= 5, 0.04, 1.0)
    days: Ints = random.choice(DAYS, n, p=weights / weights.sum())
    return days


def _second_persons(few: list[int], random: np.random.Generator, n: int) -> Ints:
    """A second operator of some exams; none who made a single exam."""
    others = np.setdiff1d(np.arange(PERSONS), few)
    return np.where(random.random(n) < SHARED, random.choice(others, n), -1)


def _devices(lab: Lab, person: Ints, random: np.random.Generator) -> Ints:
    """A device for each exam: of the person's site, now and then of another."""
    site_of_device = np.array(SITE_OF_DEVICE)
    is_away = random.random(len(person)) < AWAY
    site = np.where(
        is_away,
        random.integers(0, site_of_device.max() + 1, len(person)),
        lab.site_of_person[person],
    )
    keys = random.random((len(person), DEVICES))
    devices: Ints = np.where(site_of_device[None, :] == site[:, None], keys, -1.0).argmax(axis=1)
    return devices


def _translucencies(lab: Lab, person: Ints, length: Floats, random: np.random.Generator) -> Floats:
    """NT in mm: grows with the crown-rump length, and is spread evenly on a logarithmic scale."""
    median = -0.55 + 0.0165 * length - 0.00009 * length**2
    bias = np.where(person == _or_none(lab.planted.nt_bias_person), NT_BIAS_LOG10, 0.0)
    spread = random.normal(0, 0.1, len(length))
    values: Floats = np.round(10 ** (median + bias + spread), 1).clip(0.4, 6)
    return values


def draw_images(lab: Lab, exams: Exams, images: int, random: np.random.Generator) -> Images:
    """The images of the exams, at most so many."""
    n = len(exams.day)
    # Each view is there once, is missing, or came twice; sometimes there is a picture of no view.
    counts = random.choice(3, (n, len(VIEWS)), p=(0.06, 0.8, 0.14))
    others = random.choice(2, (n, 1), p=(0.8, 0.2))
    counts[counts.sum(axis=1) == 0, 0] = 1
    # In a short history chance may leave too few.
    missing = max(0, images - int(counts.sum() + others.sum()))
    np.add.at(counts, (random.integers(0, n, missing), random.integers(0, len(VIEWS), missing)), 1)
    flat = np.hstack((counts, others)).ravel()
    exam = np.repeat(np.repeat(np.arange(n), len(VIEWS) + 1), flat)[:images]
    view = np.repeat(np.tile(np.arange(len(VIEWS) + 1), n), flat)[:images]
    number = np.arange(len(exam)) - np.searchsorted(exam, exam) + 1
    gaps = random.gamma(4.0, 20.0, len(exam))
    passed = np.cumsum(gaps)
    second = exams.second[exam] + (passed - passed[np.searchsorted(exam, exam)]).astype(np.int64)
    truth = _true_log_odds(lab, exams, random)
    log_odds = truth[exam] + np.append(_VIEW_LOG_ODDS, -3.0)[view]
    is_standard = random.random(len(exam)) < 1 / (1 + np.exp(-log_odds))
    answer = np.where(
        is_standard, random.normal(2.4, 1.3, len(exam)), random.normal(-2.3, 1.5, len(exam))
    )
    return Images(exam, number, second, view, is_standard, answer + _model_effect(lab, exams)[exam])


def _true_log_odds(lab: Lab, exams: Exams, random: np.random.Generator) -> Floats:
    """(exams,) What the person, the device and the patient add to the log odds of a standard
    picture."""
    planted = lab.planted
    value: Floats = lab.skill[exams.person] + lab.device_effect[exams.device]
    value -= 0.055 * np.maximum(0, exams.weight / exams.size**2 - 26)
    value -= 0.11 * np.maximum(0, 83 - exams.gestation)
    value += random.normal(0, 0.25, len(exams.day))
    value += np.where(exams.person == _or_none(planted.outlier_person), OUTLIER_LOG_ODDS, 0.0)
    first, last = TRAINEE_LOG_ODDS
    learned = first + (last - first) * exams.day / (DAYS - 1)
    value += np.where(exams.person == _or_none(planted.improving_person), learned, 0.0)
    return value


def _model_effect(lab: Lab, exams: Exams) -> Floats:
    """(exams,) What a change of the models, and a device whose pictures they read less and less
    well, add to their answer."""
    planted = lab.planted
    value = np.zeros(len(exams.day))
    if planted.model_shift_day is not None:
        value += np.where(exams.day >= planted.model_shift_day, MODEL_SHIFT, 0.0)
    return value + DRIFT_LOG_ODDS * drift_of_exams(lab, exams)


def drift_of_exams(lab: Lab, exams: Exams) -> Floats:
    """(exams,) How much of the drifting device's drift there is by then: 0, and 1 on the last day;
    0 on other devices."""
    planted = lab.planted
    if planted.drift_begins is None:
        return np.zeros(len(exams.day))
    part = (exams.day - planted.drift_begins) / (DAYS - 1 - planted.drift_begins)
    is_drifting = exams.device == _or_none(planted.drifting_device)
    return np.where(is_drifting, part.clip(0, 1), 0.0)


def _or_none(index: int | None) -> int:
    """An index that no person and no device has, for None."""
    return -2 if index is None else index

"""The lab of a made-up history: persons, devices and sites, and what is planted among them."""

from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256

import numpy as np

PERSONS, DEVICES, SITES = 50, 8, 3
FIRST, LAST = date(2024, 10, 1), date(2026, 9, 30)
"""The days of the history, both included."""
DAYS = (LAST - FIRST).days + 1
SITE_OF_DEVICE = (0, 0, 0, 1, 1, 1, 2, 2)
SITE_NAMES = ("Women's Clinic North", "Women's Clinic South", "Prenatal Practice West")
FEW_IMAGES = 3
"""So many persons made the images of one exam only."""

OUTLIER_LOG_ODDS = -1.3
TRAINEE_LOG_ODDS = (-1.7, 0.3)
CASE_MIX_SHARE = 0.75
"""Share of the case-mix person's exams that are of the hard kind."""
NT_BIAS_LOG10 = 0.08
DRIFT_LOG_ODDS = -1.6
"""What the drifting device has lost by the last day; it loses it evenly from the day it begins."""
DRIFT_MEAN_GREY = 14.0
"""By how many grey levels its pictures are brighter by then."""
MODEL_SHIFT = -0.9


@dataclass(frozen=True, slots=True)
class Planted:
    """What is wrong in the history; indices of persons and devices, days from the first; None in a
    history in which nothing is."""

    drifting_device: int | None = None
    drift_begins: int | None = None
    improving_person: int | None = None
    outlier_person: int | None = None
    case_mix_person: int | None = None
    nt_bias_person: int | None = None
    model_shift_day: int | None = None
    is_new_bundle: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Lab:
    """Persons with their site, share of the work and skill (log odds of a standard picture), and
    devices with their effect and whether they send weight and height."""

    seed: int
    person_ids: tuple[str, ...]
    device_ids: tuple[str, ...]
    site_of_person: np.ndarray  # (persons,)
    work: np.ndarray  # (persons,), sums to 1
    skill: np.ndarray  # (persons,)
    device_effect: np.ndarray  # (devices,)
    sends_size: np.ndarray  # (devices,) bool
    planted: Planted


def make_lab(seed: int, random: np.random.Generator, *, is_null: bool) -> Lab:
    """The lab of this seed. In a null one persons and devices differ by chance alone."""
    site = np.concatenate(
        (np.arange(SITES), random.choice(SITES, PERSONS - SITES, p=(0.4, 0.4, 0.2)))
    )
    random.shuffle(site)
    work = np.exp(random.normal(0, 0.45, PERSONS))
    skill = random.normal(0, 0.1, PERSONS)
    planted = Planted() if is_null else _plant(random)
    for person in _planted_persons(planted):
        # Who does little is not judged: nothing could be named.
        work[person] = 2.0 * work.mean()
    work /= work.sum()
    return Lab(
        seed=seed,
        person_ids=tuple(_id("p", seed, each) for each in range(PERSONS)),
        device_ids=tuple(_id("d", seed, each) for each in range(DEVICES)),
        site_of_person=site,
        work=work,
        skill=skill,
        device_effect=random.normal(0, 0.12, DEVICES),
        sends_size=random.permutation(DEVICES) >= 2,
        planted=planted,
    )


def few_images_persons(lab: Lab) -> list[int]:
    """Persons, none of them planted, who made a single exam."""
    planted = _planted_persons(lab.planted)
    return [each for each in np.argsort(lab.work).tolist() if each not in planted][:FEW_IMAGES]


def _plant(random: np.random.Generator) -> Planted:
    outlier, trainee, case_mix, nt_bias = random.permutation(PERSONS)[:4].tolist()
    return Planted(
        drifting_device=int(random.integers(DEVICES)),
        drift_begins=int(random.integers(DAYS * 5 // 10, DAYS * 7 // 10)),
        improving_person=trainee,
        outlier_person=outlier,
        case_mix_person=case_mix,
        nt_bias_person=nt_bias,
        model_shift_day=_working_day(int(random.integers(DAYS * 3 // 10, DAYS * 8 // 10))),
        is_new_bundle=bool(random.random() < 0.5),
    )


def _working_day(day: int) -> int:
    """The day, or the Monday after it."""
    weekday = day_of(day).weekday()
    return day + (7 - weekday if weekday >= 5 else 0)


def _planted_persons(planted: Planted) -> set[int]:
    persons = (
        planted.outlier_person,
        planted.improving_person,
        planted.case_mix_person,
        planted.nt_bias_person,
    )
    return {each for each in persons if each is not None}


def day_of(index: int) -> date:
    """The date of a day of the history."""
    return FIRST + timedelta(days=index)


def _id(prefix: str, seed: int, index: int) -> str:
    """An id as the service gives them; of other seeds, others."""
    return prefix + sha256(f"{prefix}/{seed}/{index}".encode()).hexdigest()[:8]

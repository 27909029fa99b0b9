"""What is counted of findings: for each measure the trials, one a row, with whose they are.

An exam belongs to a person if all its images do; what several persons made counts for nobody, and
for the device and the site all the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from detector.anatomy import View
from qc_daemon.audit.rows import SHARED, UNDECIDED, UNKNOWN, Rows
from qc_daemon.audit.statistics.benchmark import Bools, Cells, Floats, Ints, Trials, make_cells
from qc_daemon.audit.statistics.history import week_of

Kind = Literal["person", "device", "site"]
KINDS: tuple[Kind, ...] = ("person", "device", "site")
Better = Literal["high", "low", "none"]

MONTH = 28
QUARTER = 3 * MONTH
"""Days of what is compared on one device."""
CRL_RANGE = (45.0, 84.0)
"""Crown-rump lengths in mm that NT is measured at (FMF, DQASS)."""
_MIN_KNOWN = 20
_PAUSE = 1800
"""Seconds between two images of an exam after which it was interrupted."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """A measure's trials (n,): outcomes 0..1 with the place of each trial in `Frame.rows`; a trial
    of an exam has that of its first image. `is_judged`: somebody may be called by it."""

    name: str
    outcome: Floats
    row: Ints
    is_better: Better
    view: str | None = None
    criterion: str | None = None
    cell_view: Ints | None = None
    of_exam: bool = False
    is_judged: bool = True


@dataclass(frozen=True)
class Frame:
    """The rows of an audit with what all measures share; `views` are those an exam should have,
    strata count back from `last_day`, and end at `breaks` (days): changes of the models."""

    rows: Rows
    views: tuple[str, ...]
    last_day: int
    breaks: tuple[int, ...] = ()

    @cached_property
    def view_codes(self) -> list[int]:
        return [self.rows.views.index(view) for view in self.views]

    @cached_property
    def exams(self) -> int:
        """How many exams there are."""
        return int(self.rows.exam.max()) + 1 if len(self.rows) else 0

    @cached_property
    def first_row(self) -> Ints:
        """(exams,) The first image of each."""
        first = np.full(self.exams, len(self.rows), np.int64)
        np.minimum.at(first, self.rows.exam, np.arange(len(self.rows)))
        return first

    @cached_property
    def exam_person(self) -> Ints:
        """(exams,) Whose exam it is: SHARED where its images are of several persons."""
        person, exam = self.rows.person, self.rows.exam
        low = np.full(self.exams, np.iinfo(np.int64).max)
        high = np.full(self.exams, np.iinfo(np.int64).min)
        np.minimum.at(low, exam, person)
        np.maximum.at(high, exam, person)
        return np.where(low == high, low, SHARED)

    @cached_property
    def device_quarter(self) -> Ints:
        """(n,) The stratum of a row: device, quarter before the last day, and models; UNKNOWN
        without a device."""
        rows = self.rows
        if not len(rows):
            return np.zeros(0, np.int64)
        quarter = (self.last_day - rows.day) // QUARTER
        models = np.searchsorted(np.array(self.breaks, np.int64), rows.day, side="right")
        period = quarter * (len(self.breaks) + 1) + models
        periods = int(period.max()) + 1
        return np.where(rows.device >= 0, rows.device * periods + period, UNKNOWN)

    @cached_property
    def model_of_week(self) -> dict[int, str]:
        """The model id of most images of each week."""
        rows, size = self.rows, len(self.rows.bundles)
        if not len(rows):
            return {}
        week = week_of(rows.day)
        first, last = int(week.min()), int(week.max())
        n = np.bincount((week - first) * size + rows.bundle, minlength=(last - first + 1) * size)
        counts = n.reshape(-1, size)
        known = np.flatnonzero(counts.any(axis=1)).tolist()
        return {first + each: rows.bundles[int(counts[each].argmax())].model_id for each in known}

    @cached_property
    def _cells(self) -> tuple[Ints, Cells]:
        rows = self.rows
        gestation, bmi = (_fill_unknown(each, rows.person) for each in (rows.gestation, rows.bmi))
        return make_cells(rows.view, len(rows.views), gestation, bmi)

    @property
    def cells(self) -> Cells:
        """The design of the regression on cases."""
        return self._cells[1]

    @property
    def cell(self) -> Ints:
        """(n,) The case of each row."""
        return self._cells[0]

    def trials(self, outcomes: Outcomes, kind: Kind) -> Trials:
        """The trials with the subjects of a kind: persons are compared on the same devices in the
        same quarter, devices by the same persons."""
        rows, row = self.rows, outcomes.row
        person = self.exam_person[rows.exam[row]] if outcomes.of_exam else rows.person[row]
        cell = self.cell[row]
        if outcomes.cell_view is not None:
            # The trial is about another view than that of the exam's first image.
            per_view = len(self.cells.design) // len(rows.views)
            cell = cell % per_view + outcomes.cell_view * per_view
        subject = {"person": person, "device": rows.device[row], "site": rows.site[row]}[kind]
        stratum = {
            "person": self.device_quarter[row],
            "device": np.where(person >= 0, person, UNKNOWN),
            "site": np.full(len(row), UNKNOWN),
        }[kind]
        return Trials(outcomes.outcome, subject, rows.exam[row], cell, stratum)

    def names(self, kind: Kind) -> Sequence[str]:
        """The ids of the subjects of a kind, by their codes."""
        return {
            "person": self.rows.persons,
            "device": self.rows.devices,
            "site": self.rows.sites,
        }[kind]


def _fill_unknown(values: Floats, person: Ints) -> Floats:
    """Values that are not known as the person's mean, where enough of hers are: a device that does
    not send them makes no easier cases."""
    known = np.isfinite(values) & (person >= 0)
    if not known.any():
        return values
    n = np.bincount(person[known])
    mean = np.bincount(person[known], values[known]) / np.maximum(n, 1)
    enough = np.append(n >= _MIN_KNOWN, False)
    place = np.where((person >= 0) & (person < len(n)), person, len(n))
    return np.where(np.isnan(values) & enough[place], np.append(mean, np.nan)[place], values)


def iter_outcomes(frame: Frame, is_included: Bools) -> Iterator[Outcomes]:
    """The measures of the included rows (n,), one after the other, for they are large."""
    rows = frame.rows
    yield from _exam_measures(frame, is_included)
    is_decided = is_included & rows.is_view & (rows.verdict != UNDECIDED)
    yield standard(frame, is_decided)
    for view in frame.views:
        of_view = np.flatnonzero(is_decided & (rows.view == rows.views.index(view)))
        outcome = rows.verdict[of_view].astype(float)
        yield Outcomes(f"standard:{view}", outcome, of_view, "high", view=view)
    scored = np.flatnonzero(is_included & rows.is_view & np.isfinite(rows.probability))
    yield Outcomes("probability", rows.probability[scored], scored, "high")
    for place, code in enumerate(rows.criteria):
        judged = np.flatnonzero(is_included & ((rows.judged >> place) & 1 == 1))
        outcome = (1 - ((rows.met[judged] >> place) & 1)).astype(float)
        yield Outcomes(f"failure:{code}", outcome, judged, "low", criterion=code)
        yield _set_failure(frame, judged, outcome, code)
    yield from _measuring_outcomes(frame, is_included)


def standard(frame: Frame, is_decided: Bools) -> Outcomes:
    """Images that are standard among those that a verdict stands for."""
    row = np.flatnonzero(is_decided)
    return Outcomes("standard", frame.rows.verdict[row].astype(float), row, "high")


def _exam_measures(frame: Frame, is_included: Bools) -> Iterator[Outcomes]:
    """Of each exam and each view that it should have: whether it is there, and whether an image of
    it is standard."""
    rows, codes = frame.rows, frame.view_codes
    in_window = is_included[frame.first_row] if frame.exams else np.zeros(0, bool)
    exam = np.flatnonzero(in_window)
    places = np.arange(len(codes))
    place_of = np.full(len(rows.views), -1)
    place_of[codes] = places
    present = np.zeros((frame.exams, len(codes)), bool)
    good = np.zeros((frame.exams, len(codes)), bool)
    of_exam = place_of[rows.view] >= 0
    present[rows.exam[of_exam], place_of[rows.view[of_exam]]] = True
    is_good = of_exam & (rows.verdict == 1)
    good[rows.exam[is_good], place_of[rows.view[is_good]]] = True
    row = np.repeat(frame.first_row[exam], len(codes))
    view = np.tile(np.array(codes, np.int64), len(exam))
    for name, outcome in (("completion", present), ("exam-score", good)):
        values = outcome[exam].ravel().astype(float)
        yield Outcomes(name, values, row, "high", cell_view=view, of_exam=True)


def _set_failure(frame: Frame, judged: Ints, outcome: Floats, code: str) -> Outcomes:
    """Exams with two images or more that the criterion judges, where it fails in all of them."""
    exam = frame.rows.exam[judged]
    n = np.bincount(exam, minlength=frame.exams)
    fails = np.bincount(exam, outcome, minlength=frame.exams)
    several = np.flatnonzero(n >= 2)
    values = (fails[several] == n[several]).astype(float)
    return Outcomes(
        f"set-failure:{code}",
        values,
        frame.first_row[several],
        "low",
        criterion=code,
        of_exam=True,
        is_judged=False,
    )


def _measuring_outcomes(frame: Frame, is_included: Bools) -> Iterator[Outcomes]:
    """Of exams whose machine reports them: crown-rump lengths within the range, and NT written with
    the digits 0 and 5."""
    rows = frame.rows
    first = frame.first_row[is_included[frame.first_row]] if frame.exams else np.zeros(0, np.int64)
    with_crl = first[np.isfinite(rows.crl[first])]
    low, high = CRL_RANGE
    inside = (rows.crl[with_crl] >= low) & (rows.crl[with_crl] <= high)
    # Which length a fetus has is not the person's doing.
    yield Outcomes(
        "crl-range", inside.astype(float), with_crl, "high", of_exam=True, is_judged=False
    )
    with_nt = first[np.isfinite(rows.nt[first])]
    digit = np.round(rows.nt[with_nt] * 10).astype(np.int64) % 10
    rounded = np.isin(digit, (0, 5)).astype(float)
    nt = rows.views.index(View.NT)
    cell_view = np.full(len(with_nt), nt)
    yield Outcomes(
        "nt-digits", rounded, with_nt, "none", view="NT", cell_view=cell_view, of_exam=True
    )


def seconds_per_view(frame: Frame, is_included: Bools) -> tuple[Floats, Ints]:
    """(exams,) Seconds between the images of an exam, on average, and the exam's first row; of
    exams with two images or more that were not interrupted."""
    rows = frame.rows
    is_timed = is_included & rows.is_view & (rows.second >= 0)
    moment = rows.day * 86_400 + rows.second
    low = np.full(frame.exams, np.iinfo(np.int64).max)
    high = np.full(frame.exams, np.iinfo(np.int64).min)
    np.minimum.at(low, rows.exam[is_timed], moment[is_timed])
    np.maximum.at(high, rows.exam[is_timed], moment[is_timed])
    n = np.bincount(rows.exam[is_timed], minlength=frame.exams)
    several = np.flatnonzero(n >= 2)
    seconds = (high[several] - low[several]) / (n[several] - 1)
    usual = seconds <= _PAUSE
    return seconds[usual].astype(float), frame.first_row[several[usual]]

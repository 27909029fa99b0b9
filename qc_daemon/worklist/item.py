"""Which entry of a worklist an exam is, if it is one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom.dataset import Dataset

from qc_daemon.dicom.person_name import clean_name, names_nobody

_MAX_ACCESSION = 16
_YEAR_DAYS = 365.2425
_AGES = (10.0, 70.0)
"""Years of a pregnant woman; another date of birth is a wrong one, or another patient's."""


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One entry: whose it is, for which study and station, and what it can tell."""

    patient_id: str
    study_instance_uid: str
    modality: str
    station_ae: str
    accession_number: str | None
    operator: str | None
    birth_date: date | None


def parse_item(dataset: Dataset) -> WorklistItem:
    """The entry of a response; a value that is missing, too long or invalid is None or empty."""
    step = _first(dataset, "ScheduledProcedureStepSequence")
    accession = _text(dataset, "AccessionNumber")
    operator = clean_name(_text(step, "ScheduledPerformingPhysicianName"))
    return WorklistItem(
        patient_id=_text(dataset, "PatientID"),
        study_instance_uid=_text(dataset, "StudyInstanceUID"),
        modality=_text(step, "Modality"),
        station_ae=_text(step, "ScheduledStationAETitle"),
        accession_number=accession if 0 < len(accession) <= _MAX_ACCESSION else None,
        operator=None if operator is None or names_nobody(operator) else operator,
        birth_date=_date(_text(dataset, "PatientBirthDate")),
    )


def choose(
    items: Sequence[WorklistItem],
    patient_id: str,
    study_instance_uid: str,
    stations: Collection[str],
) -> tuple[WorklistItem | None, bool]:
    """The entry of the exam, and whether there were several that it could be.

    An entry of the same study is it. Else one of the same patient for ultrasound, for one of the
    machines that sent the exam or for no particular one. Of several nothing is taken, unless they
    say the same.
    """
    own = [each for each in items if each.patient_id == patient_id]
    same_study = [each for each in own if each.study_instance_uid == study_instance_uid]
    candidates = same_study or [
        each
        for each in own
        if each.modality in ("US", "") and (not each.station_ae or each.station_ae in stations)
    ]
    answers = {(each.accession_number, each.operator, each.birth_date) for each in candidates}
    if len(answers) == 1:
        return candidates[0], False
    return None, len(answers) > 1


def age_years(birth_date: date | None, on: date) -> float | None:
    """Years from birth to that day, to two digits; None where that cannot be."""
    if birth_date is None:
        return None
    years = (on - birth_date).days / _YEAR_DAYS
    return round(years, 2) if _AGES[0] <= years <= _AGES[1] else None


def _first(dataset: Dataset, keyword: str) -> Dataset:
    try:
        items: Any = dataset.get(keyword) or []
        return items[0] if items else Dataset()
    except Exception:
        return Dataset()


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip()
    except Exception:
        # pydicom decodes a value when it is asked for, and raises whatever breaks.
        return ""


def _date(value: str) -> date | None:
    try:
        return date(int(value[:4]), int(value[4:6]), int(value[6:8])) if len(value) == 8 else None
    except ValueError:
        return None

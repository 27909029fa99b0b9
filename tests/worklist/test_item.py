"""Which entry of a worklist an exam is."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from qc_daemon.worklist.item import WorklistItem, age_years, choose, parse_item

BORN = date(1990, 1, 2)
ENTRY = WorklistItem("4711", "1.2.3", "US", "US1", "A1", "Doe^Jane", BORN)


def entry(**changes: object) -> WorklistItem:
    values = {name: getattr(ENTRY, name) for name in WorklistItem.__slots__} | changes
    return WorklistItem(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([ENTRY], (ENTRY, False)),
        ([], (None, False)),
        # The study decides, whatever else the patient has.
        ([entry(study_instance_uid="9", accession_number="A2"), ENTRY], (ENTRY, False)),
        # Another patient's entry never counts, even of the same study.
        ([entry(patient_id="4712")], (None, False)),
        ([entry(study_instance_uid="9")], (entry(study_instance_uid="9"), False)),
        ([entry(study_instance_uid="9", station_ae="US9")], (None, False)),
        ([entry(study_instance_uid="9", modality="MR")], (None, False)),
        (
            [entry(study_instance_uid="9"), entry(study_instance_uid="8", accession_number="A2")],
            (None, True),
        ),
        # Two steps of one request say the same.
        ([entry(study_instance_uid="9"), entry(study_instance_uid="9", modality="")], None),
    ],
)
def test_the_entry_of_an_exam(
    items: list[WorklistItem], expected: tuple[WorklistItem | None, bool] | None
) -> None:
    chosen = choose(items, "4711", "1.2.3", {"US1"})
    assert chosen == (expected or (items[0], False))


@given(st.lists(st.sampled_from(["4711", "4712", "471", "4711 "]), max_size=6))
def test_no_entry_of_another_patient_is_taken(patients: list[str]) -> None:
    items = [entry(patient_id=each) for each in patients]
    chosen, _ = choose(items, "4711", "1.2.3", {"US1"})
    assert chosen is None or chosen.patient_id == "4711"


@pytest.mark.parametrize(
    ("born", "years"),
    [(date(1990, 1, 2), 36.0), (date(2026, 1, 1), None), (date(1800, 1, 1), None), (None, None)],
)
def test_an_age_that_cannot_be_is_none(born: date | None, years: float | None) -> None:
    assert age_years(born, date(2026, 1, 2)) == years


def test_what_is_invalid_is_left_out() -> None:
    assert parse_item(Dataset()) == WorklistItem("", "", "", "", None, None, None)
    step = Dataset()
    step.ScheduledPerformingPhysicianName = "UNKNOWN"
    dataset = Dataset()
    dataset.AccessionNumber = "A" * 16
    dataset.PatientBirthDate = "1990"
    dataset.ScheduledProcedureStepSequence = [step]
    item = parse_item(dataset)
    assert (item.accession_number, item.operator, item.birth_date) == ("A" * 16, None, None)

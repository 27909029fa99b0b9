"""Procedure steps from a modality over real associations (MPPS, PS3.4 F.7)."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from detector.errors import ErrorCode, QCError
from qc_daemon.observe import log
from qc_daemon.records.received import mpps
from qc_daemon.records.tables import PerformedStep
from tests.support.dicom_objects import CANARY
from tests.support.peers import (
    MPPS,
    Modality,
    begin_step,
    end_step,
    modification_list,
    step_in_progress,
)
from tests.support.running_receiver import RunningReceiver

STUDY = "1.2.3.4.5"


@pytest.fixture
def association(receiver: RunningReceiver) -> Iterator[Any]:
    with Modality().association(receiver.port) as assoc:
        yield assoc


def row(receiver: RunningReceiver) -> PerformedStep:
    (step,) = receiver.rows(PerformedStep)
    return step


def test_a_step_is_created_and_completed(receiver: RunningReceiver, association: Any) -> None:
    uid = begin_step(association, STUDY)
    created = row(receiver)
    assert (created.sop_instance_uid, created.study_instance_uid) == (uid, STUDY)
    assert (created.status, created.instances) == ("IN PROGRESS", [])
    assert created.calling_ae == "MODALITY"
    assert end_step(association, uid, "1.1", "1.2", "1.1").Status == 0x0000
    completed = row(receiver)
    assert (completed.status, completed.instances) == ("COMPLETED", ["1.1", "1.2"])
    assert completed.updated_at > created.updated_at


def test_objects_that_are_no_images_count_too(receiver: RunningReceiver, association: Any) -> None:
    uid = begin_step(association, STUDY)
    modification = modification_list("1.1")
    report = Dataset()
    report.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.ReferencedSOPInstanceUID = "1.2"
    series = modification.PerformedSeriesSequence[0]
    series.ReferencedNonImageCompositeSOPInstanceSequence = [report]
    answer, _ = association.send_n_set(modification, MPPS, uid)
    assert answer.Status == 0x0000
    assert row(receiver).instances == ["1.1", "1.2"]


def test_objects_are_named_while_it_goes_on_and_stay_until_named_anew(
    receiver: RunningReceiver, association: Any
) -> None:
    uid = begin_step(association, STUDY)
    assert end_step(association, uid, "1.1", status="IN PROGRESS").Status == 0x0000
    modification = Dataset()
    modification.PerformedProcedureStepStatus = "COMPLETED"
    answer, _ = association.send_n_set(modification, MPPS, uid)
    assert answer.Status == 0x0000
    assert (row(receiver).status, row(receiver).instances) == ("COMPLETED", ["1.1"])


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_what_is_over_is_no_longer_updated(
    receiver: RunningReceiver, association: Any, status: str
) -> None:
    uid = begin_step(association, STUDY)
    assert end_step(association, uid, "1.1", status=status).Status == 0x0000
    answer = end_step(association, uid, "1.2", status="COMPLETED")
    assert (answer.Status, answer.ErrorID) == (0x0110, 0xA506)
    assert answer.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert (row(receiver).status, row(receiver).instances) == (status, ["1.1"])


def test_unknown_and_duplicate_steps(receiver: RunningReceiver, association: Any) -> None:
    uid = begin_step(association, STUDY)
    answer, _ = association.send_n_create(step_in_progress(STUDY), MPPS, uid)
    assert answer.Status == 0x0111
    assert end_step(association, generate_uid(), "1.1").Status == 0x0112
    assert row(receiver).status == "IN PROGRESS"


def without(keyword: str) -> Dataset:
    attributes = step_in_progress(STUDY)
    delattr(attributes, keyword)
    return attributes


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        (step_in_progress(STUDY, PerformedProcedureStepStatus="COMPLETED"), 0x0106),
        (step_in_progress(STUDY, PerformedProcedureStepStatus="SCHEDULED"), 0x0106),
        (without("PerformedProcedureStepStatus"), 0x0120),
        (without("ScheduledStepAttributesSequence"), 0x0120),
        (step_in_progress(STUDY, ScheduledStepAttributesSequence=[Dataset()]), 0x0121),
    ],
)
def test_a_wrong_beginning_is_refused(
    receiver: RunningReceiver, association: Any, attributes: Dataset, status: int
) -> None:
    answer, _ = association.send_n_create(attributes, MPPS, generate_uid())
    assert answer.Status == status
    assert receiver.rows(PerformedStep) == []
    # The association goes on.
    begin_step(association, STUDY)


def test_a_status_that_is_none_is_refused(receiver: RunningReceiver, association: Any) -> None:
    uid = begin_step(association, STUDY)
    assert end_step(association, uid, "1.1", status="DONE").Status == 0x0106
    assert (row(receiver).status, row(receiver).instances) == ("IN PROGRESS", [])


def test_success_only_once_it_is_in_the_database(
    receiver: RunningReceiver, association: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: Any) -> None:
        raise QCError(ErrorCode.STORAGE, "the database is away")

    monkeypatch.setattr(mpps, "begin", away)
    answer, _ = association.send_n_create(step_in_progress(STUDY), MPPS, generate_uid())
    assert answer.Status == 0x0110


def test_nothing_of_the_patient_is_stored_or_logged(
    receiver: RunningReceiver, association: Any
) -> None:
    stream = io.StringIO()
    log.configure("debug", stream)
    try:
        uid = begin_step(association, STUDY)
        end_step(association, uid, "1.1")
    finally:
        log.configure("critical")
    assert uid in stream.getvalue()
    assert CANARY not in stream.getvalue()
    assert CANARY not in repr(
        [getattr(row(receiver), c.name) for c in PerformedStep.__table__.columns]
    )

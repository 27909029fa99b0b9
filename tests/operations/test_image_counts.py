"""Counts of images that lists of persons and devices share."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.operations import image_counts
from qc_daemon.operations.image_counts import ImageCounts
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.tables import IdentityKind
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import ScoredExam
from tests.support.waiting import eventually

PERSON = IdentityKind.PERSON


@pytest.fixture
def exam(tmp_path: Path) -> Iterator[ScoredExam]:
    exam = ScoredExam(tmp_path, ["sr"])
    yield exam
    exam.store.close()


def receive(exam: ScoredExam, number: int, name: str = "Doe^Jane") -> None:
    exam.receive_image(ultrasound_header(SOPInstanceUID=f"1.2.{number}"), quality="standard")
    with exam.store.begin() as session:
        acquisition = Acquisition(operators=(Operator(name),))
        acquisitions.store(session, number, acquisition, "VOLUSON1", exam.now)


def total(counts: ImageCounts) -> int:
    return sum(each.images for each in counts.of(PERSON).images.values())


def test_counts_are_made_anew_while_the_last_are_shown(
    exam: ScoredExam, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(exam, 1)
    counts = ImageCounts(exam.settings, lambda: exam.now)
    assert total(counts) == 1
    assert counts.of(PERSON).at == exam.now
    receive(exam, 2)
    # They are a minute old at most.
    assert total(counts) == 1
    monkeypatch.setattr(image_counts, "_FRESH_SECONDS", 0.0)
    gate, count_images = threading.Event(), identities.count_images

    def slow(*arguments: object) -> object:
        gate.wait(60)
        return count_images(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(identities, "count_images", slow)
    # Nobody waits for the new ones, and they are counted once.
    assert [total(counts) for _ in range(5)] == [1] * 5
    assert sum(each.name == "image counts" for each in threading.enumerate()) == 1
    gate.set()
    eventually(lambda: total(counts) == 2)
    devices = counts.of(IdentityKind.DEVICE).images
    assert [each.images for each in devices.values()] == [2]


def test_some_are_counted_alone(exam: ScoredExam) -> None:
    receive(exam, 1)
    receive(exam, 2, "Ng^Ada")
    with exam.store.read() as session:
        every = identities.count_images(session, PERSON)
        jane = next(row for row in identities.rows(session, PERSON) if "Doe" in row.received_name)
        assert identities.count_images(session, PERSON, [jane.id]) == {jane.id: every[jane.id]}
    assert [each.images for each in every.values()] == [1, 1]

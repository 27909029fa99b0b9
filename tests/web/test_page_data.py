"""Lists cost the same with many findings as with few: how many queries an answer asks does not
grow, and each has a bound. Times with 10⁶ findings: benchmarks/page_data.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from benchmarks.page_data import asked, measure, questions
from qc_daemon.operations import passwords
from qc_daemon.operations.finding_lists import _READS
from qc_daemon.records.store import Store
from tests.support.accounts import QUICK_HASHER
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import ScoredExam

MOST_QUERIES = 30
"""Of any answer; the live board and an exam ask the most."""
REJECTING = ("worklist, non-standard only", "API, findings of a view and verdict")
"""What few findings answer is looked for page by page, a few times at most."""


@pytest.fixture
def exam(tmp_path: Path) -> Iterator[ScoredExam]:
    exam = ScoredExam(tmp_path, ["sr"])
    yield exam
    exam.store.close()


def receive(exam: ScoredExam, first: int, count: int) -> None:
    """Exams of two images each."""
    for number in range(first, first + count):
        for image in (1, 2):
            exam.receive_image(
                ultrasound_header(
                    StudyInstanceUID=f"1.2.9.{number}",
                    PatientID=f"P{number}",
                    SOPInstanceUID=f"1.2.9.{number}.{image}",
                ),
                quality="review",
            )


def counts(client: TestClient, store: Store) -> dict[str, int]:
    return {name: measure(client, store, path, 1).queries for name, path in questions().items()}


def test_queries_do_not_grow_with_findings(
    exam: ScoredExam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    receive(exam, 1, 3)
    with asked(exam.settings) as (client, store):
        few = counts(client, store)
        receive(exam, 4, 30)
        many = counts(client, store)
    grown = {name: (few[name], many[name]) for name in few if many[name] > few[name]}
    assert set(grown) <= set(REJECTING), grown
    most = {name: MOST_QUERIES * (len(_READS) if name in REJECTING else 1) for name in many}
    assert {name: count for name, count in many.items() if count > most[name]} == {}
    assert min(many.values()) > 0

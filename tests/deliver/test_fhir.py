"""Reports reach a FHIR server, in whole, and the last one stands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.fhir import FhirTransport
from qc_daemon.deliver.transport import OutgoingObject
from qc_daemon.operations.doctor_checks.destinations import check_destination
from qc_daemon.records.queue import jobs
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import DestinationSettings, SettingsError, load
from tests.support.fhir_server import FhirServer
from tests.support.job_runners import deliver_runner
from tests.support.ports import reserve_port
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import ScoredExam


@pytest.fixture
def server() -> Iterator[FhirServer]:
    server = FhirServer().start()
    yield server
    server.stop()


@pytest.fixture
def exam(tmp_path: Path, server: FhirServer) -> ScoredExam:
    exam = ScoredExam(tmp_path, [])
    exam.settings.destination = [DestinationSettings(name="pacs", kind="fhir", url=server.url)]
    assert exam.settings.destination[0].objects == ["sr"]
    return exam


def report(exam: ScoredExam, number: int) -> None:
    exam.receive_image(ultrasound_header(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{number}"))
    exam.close()
    assert exam.report()


def deliver(exam: ScoredExam) -> None:
    runner = deliver_runner(exam.store, exam.settings, "test")
    while runner.run_once():
        pass
    runner.close()


def states(exam: ScoredExam) -> list[tuple[str, str | None]]:
    return [(job.state, job.error_code) for job in exam.jobs(JobKind.DELIVER)]


def outgoing(exam: ScoredExam) -> OutgoingObject:
    sr = exam.sent()[-1]
    return OutgoingObject(
        sr.sop_class_uid, sr.sop_instance_uid, sr.transfer_syntax_uid, "x", payload=sr.payload
    )


def test_a_report_and_its_amendment_are_one_resource_there(
    exam: ScoredExam, server: FhirServer
) -> None:
    report(exam, 1)
    deliver(exam)
    assert states(exam) == [("done", None)]
    assert len(server.of_type("Observation")) == 1
    report(exam, 2)
    deliver(exam)
    assert [state for state, _ in states(exam)] == ["done", "done"]
    [stored] = server.of_type("DiagnosticReport")
    assert len(stored["result"]) == len(server.of_type("Observation")) == 2


def test_an_earlier_report_does_not_replace_a_later_one(
    exam: ScoredExam, server: FhirServer
) -> None:
    report(exam, 1)
    report(exam, 2)
    first = exam.jobs(JobKind.DELIVER)[0].id
    with exam.store.begin() as session:
        # It was given up; a person has it sent again when the later one is there.
        assert jobs.cancel(session, [first], exam.now) == 1
    deliver(exam)
    with exam.store.begin() as session:
        assert jobs.retry(session, [first], exam.now) == 1
    deliver(exam)
    assert states(exam) == [("dead", "cancelled"), ("done", None)]
    [stored] = server.of_type("DiagnosticReport")
    assert len(stored["result"]) == 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, ErrorCode.DELIVERY_FORBIDDEN),
        (409, ErrorCode.DELIVERY_RESOURCES),
        (422, ErrorCode.DELIVERY_REFUSED),
        (412, ErrorCode.DELIVERY_REFUSED),
        (503, ErrorCode.DELIVERY_RESOURCES),
        (500, ErrorCode.DELIVERY_FAILED),
        (202, ErrorCode.DELIVERY_REFUSED),
    ],
)
def test_what_the_server_answers_decides(
    exam: ScoredExam, server: FhirServer, status: int, code: ErrorCode
) -> None:
    report(exam, 1)
    server.status = status
    with pytest.raises(QCError) as failure:
        FhirTransport(exam.settings.destination[0]).send(outgoing(exam))
    assert failure.value.code is code
    assert server.resources == {}


def test_one_that_is_away_is_unreachable(exam: ScoredExam) -> None:
    report(exam, 1)
    url = f"http://127.0.0.1:{reserve_port()}/fhir"
    with pytest.raises(QCError, match="cannot be reached") as failure:
        FhirTransport(DestinationSettings(name="his", kind="fhir", url=url)).send(outgoing(exam))
    assert failure.value.code is ErrorCode.DELIVERY_UNREACHABLE


def test_who_we_are_is_said(
    exam: ScoredExam, server: FhirServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    exam.settings.destination[0].token = "env:FHIR_TOKEN"
    report(exam, 1)
    deliver(exam)
    assert server.requests[0]["Authorization"] == "Bearer secret"
    assert server.requests[0]["Content-Type"] == "application/fhir+json"


def test_doctor_asks_which_version_it_is(exam: ScoredExam) -> None:
    [destination] = exam.settings.destination
    assert "is a server of FHIR 4.0.1" in check_destination((exam.settings, destination))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("", "kind fhir needs url"),
        ('url = "https://his/fhir"\nobjects = ["sr", "overlay"]', "takes reports only"),
        (
            'url = "https://his/fhir"\n[[rule]]\nname = "r"\nobjects = ["source"]\nto = "his"',
            "rule r: his takes reports",
        ),
    ],
)
def test_settings_that_cannot_be_done_are_refused(tmp_path: Path, more: str, problem: str) -> None:
    config = tmp_path / "qc.toml"
    config.write_text(f'[[destination]]\nname = "his"\nkind = "fhir"\n{more}\n')
    with pytest.raises(SettingsError, match=problem):
        load(config)

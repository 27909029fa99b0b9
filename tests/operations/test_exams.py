"""`qc-daemon exam`: finding exams and closing them, and their state, which `results` tells."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import select, update
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.results.findings import store as store_findings
from qc_daemon.records.results.reports import ReportObject, publish
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, JobKind, ObjectKind
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.dicom_objects import ultrasound
from tests.support.receipts import RECEIPT, numbered_receipt
from tests.support.records import Records
from tests.support.scored_exam import write_to_spool

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a site that holds one image, still to be scored."""
    path = tmp_path / "qc.toml"
    path.write_text("")
    migrate(load(path).store.url)
    receipt = replace(RECEIPT, patient_id="CANARY4711", path="aa/a.dcm")
    with Store(load(path).store.url).begin() as session:
        admit(session, receipt, source_destinations=["pacs"], bundle_id="m", now=NOW)
    return path


def score(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        job = jobs.claim(session, [JobKind.SCORE], "w", NOW, 300)
        assert job is not None
        assert job.revision_id is not None
        store_findings(session, job.revision_id, [Records.finding()], NOW)
        jobs.finish(session, job, NOW)


def report(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        job = jobs.claim(session, [JobKind.REPORT], "w", datetime.now(UTC), 300)
        assert job is not None
        report = ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one")
        publish(session, job, [report], {"sr": ["pacs"]}, NOW)
        jobs.finish(session, job, NOW)


def run(config: Path, *arguments: str) -> Result:
    return runner.invoke(app, [*arguments, "--config", str(config)])


def test_a_study_that_is_scored_can_be_closed(config: Path) -> None:
    refused = run(config, "exam", "close", "1.2.3")
    assert isinstance(refused.exception, QCError)
    assert "1 object is still to be scored" in str(refused.exception)
    score(config)
    assert run(config, "exam", "close", "1.2.3").output == "exam 1 is closed\n"
    for name in ("1.2.3", "1"):
        again = run(config, "exam", "close", name)
        assert again.output.startswith("exam 1 was closed already, 20")
        assert again.exit_code == 0
    for unknown in ("9.9", "2", "9" * 30, "[/x]"):
        refused = run(config, "exam", "close", unknown)
        assert isinstance(refused.exception, QCError)
        assert "see exam list" in str(refused.exception)


def test_results_of_a_study_begin_with_its_state(config: Path) -> None:
    output = run(config, "results", "--study", "1.2.3").output
    assert output.startswith("exam 1: 1 object, open since 2026-03-04T05:06:07+00:00")
    assert "1 to be scored" in output
    assert "originals: source to pacs: 1 ready" in output
    score(config)
    run(config, "exam", "close", "1.2.3")
    assert "closed by command; report due\n" in run(config, "results", "--study", "1.2.3").output
    report(config)
    output = run(config, "results", "--study", "1.2.3").output
    assert "closed by command; reported (report 1)" in output
    assert "  report 1: sr to pacs: 1 ready" in output
    assert "CANARY" not in output
    assert not run(config, "results").output.startswith("exam")


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_formats_for_programs_hold_findings_only(config: Path, format: str) -> None:
    score(config)
    output = run(config, "results", "--study", "1.2.3", "--format", format).output
    assert "exam 1" not in output
    assert len(output.splitlines()) == (1 if format == "jsonl" else 2)


EXAMS = [
    ("1.2.3.10", "P-1", "Müller^Änne^Maria=", "A100", "20260301"),
    ("1.2.3.11", "P-2", "Doe^Jane", "A200", "20260301"),
    ("1.2.3.12", "4711", "山田^花子=やまだ^はなこ", "A300", ""),
    ("1.2.3.13", "P-1", "MUELLER^ANNE", "", "20260303"),
]


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Settings of a site with four exams, each of the day after the one before."""
    path = tmp_path / "qc.toml"
    path.write_text("")
    migrate(load(path).store.url)
    with Store(load(path).store.url).begin() as session:
        for number, (study, patient, name, accession, date) in enumerate(EXAMS):
            receipt = numbered_receipt(
                number,
                sop_instance_uid=f"{study}.1",
                study_instance_uid=study,
                patient_id=patient,
                patient_name=name,
                accession_number=accession,
                study_date=date,
            )
            moment = NOW + timedelta(days=number)
            admit(session, receipt, source_destinations=[], bundle_id="m", now=moment)
    return path


def listed(config: Path, *arguments: str) -> list[dict[str, Any]]:
    result = run(config, "exam", *arguments, "--format", "json")
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_exams_are_listed_latest_first_with_the_ids_other_commands_take(clinic: Path) -> None:
    latest, *_, first = listed(clinic, "list")
    assert latest["exam_id"] == 4
    expected = {
        "exam_id": 1,
        "state": "open",
        "patient_id": "P-1",
        "patient_name": "Müller^Änne^Maria=",
        "accession_number": "A100",
        "study_date": "2026-03-01",
        "objects": 1,
        "study_instance_uid": "1.2.3.10",
    }
    assert first | expected == first
    for format in ("table", "csv"):
        result = run(clinic, "exam", "list", "--format", format)
        for word in ("1.2.3.10", "山田", "A100"):
            assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "exams"),
    [
        (["list", "--patient", "P-1"], [4, 1]),
        (["list", "--patient", "p-"], []),
        (["list", "--patient", "anne müller"], [1]),
        (["list", "--patient", "ANNE"], [4, 1]),
        (["list", "--patient", "an mu"], [4, 1]),
        (["list", "--patient", "an mül"], [1]),
        (["list", "--patient", "nne"], []),
        (["list", "--patient", "anne doe"], []),
        (["list", "--patient", "花"], [3]),
        (["list", "--patient", "muller^anne"], [1]),
        (["list", "--patient", "花子"], [3]),
        (["list", "--patient", "%"], []),
        (["list", "--patient", "_"], []),
        (["list", "--patient", ""], []),
        (["list", "--accession", "A200"], [2]),
        (["list", "--accession", "A2"], []),
        (["list", "--day", "2026-03-01"], [2, 1]),
        (["list", "--day", "2026-03-06"], [3]),
        (["list", "--state", "closed"], []),
        (["list", "--state", "open", "--patient", "Doe"], [2]),
        (["list", "--since", "2026-03-06"], [4, 3]),
        (["list", "--until", "2026-03-05"], [2, 1]),
        (["list", "--limit", "1"], [4]),
        (["find", "A2"], [2]),
        (["find", "471"], [3]),
        (["find", "p-"], [4, 2, 1]),
        (["find", "jane d"], [2]),
        (["find", "1.2.3.13"], [4]),
        (["find", "%"], []),
        (["find", "nobody"], []),
    ],
)
def test_exams_are_found(clinic: Path, arguments: list[str], exams: list[int]) -> None:
    assert [row["exam_id"] for row in listed(clinic, *arguments)] == exams


def test_an_exam_is_named_by_its_number_everywhere(clinic: Path) -> None:
    assert "exam 2: 1 object," in run(clinic, "results", "--exam", "2").output
    refused = run(clinic, "exam", "close", "2")
    assert "1 object is still to be scored" in str(refused.exception)


@pytest.mark.parametrize("form", ["table", "json", "csv"])
@pytest.mark.parametrize("unknown", [("--exam", "99"), ("--study", "9.9")])
def test_an_exam_that_there_is_not_fails(
    clinic: Path, tmp_path: Path, unknown: tuple[str, str], form: str
) -> None:
    for command in (
        ("results", "--format", form),
        ("summary", "--out", str(tmp_path / "page.pdf")),
    ):
        result = run(clinic, *command, *unknown)
        assert isinstance(result.exception, QCError)
        assert unknown[1] in str(result.exception)
        assert str(result.exception).endswith("see exam list")
        assert result.stdout == ""
    # Nor does the number of an exam stand for another patient's.
    other = run(clinic, "summary", "--out", "page.pdf", "--exam", "2", "--patient", "nobody")
    assert "no such exam or patient" in str(other.exception)
    # A filter that nothing matches is an answer.
    assert run(clinic, "results", "--patient", "nobody", "--format", form).exit_code == 0


@pytest.mark.parametrize("wrong", [("--day", "today"), ("--state", "shut"), ("--since", "x")])
def test_a_wrong_filter_is_wrong_usage(clinic: Path, wrong: tuple[str, str]) -> None:
    result = run(clinic, "exam", "list", *wrong)
    assert isinstance(result.exception, UsageError)
    assert wrong[1] in str(result.exception)


def test_the_newest_object_names_the_exam_and_one_without_a_name_does_not(clinic: Path) -> None:
    def later(number: int, name: str, accession: str) -> None:
        receipt = numbered_receipt(
            number,
            study_instance_uid="1.2.3.11",
            patient_id="P-2",
            patient_name=name,
            accession_number=accession,
        )
        with Store(load(clinic).store.url).begin() as session:
            admit(session, receipt, source_destinations=[], bundle_id="m", now=NOW)

    later(90, "Smith^Jane", "A201")
    later(91, "", "")
    (row,) = listed(clinic, "list", "--patient", "smith")
    assert (row["patient_name"], row["accession_number"], row["objects"]) == (
        "Smith^Jane",
        "A201",
        3,
    )
    assert row["study_date"] == "2026-03-01"


def test_values_that_an_older_version_did_not_store_are_read_from_the_files(
    config: Path, tmp_path: Path
) -> None:
    settings = load(config)
    _, receipt = write_to_spool(
        ultrasound(PatientName="Before^Her", AccessionNumber="A9"), settings.store.spool
    )
    store = Store(settings.store.url)
    with store.begin() as session:
        admit(session, receipt, source_destinations=[], bundle_id="m", now=NOW)
        session.execute(
            update(Exam).values(
                patient_name=None, patient_words=None, accession_number=None, study_date=None
            )
        )
    (row,) = listed(config, "list", "--patient", "her before")
    assert (row["patient_name"], row["accession_number"]) == ("Before^Her", "A9")
    # The other exam's file is not there: that is known now, and not tried for ever.
    with store.read() as session:
        assert session.scalars(select(Exam.patient_name).order_by(Exam.id)).first() == ""

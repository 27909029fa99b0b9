"""`qc-daemon exam close`, and the state of a study that `qc-daemon results --study` tells."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.codes import QCError
from qc_daemon.cli import app
from qc_daemon.records import jobs, schema
from qc_daemon.records.findings import store as store_findings
from qc_daemon.records.receipts import Receipt, admit
from qc_daemon.records.reports import ReportObject, publish
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, ObjectKind
from qc_daemon.settings import load

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
FINDING = {
    "source": None,
    "study_instance_uid": "1.2.3",
    "series_instance_uid": "1.2.3.1",
    "sop_instance_uid": "1.2.3.4",
    "revision": 1,
    "frame": 1,
    "region": {"index": 0, "bbox": [0.0, 0.0, 640.0, 480.0]},
    "bundle": {"name": "default", "version": "0", "model_id": "m"},
    "view": {"code": "NT", "probability": 0.9},
    "quality": {"label": "standard", "probability": 0.9, "raw_probability": 0.9},
    "gates": {"image": 0.3, "text": 0.2, "spatial": 0.5},
    "detections": [],
    "description": "",
    "criteria": [],
    "flags": [],
    "created": "2026-03-04T05:06:07.890Z",
}
runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a site that holds one image, still to be scored."""
    path = tmp_path / "qc.toml"
    path.write_text("")
    schema.upgrade(load(path).store.url)
    receipt = Receipt(
        sop_instance_uid="1.2.3.4",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.6.1",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        patient_id="CANARY4711",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae="VOLUSON1",
        sha256="a" * 64,
        size=1000,
        path="aa/a.dcm",
        association="assoc-1",
    )
    with Store(load(path).store.url).begin() as session:
        admit(session, receipt, source_destinations=["pacs"], bundle_id="m", now=NOW)
    return path


def score(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        job = jobs.claim(session, [JobKind.SCORE], "w", NOW, 300)
        assert job is not None
        assert job.revision_id is not None
        store_findings(session, job.revision_id, [FINDING], NOW)
        jobs.finish(session, job, NOW)


def report(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        job = jobs.claim(session, [JobKind.REPORT], "w", datetime.now(UTC), 300)
        assert job is not None
        made = ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one")
        publish(session, job, [made], {"sr": ["pacs"]}, NOW)
        jobs.finish(session, job, NOW)


def run(config: Path, *arguments: str) -> Result:
    return runner.invoke(app, [*arguments, "--config", str(config)])


def test_a_study_that_is_scored_can_be_closed(config: Path) -> None:
    refused = run(config, "exam", "close", "1.2.3")
    assert isinstance(refused.exception, QCError)
    assert "1 objects are still to be scored" in str(refused.exception)
    score(config)
    assert run(config, "exam", "close", "1.2.3").output == "1 exams are closed\n"
    assert run(config, "exam", "close", "1.2.3").output == "0 exams are closed\n"
    unknown = run(config, "exam", "close", "9.9")
    assert isinstance(unknown.exception, QCError)


def test_results_of_a_study_begin_with_its_state(config: Path) -> None:
    told = run(config, "results", "--study", "1.2.3").output
    assert told.startswith("exam 1: 1 objects, open since 2026-03-04T05:06:07+00:00")
    assert "1 to be scored" in told
    assert "originals: source to pacs: 1 ready" in told
    score(config)
    run(config, "exam", "close", "1.2.3")
    report(config)
    told = run(config, "results", "--study", "1.2.3").output
    assert "closed by command; a report was asked for (report 1)" in told
    assert "  report 1: sr to pacs: 1 ready" in told
    assert "CANARY" not in told
    assert not run(config, "results").output.startswith("exam")


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_formats_for_programs_hold_findings_only(config: Path, format: str) -> None:
    score(config)
    told = run(config, "results", "--study", "1.2.3", "--format", format).output
    assert "exam 1" not in told
    assert len(told.splitlines()) == (1 if format == "jsonl" else 2)

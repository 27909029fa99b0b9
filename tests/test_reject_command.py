"""`qc-daemon rejection`: a person rejects an image, once; the note waits for its destinations."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydicom import dcmread
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from detector.codes import ErrorCode, QCError
from detector.console import UsageError
from qc_daemon.cli import app
from qc_daemon.records import jobs, rejections, reports, schema
from qc_daemon.records.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.settings import load
from tests.receipts import received as as_received

SETTINGS = """
[[destination]]
name = "pacs"
objects = ["sr", "key-objects"]
[[destination]]
name = "other"
objects = ["sr"]
"""
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
UID = "1.2.826.0.1.3680043.10.1.1.1"
runner = CliRunner()


def header(**values: Any) -> Dataset:
    made = Dataset()
    elements = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
        "SOPInstanceUID": UID,
        "StudyInstanceUID": "1.2.826.0.1.3680043.10.1.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.1.3",
        "PatientName": "Müller^Änne",
        "PatientID": "4711",
        "Rows": 120,
        "Columns": 160,
    }
    for keyword, value in {**elements, **values}.items():
        setattr(made, keyword, value)
    return made


def receive(config: Path, received: Dataset) -> Path:
    """An object is here; its file's path."""
    settings = load(config)
    path, receipt = as_received(received, settings.store.spool)
    with Store(settings.store.url).begin() as session:
        admit(session, receipt, source_destinations=(), bundle_id="m", now=NOW)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a site that holds one image."""
    path = tmp_path / "qc.toml"
    path.write_text(SETTINGS)
    schema.upgrade(load(path).store.url)
    receive(path, header())
    return path


def run(config: Path, *arguments: str) -> Result:
    return runner.invoke(app, ["rejection", *arguments, "--config", str(config)])


def confirm(config: Path, uid: str = UID, reason: str = "111209", by: str = "Dr Lee") -> Result:
    return run(config, "confirm", uid, "--reason", reason, "--confirmed-by", by)


def notes(config: Path) -> list[tuple[str, Dataset]]:
    """Destination and note of each deliver job."""
    with Store(load(config).store.url).read() as session:
        found = [
            (job.destination, reports.deliverable(session, job).payload)
            for job in jobs.listing(session, kinds=[JobKind.DELIVER])
        ]
    return [(name, dcmread(BytesIO(payload or b""))) for name, payload in found]


def refused(result: Result, error: type[Exception], word: str) -> None:
    """One clear line, and nothing was made."""
    assert isinstance(result.exception, error), result.exception
    assert word in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_person_rejects_an_image(config: Path) -> None:
    result = confirm(config)
    assert result.exit_code == 0, result.exception
    assert "Positioning" in result.output
    ((destination, note),) = notes(config)
    assert destination == "pacs"
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert note.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "111209"
    assert note.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == UID
    assert note.PatientName == "Müller^Änne"
    # Who confirmed stays here.
    assert b"Dr Lee" not in to_bytes(note)
    assert "Dr Lee" not in result.output


def test_who_confirmed_is_kept_and_listed(config: Path) -> None:
    assert "no rejections" in run(config, "list").output
    confirm(config, reason="NOT-GAIN")
    told = run(config, "list").output
    for word in (UID, "NOT-GAIN", "Gain not adequate", "Dr Lee"):
        assert word in told


def test_an_image_is_rejected_once(config: Path) -> None:
    assert confirm(config).exit_code == 0
    refused(confirm(config, reason="NOT-GAIN", by="Dr May"), QCError, "rejected already")
    assert len(notes(config)) == 1


def test_an_unknown_image_is_refused(config: Path) -> None:
    refused(confirm(config, uid="1.2.3"), QCError, "no image 1.2.3")
    assert notes(config) == []


def test_what_is_no_image_is_refused(config: Path) -> None:
    received = header(SOPInstanceUID="1.2.9", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    del received.Rows
    receive(config, received)
    refused(confirm(config, uid="1.2.9"), QCError, "no image")
    assert notes(config) == []


def test_an_image_whose_bytes_are_gone_is_refused(config: Path) -> None:
    receive(config, header(SOPInstanceUID="1.2.9")).unlink()
    result = confirm(config, uid="1.2.9")
    refused(result, QCError, "neither in the spool")
    assert isinstance(result.exception, QCError)
    assert result.exception.code is ErrorCode.SPOOL_MISSING


@pytest.mark.parametrize(
    ("reason", "by", "word"),
    [
        ("113001", "Dr Lee", "111209 Positioning"),
        ("", "Dr Lee", "--reason"),
        ("111209", "  ", "--confirmed-by"),
        ("111209", "Dr\nLee", "--confirmed-by"),
        ("111209", "x" * 65, "--confirmed-by"),
    ],
)
def test_a_bad_reason_or_name_is_wrong_usage(config: Path, reason: str, by: str, word: str) -> None:
    refused(confirm(config, reason=reason, by=by), UsageError, word)
    assert notes(config) == []


def test_a_note_that_would_go_nowhere_is_wrong_usage(config: Path) -> None:
    config.write_text('[[destination]]\nname = "other"\nobjects = ["sr"]\n')
    refused(confirm(config), UsageError, "key-objects")
    with Store(load(config).store.url).read() as session:
        assert rejections.listing(session) == []

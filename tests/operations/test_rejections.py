"""`qc-daemon rejection`: a person rejects an image, or takes that back; notes tell of both."""

import csv
import io
import json
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydicom import dcmread
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.cli.app import app
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import revisions
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.results import rejections, reports
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.scored_exam import write_to_spool as as_received

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
    dataset = Dataset()
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
        setattr(dataset, keyword, value)
    return dataset


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
    migrate(load(path).store.url)
    receive(path, header())
    return path


def run(config: Path, *arguments: str) -> Result:
    return runner.invoke(app, ["rejection", *arguments, "--config", str(config)])


def confirm(config: Path, uid: str = UID, reason: str = "111209", by: str = "Dr Lee") -> Result:
    return run(config, "confirm", uid, "--reason", reason, "--by", by)


def notes(config: Path) -> list[tuple[str, Dataset]]:
    """Destination and note of each deliver job."""
    with Store(load(config).store.url).read() as session:
        rows = [
            (job.destination, reports.deliverable(session, job).payload)
            for job in jobs.listing(session, kinds=[JobKind.DELIVER])
        ]
    return [(name, dcmread(BytesIO(payload or b""))) for name, payload in rows]


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


def test_who_confirmed_is_stored_and_listed(config: Path) -> None:
    assert "no rejections" in run(config, "list").output
    confirm(config, reason="NOT-GAIN")
    output = run(config, "list").output
    for word in (UID, "NOT-GAIN", "Gain not adequate", "Dr Lee"):
        assert word in output


def test_results_and_exams_say_that_it_is_rejected(config: Path) -> None:
    """Until the rejection is retracted."""
    with Store(load(config).store.url).begin() as session:
        revisions.quarantine(session, 1, ErrorCode.TRUNCATED, "ends early", NOW)

    def outputs() -> tuple[bool, bool, int, bool, bool]:
        def of(verb: str, format: str) -> str:
            words = [*verb.split(), "--format", format, "--config", str(config)]
            return runner.invoke(app, words).stdout

        (row,) = csv.DictReader(io.StringIO(of("results", "csv")))
        return (
            json.loads(of("results", "json"))["rejected"],
            row["rejected"] == "true",
            json.loads(of("exam list", "json"))["rejected"],
            "not scored, rejected" in of("results", "table"),
            "1 of 1 rejected" in of("exam list", "table"),
        )

    assert outputs() == (False, False, 0, False, False)
    assert confirm(config).exit_code == 0
    assert outputs() == (True, True, 1, True, True)
    retraction = ["--reason", "wrong-image", "--by", "Dr Lee"]
    assert run(config, "retract", UID, *retraction).exit_code == 0
    assert outputs() == (False, False, 0, False, False)


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


def test_an_image_without_its_bytes_is_refused(config: Path) -> None:
    receive(config, header(SOPInstanceUID="1.2.9")).unlink()
    result = confirm(config, uid="1.2.9")
    refused(result, QCError, "gone from the spool")
    assert isinstance(result.exception, QCError)
    assert result.exception.code is ErrorCode.SPOOL_MISSING


@pytest.mark.parametrize(
    ("reason", "by", "word"),
    [
        ("113001", "Dr Lee", "111209 Positioning"),
        ("", "Dr Lee", "--reason"),
        ("111209", "  ", "--by"),
        ("111209", "Dr\nLee", "--by"),
        ("111209", "x" * 65, "--by"),
        ("111209", "4711", "not a number"),
        ("111209", "-", "not a number"),
        ("111209", "x", "not a number"),
    ],
)
def test_a_bad_reason_or_name_is_wrong_usage(config: Path, reason: str, by: str, word: str) -> None:
    refused(confirm(config, reason=reason, by=by), UsageError, word)
    assert notes(config) == []


def test_a_note_that_would_go_nowhere_is_wrong_usage(config: Path) -> None:
    config.write_text('[[destination]]\nname = "other"\nobjects = ["sr"]\n')
    fix = 'add key-objects to one\'s objects in the settings, as objects = ["source",'
    refused(confirm(config), UsageError, fix)
    config.write_text(
        f'{SETTINGS}[[rule]]\nname = "none"\nobjects = ["key-objects"]\ndrop = true\n'
    )
    refused(confirm(config), UsageError, "so says the rule none")
    with Store(load(config).store.url).read() as session:
        assert rejections.listing(session) == []


def retract(
    config: Path, uid: str = UID, reason: str = "wrong-image", by: str = "Dr May"
) -> Result:
    return run(config, "retract", uid, "--reason", reason, "--by", by)


def listed(config: Path) -> list[dict[str, Any]]:
    result = run(config, "list", "--format", "json")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_rejection_is_retracted_and_both_notes_stay(config: Path) -> None:
    confirm(config)
    result = retract(config)
    assert result.exit_code == 0, result.exception
    assert "goes to pacs" in result.output
    (first, rejection), (second, retraction) = notes(config)
    assert (first, second) == ("pacs", "pacs")
    title = retraction.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("REJ-RETRACTED", "99QCD")
    selected = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in retraction.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]
    assert selected == [UID, rejection.SOPInstanceUID]
    assert (retraction.InstanceNumber, rejection.InstanceNumber) == (2, 1)
    assert retraction.SeriesInstanceUID == rejection.SeriesInstanceUID
    assert b"Dr May" not in to_bytes(retraction)
    assert b"another image was meant" in to_bytes(retraction)
    (row,) = listed(config)
    expected = {
        "state": "retracted",
        "reason": "111209",
        "confirmed_by": "Dr Lee",
        "retraction_reason": "wrong-image",
        "retracted_by": "Dr May",
        "note": rejection.SOPInstanceUID,
        "retraction_note": retraction.SOPInstanceUID,
    }
    assert row | expected == row
    assert row["retracted"]


def test_an_image_whose_rejection_was_retracted_counts_again(config: Path) -> None:
    confirm(config)
    with Store(load(config).store.url).read() as session:
        assert rejections.of_exam(session, 1) == {UID}
    retract(config)
    with Store(load(config).store.url).read() as session:
        assert rejections.of_exam(session, 1) == frozenset()
        assert rejections.of_instance(session, UID) is None
    refused(retract(config), QCError, "does not stand rejected")
    assert len(notes(config)) == 2


def test_it_may_be_rejected_again_and_no_note_overtakes_another(config: Path) -> None:
    confirm(config)
    retract(config)
    assert confirm(config, by="Dr May").exit_code == 0
    refused(confirm(config), QCError, "rejected already")
    assert [row["state"] for row in listed(config)] == ["retracted", "rejected"]
    assert len({note.SOPInstanceUID for _, note in notes(config)}) == 3
    delivery_order = []
    with Store(load(config).store.url).begin() as session:
        for _ in range(3):
            job = jobs.claim(session, [JobKind.DELIVER], "w", datetime.now(UTC), 300)
            assert job is not None
            # Until this one is sent no other may be.
            assert jobs.claim(session, [JobKind.DELIVER], "w", datetime.now(UTC), 300) is None
            delivery_order.append(job.id)
            jobs.finish(session, job, datetime.now(UTC))
    assert delivery_order == sorted(delivery_order)


@pytest.mark.parametrize(
    ("reason", "by", "error", "word"),
    [
        ("slip", "Dr Lee", UsageError, "wrong-image (another image was meant)"),
        ("wrong-image", "1234", UsageError, "--by"),
        ("wrong-image", "", UsageError, "--by"),
    ],
)
def test_a_bad_retraction_is_wrong_usage(
    config: Path, reason: str, by: str, error: type[Exception], word: str
) -> None:
    confirm(config)
    refused(retract(config, reason=reason, by=by), error, word)
    assert len(notes(config)) == 1


@pytest.mark.parametrize("uid", [UID, "1.2.3"])
def test_what_does_not_stand_rejected_cannot_be_retracted(config: Path, uid: str) -> None:
    refused(retract(config, uid), QCError, "see rejection list")


def test_a_retraction_goes_where_the_rejection_was_to_go(config: Path) -> None:
    confirm(config)
    config.write_text(SETTINGS.replace('"sr", "key-objects"', '"sr"'))
    retract(config)
    assert [name for name, _ in notes(config)] == ["pacs", "pacs"]


def test_a_removed_destination_gets_no_note(config: Path) -> None:
    confirm(config)
    config.write_text('[[destination]]\nname = "other"\nobjects = ["key-objects"]\n')
    assert "no destination is left to tell" in retract(config).output
    assert len(notes(config)) == 1
    assert listed(config)[0]["state"] == "retracted"

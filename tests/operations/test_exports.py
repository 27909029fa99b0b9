"""`qc-daemon export`: findings, reviews and audits for other programs, without patients."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars
import pytest
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.operations.exports import AUDIT_COLUMNS, FINDING_COLUMNS
from tests.support.audited_exam import CANARIES, AuditedExam


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditedExam]:
    audited = AuditedExam(tmp_path_factory.mktemp("site"))
    audited.reviewed.accept(1, 2)
    yield audited
    audited.reviewed.exam.store.close()


@pytest.fixture(scope="module")
def config(audited: AuditedExam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "qc-daemon.toml"
    store = audited.settings.store
    path.write_text(f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n')
    return path


def export(config: Path, *arguments: str) -> str:
    outcome = CliRunner().invoke(app, ["export", *arguments, "-c", str(config)])
    if outcome.exception is not None:
        raise outcome.exception
    assert outcome.exit_code == 0
    return outcome.stdout


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("what", ["findings", "reviews", "audits"])
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_no_patient_is_in_an_export(config: Path, what: str, format: str) -> None:
    text = export(config, what, "--format", format)
    assert text
    for canary in CANARIES:
        assert canary not in text


def test_findings(config: Path, audited: AuditedExam) -> None:
    of_csv = rows(export(config, "findings"))
    of_json = lines(export(config, "findings", "--format", "jsonl"))
    assert tuple(of_csv[0]) == FINDING_COLUMNS
    assert [row["finding_id"] for row in of_csv] == ["1", "2", "3", "4"]
    assert [each["finding_id"] for each in of_json] == [1, 2, 3, 4]
    assert {row["person_ids"] for row in of_csv} == {audited.person}
    assert of_csv[0]["review_state"] == "accepted"
    assert not {"patient_id", "accession_number", "study_description"} & set(of_csv[0])
    assert "study_description" not in of_json[0]["acquisition"]
    assert not rows(export(config, "findings", "--since", "2027-01-01"))


def test_reviews(config: Path) -> None:
    events = rows(export(config, "reviews"))
    assert [(each["finding"], each["kind"], each["reader"]) for each in events] == [
        ("1", "accept", "Dr Lee"),
        ("2", "accept", "Dr Lee"),
    ]


def test_audits(config: Path, audited: AuditedExam) -> None:
    whole = lines(export(config, "audits", "--format", "json", "--from", "2026-06-27"))
    assert [each["date"] for each in whole] == ["2026-06-27", "2026-06-28"]
    of_csv = rows(export(config, "audits", "--to", "2026-06-26"))
    assert tuple(of_csv[0]) == AUDIT_COLUMNS
    measures = sum(len(subject["measures"]) for subject in whole[0]["subjects"])
    assert len(of_csv) == measures
    own = next(
        row for row in of_csv if row["id"] == audited.person and row["measure"] == "standard"
    )
    body = audited.body("2026-06-26")
    subject = next(each for each in body["subjects"] if each["id"] == audited.person)
    measure = subject["measures"][0]
    assert (own["x"], own["n"]) == (str(measure["x"]), "120")
    assert float(own["target"]) == measure["limits"]["target"]
    assert float(own["adjusted"]) == measure["adjusted"]["value"]


@pytest.mark.parametrize("what", ["findings", "reviews", "audits"])
def test_parquet_has_the_columns_and_values_of_csv(config: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "rows.parquet"
    export(config, what, "--format", "parquet", "--out", str(out))
    of_csv, table = rows(export(config, what)), polars.read_parquet(out)
    assert table.columns == list(of_csv[0])
    assert len(table) == len(of_csv)
    number = {"findings": "probability", "reviews": "finding", "audits": "value"}[what]
    assert table[number].dtype.is_numeric()
    assert [each for each in table[number] if each is not None] == pytest.approx(
        [float(row[number]) for row in of_csv if row[number]], abs=1e-5
    )


def test_a_file_is_written_as_a_whole_or_not_at_all(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "findings.csv"
    assert export(config, "findings", "--out", str(out)).endswith(f"{out}: written\n")
    before = out.read_bytes()
    assert len(rows(before.decode())) == 4
    assert out.stat().st_mode & 0o077 == 0

    def fail(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        yield dict.fromkeys(FINDING_COLUMNS)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qc_daemon.operations.exports.read_findings", fail)
    with pytest.raises(QCError, match="cannot be written: No space left on device"):
        export(config, "findings", "--out", str(out))
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_other_formats_are_named(config: Path) -> None:
    with pytest.raises(UsageError, match="--format excel: give one of csv, json, jsonl, parquet"):
        export(config, "findings", "--format", "excel")
    with pytest.raises(UsageError, match="--format parquet needs --out"):
        export(config, "findings", "--format", "parquet")

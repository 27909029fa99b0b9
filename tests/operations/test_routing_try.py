"""`rules test`: where a file's objects would go, by which rule, and why not by the earlier ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detector.console import UsageError
from qc_daemon.cli.app import app
from qc_daemon.score import files
from tests.support.dicom_objects import CANARY, CANARY_ACCESSION, CANARY_ID, part10, ultrasound

SETTINGS = """
[[destination]]
name = "pacs"
objects = ["source", "sr", "overlay"]
[[destination]]
name = "qa"
kind = "folder"
folder = "qa"
objects = []
[[rule]]
name = "training-room"
station = "train*"
objects = ["source"]
drop = true
[[rule]]
name = "poor-nt"
view = ["NT"]
verdict = ["non-standard", "review"]
objects = ["sr", "overlay"]
to = ["pacs", "qa"]
"""

runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "qc.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nt.dcm"
    path.write_bytes(part10(ultrasound(StationName="TRAINING2", StudyDescription="Doe NT scan")))
    return path


def rule_rows(config: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    command = ["rules", "test", *map(str, arguments), "--config", str(config), "--format", "jsonl"]
    result = runner.invoke(app, command)
    assert result.exit_code == ("error" in result.output), result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_each_object_with_its_rule(config: Path, file: Path) -> None:
    rows = rule_rows(config, file, "--view", "NT", "--verdict", "review")
    assert {row["object"]: (row["rule"], row["to"]) for row in rows} == {
        "source": ("training-room", []),
        "sr": ("poor-nt", ["pacs", "qa"]),
        "overlay": ("poor-nt", ["pacs", "qa"]),
        "key-objects": (None, []),
        "pdf": (None, []),
    }


def test_why_a_rule_does_not_match(config: Path, file: Path) -> None:
    rows = {row["object"]: row for row in rule_rows(config, file, "--view", "NT")}
    assert rows["sr"]["to"] == ["pacs"]
    assert rows["sr"]["earlier"] == [
        {"rule": "poor-nt", "why": "verdict (unknown) is not non-standard or review"}
    ]


def test_the_bundle_judges_where_nothing_is_supposed(
    config: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two findings, one of which the SR rule matches; the overlays go by their own."""

    def score(paths: list[Path], settings: Any) -> Any:
        for view, label in (("NT", "review"), ("CRL", "standard"), ("CRL", "standard")):
            yield {"source": str(paths[0]), "view": {"code": view}, "quality": {"label": label}}

    monkeypatch.setattr(files, "score_files", score)
    rows = rule_rows(config, file)
    assert [(row["object"], row["to"]) for row in rows if row["object"] in ("sr", "overlay")] == [
        ("sr", ["pacs", "qa"]),
        ("overlay", ["pacs", "qa"]),
        ("overlay", ["pacs"]),
    ]


def test_the_sender_is_supposed(config: Path, file: Path) -> None:
    text = SETTINGS.replace('station = "train*"', 'calling_ae = "VOLUSON?"')
    config.write_text(text)
    for calling, to in (("voluson1", []), ("", ["pacs"])):
        row, *_ = rule_rows(config, file, "--view", "CRL", "--calling", calling)
        assert (row["object"], row["to"]) == ("source", to)


def test_a_table_shows_the_route_and_no_patient(config: Path, file: Path) -> None:
    config.write_text(SETTINGS.replace('station = "train*"', 'study = "*CRL*"'))
    command = ["rules", "test", str(file), "--config", str(config), "--view", "NT"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "training-room: study description is not like *CRL*" in result.output
    for private in (CANARY, CANARY_ID, CANARY_ACCESSION, "Doe NT scan"):
        assert private not in result.output


def test_other_files_are_listed_after_all_dicom_files(config: Path, file: Path) -> None:
    picture = file.with_name("a.png")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    first, *others = rule_rows(config, picture, file.with_name("none.dcm"), file, "--view", "NT")
    assert first["error"]["message"] == "rules are tried on a DICOM file (PS3.10)"
    assert "No such file" in others[0]["error"]["message"]
    assert others[1]["object"] == "source"


def test_an_object_that_no_report_can_name_is_forwarded_all_the_same(
    config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    dataset = ultrasound()
    del dataset.SeriesInstanceUID
    path.write_bytes(part10(dataset))
    source, error = rule_rows(config, path, "--view", "NT")
    assert (source["object"], source["to"]) == ("source", ["pacs"])
    assert "Series Instance UID" in error["error"]["message"]


@pytest.mark.parametrize("wrong", [["--view", "FACE"], ["--verdict", "bad"], ["--format", "xml"]])
def test_wrong_usage_is_one_line(config: Path, file: Path, wrong: list[str]) -> None:
    result = runner.invoke(app, ["rules", "test", str(file), "--config", str(config), *wrong])
    assert isinstance(result.exception, UsageError)
    assert wrong[1] in str(result.exception)

"""`qc-daemon person` and `device`: list, merge, split, rename, name; `acquisition show`."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.operations.identities import DEVICE_COLUMNS, HISTORY_COLUMNS, PERSON_COLUMNS
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.store import Store
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.records import Records

NOW = datetime(2026, 11, 29, tzinfo=UTC)
runner = CliRunner()


class Laboratory:
    """A database with two images: Doe's by name, and Doe's by code with another device."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "qc.toml"
        self.config.write_text("")
        url = load(self.config).store.url
        migrate(url)
        records = Records(Store(url))
        images = [records.image().revision_id for _ in range(2)]
        facts = [
            Acquisition((Operator("Doe^Jane"),), serial_number="7", manufacturer="ACME"),
            Acquisition((Operator("Jane Doe", "17", "99LAB"),), serial_number="8"),
        ]
        with records.store.begin() as session:
            for id, acquisition in zip(images, facts, strict=True):
                acquisitions.store(session, id, acquisition, "US1", NOW)

    def run(self, *arguments: str) -> Result:
        return runner.invoke(app, [*arguments, "--config", str(self.config)])

    def say(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.exception
        return result.stdout

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.say(*arguments, "--format", "json").splitlines()]


@pytest.fixture
def lab(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


def test_persons_and_devices_are_listed_with_what_may_be_one(lab: Laboratory) -> None:
    one, other = lab.rows("person", "list")
    assert tuple(one) == PERSON_COLUMNS
    assert (one["similar_to"], one["similar_by"]) == ([other["id"]], ["the same name"])
    assert {one["code"], other["code"]} == {None, "17"}
    assert one["images"] == other["images"] == 1
    devices = lab.rows("device", "list")
    assert tuple(devices[0]) == DEVICE_COLUMNS
    assert {each["serial_number"] for each in devices} == {"7", "8"}
    table = csv.DictReader(io.StringIO(lab.say("person", "list", "--format", "csv")))
    assert tuple(table.fieldnames or ()) == PERSON_COLUMNS
    assert "2 persons may be the same as another one" in lab.say("person", "list")
    assert "may be" not in lab.say("device", "list")


def test_a_merge_its_split_and_a_name_are_recorded(lab: Laboratory) -> None:
    one, other = (each["id"] for each in lab.rows("person", "list"))
    by = ("--by", "Dr Lee")
    assert f"person split {one}" in lab.say("person", "merge", one, "--into", other, *by)
    merged = {each["id"]: each["merged_into"] for each in lab.rows("person", "list")}
    assert merged == {one: other, other: None}
    assert "may be" not in lab.say("person", "list")
    lab.say("person", "rename", other, " Jane  Doe ", *by)
    lab.say("person", "split", one, *by)
    history = lab.rows("person", "list", "--history")
    assert tuple(history[0]) == HISTORY_COLUMNS
    assert [(each["action"], each["id"], each["other_id"]) for each in history] == [
        ("merge", one, other),
        ("rename", other, None),
        ("split", one, other),
    ]
    assert history[1]["after"] == "Jane Doe"
    assert {each["changed_by"] for each in history} == {"Dr Lee"}
    assert "no changes" in lab.say("device", "list", "--history")
    (device, *_) = lab.rows("device", "list")
    lab.say("device", "name", device["id"], "Room 2", *by)
    assert lab.rows("device", "list")[0]["name"] == "Room 2"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("merge", "{0}", "--into", "{0}"), QCError, "cannot be merged into itself"),
        (("merge", "{0}", "p0", "--into", "{1}"), QCError, "there is no person p0"),
        (("merge", "{0}", "--into", "p0"), QCError, "there is no person p0"),
        (("split", "{0}"), QCError, "is not merged into another"),
        (("rename", "{0}", " "), UsageError, "give a name of 1 to 64 letters"),
        (("rename", "p0", "Ann"), QCError, "there is no person p0"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    lab: Laboratory, arguments: tuple[str, ...], kind: type[Exception], words: str
) -> None:
    before = lab.rows("person", "list")
    ids = [each["id"] for each in before]
    filled = [argument.format(*ids) for argument in arguments]
    result = lab.run("person", *filled, "--by", "Dr Lee")
    assert isinstance(result.exception, kind)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
    assert lab.rows("person", "list") == before
    assert "no changes" in lab.say("person", "list", "--history")


def test_somebody_must_decide_it(lab: Laboratory) -> None:
    one, other = (each["id"] for each in lab.rows("person", "list"))
    assert lab.run("person", "merge", one, "--into", other).exit_code == 2
    result = lab.run("person", "merge", one, "--into", other, "--by", "1")
    assert isinstance(result.exception, UsageError)


def test_a_device_can_be_split_too(lab: Laboratory) -> None:
    one, other = (each["id"] for each in lab.rows("device", "list"))
    by = ("--by", "Dr Lee")
    lab.say("device", "merge", one, "--into", other, *by)
    assert f"device {one} no longer counts as {other}" in lab.say("device", "split", one, *by)


def test_what_is_known_of_acquisition_is_shown(lab: Laboratory) -> None:
    assert lab.rows("acquisition", "show") == [{"read": 2, "unknown": 0, "pending": 0}]
    assert "nothing is left to be read" in lab.say("acquisition", "fill")

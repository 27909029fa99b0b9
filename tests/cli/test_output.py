"""The writer of lists: what a stranger sends is shown as it is, in a table, JSON and CSV."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from detector.plain_text import visible
from qc_daemon.cli.app import app
from qc_daemon.cli.output import (
    Format,
    cell,
    csv_cell,
    parse_format,
    print_table,
    progress_bar,
    write_list,
    write_record,
)
from qc_daemon.operations.results import finding_row
from qc_daemon.operations.shared import Listing
from qc_daemon.records.received import peers
from qc_daemon.records.received.peers import RefusedCaller
from qc_daemon.records.store import Store
from qc_daemon.settings import load
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate
from tests.support.records import Records

NOW = datetime(2026, 3, 4, tzinfo=UTC)
STRANGERS = ["[/x]EVIL", "[bold red]OK", "A\x1b[31mB", "=1+1", "+1+1", "-1+1", "@SUM(A1)", ":ok:"]
anything = st.text(st.characters(exclude_categories=()))
nested = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    anything,
    st.lists(anything),
)
runner = CliRunner()


def written(rows: list[dict[str, object]] | Listing, format: Format) -> tuple[str, str]:
    """What stdout and stderr get."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        write_list("things", rows, format)
    return out.getvalue(), err.getvalue()


def steering(text: str) -> Iterator[str]:
    """Letters of the text, line ends apart, that steer a terminal or cannot be encoded."""
    for letter in text:
        steers = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        if steers and letter not in "\r\n\u200c\u200d":
            yield letter


@given(st.lists(nested, min_size=1, max_size=3))
def test_no_text_breaks_a_format_or_steers_a_terminal(values: list[object]) -> None:
    rows: list[dict[str, object]] = [{"name": value, "count": 1} for value in values]
    for format in ("table", "json", "csv"):
        text, _ = written(rows, parse_format(format))
        assert list(steering(text)) == []
    text, _ = written(rows, "json")
    assert [json.loads(line)["name"] for line in text.splitlines()] == values
    text, _ = written(rows, "csv")
    assert len(list(csv.reader(io.StringIO(text)))) == 1 + len(values)


@given(anything)
def test_no_text_is_a_formula(value: str) -> None:
    text = str(csv_cell(value))
    if text.lstrip()[:1] in tuple("=+-@＝＋－＠"):
        float(text)
    assert text.removeprefix("'") == visible(value).removeprefix("'")


@given(anything)
def test_a_table_shows_literal_text(value: str) -> None:
    plain = visible(value).replace(" ", "")
    if not plain or len(visible(value)) > 100:
        return
    text, _ = written([{"name": value}], "table")
    assert plain in text.replace(" ", "")


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_stay_numbers(value: float) -> None:
    text, _ = written([{"value": value, "text": str(value)}], "csv")
    first, second = text.splitlines()[1].split(",")
    assert type(value)(first) == value
    assert type(value)(second) == value


@pytest.mark.parametrize("value", ["\tx", "\r=1", " =1", "=1", "+a", "-a", "@a", "-1-1", "＝1"])
def test_what_a_spreadsheet_would_run_is_quoted(value: str) -> None:
    text = str(csv_cell(value))
    assert text.startswith(("'", "\\"))
    assert "\t" not in text
    assert "\r" not in text


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.99996, "0.99996"),
        (0.9999999, "0.9999999"),
        (1.0, "1"),
        (0.97312, "0.9731"),
        (1.346e-05, "0.00001"),
        (0, "0"),
    ],
)
def test_no_probability_is_rounded_to_certainty(probability: float, text: str) -> None:
    assert cell(probability) == text
    body = Records.finding(
        view={"code": "NT", "probability": probability},
        quality={"label": "standard", "probability": probability, "raw_probability": 0.9},
    )
    row = finding_row(body)
    assert [cell(row[name]) for name in ("view_probability", "probability")] == [text, text]


def test_keys_are_stable_and_none_is_empty() -> None:
    rows: list[dict[str, object]] = [{"not before": None, "to": ["a", "b"], "done": True}]
    text, _ = written(rows, "json")
    assert json.loads(text) == {"not_before": None, "to": ["a", "b"], "done": True}
    text, _ = written(rows, "csv")
    assert text.splitlines() == ["not_before,to,done", ",a; b,true"]
    text, _ = written(rows, "table")
    assert "not before" in text
    assert "None" not in text


def test_a_limit_is_noted_where_it_breaks_no_program() -> None:
    rows: list[dict[str, object]] = [{"id": 1}]
    text, _ = written(Listing(rows, 7), "table")
    assert "1 of 7 things shown" in text
    for format in ("json", "csv"):
        text, note = written(Listing(rows, 7), parse_format(format))
        assert "of 7" not in text
        assert "1 of 7 things shown" in note


def test_what_a_terminal_is_too_narrow_for_is_not_folded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    uid = "1.2.840." + "1" * 50
    rows = [{"study_uid": uid, "state": "open", "note": None}, {"study_uid": uid}]
    print_table("exams", ["study_uid", "state", "note"], rows, 60)
    assert capsys.readouterr().out == f"study uid: {uid}\nstate: open\n\nstudy uid: {uid}\n\n"
    print_table("exams", ["study_uid", "state", "note"], rows, 100)
    assert "┃ study uid" in capsys.readouterr().out
    print_table("exams", ["study_uid"], [{"study_uid": uid * 10}])
    assert uid * 10 in capsys.readouterr().out


def test_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    write_list("jobs", [])
    assert capsys.readouterr().out == "no jobs\n"
    write_list("jobs", [], "json")
    assert capsys.readouterr().out == ""
    write_list("jobs", [], "csv", columns=["id", "not before"])
    assert capsys.readouterr().out == "id,not_before\r\n"


def test_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    write_record({"the id": 1, "text": "a\x1b"}, "table")
    assert capsys.readouterr().out == "the id: 1\ntext: a\\x1b\n"
    write_record({"the id": 1, "text": "=a"}, "csv")
    assert capsys.readouterr().out == "the_id,text\r\n1,'=a\r\n"
    write_record({"the id": 1}, "json")
    assert json.loads(capsys.readouterr().out) == {"the_id": 1}


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_a_caller_s_ae_title_is_shown_literally(tmp_path: Path, format: str) -> None:
    config = tmp_path / "qc.toml"
    config.write_text("")
    migrate(load(config).store.url)
    with Store(load(config).store.url).begin() as session:
        callers = [RefusedCaller(each, "10.0.0.1", None, 1, NOW, NOW) for each in STRANGERS]
        peers.record_refusals(session, callers)
    listed = runner.invoke(app, ["peer", "list", "--config", str(config), "--format", format])
    assert listed.exit_code == 0, listed.exception
    assert "\x1b" not in listed.output
    if format in ("json", "jsonl"):
        rows = [json.loads(line) for line in listed.output.splitlines()]
        assert {row["ae_title"] for row in rows} == set(STRANGERS)
    else:
        for title in STRANGERS:
            assert visible(title) in listed.output
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(listed.output)))
        assert [row["ae_title"][0] for row in rows if row["ae_title"][0] in "=+-@"] == []


def test_a_message_steers_no_terminal(tmp_path: Path) -> None:
    process = qc_daemon_here(
        "peer", "approve", "A\x1b[2J\u202eB", "--config", tmp_path / "none.toml"
    )
    assert "\x1b" not in process.stderr
    path = tmp_path / "[/x]\x1b[31m.dcm"
    for arguments in (
        ("score", path, "--bundle", path),
        ("send", path, "--to", "X@127.0.0.1:1"),
        ("[/x]\x1b",),
    ):
        process = qc_daemon_here(*arguments)
        assert process.returncode in (1, 2)
        assert "\x1b" not in process.stdout + process.stderr, arguments
        assert "Traceback" not in process.stderr


def test_a_bar_that_nobody_watches_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as bar:
        bar.update(bar.add_task("Auditing"), completed=0.5)
    assert capsys.readouterr() == ("", "")

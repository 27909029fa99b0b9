"""What every list has in common: formats, filters, a limit, and one word for an empty answer."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import ErrorCode
from qc_daemon.cli.app import app
from qc_daemon.cli.output import TABLE_LIMIT
from qc_daemon.records import gauges, listings
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.received.revisions import quarantine
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.receipts import numbered_receipt

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)
LISTS = [
    ["queue"],
    ["destination"],
    ["commitment"],
    ["quarantine"],
    ["rejection"],
    ["spool"],
    ["bundle"],
    ["peer"],
]
runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A site with an object of each of three days, which two destinations wait for."""
    path = tmp_path / "qc.toml"
    path.write_text('[[destination]]\nname = "pacs"\nobjects = ["source"]\n')
    migrate(load(path).store.url)
    with Store(load(path).store.url).begin() as session:
        for day in range(3):
            receive(session, day, NOW + day * DAY)
    return path


def receive(session: Any, number: int, moment: datetime) -> int:
    receipt = numbered_receipt(number)
    admission = admit(
        session,
        receipt,
        source_destinations=["pacs", "archive"],
        bundle_id=None,
        now=moment,
    )
    return admission.revision_id


def run(config: Path, *arguments: str) -> Result:
    return runner.invoke(app, [*arguments, "--config", str(config)])


def listed(config: Path, *arguments: str) -> list[dict[str, Any]]:
    result = run(config, *arguments, "--format", "json")
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
@pytest.mark.parametrize("noun", LISTS, ids=" ".join)
def test_every_list_has_every_format(config: Path, noun: list[str], format: str) -> None:
    result = run(config, *noun, "list", "--format", format)
    assert result.exit_code == 0, result.exception
    if format == "table":
        assert result.stdout
    elif format == "csv":
        head, *rows = csv.reader(io.StringIO(result.stdout))
        assert [row for row in rows if len(row) != len(head)] == []
        assert all(name.isidentifier() for name in head)
    else:
        assert all(isinstance(json.loads(line), dict) for line in result.stdout.splitlines())


@pytest.mark.parametrize("noun", LISTS, ids=" ".join)
def test_an_unknown_format_is_wrong_usage(config: Path, noun: list[str]) -> None:
    assert isinstance(run(config, *noun, "list", "--format", "xml").exception, UsageError)


def test_a_job_names_its_exam_study_and_object(config: Path) -> None:
    first = listed(config, "queue", "list")[0]
    assert (
        first
        | {
            "exam_id": 1,
            "study_instance_uid": "1.2.3",
            "sop_instance_uid": "1.2.3.4.0",
            "not_before": "2026-03-04T05:06:07+00:00",
            "code": None,
        }
        == first
    )


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ((), 9),
        (("--kind", "score"), 3),
        (("--kind", "score", "--kind", "deliver"), 9),
        (("--destination", "archive"), 3),
        (("--state", "done"), 0),
        (("--state", "ready", "--state", "done", "--kind", "score"), 3),
        (("--since", "2026-03-05"), 6),
        (("--until", "2026-03-04"), 3),
        (("--until", "2026-03-04T05:06:07"), 0),
        (("--since", "2026-03-05", "--until", "2026-03-05"), 3),
        (("--since", "2026-03-05T06:06:07+01:00"), 6),
        (("--limit", "2"), 2),
        (("--limit", "0"), 9),
    ],
)
def test_jobs_are_filtered(config: Path, filters: tuple[str, ...], count: int) -> None:
    assert len(listed(config, "queue", "list", *filters)) == count


def test_a_limited_list_says_how_many_rows_match(config: Path) -> None:
    result = run(config, "queue", "list", "--limit", "2")
    assert "2 of 9 jobs shown" in result.stdout
    result = run(config, "queue", "list", "--limit", "2", "--format", "csv")
    assert "2 of 9 jobs shown" in result.stderr
    assert len(result.stdout.splitlines()) == 3


def test_a_table_is_a_page_of_a_long_queue(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        for number in range(100, 100 + TABLE_LIMIT):
            receive(session, number, NOW)
    result = run(config, "queue", "list")
    assert f"{TABLE_LIMIT} of {9 + 3 * TABLE_LIMIT} jobs shown" in result.stdout
    assert len(result.stdout.splitlines()) < TABLE_LIMIT + 10
    assert len(listed(config, "queue", "list")) == 9 + 3 * TABLE_LIMIT


def test_what_can_be_retried_is_and_what_cannot_is_named(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        score, deliver = (job.id for job in jobs.listing(session, limit=2))
        jobs.cancel(session, [score], NOW)
        job = jobs.claim(session, [JobKind.DELIVER], "w", NOW + 9 * DAY, 300)
        assert job is not None
        assert job.id == deliver
        jobs.finish(session, job, NOW)
    result = run(config, "queue", "retry", str(score), str(score), str(deliver), "77")
    assert result.exit_code == 1
    assert result.stdout == "1 job is ready again\n"
    assert result.stderr == f"error: job {deliver} is done\nerror: no job 77; see queue list\n"
    assert run(config, "queue", "cancel", str(score)).stdout == "1 job is cancelled\n"
    again = run(config, "queue", "cancel", str(score))
    assert (again.exit_code, again.stderr) == (1, f"error: job {score} is dead\n")


def test_nothing_that_matches(config: Path) -> None:
    assert run(config, "queue", "list", "--state", "dead").stdout == "no jobs match\n"
    assert run(config, "quarantine", "list").stdout == "no quarantined objects\n"
    assert run(config, "spool", "list").stdout == "no files without a row\n"
    csv_text = run(config, "quarantine", "list", "--format", "csv").stdout
    assert csv_text.startswith("id,sop_instance_uid,")


def test_quarantine_is_filtered(config: Path) -> None:
    with Store(load(config).store.url).begin() as session:
        score_jobs = jobs.listing(session, kinds=[JobKind.SCORE], limit=2)
        jobs.cancel(session, [job.id for job in score_jobs], NOW)
        quarantine(session, 1, ErrorCode.NO_FRAMES, "no frames", NOW)
        quarantine(session, 2, ErrorCode.TRUNCATED, "ends early", NOW + DAY)
    codes = ["--code", ErrorCode.TRUNCATED.value]
    assert [row["id"] for row in listed(config, "quarantine", "list")] == [1, 2]
    assert [row["id"] for row in listed(config, "quarantine", "list", *codes)] == [2]
    assert [row["id"] for row in listed(config, "quarantine", "list", "--until", "2026-03-04")] == [
        1
    ]
    record = json.loads(run(config, "quarantine", "show", "2", "--format", "json").stdout)
    assert (record["code"], record["sop_instance_uid"]) == (ErrorCode.TRUNCATED, "1.2.3.4.1")
    record = run(config, "quarantine", "show", "2", "--format", "csv").stdout
    assert len(list(csv.DictReader(io.StringIO(record)))) == 1


def test_what_is_dismissed_is_set_aside_and_can_be_released(config: Path) -> None:
    settings = load(config)
    with Store(settings.store.url).begin() as session:
        score_jobs = jobs.listing(session, kinds=[JobKind.SCORE], limit=2)
        jobs.cancel(session, [job.id for job in score_jobs], NOW)
        quarantine(session, 1, ErrorCode.NO_FRAMES, "no frames", NOW)
        quarantine(session, 2, ErrorCode.TRUNCATED, "ends early", NOW)

    def counts() -> tuple[int, int]:
        with Store(settings.store.url).read() as session:
            in_doctor = sum(listings.count_quarantined(session).values())
            return in_doctor, gauges.read(session).quarantined

    assert counts() == (2, 2)
    decision = ["--reason", "sent again, whole", "--by", "Dr Lee"]
    assert run(config, "quarantine", "dismiss", "2", *decision).stdout == "1 object is dismissed\n"
    assert counts() == (1, 1)
    assert [row["id"] for row in listed(config, "quarantine", "list")] == [1]
    every = listed(config, "quarantine", "list", "--dismissed")
    assert [(row["id"], row["dismissed_by"], row["dismissal_reason"]) for row in every] == [
        (1, None, None),
        (2, "Dr Lee", "sent again, whole"),
    ]
    assert every[1]["dismissed"] is not None
    assert "Dr Lee" in run(config, "quarantine", "list", "--dismissed").stdout
    record = json.loads(run(config, "quarantine", "show", "2", "--format", "json").stdout)
    assert record["dismissed_by"] == "Dr Lee"
    again = runner.invoke(
        app, ["quarantine", "dismiss", "1", "2", "9", *decision, "--config", str(config)]
    )
    assert again.exit_code == 1
    assert again.stdout == "1 object is dismissed\n"
    assert [line.split(",")[0] for line in again.stderr.splitlines()] == [
        f"error: nothing quarantined has id {number}" for number in (2, 9)
    ]
    assert run(config, "quarantine", "release", "2").exit_code == 0
    assert [row["id"] for row in listed(config, "quarantine", "list", "--dismissed")] == [1]
    # Quarantined once more, it is news once more.
    with Store(settings.store.url).begin() as session:
        quarantine(session, 2, ErrorCode.TRUNCATED, "ends early", NOW)
    assert [row["id"] for row in listed(config, "quarantine", "list")] == [2]


@pytest.mark.parametrize(
    "decision",
    [
        ("--reason", " ", "--by", "Dr Lee"),
        ("--reason", "two\nlines", "--by", "Dr Lee"),
        ("--reason", "x" * 201, "--by", "Dr Lee"),
        ("--reason", "sent again", "--by", "7"),
    ],
)
def test_a_dismissal_needs_a_reason_and_a_person(config: Path, decision: tuple[str, ...]) -> None:
    arguments = ["quarantine", "dismiss", "1", *decision, "--config", str(config)]
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize("format", ["json", "csv"])
def test_a_bundle_is_shown_as_json(config: Path, format: str) -> None:
    result = runner.invoke(app, ["bundle", "show", "--format", format])
    assert result.exit_code == 0, result.exception
    row = (
        json.loads(result.stdout)
        if format == "json"
        else next(csv.DictReader(io.StringIO(result.stdout)))
    )
    assert len(row["model_id"]) == 64
    assert "Not for clinical use" in row["card"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--state", "x"),
        ("--kind", "x"),
        ("--since", "yesterday"),
        ("--until", "31.12.2026"),
        ("--since", "0001-01-01T00:00:00+23:59"),
        ("--until", "9999-12-31"),
        ("--limit", "-1"),
        ("--since", "2026-03-05", "--until", "2026-03-04"),
    ],
    ids=" ".join,
)
def test_a_wrong_filter_is_one_line(config: Path, wrong: tuple[str, ...]) -> None:
    result = run(config, "queue", "list", *wrong)
    if wrong == ("--until", "9999-12-31"):
        assert result.exit_code == 0, result.exception
        return
    assert isinstance(result.exception, UsageError), result.exception
    assert "\n" not in str(result.exception)

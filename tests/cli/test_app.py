"""The command line's contract: which verbs there are, their help, formats and exit statuses."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import training.cli
from detector.console import UsageError
from qc_daemon.cli.app import app
from qc_daemon.records import schema
from qc_daemon.settings import load
from tests.support.databases import migrate

VERBS = [
    ["demo"],
    ["serve"],
    ["send"],
    ["score"],
    ["results"],
    ["queue", "list"],
    ["queue", "retry"],
    ["queue", "cancel"],
    ["quarantine", "list"],
    ["quarantine", "show"],
    ["quarantine", "release"],
    ["bundle", "list"],
    ["bundle", "show"],
    ["bundle", "verify"],
    ["bundle", "build"],
    ["bundle", "activate"],
    ["peer", "list"],
    ["peer", "add"],
    ["peer", "approve"],
    ["peer", "remove"],
    ["rejection", "list"],
    ["rejection", "confirm"],
    ["rules", "test"],
    ["exam", "close"],
    ["db", "upgrade"],
    ["db", "downgrade"],
    ["db", "check"],
    ["db", "backup"],
    ["doctor"],
]

runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "qc.toml"
    path.write_text("")
    migrate(load(path).store.url)
    return str(path)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help(verb: list[str]) -> None:
    result = runner.invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(("program", "line"), [("qc-daemon", app), ("qc-model", training.cli.app)])
def test_it_says_its_version(program: str, line: typer.Typer) -> None:
    result = runner.invoke(line, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"{program} {version('qc-daemon')}\n"


def test_a_verb_of_a_later_issue_is_absent() -> None:
    assert runner.invoke(app, ["user"]).exit_code == 2


@pytest.mark.parametrize("format", ["table", "jsonl", "csv"])
def test_results_of_an_empty_store(config: str, format: str) -> None:
    result = runner.invoke(app, ["results", "--config", config, "--format", format])
    assert result.exit_code == 0, result.output


def test_an_unknown_format_is_wrong_usage(config: str) -> None:
    result = runner.invoke(app, ["results", "--config", config, "--format", "xml"])
    assert isinstance(result.exception, UsageError)
    assert "--format xml" in str(result.exception)


def test_a_bad_moment_is_wrong_usage(config: str) -> None:
    result = runner.invoke(app, ["results", "--config", config, "--since", "yesterday"])
    assert isinstance(result.exception, UsageError)


def test_a_missing_store_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "qc.toml"
    path.write_text("")
    result = runner.invoke(app, ["results", "--config", str(path)])
    assert "db upgrade" in str(result.exception)


def test_the_shipped_bundle_verifies() -> None:
    result = runner.invoke(app, ["bundle", "verify"])
    assert result.exit_code == 0, result.output


def test_the_shipped_bundle_shows_its_card() -> None:
    result = runner.invoke(app, ["bundle", "show"])
    assert "Not for clinical use" in result.output
    assert "model_id: " in result.output


def test_activating_makes_it_the_active_one(config: str) -> None:
    assert runner.invoke(app, ["bundle", "activate", "default", "--config", config]).exit_code == 0
    listed = runner.invoke(app, ["bundle", "list", "--config", config]).output
    assert "active" in listed


def test_queue_and_quarantine_of_an_empty_store(config: str) -> None:
    for verb in (["queue", "list"], ["quarantine", "list"]):
        result = runner.invoke(app, [*verb, "--config", config])
        assert result.exit_code == 0
        assert "no " in result.output
    for verb in (["queue", "retry"], ["queue", "cancel"], ["commitment", "retry"]):
        result = runner.invoke(app, [*verb, "5", "99999", "--config", config])
        assert result.exit_code == 1
        assert result.stdout == ""
        noun = "job" if verb[0] == "queue" else "commitment request"
        assert result.stderr == "".join(
            f"error: no {noun} {id}; see {verb[0]} list\n" for id in (5, 99999)
        )
    result = runner.invoke(app, ["quarantine", "release", "5", "--config", config])
    assert result.exit_code == 1
    assert "nothing quarantined has id 5" in result.stderr
    assert runner.invoke(app, ["quarantine", "show", "5", "--config", config]).exit_code == 1


@pytest.mark.parametrize("verb", ["score", "send"])
def test_a_folder_without_files_is_wrong_usage(tmp_path: Path, verb: str) -> None:
    (tmp_path / "empty").mkdir()
    more = ["--to", "X@127.0.0.1:1"] if verb == "send" else []
    result = runner.invoke(app, [verb, str(tmp_path / "empty"), *more])
    assert isinstance(result.exception, UsageError)
    assert "no files there" in str(result.exception)


def test_serve_without_settings_says_where_its_files_are(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("in the way of the folder")
    process = subprocess.run(
        [sys.executable, "-P", "-m", "qc_daemon", "serve"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.stderr.startswith(
        f"no settings file (--config): defaults, files in {tmp_path}/var"
    )
    assert process.returncode == 1


def test_a_backup_is_a_database(config: str, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert runner.invoke(app, ["db", "backup", str(target), "--config", config]).exit_code == 0
    assert schema.check(f"sqlite:///{target}") is None


def test_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "qc.toml"
    path.write_text(
        '[receive]\nport = 1\n[[destination]]\nname = "pacs"\nhost = "127.0.0.1"\nport = 1\n'
    )
    result = runner.invoke(app, ["doctor", "--config", str(path)])
    assert result.exit_code == 1
    assert "ok   database: is not there yet" in result.output
    assert "ok   sites: nothing to check yet" in result.output
    assert "FAIL destination pacs" in result.output
    assert "ok   bundle" in result.output


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        # The receiver's process imports the first of these too: it must stay light.
        (
            "qc_daemon.cli.app, qc_daemon.service.supervisor, qc_daemon.operations.queue",
            ("torch", "transformers", "ultralytics", "scipy", "matplotlib", "highdicom", "cv2"),
        ),
        # Judging needs these, but not what fits them; what looks at a site needs no model.
        (
            "model.calibration, model.outlier, qc_daemon.operations.doctor",
            ("sklearn", "torch", "scipy.stats", "matplotlib", "highdicom"),
        ),
    ],
)
def test_a_start_loads_no_library_that_it_does_not_need(
    modules: str, unneeded: tuple[str, ...]
) -> None:
    code = f"import sys, {modules}; print([m for m in {unneeded} if m in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(process.stdout.replace("'", '"')) == []


def test_the_receiver_can_be_imported_where_it_blocks_decoders() -> None:
    code = "from qc_daemon.service import roles; roles._block_decoders(); import qc_daemon.receive"
    process = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_an_upgrade_says_that_it_made_the_database_and_where(tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text("")
    arguments = ["db", "upgrade", "--config", str(config)]
    first, second = (runner.invoke(app, arguments).stdout for _ in range(2))
    where = f"sqlite:///{tmp_path}/var/qc.db"
    assert first == f"there was no database: a new one, without any exam, is made: {where}\n"
    assert second == f"the database {where} is up to date\n"


def test_a_command_prints_no_log_lines_unless_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = (
        "from pathlib import Path; from qc_daemon.cli import app\n"
        "from qc_daemon.observe import log\n"
        "app.console.run = lambda _: log.get().critical('spool file damaged', path=Path()) or 0\n"
        "app.main()"
    )

    def streams() -> tuple[str, str]:
        process = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        )
        return process.stdout, process.stderr

    monkeypatch.delenv("QC_LOG", raising=False)
    assert streams() == ("", "")
    monkeypatch.setenv("QC_LOG", "info")
    out, lines = streams()
    assert out == ""
    assert json.loads(lines)["path"] == "."

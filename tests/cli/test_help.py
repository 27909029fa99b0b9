"""Every command of both programs: what all have in common, and that its help says what it takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.rich_utils
from typer.testing import CliRunner

import training.cli
from detector.anatomy import View
from detector.console import UsageError
from model.finding import QUALITY_LABELS
from qc_daemon.cli.app import app
from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.operations.peers import PeerState
from qc_daemon.operations.rejections import RETRACTIONS
from qc_daemon.records.tables import CommitmentState, ExamState, JobKind, JobState
from qc_daemon.review.reasons import REASONS
from qc_daemon.service.roles import ROLES
from qc_daemon.settings import load
from tests.support.databases import migrate

runner = CliRunner()


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    members = getattr(command, "commands", None)
    if members is None:
        yield name, command
        return
    if command.invoke_without_command:
        yield name, command
    for member, each in members.items():
        yield from _commands(each, f"{name} {member}")


DAEMON = dict(_commands(typer.main.get_command(app), "qc-daemon"))
MODEL = dict(_commands(typer.main.get_command(training.cli.app), "qc-model"))
COMMANDS = DAEMON | MODEL
# They ask neither the service's database nor its settings.
WITHOUT_SETTINGS = {
    "qc-daemon demo",
    "qc-daemon send",
    "qc-daemon bundle build",
    "qc-daemon bundle extend",
    "qc-daemon bundle part",
}
LISTS = [name for name in DAEMON if name.split()[-1] in ("list", "find")]
RECORDS = [
    "qc-daemon bundle show",
    "qc-daemon quarantine show",
    "qc-daemon spool check",
    "qc-daemon doctor",
]
FINDINGS = ["qc-daemon results", "qc-daemon score", "qc-daemon rules test"]
FORMATS = ("table", "json", "jsonl", "csv")
# Every option that takes one of a closed list of words, in code as in help.
CHOICES: dict[tuple[str, str], Any] = {
    ("qc-daemon serve", "--role"): ["all", *ROLES],
    ("qc-daemon score", "--language"): LANGUAGES,
    ("qc-daemon score", "--device"): ["auto", "cpu", "cuda", "cuda:N"],
    ("qc-daemon summary", "--language"): LANGUAGES,
    ("qc-daemon queue list", "--state"): JobState,
    ("qc-daemon queue list", "--kind"): JobKind,
    ("qc-daemon commitment list", "--state"): CommitmentState,
    ("qc-daemon peer list", "--state"): PeerState,
    ("qc-daemon exam list", "--state"): ExamState,
    ("qc-daemon exam find", "--state"): ExamState,
    ("qc-daemon rejection retract", "--reason"): RETRACTIONS,
    ("qc-daemon rules test", "--view"): View,
    ("qc-daemon rules test", "--verdict"): QUALITY_LABELS,
    ("qc-daemon db restore", "--format"): ("table", "json"),
    **{(name, "--format"): FORMATS for name in (*LISTS, *RECORDS, *FINDINGS)},
}


def option(name: str, flag: str) -> Any:
    """The option of a command, None without it."""
    return next((each for each in COMMANDS[name].params if flag in each.opts), None)


def test_there_are_commands() -> None:
    assert len(DAEMON) > 35
    assert len(MODEL) > 6


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_an_example_and_explains_each_parameter(name: str) -> None:
    command = COMMANDS[name]
    assert f"Example: {name}" in " ".join(str(command.help).split()) or (
        "Examples:" in str(command.help)
    )
    for each in command.params:
        if "--help" not in each.opts:
            assert getattr(each, "help", None), f"{name}: {each.name} has no help"


@pytest.mark.parametrize("name", sorted(set(DAEMON) - WITHOUT_SETTINGS))
def test_a_command_takes_its_settings_file(name: str) -> None:
    config = option(name, "--config")
    assert config is not None
    assert "-c" in config.opts


@pytest.mark.parametrize("name", [*LISTS, *RECORDS, *FINDINGS])
def test_what_lists_has_a_format(name: str) -> None:
    assert option(name, "--format").default == "table"


@pytest.mark.parametrize("name", LISTS)
def test_a_list_can_be_limited(name: str) -> None:
    assert option(name, "--limit") is not None


def _examples(name: str) -> list[list[str]]:
    """The words after the command in each example of its help, without what goes to a file."""
    lines = [
        line.strip().removeprefix("Example: ") for line in str(COMMANDS[name].help).split("\n")
    ]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{name} ")]
    return [
        words[len(name.split()) : words.index(">") if ">" in words else None] for words in commands
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_the_help_is_lost_as_markup(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in square brackets is markup for the library that prints the help."""
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", 2000)
    program, *words = name.split()
    line = app if program == "qc-daemon" else training.cli.app
    output = runner.invoke(line, [*words, "--help"]).output
    output_words = set(re.sub(r"[│╭╰─╮╯]", " ", output).split())
    command = COMMANDS[name]
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    texts = [command.help, command.epilog, *(getattr(each, "help", "") for each in shown)]
    for text in filter(None, texts):
        words_of_text = set(text.replace("\\[", "[").split())
        assert words_of_text <= output_words, words_of_text - output_words


@pytest.mark.parametrize("name", [name for name in COMMANDS if _examples(name)])
def test_the_examples_of_the_help_are_parsed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in _examples(name):
        try:
            COMMANDS[name].make_context(name, words)
        except typer.BadParameter as error:
            # The files of the examples are not here.
            if "does not exist" not in str(error):
                raise


@pytest.mark.parametrize(
    "name", [*LISTS, "qc-daemon results", "qc-daemon spool check", "qc-daemon quarantine show"]
)
def test_the_examples_of_what_asks_the_database_are_right(name: str, tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text('[backup]\nfolder = "."\n')
    migrate(load(config).store.url)
    for words in _examples(name):
        own = words.index("--config") if "--config" in words else len(words)
        arguments = [*words[:own], *words[own + 2 :], "--config", str(config)]
        result = runner.invoke(app, [*name.split()[1:], *arguments])
        assert result.exit_code != 2, result.output
        assert type(result.exception).__name__ != "UsageError", str(result.exception)


def test_confirmation_is_short_everywhere() -> None:
    for name in COMMANDS:
        confirmation = option(name, "--yes")
        assert confirmation is None or "-y" in confirmation.opts


@pytest.mark.parametrize(("name", "flag"), CHOICES)
def test_an_option_names_its_choices(name: str, flag: str) -> None:
    words = option(name, flag).help.replace(",", " ").replace(";", " ").replace(".", " ").split()
    for choice in CHOICES[name, flag]:
        assert set(str(choice).split()) <= set(words), f"{name} {flag}: {choice}"


@pytest.mark.parametrize(
    ("name", "flag"), [key for key in CHOICES if key[1] in ("--state", "--kind", "--format")]
)
def test_another_word_is_wrong_usage_that_names_them(name: str, flag: str, tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text("")
    migrate(load(config).store.url)
    verb = name.removeprefix("qc-daemon ")
    more = (
        ["1"] if any(each.param_type_name == "argument" for each in COMMANDS[name].params) else []
    )
    arguments = [*verb.split(), "--config", str(config), flag, "nothing", *more]
    result = runner.invoke(app, arguments)
    assert type(result.exception).__name__ == "UsageError", result.output
    for choice in CHOICES[name, flag]:
        assert str(choice) in str(result.exception)


@pytest.mark.parametrize(
    "name",
    [*(name for name in LISTS if name != "qc-daemon exam find"), "qc-daemon doctor",
     "qc-daemon db check", "qc-daemon results"],
)  # fmt: skip
def test_without_a_settings_file_the_defaults_are_named_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for here, fix in ((False, "give --config FILE"), (True, "give --config qc-daemon.toml")):
        if here:
            (tmp_path / "qc-daemon.toml").write_text("")
        result = runner.invoke(app, name.split()[1:])
        first = result.stderr.splitlines()[0]
        assert first.startswith(f"no settings file (--config): defaults, files in {tmp_path}/var;")
        assert fix in first
    config = ["--config", str(tmp_path / "qc-daemon.toml")]
    assert "no settings file" not in runner.invoke(app, [*name.split()[1:], *config]).stderr
    monkeypatch.setenv("QC_DAEMON_STORE__URL", f"sqlite:///{tmp_path}/other.db")
    assert "no settings file" not in runner.invoke(app, name.split()[1:]).stderr


@pytest.mark.parametrize(
    ("command", "old"),
    [
        (("person", "split", "p4k2m7x0a"), "--changed-by"),
        (("device", "name", "d4k2m7x0a", "Room 2"), "--changed-by"),
        (("rejection", "confirm", "1.2", "--reason", "111209"), "--confirmed-by"),
        (("rejection", "retract", "1.2", "--reason", "reconsidered"), "--retracted-by"),
        (("quarantine", "dismiss", "7", "--reason", "sent again"), "--dismissed-by"),
        (("site", "waive", "Here"), "--by"),
    ],
)
def test_who_decides_is_by_everywhere_and_older_names_are_taken(
    command: tuple[str, ...], old: str
) -> None:
    text = runner.invoke(app, [*command[:2], "--help"]).stdout
    assert "--by " in text
    assert old == "--by" or old not in text
    for option in (old, "--by"):
        # The name alone is wrong, which is said before anything is looked for.
        result = runner.invoke(app, [*command, option, "7"])
        assert isinstance(result.exception, UsageError)
        assert "--by" in str(result.exception)


def test_the_help_of_an_override_has_every_reason() -> None:
    parameters = COMMANDS["qc-daemon review override"].params
    (reason,) = (each.help for each in parameters if "--reason" in each.opts)
    assert all(f"{code} ({words})" in reason for code, words in REASONS.items())

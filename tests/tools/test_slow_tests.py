"""Slow tests run when something that they cover has changed, and none is forgotten."""

import subprocess
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tools import slow_tests
from tools.slow_tests import COVERAGE, list_due, note_passed

API, AUDIT = "tests/web/test_api_schema.py", "tests/audit/test_audit.py"


class Repository:
    """A repository of its own with one commit; `commit` makes another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet")
        self.commit("README.md", "", "2020-01-01T00:00:00")

    def git(self, *arguments: str, date: str = "") -> None:
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
        person = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        home = {"HOME": str(self.root), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        subprocess.run(
            ["git", *person, *arguments], cwd=self.root, check=True, env=home | dates, timeout=60
        )

    def commit(self, path: str, text: str, date: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change", date=date)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_every_file_with_slow_tests_is_listed() -> None:
    mark = "mark." + "slow"
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if mark in path.read_text(encoding="utf-8")
    }
    assert files == set(COVERAGE)


def test_everything_covered_exists() -> None:
    for covered in COVERAGE.values():
        for path in covered:
            assert list(ROOT.glob(f"{path}*")), path


def test_only_what_covers_a_change_runs(repository: Repository) -> None:
    assert list_due(repository.root) == []
    repository.commit("qc_daemon/web/api/exams.py", "1")
    repository.commit("qc_daemon/audit/charts/drawing.py", "1")
    assert API in list_due(repository.root)
    assert AUDIT not in list_due(repository.root)
    repository.commit(AUDIT, "1")
    assert AUDIT in list_due(repository.root)


def test_what_passed_runs_again_after_the_next_change_alone(repository: Repository) -> None:
    path = "qc_daemon/web/api/exams.py"
    repository.commit(path, "1")
    note_passed([API], repository.root)
    assert API not in list_due(repository.root)
    # However long ago: what failed or did not run is due until it passes.
    repository.commit(path, "2", "2020-01-02T00:00:00")
    assert API in list_due(repository.root)


def test_a_pass_on_another_branch_does_not_count(repository: Repository) -> None:
    repository.git("switch", "--quiet", "--create", "other")
    repository.commit("qc_daemon/web/api/exams.py", "1")
    note_passed([API], repository.root)
    repository.git("switch", "--quiet", "-")
    repository.commit("qc_daemon/web/api/exams.py", "2")
    assert API in list_due(repository.root)


def test_another_version_of_a_package_runs_all_and_a_new_package_none(
    repository: Repository,
) -> None:
    repository.commit(
        "requirements.lock", "numpy==1.0 \\\n    --hash=sha256:1\n", "2020-01-02T00:00"
    )
    note_passed(list(COVERAGE), repository.root)
    repository.commit("requirements.lock", "numpy==1.0 \\\n    --hash=sha256:1\npandas==1.0\n")
    assert list_due(repository.root) == []
    repository.commit("requirements.lock", "numpy==1.1 \\\n    --hash=sha256:2\npandas==1.0\n")
    assert list_due(repository.root) == list(COVERAGE)


def test_without_a_history_all_run(repository: Repository, tmp_path: Path) -> None:
    assert list_due(tmp_path.parent) == list(COVERAGE)
    repository.commit("README.md", "2")
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", "--depth", "1", f"file://{tmp_path}", str(clone))
    assert list_due(clone) == list(COVERAGE)


def test_the_command_prints_paths_as_make_takes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["slow_tests"])
    monkeypatch.setattr(slow_tests, "list_due", lambda: [API, AUDIT])
    slow_tests.main()
    assert capsys.readouterr().out == f"{API} {AUDIT}\n"

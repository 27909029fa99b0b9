"""`bundle bench`: each part by each runtime, and a line for each that does not run here."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from model.runtime import runtime as runtimes
from model.runtime.bench import PARTS
from tests.support.command_line import qc_daemon_here
from training.phantom import make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_each_part_is_timed_by_each_runtime() -> None:
    done = qc_daemon_here("bundle", "bench", "--pictures", "1", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    on_cpu = [row for row in rows if row["device"] == "cpu"]
    assert [(r["part"], r["runtime"]) for r in on_cpu] == [
        (part, runtime) for part in PARTS for runtime in ("torch", "openvino")
    ]
    for row in on_cpu:
        assert row["cpu_seconds"] > 0
        assert row["clock_seconds"] > 0
        assert row["runtime"] != "torch" or (row["cpu_ratio"], row["clock_ratio"]) == (1, 1)
    seconds = {row["part"]: row["cpu_seconds"] for row in on_cpu if row["runtime"] == "torch"}
    assert seconds["whole image"] > seconds["SpatialCLIP"] > seconds["criteria"]
    assert "the settings take openvino" in done.stderr


def test_files_are_timed_and_others_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.txt").write_text("no picture")
    Image.fromarray(make(3).pixels).save(folder / "b.png")
    done = qc_daemon_here("bundle", "bench", folder, "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["runtime"] for row in rows if row["device"] == "cpu"} == {"torch"}
    assert "a.txt: " in done.stderr
    assert "openvino on cpu does not run here: openvino is not installed" in done.stderr
    assert "the settings take torch" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("--bundle", "nowhere"), 1, "no readable bundle.json"),
        (("nowhere.dcm",), 2, "no pictures there"),
        (("--format", "xml"), 2, "give one of"),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], status: int, line: str) -> None:
    done = qc_daemon_here("bundle", "bench", *words)
    assert (done.returncode, line in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr

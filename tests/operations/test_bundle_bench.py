"""`bundle bench`: each part by each runtime, and a line for each that does not run here."""

import csv
import io
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from detector.console import UsageError
from detector.errors import QCError
from detector.frame import Frame
from model.bundle.bundle import Bundle, locate
from model.bundle.extend import add_record
from model.finding import Finding
from model.runtime import runtime as runtimes
from model.runtime.bench import STAGES
from model.runtime.openvino_cpu import HINTS
from model.runtime.precision import AVX512, SONONET, PrecisionRecord, bfloat16_flag
from qc_daemon.operations import bundle_bench
from qc_daemon.operations.doctor_checks.models import check_device
from qc_daemon.score.models import open_judge
from qc_daemon.settings import ScoreSettings, Settings
from tests.support.command_line import qc_daemon_here
from training.phantom import make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_each_part_is_timed_by_each_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.runtime.precision._cpu_flags", lambda: frozenset({"avx2"}))
    done = qc_daemon_here("bundle", "bench", "--pictures", "1", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    on_cpu = [row for row in rows if row["device"] == "cpu"]
    assert [(r["part"], r["runtime"]) for r in on_cpu] == [
        (part, runtime) for part in STAGES for runtime in ("torch", "openvino")
    ]
    for row in on_cpu:
        assert row["cpu_seconds"] > 0
        assert row["clock_seconds"] > 0
        assert row["runtime"] != "torch" or (row["cpu_ratio"], row["clock_ratio"]) == (1, 1)
    seconds = {row["part"]: row["cpu_seconds"] for row in on_cpu if row["runtime"] == "torch"}
    assert seconds["whole image"] > seconds["SpatialCLIP"] > seconds["criteria"]
    assert "openvino in precision fast on cpu does not run here: precision fast" in done.stderr
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
    assert "exact on cpu does not run here: openvino is not installed" in done.stderr
    assert "the settings take torch" in done.stderr


def test_a_bundle_that_records_agreement_runs_fast_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the CPU does not compute in bfloat16, float32 stands for it."""
    if bfloat16_flag() is None:
        monkeypatch.setitem(HINTS, True, HINTS[False])
    for module in ("qc_daemon.operations.bundle_bench", "model.runtime.runtime"):
        monkeypatch.setattr(f"{module}.bfloat16_flag", lambda: AVX512)
    monkeypatch.setattr("qc_daemon.operations.bundle_bench._CHOICES", ((SONONET,),) * 2)
    folder, mine = tmp_path / "pictures", tmp_path / "mine"
    folder.mkdir()
    for seed in (3, 4):
        Image.fromarray(make(seed).pixels).save(folder / f"{seed}.png")
    image = folder / "3.png"
    record = ("bundle", "bench", folder, "--record", mine, "--format", "json")
    with monkeypatch.context() as patch:
        patch.setattr(bundle_bench, "_open", lambda *_: pytest.fail("judged"))
        few = qc_daemon_here(*record)
        none = qc_daemon_here("bundle", "bench", "--record", mine)
    for each, count in ((few, 2), (none, 0)):
        words = f"a record needs 300 pictures of scanners, and here are {count}"
        assert (each.returncode, words in each.stderr) == (2, True), each.stderr
    assert not mine.exists()

    for module in ("qc_daemon.operations.bundle_bench", "model.runtime.precision"):
        monkeypatch.setattr(f"{module}.MIN_PICTURES", 2)
    done = qc_daemon_here(*record, "--pictures", "2")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert (written["pictures"], written["simulated"], written["parts"]) == (2, 0, [SONONET])
    twice = qc_daemon_here(*record)
    assert (twice.returncode, "exists: name a new folder" in twice.stderr) == (2, True)

    fast = ("score", image, "--precision", "fast", "--format", "json", "--bundle")
    refused = qc_daemon_here(*fast, "default")
    assert refused.returncode == 1
    assert "does not record that verdicts agree" in refused.stderr
    assert refused.stderr.count("\n") == 1
    scored = qc_daemon_here(*fast, mine)
    assert scored.returncode == 0, scored.stderr
    (finding,) = (json.loads(line) for line in scored.stdout.splitlines())
    assert finding["runtime"].endswith("float32, SonoNet bfloat16")
    assert Finding.from_json(finding).to_json() == finding
    exact = qc_daemon_here("score", image, "--format", "json", "--bundle", mine)
    assert "runtime" not in json.loads(exact.stdout)


def record_of(verdict_changes: int) -> PrecisionRecord:
    return PrecisionRecord(
        runtime="openvino",
        version=version("openvino"),
        precision="bfloat16",
        parts=(SONONET,),
        cpu_flag=AVX512,
        pictures=1000,
        simulated=100,
        probability_change_p95=0.0,
        probability_change_max=0.0,
        verdict_changes=verdict_changes,
        view_changes=0,
    )


@pytest.mark.parametrize("has_record", [False, True])
def test_where_no_record_is_written_an_older_one_is_named(
    has_record: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("qc_daemon.operations.bundle_bench", "model.runtime.precision"):
        monkeypatch.setattr(f"{module}.bfloat16_flag", lambda: AVX512)
    tower = SimpleNamespace(has_sononet=True)
    judge = SimpleNamespace(
        spatialclip=SimpleNamespace(trimodal_clip=tower), judge=lambda frame: [frame]
    )
    monkeypatch.setattr(bundle_bench, "_open", lambda *_: judge)
    monkeypatch.setattr(bundle_bench, "measure_agreement", lambda *_, **__: record_of(500))
    base = locate("default")
    if has_record:
        base = add_record(base, record_of(0), tmp_path / "base", name=None, version=None).path
    settings = ScoreSettings(bundle=str(base))
    frame = Frame(1, np.zeros((2, 2, 3), np.uint8), ())
    simulated = replace(frame, simulated=True)
    with pytest.raises(UsageError, match="and here are 299"):
        bundle_bench.record_agreement(
            settings, lambda: [frame] * 299 + [simulated], tmp_path / "out"
        )
    with pytest.raises(QCError, match="no record is written: 500 verdicts change") as caught:
        bundle_bench.record_agreement(settings, lambda: [frame] * 300, tmp_path / "out")
    allows = "the bundle's own record still allows precision fast" in str(caught.value)
    assert allows is has_record
    assert not (tmp_path / "out").exists()


def test_doctor_names_the_record_that_lacks(tmp_path: Path) -> None:
    settings = Settings(score={"precision": "fast", "device": "cpu"})
    with pytest.raises(QCError, match="precision fast"):
        check_device(settings)
    with capture_logs() as logs:
        former = open_judge(Bundle.open("default"), settings.score, needs_parts=False)
    assert former.inexact_runtime == ""
    (line,) = logs
    assert line["event"] == "precision exact"
    assert line["reason"].startswith("bundle default: ")
    assert "precision fast" in line["reason"]


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

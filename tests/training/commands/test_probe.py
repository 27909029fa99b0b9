"""`embed`, `search`, `probe`, `classify` and `few-shot` on a small random CLIP."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from tests.support.clips import write_clip
from training.cli import app

runner = CliRunner()
LEVELS = {"brain": 40, "femur": 200, "other": 120}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"clip={write_clip(tmp_path_factory.mktemp('clip'))}"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two planes that differ by brightness, of 20 patients, and a third one of five."""
    folder = tmp_path_factory.mktemp("planes")
    generator = np.random.default_rng(0)
    rows = ["file,patient,plane"]
    for patient in range(20):
        for plane, level in LEVELS.items():
            if plane == "other" and patient > 4:
                continue
            name = f"{patient}-{plane}.png"
            noise = generator.normal(level, 12, (40, 50, 1)).clip(0, 255).astype(np.uint8)
            Image.fromarray(np.repeat(noise, 3, 2)).save(folder / name)
            rows.append(f"{name},{patient},{plane}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def run(*words: object) -> Any:
    return runner.invoke(app, [str(word) for word in words])


def test_a_probe_is_learnt_and_used(tower: str, labels: Path, tmp_path: Path) -> None:
    arguments = ["probe", "--tower", tower, "--labels", labels, "--unknown", "other"]
    arguments += ["--out", tmp_path / "probe", "--cache", tmp_path / "cache"]
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    (figures,) = json.loads((tmp_path / "probe/figures.json").read_text())
    assert figures["all answered"]["macro F1"]["value"] == 1.0
    assert figures["all answered"]["groups"] == 20
    assert figures["unknown"]["pictures"] == 5
    assert "of 5 unknown pictures" in result.stdout
    assert isinstance(run(*arguments).exception, UsageError)
    out = tmp_path / "classes.csv"
    result = run(
        "classify", tmp_path / f"probe/1-clip-{Path(tower).name}", labels.parent, "--tower", tower,
        "--cache", tmp_path / "cache", "--format", "csv", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 45
    named = [row for row in rows if row["label"]]
    assert len(named) > 30
    assert all(
        row["label"] in Path(row["source"]).name
        for row in named
        if "other" not in Path(row["source"]).name
    )


def test_embeddings_are_searched(tower: str, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "planes.parquet"
    assert run("embed", "--tower", tower, "--labels", labels, "--out", out).exit_code == 0
    result = run(
        "search", out, labels.parent / "3-femur.png", "--tower", tower, "--count", "4",
        "--format", "jsonl",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["rank"] for record in records] == [1, 2, 3, 4]
    assert {record["label"] for record in records} == {"femur"}
    assert not any(record["neighbour"].endswith("/3-femur.png") for record in records)


def test_a_search_by_another_tower_is_refused(tower: str, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "planes.safetensors"
    assert run("embed", "--tower", tower, "--labels", labels, "--out", out).exit_code == 0
    other = f"clip={write_clip(tmp_path / 'other', seed=5)}"
    result = run("search", out, labels.parent / "3-femur.png", "--tower", other)
    assert "has other weights" in str(result.exception)


def test_a_few_patients_are_enough_for_bright_and_dark(
    tower: str, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "curve.json"
    result = run(
        "few-shot", "--tower", tower, "--labels", labels, "--leave-out", "other",
        "--patients", "1", "--patients", "4", "--repeats", "2", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    (curve,) = json.loads(out.read_text())
    assert [point["patients"] for point in curve["curve"]] == [1, 4]
    assert curve["curve"][1]["macro F1"] > 0.9
    assert "  4 patients: macro-F1" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("probe", "--unknown", "cervix"), "--unknown: there is no class 'cervix'"),
        (("probe", "--leave-out", "cervix"), "--leave-out: there is no class 'cervix'"),
        (("few-shot", "--patients", "30"), "fewer than 30"),
        (("embed",), "name a file that ends in"),
    ],
)
def test_wrong_usage_is_one_line(
    words: tuple[str, ...], message: str, tower: str, labels: Path, tmp_path: Path
) -> None:
    result = run(*words, "--tower", tower, "--labels", labels, "--out", tmp_path / "out.json")
    assert isinstance(result.exception, UsageError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)

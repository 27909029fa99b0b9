"""`qc-model zero-shot`, `gestational-age` and `fetalclip figures`, on a small random CLIP."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from model.fetalclip.checkpoint import load_fetalclip
from model.nextgen_uia.adapters import AdapterConfig, adapter_parameters, add_adapters
from model.nextgen_uia.checkpoint import save_trained, tower_sha256
from model.nextgen_uia.network import ClipTower
from tests.support.clips import write_clip
from training.cli import app
from training.commands.fetalclip.gestational_age import read_measurements

runner = CliRunner()
TEMPLATE = "{weeks} weeks {day} days, {pixel_spacing} mm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of two patients, with labels, prompts and templates beside them."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    rows = ["file,patient,plane,pixel_mm,hc_mm"]
    for number in range(4):
        pixels = generator.integers(0, 256, (50, 80, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
        rows.append(
            f"{number}.png,{number // 2},{('brain', 'femur')[number % 2]},0.2,{60 + 90 * number}"
        )
    (pictures / "labels.csv").write_text("\n".join(rows) + "\n")
    prompts = {"brain": ["a brain"], "femur": ["a femur"], "none": ["no plane"]}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "age.json").write_text(json.dumps([TEMPLATE]))
    return tmp_path


def run(*words: object) -> Any:
    return runner.invoke(app, [str(word) for word in words])


def test_each_picture_gets_a_class_and_figures_are_of_patients(folder: Path, model: Path) -> None:
    out, figures = folder / "out.jsonl", folder / "figures.json"
    arguments = ["zero-shot", "--model", model, "--prompts", folder / "prompts.json"]
    arguments += ["--labels", folder / "pictures/labels.csv", "--format", "jsonl"]
    arguments += ["--reject-class", "none", "--out", out, "--figures", figures]
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 4
    for record in records:
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (record["label"] is None) == (record["closest"] == "none")
    values = json.loads(figures.read_text())
    assert (values["pictures"], values["groups"]) == (4, 2)
    assert isinstance(run(*arguments).exception, UsageError)
    assert run(*arguments, "--force").exit_code == 0


def test_thresholds_are_said_with_what_they_let_through(folder: Path, model: Path) -> None:
    figures = folder / "figures.json"
    prompts = folder / "one.json"
    prompts.write_text(json.dumps({"brain": ["a brain"], "heart": ["a heart"]}))
    arguments = ["zero-shot", "--model", model, "--prompts", prompts]
    arguments += ["--labels", folder / "pictures/labels.csv", "--out", folder / "out.txt"]
    result = run(*arguments, "--unknown", "femur", "--figures", figures)
    assert result.exit_code == 0, result.exception
    values = json.loads(figures.read_text())
    # The two pictures of the unknown class are in no figure but this one.
    assert values["pictures"] == 2
    for name in ("cosine", "probability"):
        entries = values["abstention"][name]["at"]
        assert [entry["wanted"] for entry in entries] == [0.99, 0.95, 0.9, 0.8]
        least = [entry[f"--min-{name}"] for entry in entries]
        assert least == sorted(least)
        assert 0 <= entries[0]["unknown named"]["value"] <= 1
    for word, message in (("liver", "no picture has it"), ("brain", "it has prompts")):
        error = run(*arguments, "--unknown", word, "--force").exception
        assert message in str(error)
    error = run("zero-shot", "--model", model, "--prompts", prompts, folder, "--unknown", "femur")
    assert "go with --labels" in str(error.exception)


def test_an_unreadable_file_is_an_error_among_answers(folder: Path, model: Path) -> None:
    (folder / "pictures/9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    out = folder / "out.csv"
    result = run(
        "zero-shot", "--model", model, "--prompts", folder / "prompts.json",
        folder / "pictures", "--format", "csv", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 1
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 5
    assert rows[-1]["error"].startswith("unreadable-file: 9.png")
    assert all(row["closest"] for row in rows[:-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give pictures, or --labels"),
        (["pictures", "--labels", "pictures/labels.csv"], "give pictures, or --labels"),
        (["--labels", "pictures/labels.csv", "--rename", "brain=head"], "class 'head'"),
        (["--labels", "pictures/labels.csv", "--rename", "brain"], "give OLD=NEW"),
        (["pictures", "--reject-class", "other"], "no prompts for class 'other'"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], message: str, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run("zero-shot", "--model", model, "--prompts", "prompts.json", *words)
    assert isinstance(result.exception, UsageError), result.output
    assert message in str(result.exception)


def test_ages_are_answered_or_the_reason_is_given(folder: Path, model: Path) -> None:
    out = folder / "ages.jsonl"
    result = run(
        "gestational-age", "--model", model, "--templates", folder / "age.json",
        folder / "pictures", "--measurements", folder / "pictures/labels.csv",
        "--cache", folder / "cache", "--format", "jsonl", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["head_circumference_mm"] for record in records] == [60, 150, 240, 330]
    assert records[0]["reason"] == "below-14-weeks"
    assert records[0]["days"] is records[0]["age"] is None
    assert "less than 14 weeks" in records[0]["why"]
    # The longer side of 80 pixels becomes the network's 32.
    assert {record["spacing_mm"] for record in records} == {0.5}
    for record in records:
        assert (record["days"] is None) == (record["reason"] is not None)
    assert len(list((folder / "cache").iterdir())) == 1


def test_without_a_spacing_there_is_no_age(folder: Path, model: Path) -> None:
    arguments = ["gestational-age", "--model", model, "--templates", folder / "age.json"]
    result = run(*arguments, folder / "pictures/0.png", "--format", "jsonl")
    assert result.exit_code == 1
    assert "does not say how large a pixel is" in result.stdout
    assert run(*arguments, folder / "pictures/0.png", "--spacing", "0.2").exit_code == 0


@pytest.mark.parametrize("value", ["0", "-1", "nan", "much"])
def test_a_wrong_measurement_is_one_line(value: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"file,pixel_mm\na.png,0.2\nb.png,{value}\n")
    with pytest.raises(UsageError, match=r"m\.csv: row 2: pixel_mm"):
        read_measurements(path)


def test_a_picture_measured_twice_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("file,pixel_mm\na/1.png,0.2\nb/1.png,0.3\n")
    with pytest.raises(UsageError, match=r"m\.csv: row 2: 1\.png again"):
        read_measurements(path)


def test_a_class_to_leave_out_has_to_be_there(folder: Path, model: Path) -> None:
    prompts = folder / "one.json"
    prompts.write_text(json.dumps({"brain": ["a brain"], "femur": ["a femur"]}))
    labels = folder / "pictures/labels.csv"
    error = run("zero-shot", "--model", model, "--prompts", prompts, "--labels", labels,
                "--leave-out", "liver").exception  # fmt: skip
    assert "--leave-out liver: the data have no such class" in str(error)


@pytest.mark.parametrize("format", ["table", "json"])
def test_the_published_figures_are_printed(format: str, shared_data: Path) -> None:
    result = run("fetalclip", "figures", shared_data / "fetalclip_ga", "--format", format)
    assert result.exit_code == 0, result.exception
    if format == "json":
        assert len(json.loads(result.stdout)["figures"]) == 3
    else:
        assert "0.8342 (0.8096 to 0.8587) over 814 pictures" in result.stdout


def test_adapters_change_what_pictures_are_like(folder: Path, model: Path) -> None:
    network = load_fetalclip(model)
    tower = ClipTower(network.clip, (0, 1))
    sha256 = tower_sha256(tower)
    config = AdapterConfig(layers=(0, 1), bottleneck=8)
    add_adapters(network.clip, config)
    with torch.no_grad():
        for _, parameter in adapter_parameters(network.clip):
            parameter.normal_(0, 0.3)
    save_trained(folder / "adapters", tower, sha256, adapters=config)
    answers = []
    for options in ([], ["--adapters", folder / "adapters"]):
        result = run(
            "zero-shot", "--model", model, "--prompts", folder / "prompts.json",
            folder / "pictures/0.png", "--format", "jsonl", "--device", "cpu", *options,
        )  # fmt: skip
        assert result.exit_code == 0, result.exception
        answers.append(json.loads(result.stdout)["cosine"])
    assert abs(answers[0] - answers[1]) > 1e-4
    other = write_clip(folder / "other", seed=1)
    result = run(
        "zero-shot", "--model", other, "--prompts", folder / "prompts.json",
        folder / "pictures/0.png", "--adapters", folder / "adapters",
    )  # fmt: skip
    assert isinstance(result.exception, QCError)
    assert "trained on another tower" in str(result.exception)

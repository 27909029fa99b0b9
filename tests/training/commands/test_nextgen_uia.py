"""`qc-model nextgen-uia`, from the command line."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from model.nextgen_uia.adapters import AdapterConfig, Kind, Spectrum, adapter_state, add_adapters
from model.nextgen_uia.checkpoint import load_tower, read_trained
from tests.support.lesions import write_published
from tests.support.towers import tower_folder
from training.cli import app


def run(*arguments: object) -> str:
    """What the command prints; raises what it raises."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    if result.exit_code:
        raise AssertionError(f"exit status {result.exit_code}: {result.output}")
    return result.stdout


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tower_folder(tmp_path / "clip")


def _published(folder: Path, clip: Path) -> Path:
    tower = load_tower(clip, (0, 1))
    add_adapters(tower, AdapterConfig(Kind.HYBRID, (0, 1), Spectrum.SCALAR))
    path = folder / "best_model.pth"
    torch.save(
        {
            f"visual.trunk.blocks.{name.replace('.mona.', '.mona.clip_mona.')}": tensor
            for name, tensor in adapter_state(tower).items()
        },
        path,
    )
    return path


def test_published_adapters_become_a_folder(tmp_path: Path, clip: Path) -> None:
    source, out = _published(tmp_path, clip), tmp_path / "adapters"
    run("nextgen-uia", "convert", source, "--tower", clip, "--out", out, "--mask")
    trained = read_trained(out)
    assert trained.adapters == AdapterConfig(Kind.HYBRID, (0, 1))
    assert trained.weights["adapters.0.mona.adapter_conv.freq_filter"].shape == (64, 4, 3)
    with pytest.raises(UsageError, match="exists: name another, or give --force"):
        run("nextgen-uia", "convert", source, "--tower", clip, "--out", out)


def test_a_head_is_trained_and_judged(tmp_path: Path, clip: Path) -> None:
    data, out = write_published(tmp_path / "data"), tmp_path / "run"
    source = ["--data", data, "--dataset", "BUSI", "--device", "cpu"]
    options = ["--layers", 0, "--layers", 1, "--width", 16, "--batch", 4, "--epochs", 2]
    train = ["train", "adapter", "--tower", clip, "--out", out, "--task", "segmentation"]
    answer = json.loads(run(*train, *source, *options))
    assert 0 <= answer["validation"] <= 1
    with pytest.raises(UsageError, match="holds a run"):
        run(*train, *source, *options)

    evaluate = ["nextgen-uia", "evaluate", "--run", out, "--tower", clip, *source]
    masks, file = tmp_path / "masks", tmp_path / "figures.json"
    figures = json.loads(run(*evaluate, "--masks", masks, "--out", file))
    assert figures["pictures"] == 4
    assert set(figures) >= {"Dice", "IoU", "HD95 pixels", "ASD pixels", "failed"}
    assert json.loads(file.read_text()) == figures
    assert len(list(masks.iterdir())) == 4
    with pytest.raises(UsageError, match=r"the head learnt from case0\.png"):
        run(*evaluate, "--split", "train")
    other = tower_folder(tmp_path / "other", seed=1)
    with pytest.raises(QCError, match="trained on another tower"):
        run("nextgen-uia", "evaluate", "--run", out, "--tower", other, *source)


def test_few_shots_are_patients_of_each_class(tmp_path: Path, clip: Path) -> None:
    data, out = write_published(tmp_path / "data", patients=True), tmp_path / "run"
    run(
        *("train", "adapter", "--tower", clip, "--out", out, "--data", data, "--dataset", "BUSI"),
        *("--layers", 0, "--width", 8, "--batch", 2, "--epochs", 1, "--shots", 1),
        *("--adapter", "lora", "--device", "cpu"),
    )
    facts = json.loads((out / "training.json").read_text())
    assert facts["training"]["classes"] == {"0": 1, "1": 1}


def test_one_source_of_pictures_has_to_be_given(tmp_path: Path, clip: Path) -> None:
    command = ["train", "adapter", "--tower", clip, "--out", tmp_path / "run"]
    with pytest.raises(UsageError, match="one of --data, --labels and --hc18"):
        run(*command)
    with pytest.raises(UsageError, match="--data and --dataset go together"):
        run(*command, "--data", tmp_path)


def test_adapters_are_tuned_on_captions_and_judged_by_retrieval(tmp_path: Path, clip: Path) -> None:
    data = write_published(tmp_path / "data") / "all"
    rows = [f"{path.name},a picture of case {path.stem}" for path in (data / "images").iterdir()]
    (data / "pairs.csv").write_text("\n".join(["filename,Caption", *sorted(rows)]) + "\n")
    pairs, out = ["--model", clip, "--captions", data / "pairs.csv", "--device", "cpu"], "tuned"
    options = ["--epochs", 1, "--batch", 4, "--validation", 0.3, "--last", 1]
    answer = json.loads(run("train", "captions", *pairs, "--out", tmp_path / out, *options))
    assert answer["best epoch"] == 1
    assert read_trained(tmp_path / out).adapters == AdapterConfig(Kind.HYBRID, (1,))
    figures = json.loads(run("nextgen-uia", "retrieval", *pairs, "--adapters", tmp_path / out))
    assert figures["pairs"] == 16
    assert 0 <= figures["rSum"] <= 600
    with pytest.raises(UsageError, match="nothing would learn"):
        run("train", "captions", *pairs, "--out", tmp_path / "b", "--adapter", "none")

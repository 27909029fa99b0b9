"""`qc-model explain`: a PNG for each class, and its check, of prompts and of heads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from model.fetalclip.explain import gradient_map, of_network
from model.nextgen_uia.checkpoint import load_tower, save_trained, tower_sha256
from model.nextgen_uia.network import (
    AdaptedNetwork,
    ClipTower,
    HeadConfig,
    HeadKind,
    SonoNetTower,
    Task,
)
from tests.support.clips import write_clip
from tests.support.planes import shape
from training.cli import app

PROMPTS = {"disc": ["a disc", "one disc"], "ring": ["a ring"], "bar": ["a bar"]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(PROMPTS))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(shape("disc", 0)[:40]).save(folder / "disc.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_classes_of_prompts_are_explained(
    tmp_path: Path, clip: Path, prompts: Path, pictures: Path
) -> None:
    maps, out = tmp_path / "maps", tmp_path / "maps.jsonl"
    arguments = [
        *("explain", pictures, "--model", clip, "--prompts", prompts, "--maps", maps),
        *("--class", "disc", "--class", "ring", "--orders", 2, "--device", "cpu"),
        *("--method", "attention", "--format", "jsonl", "--out", out),
    ]
    # A broken file is one record, and says so by the status; the others are answered.
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 1
    broken, *records = [json.loads(line) for line in out.read_text().splitlines()]
    assert "broken.png" in broken["error"]["message"]
    assert [record["label"] for record in records] == ["disc", "ring"]
    for record in records:
        assert 0 <= record["better_than"] <= 1
        assert len(record["curve"]) == 9
        drawing = np.asarray(Image.open(maps / record["map"]))
        assert drawing.shape == (40, 64, 3)
    first, second = (np.asarray(Image.open(maps / each["map"])) for each in records)
    assert not np.array_equal(first, second)
    with pytest.raises(UsageError, match="maps holds files"):
        run(*arguments[:-2])


def test_a_head_is_explained_by_its_classes(tmp_path: Path, clip: Path, pictures: Path) -> None:
    (pictures / "broken.png").unlink()
    tower = load_tower(clip, (1,))
    config = HeadConfig(Task.CLASSIFICATION, ("unusable", "usable"), kind=HeadKind.POOLED)
    head = AdaptedNetwork(tower, config).head
    save_trained(tmp_path / "run", tower, tower_sha256(tower), head=head, head_config=config)
    maps = tmp_path / "maps"
    arguments = ["explain", pictures, "--run", tmp_path / "run", "--tower", clip, "--maps", maps]
    table = run(*arguments, "--orders", 1, "--device", "cpu")
    assert table.splitlines()[0].split()[:3] == ["source", "label", "probability"]
    assert len(list(maps.iterdir())) == 1
    with pytest.raises(UsageError, match="--class liver: there is none, but unusable, usable"):
        run(*arguments, "--class", "liver", "--force")


def test_what_cannot_be_explained_is_said(
    tmp_path: Path, clip: Path, prompts: Path, pictures: Path
) -> None:
    arguments = ["explain", pictures, "--maps", tmp_path / "maps"]
    for words in ([], ["--model", clip], ["--model", clip, "--prompts", prompts, "--run", clip]):
        with pytest.raises(UsageError, match="--model with --prompts, or --run with --tower"):
            run(*arguments, *words)
    tower = load_tower(clip, (0, 1))
    assert isinstance(tower, ClipTower)
    config = HeadConfig(Task.CLASSIFICATION, ("a", "b"), 8)
    head = AdaptedNetwork(tower, config).head
    save_trained(tmp_path / "run", tower, tower_sha256(tower), head=head, head_config=config)
    with pytest.raises(UsageError, match="only a head on the pooled feature is explained"):
        run(*arguments, "--run", tmp_path / "run", "--tower", clip)


def test_sononet_is_explained_by_gradients() -> None:
    torch.manual_seed(0)
    config = HeadConfig(Task.CLASSIFICATION, ("a", "b"), kind=HeadKind.POOLED)
    network = AdaptedNetwork(SonoNetTower(32), config).eval().requires_grad_(False)
    assert gradient_map(of_network(network), torch.randn(1, 3, 32, 32), 0).shape == (2, 2)

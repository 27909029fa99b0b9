"""`qc-model fetalclip convert` on files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from detector.console import UsageError
from model.fetalclip import checkpoint
from model.fetalclip.preprocess import TextEncoder
from tests.support.clips import random_clip, write_config, write_vocabulary
from training.cli import app

runner = CliRunner()


def run(*words: object) -> Any:
    return runner.invoke(app, ["fetalclip", *map(str, words)])


def test_a_checkpoint_goes_to_a_folder_and_back(tmp_path: Path) -> None:
    state = checkpoint.to_open_clip(random_clip(seed=1))
    source, folder, back = tmp_path / "w.pt", tmp_path / "clip", tmp_path / "back.safetensors"
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, source)
    config = write_config(tmp_path / "config.json")
    vocabulary = write_vocabulary(tmp_path / "v.gz")
    arguments = ["--config", config, "--vocabulary", vocabulary]
    digest = checkpoint.file_sha256(source)
    result = run("convert", source, "--out", folder, *arguments, "--sha256", digest)
    assert result.exit_code == 0, result.exception
    network = checkpoint.load_fetalclip(folder)
    assert TextEncoder.load(folder, network.architecture).tokens(["the"]).shape[0] == 1
    assert digest in (folder / checkpoint.FACTS).read_text()
    assert run("convert", folder, "--out", back).exit_code == 0
    again = load_file(back)
    assert again.keys() == state.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    checkpoint.save_fetalclip(folder, random_clip())
    out = tmp_path / "w.safetensors"
    out.write_text("mine")
    assert isinstance(run("convert", folder, "--out", out).exception, UsageError)
    assert out.read_text() == "mine"
    assert run("convert", folder, "--out", out, "--force").exit_code == 0
    assert isinstance(run("convert", folder, "--out", tmp_path / "w.pt").exception, UsageError)


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    """Without --config it has to be the published one; nothing is written else."""
    source, out = tmp_path / "w.pt", tmp_path / "clip"
    torch.save(checkpoint.to_open_clip(random_clip()), source)
    error = run("convert", source, "--out", out).exception
    assert "of another architecture: visual.class_embedding is 128, not 1024" in str(error)
    assert not out.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    source, out = tmp_path / name, tmp_path / "clip"
    source.write_bytes(b"no weights")
    assert "cannot be used" in str(run("convert", source, "--out", out).exception)
    assert not out.exists()

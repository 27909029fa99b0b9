"""`qc-model nextgen-uia`, from the command line."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from detector.console import UsageError
from model.nextgen_uia.adapters import AdapterConfig, Kind, Spectrum, adapter_state, add_adapters
from model.nextgen_uia.checkpoint import load_tower, read_trained
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

"""`qc-model segment`: the decoder is trained, judged, and measures heads."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from model.fetalclip.checkpoint import save_fetalclip
from model.fetalclip.network import FetalClip
from model.nextgen_uia.checkpoint import load_tower, read_trained, save_trained, tower_sha256
from model.nextgen_uia.network import AdaptedNetwork, ClipTower, HeadConfig, HeadKind, Task
from model.nextgen_uia.preprocess import normalise, read_mask
from model.spatialclip.backbone import SONONET
from model.spatialclip.checkpoint import save_spatialclip
from tests.support.clips import FOUR_BLOCKS, write_clip
from tests.support.lesions import write_published
from tests.support.towers import spatialclip, write_sononet
from training.cli import app


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    if result.exit_code:
        raise AssertionError(f"exit status {result.exit_code}: {result.output}")
    return result.stdout


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    save_fetalclip(folder, FetalClip(FOUR_BLOCKS))
    return folder


def test_a_decoder_is_trained_judged_and_resumed(tmp_path: Path, clip: Path) -> None:
    data, out = write_published(tmp_path / "data", patients=True), tmp_path / "run"
    source = ["--tower", clip, "--data", data, "--dataset", "BUSI", "--device", "cpu"]
    train = ["segment", "train", *source, "--out", out, "--width", 4, "--batch", 4]
    answer = json.loads(run(*train, "--epochs", 2, "--learning-rate", 3e-3))
    assert 0 <= answer["validation Dice"] <= 1
    trained = read_trained(out)
    assert trained.head == HeadConfig(
        Task.SEGMENTATION, ("background", "lesion"), 4, HeadKind.DECODER
    )
    assert trained.tower["layers"] == [0, 1, 2, 3]
    # The tower is frozen: nothing of it is in the file.
    assert all(name.startswith("head.") for name in trained.weights)
    losses = json.loads((out / "training.json").read_text())["losses"]
    whole = run(*train[:-4], "--width", 4, "--batch", 4, "--epochs", 2, "--learning-rate", 3e-3,
                "--resume")  # fmt: skip
    assert json.loads(whole) == answer
    assert json.loads((out / "training.json").read_text())["losses"] == losses

    figures = json.loads(run("segment", "evaluate", "--run", out, *source))
    assert figures["pictures"] == 4
    assert "Dice" in figures
    with pytest.raises(UsageError, match="reads 4 blocks, not 2"):
        run(*train, "--block", 1, "--block", 3, "--force")
    two = write_clip(tmp_path / "two")
    with pytest.raises(UsageError, match="the tower has 2"):
        run("segment", "train", "--tower", two, "--data", data, "--dataset", "BUSI",
            "--batch", 4, "--out", tmp_path / "other")  # fmt: skip


def test_sononet_has_a_decoder_of_its_own(tmp_path: Path) -> None:
    tower = write_sononet(tmp_path / "sononet16.safetensors")
    data, out = write_published(tmp_path / "data", patients=True), tmp_path / "run"
    source = ["--tower", tower, "--data", data, "--dataset", "BUSI", "--device", "cpu"]
    train = ["segment", "train", *source, "--out", out, "--width", 8, "--side", 48,
             "--batch", 4, "--epochs", 25, "--learning-rate", 1e-2]  # fmt: skip
    answer = json.loads(run(*train))
    # Bright blobs on speckle are learnt by the decoder alone; untrained it has 0.5 at most.
    assert answer["validation Dice"] > 0.8
    trained = read_trained(out)
    assert trained.head == HeadConfig(
        Task.SEGMENTATION, ("background", "lesion"), 8, HeadKind.PYRAMID
    )
    assert (trained.tower["side"], trained.tower["layers"]) == (48, [1, 2, 3, 4])
    assert all(name.startswith("head.") for name in trained.weights)
    figures = json.loads(run("segment", "evaluate", "--run", out, *source))
    assert figures["Dice"]["value"] > 0.8
    blob = data / "all/images/case1.png"
    table = run("segment", "measure", "--run", out, "--tower", tower, blob, "--spacing", 1,
                "--format", "jsonl", "--device", "cpu")  # fmt: skip
    # Case 1 is a disc of 12 pixels.
    assert json.loads(table)["circumference_mm"] == pytest.approx(2 * math.pi * 12, rel=0.15)

    tuned = [*train[:-4], "--epochs", 1, "--tune-tower", "--out", tmp_path / "tuned"]
    run(*tuned, "--block", 0, "--block", 4)
    assert read_trained(tmp_path / "tuned").tower["layers"] == [0, 4]
    assert json.loads(run("segment", "evaluate", "--run", tmp_path / "tuned", *source))
    new = [*tuned, "--out", tmp_path / "other"]
    with pytest.raises(UsageError, match="two blocks of SonoNet-16 at least"):
        run(*new, "--block", 3)
    with pytest.raises(QCError, match="has 5 blocks, and none 7"):
        run(*new, "--block", 3, "--block", 7)
    with pytest.raises(QCError, match="a multiple of 16"):
        run(*new, "--side", 50)


def test_spatialclips_tower_has_fetalclips_decoder(tmp_path: Path) -> None:
    save_spatialclip(tmp_path / "spatialclip", spatialclip(SONONET))
    data, out = write_published(tmp_path / "data"), tmp_path / "run"
    source = ["--tower", tmp_path / "spatialclip", "--data", data, "--dataset", "BUSI"]
    run("segment", "train", *source, "--out", out, "--width", 4, "--batch", 4, "--epochs", 1,
        "--device", "cpu")  # fmt: skip
    trained = read_trained(out)
    assert trained.head is not None
    assert (trained.tower["kind"], trained.head.kind) == ("spatialclip", HeadKind.DECODER)
    figures = json.loads(run("segment", "evaluate", "--run", out, *source, "--device", "cpu"))
    assert figures["pictures"] == 4


def _disc_segmenter(folder: Path, clip: Path) -> Path:
    """A head of one layer, trained here to call bright what is bright."""
    tower = load_tower(clip, (0, 1, 2, 3))
    assert isinstance(tower, ClipTower)
    config = HeadConfig(Task.SEGMENTATION, ("background", "head"), 4, HeadKind.DECODER)
    torch.manual_seed(0)
    network = AdaptedNetwork(tower.requires_grad_(False), config)
    y, x = np.mgrid[:32, :32] - 15.5
    optimizer = torch.optim.Adam(network.head.parameters(), lr=0.02)
    for step in range(120):
        # A quarter of the pictures show nothing.
        radius = 7 + step % 6 if step % 4 else 0
        disc = (x**2 + y**2 < radius**2).astype(np.uint8)
        mask = torch.from_numpy(disc.astype(np.int64))[None]
        picture = normalise([np.repeat(disc[..., None] * np.uint8(255), 3, 2)])
        loss = torch.nn.functional.cross_entropy(network(picture), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_trained(folder, tower, tower_sha256(tower), head=network.head, head_config=config)
    return folder


def test_a_circumference_is_measured_in_mm_or_the_reason_is_given(
    tmp_path: Path, clip: Path
) -> None:
    folder = _disc_segmenter(tmp_path / "run", clip)
    pictures = tmp_path / "heads"
    pictures.mkdir()
    y, x = np.mgrid[:320, :320] - 159.5
    grey = np.where(x**2 + y**2 < 100**2, 255, 0).astype(np.uint8)
    Image.fromarray(grey).convert("RGB").save(pictures / "head.png")
    Image.fromarray(np.zeros_like(grey)).convert("RGB").save(pictures / "nothing.png")
    out, masks = tmp_path / "heads.jsonl", tmp_path / "masks"
    command = ["segment", "measure", "--run", folder, "--tower", clip, pictures]
    run(*command, "--spacing", 0.5, "--out", out, "--format", "jsonl", "--masks", masks,
        "--device", "cpu")  # fmt: skip
    head, nothing = [json.loads(line) for line in out.read_text().splitlines()]
    # Ten pixels of the picture are one of the network's: right to a few per cent.
    assert head["circumference_mm"] == pytest.approx(2 * math.pi * 100 * 0.5, rel=0.05)
    assert head["share"] == pytest.approx(math.pi * 100**2 / 320**2, rel=0.1)
    assert head["reason"] is None
    mask = read_mask(masks / head["mask"])
    assert mask.shape == (320, 320)
    assert mask.mean() == pytest.approx(head["share"])
    assert nothing["circumference_mm"] is None
    assert nothing["reason"] == "nothing-found"
    table = run(*command, "--device", "cpu")
    assert "no-spacing" in table


def test_a_classifier_measures_nothing(tmp_path: Path, clip: Path) -> None:
    tower = load_tower(clip, (3,))
    config = HeadConfig(Task.CLASSIFICATION, ("a", "b"), kind=HeadKind.POOLED)
    head = AdaptedNetwork(tower, config).head
    save_trained(tmp_path / "run", tower, tower_sha256(tower), head=head, head_config=config)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="tells classes apart"):
        run("segment", "measure", "--run", tmp_path / "run", "--tower", clip, tmp_path / "a.png")

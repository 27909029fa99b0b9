"""`qc-model iqa`: usable frames by a head, and by the area of a mask."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from model.fetalclip.checkpoint import save_fetalclip
from model.fetalclip.network import FetalClip
from model.nextgen_uia.checkpoint import read_trained
from tests.support.clips import FOUR_BLOCKS, write_clip
from training.cli import app
from training.evaluation.usability import (
    UsabilityThreshold,
    choose_threshold,
    usability_metrics,
)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    if result.exit_code:
        raise AssertionError(f"exit status {result.exit_code}: {result.output}")
    return result.stdout


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each of 16 patients a bright, usable frame and two dark ones."""
    folder = tmp_path_factory.mktemp("frames")
    generator = np.random.default_rng(0)
    rows = ["file,patient,usable"]
    for patient in range(16):
        for number in range(3):
            name = f"{patient}-{number}.png"
            level = 200 if number == 0 else 50
            noise = generator.normal(level, 10, (32, 32)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).convert("RGB").save(folder / name)
            rows.append(f"{name},p{patient},{int(number == 0)}")
    (folder / "frames.csv").write_text("\n".join(rows) + "\n")
    return folder / "frames.csv"


def test_a_threshold_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    usable = np.array([False, True, False, True, True])
    chosen = choose_threshold(scores, usable, list("aabbc"))
    # From 0.2 on: four called, three right: 6/7. From 0.4 on: two of three: 4/5.
    assert chosen == UsabilityThreshold(0.2, 6 / 7, 5, 3)
    with pytest.raises(UsageError, match="usable and unusable"):
        choose_threshold(scores, np.ones(5, bool), list("aabbc"))


def test_figures_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1])
    usable = np.array([True, True, True, False, False, False])
    figures = usability_metrics(scores, usable, list("abcdef"), 0.5, resamples=50)
    assert figures["confusion"] == {
        "usable": {"called usable": 2, "called unusable": 1},
        "unusable": {"called usable": 1, "called unusable": 2},
    }
    for name in ("F1", "precision", "recall", "specificity", "accuracy"):
        assert figures[name]["value"] == pytest.approx(2 / 3)
    assert figures["AUROC"]["value"] == pytest.approx(8 / 9)
    assert figures["accuracy of calling none usable"] == 0.5


def test_a_head_with_lora_is_trained_calibrated_judged_and_used(
    tmp_path: Path, frames: Path
) -> None:
    clip, out = write_clip(tmp_path / "clip"), tmp_path / "run"
    source = ["--tower", clip, "--frames", frames, "--device", "cpu"]
    train = ["iqa", "train", *source, "--out", out, "--batch", 8, "--epochs", 8,
             "--learning-rate", 1e-2, "--held-out", 0.3, "--validation", 0.3]  # fmt: skip
    answer = json.loads(run(*train))
    # Each of two blocks: out_proj 128 + 128, fc1 128 + 512, fc2 512 + 128, times 8; and the head.
    assert answer["learnt parameters"] == 2 * 8 * (256 + 640 + 640) + 2 * 128 + 2
    assert answer["validation"]["f1"] == 1.0
    trained = read_trained(out)
    assert trained.adapters is not None
    # peft's alpha of 16 over a rank of 8 doubles.
    assert trained.adapters.alpha / trained.adapters.rank**0.5 == pytest.approx(2.0)
    assert (out / "usability.json").is_file()

    division = ["--held-out", 0.3, "--validation", 0.3]
    figures = json.loads(run("iqa", "evaluate", "--run", out, *source, *division))
    chosen = figures["chosen threshold"]
    assert chosen["AUROC"]["value"] == 1.0
    assert chosen["accuracy of calling none usable"] == pytest.approx(2 / 3)
    assert figures["published threshold"]["threshold"] == 0.5
    with pytest.raises(UsageError, match=r"learnt from.*--seed as in training\)$"):
        run("iqa", "evaluate", "--run", out, *source, *division, "--split", "train")

    file = tmp_path / "judged.csv"
    run("iqa", "judge", "--run", out, "--tower", clip, frames.parent / "0-0.png",
        frames.parent / "0-1.png", "--format", "csv", "--out", file)  # fmt: skip
    rows = list(csv.DictReader(file.open()))
    assert [row["usable"] for row in rows] == ["True", "False"]
    # A threshold goes with the weights that it was chosen for.
    with (out / "weights.safetensors").open("ab") as weights:
        weights.write(b" ")
    with pytest.raises(UsageError, match=r"trained on since\): choose one by"):
        run("iqa", "judge", "--run", out, "--tower", clip, frames.parent / "0-0.png")


def test_the_area_of_a_mask_judges_too(tmp_path: Path, frames: Path) -> None:
    clip, out = tmp_path / "clip", tmp_path / "run"
    torch.manual_seed(0)
    save_fetalclip(clip, FetalClip(FOUR_BLOCKS))
    _train_masks(tmp_path, frames, clip, out)
    source = ["--run", out, "--tower", clip, "--frames", frames, "--device", "cpu"]
    with pytest.raises(UsageError, match="no threshold of usable frames"):
        run("iqa", "evaluate", *source)
    chosen = json.loads(run("iqa", "calibrate", *source, "--validation", 0.5))
    assert 0 < chosen["threshold"] <= 1
    figures = json.loads(run("iqa", "evaluate", *source, "--validation", 0.5))
    assert figures["chosen threshold"]["AUROC"]["value"] > 0.9
    assert figures["published threshold"]["threshold"] == 0.01


def _train_masks(tmp_path: Path, frames: Path, clip: Path, out: Path) -> None:
    """A decoder that learns that bright pictures are all structure and dark ones have none."""
    root = tmp_path / "published"
    for folder in ("all/images", "all/masks", "segmentation/FRAMES"):
        (root / folder).mkdir(parents=True)
    names: list[str] = []
    generator = np.random.default_rng(5)
    for number in range(12):
        level = 200 if number % 2 else 50
        noise = generator.normal(level, 10, (32, 32)).clip(0, 255).astype(np.uint8)
        names.append(f"other{number}.png")
        Image.fromarray(noise).convert("RGB").save(root / "all/images" / names[-1])
        mask = np.full((32, 32), 255 * (number % 2), np.uint8)
        Image.fromarray(mask).save(root / "all/masks" / names[-1])
    for split, part in (("train", names[:8]), ("val", names[8:10]), ("test", names[10:])):
        text = "\n".join(part) + "\n"
        (root / f"segmentation/FRAMES/{split}.txt").write_text(text)
    run("segment", "train", "--tower", clip, "--data", root, "--dataset", "FRAMES", "--out", out,
        "--width", 4, "--batch", 4, "--epochs", 12, "--learning-rate", 1e-2, "--no-augment",
        "--device", "cpu")  # fmt: skip


def test_wrong_columns_are_named(tmp_path: Path, frames: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    command = ["iqa", "train", "--tower", clip, "--frames", frames, "--out", tmp_path / "run"]
    with pytest.raises(
        UsageError, match="--usable good: column usable has no such value, but 0, 1"
    ):
        run(*command, "--usable", "good")
    with pytest.raises(UsageError, match="fewer than a batch"):
        run(*command, "--batch", 99)

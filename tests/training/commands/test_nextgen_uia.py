"""`qc-model nextgen-uia`, from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from model.nextgen_uia.adapters import AdapterConfig, Kind, Spectrum, adapter_state, add_adapters
from model.nextgen_uia.checkpoint import load_tower, read_trained
from tests.support.lesions import write_published
from tests.support.towers import tower_folder
from training.cli import app
from training.commands.lesion_sources import AdapterName
from training.data.splits import group_hash
from training.evaluation.heads_on_towers import TRUTH_RGB
from training.train.runs import write_learnt, write_validated


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
    masks, file, overlays = tmp_path / "masks", tmp_path / "figures.json", tmp_path / "overlays"
    figures = json.loads(run(*evaluate, "--masks", masks, "--overlays", overlays, "--out", file))
    assert figures["pictures"] == 4
    assert set(figures) >= {"Dice", "IoU", "HD95 pixels", "ASD pixels", "failed"}
    assert json.loads(file.read_text()) == figures
    assert len(list(masks.iterdir())) == 4
    for path in overlays.iterdir():
        picture, overlay = (
            np.asarray(Image.open(each)) for each in (data / "all/images" / path.name, path)
        )
        changed = (picture != overlay).any(-1)
        # The drawn mask's outline is there, and the inside is not painted over.
        assert {tuple(colour) for colour in overlay[changed]} >= {TRUTH_RGB}
        assert changed.mean() < 0.3
    assert len(list(overlays.iterdir())) == 4
    with pytest.raises(UsageError, match=r"learnt from 8 of these files, the first is case0\.png"):
        run(*evaluate, "--split", "train")
    with pytest.raises(UsageError, match="--roc goes with heads of classes"):
        run(*evaluate, "--roc", tmp_path / "roc.svg")

    # Of two runs each judges what the other one has seen.
    copy = shutil.copytree(out, tmp_path / "copy")
    images = [data / "all/images" / f"case{number}.png" for number in range(16)]
    for folder, part in ((out, images[:8]), (copy, images[8:])):
        write_learnt(folder, part, set())
        write_validated(folder, [])
    pooled = json.loads(run(*evaluate, "--run", copy))
    assert pooled["pictures"] == 16
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
    evaluate = ["nextgen-uia", "evaluate", "--run", out, "--tower", clip, "--device", "cpu"]
    evaluate += ["--data", data, "--dataset", "BUSI"]
    figures = json.loads(run(*evaluate, "--roc", tmp_path / "roc.svg"))
    assert figures["pictures"] == 4
    assert "<svg" in (tmp_path / "roc.svg").read_text()
    with pytest.raises(UsageError, match="--masks and --overlays go with heads of masks"):
        run(*evaluate, "--overlays", tmp_path / "overlays")
    with pytest.raises(UsageError, match=r"roc\.gif: give a file that ends in \.svg"):
        run(*evaluate, "--roc", tmp_path / "roc.gif")


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


def _labelled(folder: Path, patients: int) -> Path:
    """A dark and a light picture of each patient."""
    folder.mkdir()
    rows = ["file,patient,plane"]
    for number in range(2 * patients):
        label, level = (("dark", 40), ("light", 200))[number % 2]
        pixels = np.random.default_rng(number).normal(level, 15, (32, 32, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number // 2},{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def test_the_few_shot_curve_of_adapters(tmp_path: Path, clip: Path) -> None:
    labels, out = _labelled(tmp_path / "pictures", 10), tmp_path / "curve"
    command = ["nextgen-uia", "few-shot", "--tower", clip, "--labels", labels, "--out", out]
    command += ["--steps", 1, "--batch", 2, "--width", 8, "--seed", 3, "--device", "cpu"]
    text = run(*command, "--patients", 1)
    assert text.startswith("  1 patients: macro-F1 ")
    curve = json.loads((out / "curve.json").read_text())
    assert (curve["adapter"], curve["classes"]) == ("mona-hybrid", ["dark", "light"])
    assert [point["trials"] for point in curve["curve"]] == [5]
    with pytest.raises(UsageError, match="holds a curve"):
        run(*command, "--patients", 1)
    assert run(*command, "--patients", 1, "--resume") == text
    with pytest.raises(UsageError, match="fewer than 32"):
        run(*command, "--patients", 32, "--force")


def test_what_a_cache_needs_is_one_line(tmp_path: Path, clip: Path) -> None:
    labels, out = _labelled(tmp_path / "pictures", 10), tmp_path / "run"
    data = ["--tower", clip, "--labels", labels, "--out", out, "--cache", tmp_path / "cache"]
    train = ["train", "adapter", *data, "--epochs", 1, "--batch", 4]
    with pytest.raises(UsageError, match="give --copies 5, say, or --no-augment"):
        run(*train)
    with pytest.raises(UsageError, match="--tune-tower changes it"):
        run(*train, "--copies", 2, "--tune-tower")
    with pytest.raises(UsageError, match="this tower has none: leave --cache out"):
        run(*train, "--copies", 2)
    with pytest.raises(UsageError, match="give --copies 10, say"):
        run("nextgen-uia", "few-shot", *data)
    assert not out.exists()
    # The features of a tuned tower must not be taken for the tower's own.
    few = ["--epochs", 1, "--batch", 4, "--width", 8, "--device", "cpu", "--labels", labels]
    tune = ["train", "adapter", "--tower", clip, "--adapter", "none", "--tune-tower", *few]
    run(*tune, "--out", tmp_path / "tuned")
    with pytest.raises(UsageError, match="that of --start was tuned"):
        run(*train, "--copies", 2, "--start", tmp_path / "tuned")


def test_a_fold_is_left_for_testing(tmp_path: Path, clip: Path) -> None:
    labels, out = _labelled(tmp_path / "pictures", 20), tmp_path / "run"
    data = ["--labels", labels, "--fold", 0, "--validation", 0.3, "--device", "cpu"]
    train = ["train", "adapter", "--tower", clip, "--out", out, "--adapter", "none"]
    run(*train, *data, "--epochs", 1, "--batch", 4, "--width", 8)
    facts = json.loads((out / "training.json").read_text())
    evaluate = ["nextgen-uia", "evaluate", "--run", out, "--tower", clip, *data]
    figures = json.loads(run(*evaluate))
    counts = [facts["training"]["groups"], facts["validation"]["groups"], figures["groups"]]
    assert sum(counts) == 20
    assert min(counts) > 0

    # Of another data set nobody is left out.
    others = ["--labels", _labelled(tmp_path / "others", 30), "--split", "all", "--device", "cpu"]
    others = ["nextgen-uia", "evaluate", "--run", out, "--tower", clip, *others]
    with pytest.raises(UsageError, match="learnt from"):
        run(*others)
    assert json.loads(run(*others, "--with-learnt"))["groups"] == 30


def test_a_class_that_nobody_who_validates_shows_is_named(tmp_path: Path, clip: Path) -> None:
    labels = _labelled(tmp_path / "pictures", 20)
    rows = labels.read_text().splitlines()
    # The grey class is of one patient, who learns.
    rows[1] = rows[1].replace("dark", "grey")
    labels.write_text("\n".join(rows) + "\n")
    command = ["train", "adapter", "--tower", clip, "--labels", labels, "--adapter", "none"]
    command += ["--epochs", 1, "--batch", 4, "--width", 8, "--device", "cpu", "--held-out", 0]
    seed = next(each for each in range(20) if group_hash("0", each) > 0.3)
    command += ["--validation", 0.3, "--seed", seed, "--out", tmp_path / "run"]
    answer = CliRunner().invoke(app, [str(each) for each in command])
    assert answer.exit_code == 0
    assert "split val has no picture of 'grey': the epoch is chosen" in answer.stderr


def test_every_adapter_that_an_option_offers_can_be_made() -> None:
    """Upstream offers one that raises, and fails at import for another one."""
    kinds = [Kind(name.value) for name in AdapterName if name is not AdapterName.NONE]
    assert kinds == list(Kind)

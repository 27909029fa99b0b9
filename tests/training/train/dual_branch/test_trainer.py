"""The trainer of the dual-branch classifier, at the smallest scale."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import model.dual_branch.network as networks
from detector.console import UsageError
from detector.errors import QCError
from model.dual_branch.checkpoint import load_dual_branch
from model.dual_branch.network import DualBranch, DualBranchConfig, build_backbone
from model.dual_branch.preprocess import Preprocessor
from tests.support.planes import CLASSES, TINY, write_pictures
from training.cli import app
from training.data.labelled import divide
from training.data.planes import Plane, planes_hash, read_pictures
from training.data.samples import file_hash
from training.evaluation.abstention import Abstention, read_abstention
from training.family_recipes import DualBranchRecipe
from training.train.dual_branch import trainer as dual_branch
from training.train.dual_branch.trainer import (
    Pictures,
    augment,
    load_start,
    predict,
    train_dual_branch,
)
from training.train.loop import check_parts
from training.train.runs import assign_judges, learnt_pictures

# Registered while these tests run.
ARCHITECTURES = dict(networks.ARCHITECTURES) | {"tiny": TINY}
with pytest.MonkeyPatch.context() as _patched:
    _patched.setattr(networks, "ARCHITECTURES", ARCHITECTURES)
    CONFIG = DualBranchConfig("tiny", CLASSES)
RECIPE = DualBranchRecipe(epochs=3, batch=4, learning_rate=1e-3)
Parts = tuple[list[Plane], list[Plane]]


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks, "ARCHITECTURES", ARCHITECTURES)
        yield


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    split = ["train"] * 6 + ["val"] * 2
    path = write_pictures(tmp_path_factory.mktemp("shapes"), 8, split=split)
    parts = divide(read_pictures(path), 0, 0.2, 0)
    return parts["train"], parts["val"]


@pytest.fixture(scope="module")
def run(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train_dual_branch(CONFIG, *parts, out, RECIPE, command="qc-model train dual-branch")
    return out


def scalars(out: Path, name: str) -> list[tuple[int, float]]:
    # File by file: the names of two files of one second do not say which was first.
    files = [EventAccumulator(str(path)).Reload() for path in (out / "tensorboard").iterdir()]
    scalars = [each.Scalars(name) for each in files if name in each.Tags()["scalars"]]
    return sorted((event.step, event.value) for events in scalars for event in events)


def test_a_run_says_what_it_was_made_of(run: Path, parts: Parts) -> None:
    facts = json.loads((run / "training.json").read_text())
    assert facts["command"] == "qc-model train dual-branch"
    assert facts["recipe"] == RECIPE.to_json()
    assert facts["recipe"]["seed"] == 0
    assert facts["config"]["classes"] == list(CLASSES)
    assert facts["training"]["sha256"] == planes_hash(parts[0])
    assert facts["training"]["data"][0] == {"class": "bar", "pictures": 6, "patients": 6}
    assert facts["validation"]["images"] == 6
    assert len(facts["losses"]) == 3
    assert learnt_pictures(run) == {file_hash(plane.path) for plane in parts[0]}
    assert load_dual_branch(run).config == CONFIG
    assert [step for step, _ in scalars(run, "validation/macro F1")] == [1, 2, 3]


def test_the_best_epoch_by_macro_f1_is_kept(run: Path) -> None:
    facts = json.loads((run / "training.json").read_text())
    scores = [value for _, value in scalars(run, "validation/macro F1")]
    assert facts["validation"]["macro F1"] == pytest.approx(max(scores))
    assert facts["best epoch"] == 1 + int(np.argmax(scores))
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    weights = load_file(run / "weights.safetensors")
    assert all(torch.equal(tensor, state["best"][name]) for name, tensor in weights.items())


def test_checkpoints_of_before_the_shared_loop_are_resumed(
    run: Path, parts: Parts, tmp_path: Path
) -> None:
    """They had no validations in them, and these names."""
    out = shutil.copytree(run, tmp_path / "run")
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    del state["scores"]
    assert set(state) == {"network", "optimizer", "best", "run", "place", "losses"}
    torch.save(state, out / "checkpoint.pt")
    facts = train_dual_branch(CONFIG, *parts, out, RECIPE, resume=True)
    assert facts == json.loads((run / "training.json").read_text()) | {"command": ""}


def test_the_best_is_by_macro_f1_and_not_by_accuracy(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's best names the frequent class only, and is right for nine in ten pictures."""
    state = dual_branch._Run(DualBranch(CONFIG), RECIPE, *parts)
    truth = ["disc"] * 9 + ["bar"]
    held_out = [replace(parts[1][0], label=label) for label in truth]
    monkeypatch.setattr(state, "held_out", Pictures(held_out, Preprocessor(CONFIG)))
    values = []
    for named in (["disc"] * 10, ["disc"] * 6 + ["bar"] * 4):
        rows = np.eye(3)[[CLASSES.index(name) for name in named]]
        monkeypatch.setattr(dual_branch, "predict", lambda *_, rows=rows: rows)
        values.append(state.validate())
    assert values[0]["accuracy"] > values[1]["accuracy"]
    assert next(iter(values[0])) == "macro F1"
    assert values[0]["macro F1"] < values[1]["macro F1"]


def test_a_threshold_is_fitted_on_the_patients_held_out(run: Path, parts: Parts) -> None:
    facts = json.loads((run / "training.json").read_text())["validation"]["abstention"]
    assert read_abstention(run / "abstention.json") == Abstention.from_json(facts)
    assert (facts["pictures"], facts["patients"]) == (6, 2)
    # And what chose the best epoch is known, too.
    with pytest.raises(UsageError, match=r"learnt from .+, or was chosen by it"):
        assign_judges([run], [parts[1][0].path])


def test_backbones_begin_with_weights_of_a_file(parts: Parts, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = build_backbone("test_resnet").state_dict()
    save_file(state | {"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)},
              tmp_path / "test_resnet.safetensors")  # fmt: skip
    files = {"test_resnet": tmp_path / "test_resnet.safetensors"}
    recipe = replace(RECIPE, epochs=1, frozen_backbones=True)
    facts = train_dual_branch(CONFIG, *parts, tmp_path / "run", recipe, backbones=files)
    assert facts["backbones"] == {"test_resnet": file_hash(files["test_resnet"])}
    trained = load_dual_branch(tmp_path / "run").branches[0].state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in state.items())


class StoppedError(Exception):
    """In place of a kill."""


def test_a_run_that_was_stopped_goes_on_to_the_same_losses(
    run: Path, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = DualBranch.forward, 0

    def stop(network: DualBranch, pictures: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += network.training
        if calls > 6:  # In the middle of the second epoch of four steps.
            raise StoppedError
        return forward(network, pictures)

    with monkeypatch.context() as patched:
        patched.setattr(DualBranch, "forward", stop)
        with pytest.raises(StoppedError):
            train_dual_branch(CONFIG, *parts, tmp_path, RECIPE)
    assert not (tmp_path / "weights.safetensors").exists()
    # Another process has other random numbers behind it.
    torch.manual_seed(999)
    facts = train_dual_branch(CONFIG, *parts, tmp_path, RECIPE, resume=True)
    expected = json.loads((run / "training.json").read_text())
    assert facts["losses"] == expected["losses"]
    assert scalars(tmp_path, "loss/train") == scalars(run, "loss/train")
    first, second = (load_file(out / "weights.safetensors") for out in (run, tmp_path))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_losses(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "shapes", 8)
    arguments = (
        f"train dual-branch --pictures {pictures} --architecture resnet18 --size 32 --epochs 4"
        " --batch 4 --device cpu --held-out 0.4"
    ).split()

    def command(*more: str) -> list[str]:
        code = "from training.cli import main; main()"
        return [sys.executable, "-P", "-c", code, *arguments, *more]

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    killed = tmp_path / "killed"
    process = subprocess.Popen(command("--out", str(killed)), env=environment)
    while not (killed / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "training.json").exists()
    whole = tmp_path / "whole"
    for more in (("--out", str(killed), "--resume"), ("--out", str(whole))):
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, result.output
    facts = [json.loads((out / "training.json").read_text()) for out in (killed, whole)]
    assert facts[0]["losses"] == facts[1]["losses"]


def test_more_epochs_may_follow_and_other_data_may_not(
    run: Path, parts: Parts, tmp_path: Path
) -> None:
    out = shutil.copytree(run, tmp_path / "run")
    longer = replace(RECIPE, epochs=4)
    facts = train_dual_branch(CONFIG, *parts, out, longer, resume=True)
    assert len(facts["losses"]) == 4
    other = replace(longer, learning_rate=0.1)
    with pytest.raises(UsageError, match="another learning_rate"):
        train_dual_branch(CONFIG, *parts, out, other, resume=True)
    with pytest.raises(UsageError, match="another pictures"):
        train_dual_branch(CONFIG, parts[0][:-1], parts[1], out, longer, resume=True)
    classes = replace(CONFIG, classes=("ring", "disc", "bar"))
    with pytest.raises(UsageError, match="another classes"):
        train_dual_branch(classes, *parts, out, longer, resume=True)


def test_it_learns_to_tell_shapes_apart(parts: Parts, tmp_path: Path) -> None:
    recipe = DualBranchRecipe(epochs=12, batch=6, learning_rate=3e-3, cosine=True, augment=False)
    facts = train_dual_branch(CONFIG, *parts, tmp_path, recipe)
    assert facts["losses"][-1] < 0.5 * facts["losses"][0]
    assert facts["validation"]["macro F1"] > 0.6
    network = load_dual_branch(tmp_path)
    rows = predict(network, Pictures(parts[0], Preprocessor(CONFIG)))
    assert rows.shape == (18, 3)
    assert rows.sum(1) == pytest.approx(1)
    truth = [CLASSES.index(plane.label) for plane in parts[0]]
    assert np.mean(rows.argmax(1) == truth) > 0.7


def test_a_start_gives_its_backbones_and_its_head_where_classes_agree(run: Path) -> None:
    start = load_dual_branch(run)
    torch.manual_seed(1)
    same, other = (
        DualBranch(replace(CONFIG, classes=classes)) for classes in (CLASSES, ("x", "y"))
    )
    for network in (same, other):
        load_start(network, start)
        pictures = torch.rand(1, 3, 32, 32)
        assert torch.equal(network.eval().features(pictures), start.features(pictures))
    assert torch.equal(same.head.weight, start.head.weight)
    pair = DualBranch(DualBranchConfig("resnet18-resnet34", CLASSES))
    with pytest.raises(UsageError, match="--start is tiny, not resnet18-resnet34"):
        load_start(pair, start)


def test_frozen_backbones_stay_as_they_are(run: Path, parts: Parts, tmp_path: Path) -> None:
    start = load_dual_branch(run)
    recipe = replace(RECIPE, epochs=1, frozen_backbones=True)
    train_dual_branch(CONFIG, *parts, tmp_path, recipe, start=start)
    trained = load_dual_branch(tmp_path)
    before, after = start.branches.state_dict(), trained.branches.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not torch.equal(trained.head.weight, start.head.weight)


def test_every_trainable_parameter_is_optimised_once() -> None:
    network = DualBranch(CONFIG)
    groups = dual_branch._parameter_groups(network, replace(RECIPE, weight_decay=0.1))
    optimised = [id(p) for group in groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in network.parameters())
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}


def test_a_loss_that_is_not_finite_stops_the_run(parts: Parts, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, epochs=3)
    with pytest.raises(QCError, match="the loss of step"):
        train_dual_branch(CONFIG, *parts, tmp_path, recipe)
    assert not (tmp_path / "weights.safetensors").exists()


def test_mirrored_is_left_to_right_and_never_bgr() -> None:
    """Upstream flips rows-columns-channels along an axis of which one is the colours: half of its
    mirror images turn red flow blue, and none is upside down."""
    canvas = np.zeros((60, 60, 3), np.uint8)
    canvas[:, 5:15] = (220, 20, 20)
    canvas[50:, 40:50] = (20, 220, 20)
    sides = set()
    for seed in range(30):
        moved = augment(canvas, np.random.default_rng(seed)).astype(int)
        red, green, blue = moved[..., 0], moved[..., 1], moved[..., 2]
        assert blue.max() < 60
        rows, columns = np.nonzero(red > 100)
        assert len(rows)
        sides.add(columns.mean() < 30)
        assert np.nonzero(green > 100)[0].mean() > 30
    assert sides == {True, False}


def test_augmentation_keeps_a_circle_round() -> None:
    """Upstream crops to a ratio of 0.9 to 1.2 and stretches it to 1.33."""
    rows, columns = np.mgrid[:120, :160]
    disc = (np.hypot(rows - 60, columns - 80) < 40).astype(np.uint8) * 220
    canvas = np.repeat(disc[..., None], 3, -1)
    for seed in range(20):
        moved = augment(canvas, np.random.default_rng(seed))[..., 0] > 110
        height, width = (np.flatnonzero(moved.any(axis)).size for axis in (1, 0))
        assert abs(height - width) <= 2


def test_pictures_beyond_the_memory_are_read_again(parts: Parts) -> None:
    few = Pictures(parts[0], Preprocessor(CONFIG), cache_bytes=2 * 32 * 32 * 3)
    first = [few.canvas(i) for i in range(4)]
    assert few.canvas(0) is first[0]
    assert few.canvas(3) is not first[3]
    assert (few.canvas(3) == first[3]).all()


def plane(patient: str) -> Plane:
    return Plane(Path(patient), CLASSES[0], patient, location=f"row {patient}")


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        ([], ["v"], "no picture is left to learn from"),
        (list("abcd"), [], "no picture is held out"),
        (list("abc"), ["v"], "3 pictures an epoch are fewer than a batch of 4: give --batch 3"),
        (list("abcd"), ["b"], "row b is held out, but its patient is learnt from in row b"),
    ],
)
def test_a_division_that_cannot_be_learnt_from_is_refused(
    training: list[str], validation: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_parts([*map(plane, training)], [*map(plane, validation)], RECIPE.batch)


def test_progress_is_shown_on_a_terminal_only(parts: Parts, capsys: Any) -> None:
    torch.manual_seed(0)
    state = dual_branch._Run(DualBranch(CONFIG), RECIPE, *parts)
    loss = state.train_epoch(Console(stderr=True))
    assert loss > 0
    assert capsys.readouterr().err == ""

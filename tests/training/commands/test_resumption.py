"""Every training command goes on where it was killed: to the same losses and the same weights.

The commands are those of `qc-model` itself: a new one without a row here fails.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from model.fetalclip.checkpoint import save_fetalclip
from model.fetalclip.network import FetalClip
from tests.support.clips import FOUR_BLOCKS, write_clip
from tests.support.lesions import write_published
from tests.support.planes import CLASSES, write_pictures
from tests.support.towers import tower_folder, write_sononet
from training.cli import app
from training.data.samples import Sample
from training.train import describer


def _detector(folder: Path, parts: "Parts") -> str:
    return f"train detector --samples {parts.samples} --size 64 --epochs 2 --batch 8 --held-out 0.3"


def _describer(folder: Path, parts: "Parts") -> str:
    return "train describer --steps 4"


def _spatialclip(folder: Path, parts: "Parts") -> str:
    # Each picture costs seconds: it is 288 pixels wide, whatever one asks for.
    items = json.loads(parts.samples.read_text())[:12]
    for item in items:
        item["image_path"] = str(parts.samples.parent / item["image_path"])
    (folder / "samples.json").write_text(json.dumps(items))
    return (
        f"train spatialclip --samples {folder / 'samples.json'} --detector {parts.detector}"
        f" --describer {parts.describer} --cache {folder / 'cache'} --epochs 2 --batch 4"
        " --held-out 0.3"
    )


def _adapter(folder: Path, parts: "Parts") -> str:
    clip, data = tower_folder(folder / "clip"), write_published(folder / "data")
    return (
        f"train adapter --tower {clip} --task segmentation --data {data} --dataset BUSI --layers 0"
        " --layers 1 --width 8 --epochs 3 --batch 4 --device cpu"
    )


def _captions(folder: Path, parts: "Parts") -> str:
    clip, data = write_clip(folder / "clip"), write_published(folder / "data") / "all"
    rows = sorted(f"{path.name},case {path.stem}" for path in (data / "images").iterdir())
    (data / "pairs.csv").write_text("\n".join(["filename,Caption", *rows]) + "\n")
    return (
        f"train captions --model {clip} --captions {data / 'pairs.csv'} --epochs 3 --batch 4"
        " --validation 0.3 --device cpu"
    )


def _dual_branch(folder: Path, parts: "Parts") -> str:
    return (
        f"train dual-branch --pictures {write_pictures(folder / 'shapes', 6)} --architecture"
        " resnet18 --size 32 --epochs 2 --batch 4 --device cpu --held-out 0.4"
    )


def _segment(folder: Path, parts: "Parts") -> str:
    torch.manual_seed(0)
    save_fetalclip(folder / "clip", FetalClip(FOUR_BLOCKS))
    data = write_published(folder / "data")
    return (
        f"segment train --tower {folder / 'clip'} --data {data} --dataset BUSI --width 4 --epochs 3"
        " --batch 4 --device cpu"
    )


def _segment_on_sononet(folder: Path, parts: "Parts") -> str:
    tower = write_sononet(folder / "sononet16.safetensors")
    data = write_published(folder / "data")
    return (
        f"segment train --tower {tower} --tune-tower --data {data} --dataset BUSI --width 4"
        " --side 32 --epochs 3 --batch 4 --device cpu"
    )


def _iqa(folder: Path, parts: "Parts") -> str:
    rows = ["file,patient,usable"]
    for number in range(24):
        level = 200 if number % 2 else 50
        noise = np.random.default_rng(number).normal(level, 10, (32, 32)).clip(0, 255)
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,p{number // 2},{number % 2}")
    (folder / "frames.csv").write_text("\n".join(rows) + "\n")
    return (
        f"iqa train --tower {write_clip(folder / 'clip')} --frames {folder / 'frames.csv'}"
        " --epochs 3 --batch 4 --held-out 0.3 --validation 0.3 --device cpu"
    )


def _distil(folder: Path, parts: "Parts") -> str:
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps({name: [f"a {name}"] for name in CLASSES}))
    return (
        f"distil --teacher {write_clip(folder / 'clip')} --labels"
        f" {write_pictures(folder / 'shapes', 6)} --label-column class --prompts {prompts}"
        " --epochs 3 --batch 6 --validation 0.4 --device cpu"
    )


def _few_shot(folder: Path, parts: "Parts") -> str:
    clip = tower_folder(folder / "clip")
    return (
        f"nextgen-uia few-shot --tower {clip} --labels {write_pictures(folder / 'shapes', 12)}"
        " --label-column class --layers 0 --width 4 --patients 1 --steps 2 --batch 4 --device cpu"
    )


COMMANDS: dict[str, tuple[Callable[[Path, "Parts"], str], ...]] = {
    "train detector": (_detector,),
    "train describer": (_describer,),
    "train spatialclip": (_spatialclip,),
    "train adapter": (_adapter,),
    "train captions": (_captions,),
    "train dual-branch": (_dual_branch,),
    "segment train": (_segment, _segment_on_sononet),
    "iqa train": (_iqa,),
    "distil": (_distil,),
    "nextgen-uia few-shot": (_few_shot,),
}
ROWS = [pytest.param(each, id=each.__name__[1:]) for row in COMMANDS.values() for each in row]


class Parts:
    """Pictures and models that a training begins with."""

    def __init__(self, samples: Path, detector: Path, describer: Path) -> None:
        self.samples, self.detector, self.describer = samples, detector, describer


@pytest.fixture
def parts(phantom_samples: list[Sample], detector_run: Path, describer_run: Path) -> Parts:
    samples = phantom_samples[0].image.parents[1] / "samples.json"
    assert samples.is_file()
    return Parts(samples, detector_run, describer_run)


def _walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for part, inner in getattr(command, "commands", {}).items():
        full = f"{name} {part}".strip()
        yield full, inner
        yield from _walk(inner, full)


def test_every_training_command_is_here_and_has_resume() -> None:
    resumable, trainings = set(), set()
    for name, command in _walk(typer.main.get_command(app)):
        if any("--resume" in parameter.opts for parameter in command.params):
            resumable.add(name)
        if "train" in name.split() and not hasattr(command, "commands"):
            trainings.add(name)
    assert trainings <= resumable
    assert set(COMMANDS) == resumable


class KilledError(BaseException):
    """In place of SIGKILL: nothing of ours may catch it."""


def _train(arguments: str, out: Path, *more: str) -> None:
    words = [*arguments.split(), "--out", str(out), *more]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def _figures(out: Path) -> dict[str, Any]:
    """All that a training leaves which may not depend on when it was killed."""
    figures: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")
    }
    for name in ("training.json", "curve.json"):
        if (out / name).is_file():
            facts = json.loads((out / name).read_text())
            facts.pop("command", None)
            figures[name] = facts
    if (out / "tensorboard").is_dir():
        # File by file: the name has whole seconds, and a run may be killed and go on within one.
        paths = sorted((out / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in paths:
            events = EventAccumulator(str(path)).Reload()
            for tag in events.Tags()["scalars"]:
                figures.setdefault(tag, {}).update(
                    {event.step: event.value for event in events.Scalars(tag)}
                )
    return figures


def _check_same(killed: Path, whole: Path) -> None:
    first, second = _figures(killed), _figures(whole)
    assert {"training.json", "curve.json"} & set(second)
    assert set(first) == set(second)
    for name, value in second.items():
        assert first[name] == value, name


@pytest.mark.parametrize("prepare", ROWS)
def test_a_killed_training_goes_on_to_the_same(
    prepare: Callable[[Path, Parts], str],
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed while the second checkpoint is written, which is then half there."""
    # Sentences are counted after the last step, and would take most of the time.
    monkeypatch.setattr(describer, "exact_rates", lambda *_: (0.0, 0.0))
    arguments, killed = prepare(tmp_path, parts), tmp_path / "killed"
    save, paths = torch.save, []

    def die(state: Any, path: Path) -> None:
        paths.append(path)
        if len(paths) == 2:
            path.write_bytes(b"half")
            raise KilledError
        save(state, path)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", die)
        with pytest.raises(KilledError):
            _train(arguments, killed)
    assert not list(killed.glob("*.safetensors"))
    # The process that goes on has other random numbers behind it.
    torch.manual_seed(99)
    np.random.seed(99)
    _train(arguments, killed, "--resume")
    torch.manual_seed(7)
    _train(arguments, tmp_path / "whole")
    _check_same(killed, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", ROWS)
def test_a_killed_process_is_gone_on_with(
    prepare: Callable[[Path, Parts], str], parts: Parts, tmp_path: Path
) -> None:
    """SIGKILL, as soon as there is a checkpoint."""
    arguments, killed = prepare(tmp_path, parts), tmp_path / "killed"
    code = "from training.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments.split(), "--out", str(killed)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    while process.poll() is None and not list(killed.rglob("checkpoint.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _train(arguments, killed, "--resume")
    _train(arguments, tmp_path / "whole")
    _check_same(killed, tmp_path / "whole")

"""`qc-model distil`: a student is a FetalCLIP folder; wrong inputs are one line each."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector.console import UsageError
from model.fetalclip.checkpoint import load_fetalclip, save_fetalclip
from tests.support.clips import SMALL, random_clip, write_clip
from tests.support.planes import CLASSES, write_pictures
from training.cli import app


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    if result.exit_code:
        raise AssertionError(f"exit status {result.exit_code}: {result.output}")
    return result.stdout


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({name: [f"a {name}"] for name in CLASSES}))
    return path


def test_a_student_is_taught_and_used(tmp_path: Path, teacher: Path, prompts: Path) -> None:
    out = tmp_path / "student"
    labels = write_pictures(
        tmp_path / "planes", 8, split=("train",) * 4 + ("val",) * 2 + ("test",) * 2
    )
    data = ["--labels", labels, "--label-column", "class", "--prompts", prompts]
    command = ["distil", "--teacher", teacher, *data, "--out", out, "--device", "cpu"]
    options = ["--epochs", 1, "--batch", 12, "--no-augment"]
    answer = json.loads(run(*command, *options, "--beta", 2, -0.8))
    assert answer["best epoch"] == 1
    student = load_fetalclip(out)
    assert student.architecture.vision_width == 192
    assert answer["student parameters"] == sum(p.numel() for p in student.clip.parameters())
    facts = json.loads((out / "training.json").read_text())
    assert facts["recipe"]["beta_end"] == -0.8
    # Pictures of the split test neither teach nor validate.
    assert (facts["training"]["pairs"], facts["validation"]["pairs"]) == (12, 6)
    # Its folder goes where a FetalCLIP's goes.
    judge = ["zero-shot", "--model", out, "--prompts", prompts, "--label-column", "class"]
    table = run(*judge, "--device", "cpu", labels.parent / "0_disc.png")
    assert table.splitlines()[0].startswith("source")
    with pytest.raises(UsageError, match=r"learnt from 12 of these files.*--with-learnt"):
        run(*judge, "--labels", labels)
    with pytest.raises(UsageError, match="holds a run"):
        run(*command, *options)


def test_a_student_begins_with_another(tmp_path: Path, teacher: Path, prompts: Path) -> None:
    first, out = write_clip(tmp_path / "first"), tmp_path / "student"
    (first / "pictures.txt").write_text("0" * 64 + "\n")
    labels = write_pictures(tmp_path / "planes", patients=6)
    command = ["distil", "--teacher", teacher, "--labels", labels, "--label-column", "class",
               "--prompts", prompts, "--out", out, "--epochs", 1, "--batch", 6,
               "--validation", 0.4, "--device", "cpu"]  # fmt: skip
    answer = json.loads(run(*command, "--start", first))
    assert answer["student parameters"] == answer["teacher parameters"]
    assert load_fetalclip(out).architecture == SMALL
    # What the start learnt from is the student's, too.
    learnt = (out / "pictures.txt").read_text().split()
    facts = json.loads((out / "training.json").read_text())
    assert len(learnt) == facts["training"]["pairs"] + 1
    assert "0" * 64 in learnt
    save_fetalclip(tmp_path / "short", random_clip(replace(SMALL, context=77)))
    with pytest.raises(UsageError, match="its context is 77, the teacher's 117"):
        run(*command, "--start", tmp_path / "short", "--force")


def test_one_source_of_pairs_has_to_be_given(tmp_path: Path, teacher: Path) -> None:
    labels = write_pictures(tmp_path / "planes", patients=1)
    command = ["distil", "--teacher", teacher, "--out", tmp_path / "student"]
    for words in ([], ["--labels", labels], ["--labels", labels, "--captions", labels]):
        with pytest.raises(UsageError, match="--captions, or --labels with --prompts"):
            run(*command, *words)

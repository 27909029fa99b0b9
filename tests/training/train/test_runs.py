"""Who judges what: no model its own pictures."""

from pathlib import Path

import pytest

from detector.console import UsageError
from training.train.runs import (
    assign_judges,
    learnt_pictures,
    refuse_learnt,
    remove_run,
    write_learnt,
    write_validated,
)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        path.write_text(path.name)
    return paths


def _run(folder: Path, learnt: list[Path], validated: list[Path]) -> Path:
    folder.mkdir()
    write_learnt(folder, learnt, set())
    write_validated(folder, validated)
    return folder


def test_each_picture_is_judged_by_the_run_that_left_it_out(
    files: list[Path], tmp_path: Path
) -> None:
    runs = [
        _run(tmp_path / "a", files[2:3], files[3:]),
        _run(tmp_path / "b", files[:1], files[1:2]),
    ]
    assert assign_judges(runs, files) == [[0, 1], [2, 3]]
    _run(tmp_path / "c", files, [])
    with pytest.raises(UsageError, match=r"each of the 1 models learnt from 0\.png"):
        assign_judges([tmp_path / "c"], files)
    (tmp_path / "b" / "validated.txt").unlink()
    with pytest.raises(UsageError, match="b does not say which pictures its model has seen"):
        assign_judges(runs, files)


def test_pictures_of_a_start_are_learnt_from_too(files: list[Path], tmp_path: Path) -> None:
    start = _run(tmp_path / "start", files[:1], [])
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    write_learnt(tuned, files[1:2], learnt_pictures(start))
    with pytest.raises(UsageError, match=r"learnt from 2 of these files, the first is 0\.png"):
        refuse_learnt(tuned, files)
    refuse_learnt(tuned, files[2:])
    # Of a converted checkpoint nobody knows.
    write_learnt(tuned, files, None)
    assert learnt_pictures(tuned) is None


def test_a_replaced_run_leaves_nothing_of_the_old_one(files: list[Path], tmp_path: Path) -> None:
    run = _run(tmp_path / "a", files, files)
    (run / "abstention.json").write_text("{}")
    (run / "notes.txt").write_text("mine")
    remove_run(run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]

"""Files scored without a database: one that cannot be is one line, and the others are scored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detector.anatomy import View
from detector.errors import QCError
from detector.frame import Frame
from model.bundle.bundle import Bundle
from model.finding import STANDARD, Judgement
from qc_daemon.score.files import score_files
from qc_daemon.settings import ScoreSettings
from training.phantom import make

JUDGEMENT = Judgement(
    0, (0.0, 0.0, 2.0, 2.0), View.NT, 0.9, STANDARD, 0.9, 0.9, (1.0, 0.0, 0.0), (), "", ()
)


class FailingJudge:
    """Raises such an error at its first picture."""

    inexact_runtime = ""

    def __init__(self, error: Exception) -> None:
        self.bundle_id = Bundle.open("default").id
        self.errors = [error]

    def judge(self, frame: Frame, site: object = None) -> list[Judgement]:
        if self.errors:
            # Another one, for its traceback keeps the decoder's generator.
            error = self.errors.pop()
            raise type(error)(*error.args)
        return [JUDGEMENT]


def score(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What two pictures give where the first fails with this error."""
    for seed in (1, 2):
        Image.fromarray(make(seed).pixels).save(folder / f"{seed}.png")
    monkeypatch.setattr("qc_daemon.score.files.open_judge", lambda *_: FailingJudge(error))
    return list(score_files([folder], ScoreSettings()))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't alloc")])
def test_after_a_picture_too_large_for_memory_the_others_are_scored(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = score(tmp_path, error, monkeypatch)
    assert first["source"] == str(tmp_path / "1.png")
    assert first["error"]["message"].startswith("memory is not enough to judge a picture")
    assert second["source"] == str(tmp_path / "2.png")
    assert second["quality"]["label"] == STANDARD


def test_a_device_that_fails_ends_it_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QCError, match="the device failed: CUDA out of memory"):
        score(tmp_path, torch.OutOfMemoryError("CUDA out of memory"), monkeypatch)


def test_another_error_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        score(tmp_path, RuntimeError("shapes differ"), monkeypatch)

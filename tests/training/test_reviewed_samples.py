"""What reviews teach is learnt from and judged on by `qc-model`, as any samples."""

import json
import sys
from pathlib import Path

import pytest

from qc_daemon.operations.review_training import PSEUDONYM_SECRET, export_training
from qc_daemon.records.tables import Secret
from tests.support.reviewed_exam import ReviewedExam
from training import cli


def qc_model(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["qc-model", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed")
    reviewed = ReviewedExam(folder / "site", 8)
    reviewed.accept(1, 2, 3, 4, 5, 6)
    reviewed.override(7, verdict="non-standard")
    reviewed.override(8, view="CRL", verdict="standard")
    # Groups are divided by their pseudonyms: with a key of its own each run would divide otherwise.
    with reviewed.exam.store.begin() as session:
        session.add(Secret(name=PSEUDONYM_SECRET, value=b"k" * 32))
    export_training(reviewed.settings, folder / "out")
    reviewed.exam.store.close()
    return folder / "out" / "samples.json"


@pytest.mark.slow
def test_spatialclip_learns_from_reviews(
    samples: Path,
    detector_run: Path,
    describer_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status = qc_model(
        monkeypatch,
        *("train", "spatialclip", "--out", "run", "--samples", samples),
        *("--detector", detector_run, "--describer", describer_run),
        *("--epochs", 1, "--batch", 4, "--held-out", 0.5),
    )
    assert status == 0
    training = json.loads((tmp_path / "run" / "training.json").read_text())
    assert '"origin": "real"' in json.dumps(training), training.keys()


@pytest.mark.slow
def test_a_bundle_is_evaluated_on_reviews(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures.json"
    assert qc_model(monkeypatch, "evaluate", "--count", 0, "--samples", samples, "--out", out) == 0
    figures = json.loads(out.read_text())
    (evaluated,) = figures["sets"].values()
    assert evaluated["pictures"] == 8, evaluated.keys()
    # The boxes are the detector's own: it is not measured by them.
    assert "detector" not in evaluated

"""What a bundle is calibrated on, and which views have real evidence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from detector.anatomy import View
from detector.console import UsageError
from model.bundle.bundle import MANIFEST, Bundle, locate
from model.image_reference import ImageReference
from model.spatialclip.network import VIEWS
from training.bundling import make as bundle_make
from training.bundling.make import (
    CalibrationData,
    fit_view_threshold,
    make_bundle,
    real_views,
)
from training.data.samples import Origin, Sample, read_samples
from training.evaluation.ablation import ALL_BRANCHES
from training.phantom.dataset import write_dataset
from training.train import runs


def row(view: str, standard: bool) -> dict[str, Any]:
    return {"view": view, "standard": standard, "group": "real", "logits": {ALL_BRANCHES: 2.5}}


def test_out_of_fold_rows_replace_the_pictures_of_their_views() -> None:
    own = CalibrationData([0.1, 0.2], [1.0, 0.0], ["a", "b"], [View.NT, View.HEAD])
    both = own.with_out_of_fold([row("NT", True)])
    assert both == CalibrationData([0.2, 2.5], [0.0, 1.0], ["b", "real"], [View.HEAD, View.NT])
    assert own.with_out_of_fold([]) == own


def test_a_few_real_pictures_are_no_evidence() -> None:
    views = [View.NT] * FEW + [View.CRL] * (FEW - 1) + [View.OTHER] * 99
    assert real_views(views) == ["NT"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped parts as runs that trained them."""
    folder = tmp_path_factory.mktemp("runs")
    training = json.loads((locate("default") / MANIFEST).read_text())["training"]
    for part in ("detector", "describer", "spatialclip"):
        shutil.copytree(locate("default") / part, folder / part)
        (folder / part / "training.json").write_text(json.dumps(training[part]))
    return {part: folder / part for part in ("detector", "describer", "spatialclip")}


FEW = 8
"""So many real pictures of a view are evidence in these tests: each is judged, which takes long."""


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_make, "REAL_PICTURES", FEW)


@pytest.fixture(scope="module")
def nt(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    out = tmp_path_factory.mktemp("nt")
    return read_samples(write_dataset(out, FEW + 1, 77, (View.NT,), progress=False))


def make(
    out: Path, parts: dict[str, Path], samples: list[Sample], **options: Any
) -> dict[str, Any]:
    facts = {"name": "ours", "version": "1", "command": "qc-model calibrate"}
    return make_bundle(out, **parts, samples=samples, other_organs=[], **(facts | options))


@pytest.mark.parametrize(
    "origin", [Origin.REAL, pytest.param(Origin.SIMULATED, marks=pytest.mark.slow)]
)
def test_the_samples_say_what_is_real_and_not_their_folder(
    parts: dict[str, Path], nt: list[Sample], tmp_path: Path, origin: Origin
) -> None:
    """Pictures of one view alone calibrate, too."""
    source = "settled" if origin is Origin.REAL else "set2_train"
    samples = [replace(sample, origin=origin, source=source) for sample in nt]
    runs.write_pictures(parts["detector"], samples[:3], set())
    runs.write_pictures(parts["spatialclip"], samples[2:5], set())
    facts = make(tmp_path / "b", parts, samples)
    assert facts["real_views"] == (["NT"] if origin is Origin.REAL else [])
    assert facts["training"]["calibration"]["learnt from"] == 5
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.real_views == set(facts["real_views"])
    # Any machine's pictures differ from simulated ones.
    reference = ImageReference.from_manifest(bundle.manifest)
    assert (reference is None) == (origin is Origin.SIMULATED)
    assert reference is None or list(map(len, reference.views.values())) == [len(nt)]
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert f"| calibration | phantoms of qc-model | {source} | {origin} | NT |" in card
    assert "a part learnt from 5." in card


def test_a_bundle_is_replaced_only_where_asked_and_a_folder_never(
    parts: dict[str, Path], nt: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no bundle"):
        make(tmp_path / "notes", parts, nt, force=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
    bundle = shutil.copytree(locate("default"), tmp_path / "bundle")
    with pytest.raises(UsageError, match="--force"):
        make(bundle, parts, nt)
    # One that cannot be made leaves the one that is there.
    with pytest.raises(UsageError, match="both classes"):
        make(bundle, parts, [sample for sample in nt if sample.standard], force=True)
    assert Bundle.open(bundle).model_id == Bundle.open("default").model_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "notes"]


@pytest.mark.parametrize("part", ["detector", "describer", "spatialclip"])
def test_a_run_that_failed_is_refused(
    parts: dict[str, Path], nt: list[Sample], tmp_path: Path, part: str
) -> None:
    failed = shutil.copytree(parts[part], tmp_path / part)
    (path,) = failed.glob("*.safetensors")
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.dtype.kind == "f")
    save_file(weights | {name: np.full_like(weights[name], np.nan)}, path)
    with pytest.raises(UsageError, match="no numbers"):
        make(tmp_path / "b", parts | {part: failed}, nt)
    (failed / "training.json").write_text('{"last_loss": NaN}')
    with pytest.raises(UsageError, match="last_loss is no finite number"):
        make(tmp_path / "b", parts | {part: failed}, nt)
    with pytest.raises(UsageError, match="is missing"):
        make(tmp_path / "b", parts | {part: tmp_path}, nt)


def test_a_network_that_predicts_no_view_rightly_is_refused() -> None:
    probabilities = np.eye(len(VIEWS))[[VIEWS.index(View.CRL)] * 3]
    with pytest.raises(UsageError, match="none of 3 pictures"):
        fit_view_threshold(probabilities, [View.NT] * 3)

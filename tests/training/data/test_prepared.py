"""The key of cached samples: what decides boxes, descriptions and pictures, and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.boxes import Detection
from detector.yolo.yolo import FILES
from model.judge import Thresholds
from model.spatialclip.preprocess import Preprocessor
from training.data import prepared
from training.data.prepared import prepare_cached
from training.data.samples import Origin, Sample
from training.recipes import DescriberRecipe
from training.train.describer import fresh


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a detector and a describer, whose files are never loaded."""
    detector, describer = tmp_path / "detector", tmp_path / "describer"
    for folder, names in ((detector, FILES), (describer, ("model.safetensors",))):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    return detector, describer


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    image = tmp_path / "a.png"
    image.write_bytes(b"pixels")
    return Sample(image, True, (Detection("NT", (1.0, 2.0, 30.0, 40.0), 1.0),), origin=Origin.REAL)


def cache_key(sample: Sample, models: tuple[Path, Path], size: int = 288) -> str:
    return prepared._cache_key([sample], *models, Preprocessor(None, size), Thresholds(), True)


def test_the_key_stays_while_the_region_version_does(
    sample: Sample, models: tuple[Path, Path]
) -> None:
    """The key of an earlier commit: other words in the code leave cached samples valid."""
    assert prepared.REGION_VERSION == 2
    assert cache_key(sample, models) == "32e88d072af14e4b"


def test_the_key_changes_with_all_that_decides_a_prepared_sample(
    sample: Sample, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [cache_key(sample, models), cache_key(sample, models, size=64)]
    keys.append(cache_key(replace(sample, standard=False), models))
    keys.append(cache_key(replace(sample, region=(0.0, 0.0, 40.0, 40.0)), models))
    monkeypatch.setattr(prepared, "REGION_VERSION", 3)
    keys.append(cache_key(sample, models))
    (models[0] / "weights.safetensors").write_text("other weights")
    keys.append(cache_key(sample, models))
    assert len(set(keys)) == len(keys)


def test_cached_samples_are_the_same_when_read_again(
    phantom_samples: list[Sample], detector_run: Path, tmp_path: Path
) -> None:
    fresh(DescriberRecipe(seed=0, layers=1, hidden=32, heads=2)).save(tmp_path / "describer")
    first, again = (
        prepare_cached(
            phantom_samples[:4],
            detector_run,
            tmp_path / "describer",
            Preprocessor(None, 64),
            tmp_path / "cache",
            thresholds=Thresholds(detection=0.0, layout=0.0),
        )
        for _ in range(2)
    )
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.picture, b.picture)
        assert (a.detections, a.descriptions, a.size) == (b.detections, b.descriptions, b.size)
        assert a.sample is b.sample
    count = len(list((tmp_path / "cache").glob("*.npy")))
    # The same weights find other boxes when they look at mirror images too.
    mirrored_run = tmp_path / "detector"
    shutil.copytree(detector_run, mirrored_run)
    description = json.loads((mirrored_run / "detector.json").read_text())
    (mirrored_run / "detector.json").write_text(json.dumps(description | {"mirrored": True}))
    prepare_cached(
        phantom_samples[:4],
        mirrored_run,
        tmp_path / "describer",
        Preprocessor(None, 64),
        tmp_path / "cache",
        thresholds=Thresholds(detection=0.0, layout=0.0),
    )
    assert len(list((tmp_path / "cache").glob("*.npy"))) == count + 1

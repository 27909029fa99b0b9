"""Trained parts at the smallest scale, which several tests of training share."""

from pathlib import Path

import pytest

from training.data.prepared import PreparedSample
from training.data.samples import Sample, read_samples
from training.phantom.dataset import write_dataset
from training.recipes import DescriberRecipe, DetectorRecipe
from training.train import detector as detector_training
from training.train.describer import fresh
from training.train.small_spatialclip import (
    prepare_out_of_fold,
)


@pytest.fixture(scope="session")
def phantom_samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """24 simulated pictures, some of none of the views."""
    out = tmp_path_factory.mktemp("phantoms")
    return read_samples(write_dataset(out, 24, 31, other_share=0.1, progress=False))


@pytest.fixture(scope="session")
def detector_run(phantom_samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a detector of one epoch, trained on 16 of `phantom_samples`."""
    out = tmp_path_factory.mktemp("detector")
    recipe = DetectorRecipe(size=64, epochs=1, batch=8, warmup_steps=1)
    detector_training.train_detector(phantom_samples[:16], phantom_samples[16:], out, recipe)
    return out


@pytest.fixture(scope="session")
def describer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a describer with random weights."""
    out = tmp_path_factory.mktemp("describer")
    fresh(DescriberRecipe(seed=0, layers=1, hidden=32, heads=2)).save(out)
    return out


@pytest.fixture(scope="session")
def prepared_samples(
    phantom_samples: list[Sample],
    detector_run: Path,
    describer_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[PreparedSample]:
    """`phantom_samples` with the boxes and words of these two."""
    cache = tmp_path_factory.mktemp("evidence")
    return prepare_out_of_fold(phantom_samples, [detector_run], describer_run, cache, 0)

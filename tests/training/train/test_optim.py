"""The order of an epoch, and the learning rate."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from detector.anatomy import View
from training.data.samples import Origin, Sample
from training.recipes import DetectorRecipe
from training.train.optim import draw_epoch, epoch_order, restarted_schedule, schedule


def test_an_epoch_has_every_real_picture_and_some_simulated() -> None:
    simulated = [True] * 40 + [False] * 10
    epochs = [epoch_order(simulated, 1.5, np.random.default_rng(seed)) for seed in range(2)]
    for order in epochs:
        assert sorted(i for i in order if not simulated[i]) == list(range(40, 50))
        assert sum(simulated[i] for i in order) == 15
        assert len(set(order)) == 25
    assert set(epochs[0]) != set(epochs[1])
    assert sorted(epoch_order([True] * 5, 1.0, np.random.default_rng(0))) == list(range(5))


def test_unlabelled_pictures_are_drawn_in_equal_parts_while_they_last() -> None:
    def sample(source: str, standard: bool | None, origin: Origin = Origin.REAL) -> Sample:
        return Sample(Path(source), standard, view=View.OTHER, source=source, origin=origin)

    samples = (
        [sample("labelled", True)] * 20
        + [sample("many/a", None)] * 30
        + [sample("many/b", None)] * 30
        + [sample("few", None)] * 3
        + [sample("phantoms", True, Origin.SIMULATED)] * 50
    )
    recipe = DetectorRecipe(simulated_ratio=0.5, unlabelled_ratio=0.6)
    order = draw_epoch(samples, recipe, np.random.default_rng(0))
    sources = Counter(samples[i].source.partition("/")[0] for i in order)
    assert sources == {"labelled": 20, "many": 9, "few": 3, "phantoms": 10}
    assert len(set(order)) == len(order)
    everything = draw_epoch(samples, DetectorRecipe(), np.random.default_rng(0))
    assert sum(samples[i].standard is None for i in everything) == 63


def test_a_rate_that_begins_anew_is_up_to_there_that_of_a_shorter_run() -> None:
    shorter = [schedule(step, 60, 10) for step in range(60)]
    longer = [restarted_schedule(step, 100, 10, 60) for step in range(100)]
    assert longer[:60] == shorter
    assert longer[60] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(longer[60:]))
    assert longer[99] < 0.01
    assert [restarted_schedule(step, 60, 10, 0) for step in range(60)] == shorter

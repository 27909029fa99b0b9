"""The order of an epoch."""

import numpy as np

from training.train.optim import epoch_order


def test_an_epoch_has_every_real_picture_and_some_simulated() -> None:
    simulated = [True] * 40 + [False] * 10
    epochs = [epoch_order(simulated, 1.5, np.random.default_rng(seed)) for seed in range(2)]
    for order in epochs:
        assert sorted(i for i in order if not simulated[i]) == list(range(40, 50))
        assert sum(simulated[i] for i in order) == 15
        assert len(set(order)) == 25
    assert set(epochs[0]) != set(epochs[1])
    assert sorted(epoch_order([True] * 5, 1.0, np.random.default_rng(0))) == list(range(5))

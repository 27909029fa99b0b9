"""The calibration a view gets: isotonic only where it clearly wins and there is enough to tell."""

import numpy as np
import pytest

from detector.anatomy import View
from model.calibration import Isotonic, Scaling
from training.evaluation.select_calibration import mean_and_standard_error, select_calibration


def stepped(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose truth is no sigmoid of them."""
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 3, count)
    return z, (generator.random(count) < np.where(z > 0, 0.95, 0.3)).astype(float)


def sigmoid(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 3, count)
    return z, (generator.random(count) < 1 / (1 + np.exp(-z / 2))).astype(float)


def names(count: int) -> list[str]:
    return [f"group {i}" for i in range(count)]


def test_a_view_whose_truth_is_no_sigmoid_gets_isotonic() -> None:
    (z1, y1), (z2, y2) = stepped(800), sigmoid(800)
    views = [View.NT] * 800 + [View.CRL] * 800
    calibration, table = select_calibration(np.r_[z1, z2], np.r_[y1, y2], names(1600), views)
    assert isinstance(calibration.views[View.NT], Isotonic)
    assert isinstance(calibration.views[View.CRL], Scaling)
    assert {view: row["chosen"] for view, row in table.items() if view != "all"} == {
        "NT": "isotonic",
        "CRL": "temperature",
    }
    losses = table["NT"]["log loss"]
    assert losses["isotonic"] < losses["temperature"]


@pytest.mark.parametrize("seed", range(10))
def test_a_sigmoid_gets_temperature(seed: int) -> None:
    calibration, _ = select_calibration(*sigmoid(400, seed), names(400))
    assert isinstance(calibration.common, Scaling)


def test_too_few_pictures_are_not_compared() -> None:
    calibration, table = select_calibration(*stepped(150), names(150))
    assert isinstance(calibration.common, Scaling)
    assert table["all"] == {"pictures": 150, "chosen": "temperature"}


def test_copies_in_a_group_leave_the_standard_error() -> None:
    """The error of a mean over groups does not shrink when each picture comes ten times."""
    differences = np.random.default_rng(0).normal(0.1, 1, 50)
    once = mean_and_standard_error(differences, names(50))
    copied = mean_and_standard_error(
        np.repeat(differences, 10), [n for n in names(50) for _ in range(10)]
    )
    assert copied == pytest.approx(once)


def test_one_group_with_all_of_a_class_is_not_compared() -> None:
    z, y = stepped(600)
    groups = ["all standard" if standard else f"{i}" for i, standard in enumerate(y)]
    calibration, table = select_calibration(z, y, groups)
    assert isinstance(calibration.common, Scaling)
    assert "log loss" not in table["all"]

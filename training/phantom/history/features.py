"""Image statistics and embeddings of a made-up history's pictures.

Machines differ, as do persons, views and exams; of the drifting device the gain creeps up, which
makes its pictures brighter and moves their embeddings. Numbers are about those of real pictures,
and are no model of a machine.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.image_features import STATISTICS, ImageFeatures, ImageStatistics
from training.phantom.history.draw import OTHER, Exams, Floats, Images, Ints, drift_of_exams
from training.phantom.history.plan import DEVICES, DRIFT_MEAN_GREY, PERSONS, Lab

DIMENSIONS = 16
"""Of an embedding; real ones have some hundred."""
_SIZES = ((800, 600), (1024, 768), (1280, 960))
_DRIFT_LENGTH = 0.6
"""How far the drifting device's embeddings have moved by the last day, before they are scaled to
unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFeatures:
    """Columns (images,) of the statistics by name, and embeddings (images, DIMENSIONS)."""

    statistics: dict[str, Floats]
    embedding: Floats

    def to_json(self, row: int) -> dict[str, Any]:
        """The key `image_features` of a finding."""
        values = {name: round(float(self.statistics[name][row]), 4) for name in STATISTICS}
        embedding = self.embedding[row].astype("<f2").tobytes()
        return ImageFeatures(ImageStatistics(**values), embedding).to_json()


def draw_features(
    lab: Lab, exams: Exams, images: Images, random: np.random.Generator
) -> DrawnFeatures:
    """What the pictures were like."""
    device, person = exams.device[images.exam], exams.person[images.exam]
    drift = drift_of_exams(lab, exams)[images.exam]
    return DrawnFeatures(
        _statistics(images, device, person, drift, random),
        _embeddings(lab, exams, images, device, drift, random),
    )


def _statistics(
    images: Images, device: Ints, person: Ints, drift: Floats, random: np.random.Generator
) -> dict[str, Floats]:
    n, exams = len(images.exam), int(images.exam.max()) + 1
    gain = random.normal(0, 4, DEVICES)[device] + random.normal(0, 1.5, PERSONS)[person]
    gain += random.normal(0, 3, OTHER + 1)[images.view] + random.normal(0, 3, exams)[images.exam]
    gain += random.normal(0, 5, n) + DRIFT_MEAN_GREY * drift
    mean = np.maximum(41 + gain, 5)
    deviation = np.maximum(0.9 * mean + random.normal(0, 2, n), 2)
    depth = random.choice((0.06, 0.08, 0.1), exams)[images.exam]
    sizes = np.array(_SIZES, float)[random.integers(0, len(_SIZES), DEVICES)][device]
    sharpness = random.normal(5.5, 0.3, DEVICES)[device] + random.normal(0, 0.25, n)
    noise = random.normal(1.2, 0.15, DEVICES)[device] + random.normal(0, 0.12, n)
    is_coloured = (random.random(exams) < 0.03)[images.exam]
    return {
        "mean": mean,
        "deviation": deviation,
        "percentile_1": np.zeros(n),
        "median": np.round(0.75 * mean),
        "percentile_99": np.minimum(255, np.round(mean + 2.9 * deviation)),
        "black": np.clip(0.25 - 0.004 * (mean - 41) + random.normal(0, 0.02, n), 0, 1),
        "saturated": np.minimum(0.002 * np.exp((mean - 41) / 10 + random.normal(0, 0.5, n)), 1),
        "sharpness": np.exp(sharpness + 0.02 * (mean - 41)),
        "noise": np.exp(noise + 0.01 * (mean - 41)),
        "entropy": 6 + 0.02 * (mean - 41) + random.normal(0, 0.2, n),
        "colour": np.where(is_coloured, random.uniform(0.02, 0.2, n), 0.0),
        "width": sizes[:, 0],
        "height": sizes[:, 1],
        "spacing": depth * 800 / sizes[:, 0],
    }


def _embeddings(
    lab: Lab,
    exams: Exams,
    images: Images,
    device: Ints,
    drift: Floats,
    random: np.random.Generator,
) -> Floats:
    shift = lab.planted.model_shift_day
    is_new = np.zeros(len(images.exam), np.int64)
    if lab.planted.is_new_bundle and shift is not None:
        is_new = (exams.day[images.exam] >= shift).astype(np.int64)
    # Of another bundle the same picture has an embedding that has nothing to do with the first.
    views = random.normal(0, 0.25, (2, OTHER + 1, DIMENSIONS))[is_new, images.view]
    machines = random.normal(0, 0.1, (2, DEVICES, DIMENSIONS))[is_new, device]
    direction = random.normal(0, 1, DIMENSIONS)
    direction *= _DRIFT_LENGTH / np.linalg.norm(direction)
    values = views + machines + drift[:, None] * direction
    values += random.normal(0, 0.08, (int(images.exam.max()) + 1, DIMENSIONS))[images.exam]
    values += random.normal(0, 0.15, values.shape)
    scaled: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return scaled

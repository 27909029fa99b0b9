"""Drift of image statistics and embeddings, of pictures made up here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model.image_features import STATISTICS
from qc_daemon.audit.drift.drift import NIGHTS, Drift, drifts
from qc_daemon.audit.drift.image_drift import EMBEDDING, LEAST_EFFECT, MOST_EMBEDDINGS
from qc_daemon.audit.measures import Frame
from qc_daemon.audit.rows import MOST_EMBEDDINGS as MOST_OF_FOUR_WEEKS
from qc_daemon.audit.rows import BundleKey, RowsBuilder
from tests.support.audit_findings import BUNDLE, audit_finding

FIRST, DAYS, IMAGES = 739_000, 420, 4
DIMENSIONS = 8
CHANGED = 330
"""The day, counted from the first, from which on a test's device changes."""
OLD, NEW = BUNDLE, BundleKey("b", "2", "b" * 64)

Change = Callable[[str, int, dict[str, float], np.ndarray], Any]


def frame_of(
    change: Change, devices: tuple[str, ...] = ("d1", "d2"), images: int = IMAGES
) -> Frame:
    """An exam a day and device; `change(device, day, statistics, embedding)` alters an image's
    statistics and embedding in place, and may return its bundle."""
    generator, builder, number = np.random.default_rng(0), RowsBuilder(), 0
    for day in range(DAYS):
        for place, device in enumerate(devices):
            exam_level = generator.normal(0, 2)
            for image in range(images):
                number += 1
                level = generator.normal(40 + 5 * place + exam_level, 4)
                statistics = dict.fromkeys(STATISTICS, 1.0) | {
                    "mean": level,
                    "sharpness": float(np.exp(generator.normal(5, 0.3))),
                    "width": 800.0,
                }
                embedding = generator.normal(0, 0.2, DIMENSIONS)
                embedding[place] += 1
                bundle = change(device, day, statistics, embedding) or OLD
                builder.add(
                    audit_finding(
                        number,
                        exam_id=day * len(devices) + place,
                        device=device,
                        bundle=bundle,
                        view=("NT", "CRL")[image % 2],
                        day=FIRST + day,
                        statistics=statistics,
                        embedding=embedding,
                    )
                )
    return Frame(builder.build(), ("NT", "CRL"), FIRST + DAYS - 1)


def alarms(frame: Frame, kind: Any = "device") -> dict[tuple[str, str], Drift]:
    names = frame.names(kind)
    return {
        (names[each.subject], each.feature): each
        for each in drifts(frame, kind, 0.01)
        if each.is_alarm
    }


def test_machines_that_differ_for_good_do_not_drift() -> None:
    frame = frame_of(lambda device, day, statistics, embedding: None)
    assert alarms(frame) == alarms(frame, "site") == {}


def test_a_brighter_device_is_named_with_its_grey_levels_and_the_day() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        if device == "d2" and day >= CHANGED:
            statistics["mean"] += 6

    drifts = alarms(frame_of(change))
    assert set(drifts) == {("d2", "image:mean")}
    own = drifts["d2", "image:mean"]
    assert own.before == pytest.approx(45, abs=1)
    assert own.after is not None
    assert own.after - (own.before or 0) == pytest.approx(6, abs=1)
    assert own.since == pytest.approx(FIRST + CHANGED, abs=60)
    assert own.nights == (True,) * NIGHTS
    levels = [month.value for month in own.months]
    assert max(levels[:10]) < 47 < 49 < levels[-1]
    assert sum(month.n for month in own.months) == DAYS * IMAGES


def test_sharpness_is_compared_by_its_logarithm_and_said_as_it_is() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        if device == "d1" and day >= CHANGED:
            statistics["sharpness"] *= 2

    own = alarms(frame_of(change))["d1", "image:sharpness"]
    assert own.shift == pytest.approx(np.log(2), abs=0.1)
    assert own.before == pytest.approx(np.exp(5), rel=0.1)
    assert own.after == pytest.approx(2 * np.exp(5), rel=0.2)


def test_another_size_of_pictures_is_an_alarm_where_there_was_one_before() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        if device == "d1" and day >= CHANGED:
            statistics["width"] = 1024.0

    drifts = alarms(frame_of(change))
    assert set(drifts) == {("d1", "image:width")}
    own = drifts["d1", "image:width"]
    assert (own.before, own.after) == (800, 1024)


def test_a_change_that_does_not_matter_is_no_alarm_though_beyond_chance() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        # A sixth of a standard deviation, of values without noise from exam to exam.
        statistics["mean"] = float(np.log(statistics["sharpness"])) / 0.3 + 0.16 * (day > 220)

    frame = frame_of(change, ("d1",), images=40)
    own = next(each for each in drifts(frame, "device", 0.01) if each.feature == "image:mean")
    assert own.shift is not None
    assert own.q is not None
    assert own.q < 0.001
    assert own.shift**2 < LEAST_EFFECT
    assert not own.is_alarm


def test_embeddings_that_moved_are_named() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        if device == "d1" and day >= CHANGED:
            embedding[5] += 0.25

    drifts = alarms(frame_of(change))
    assert set(drifts) == {("d1", EMBEDDING)}
    own = drifts["d1", EMBEDDING]
    assert own.value is not None
    assert own.energy is not None
    assert min(own.value, own.energy) > 0
    assert own.since == pytest.approx(FIRST + CHANGED, abs=60)
    assert max(own.n, own.reference_n) <= MOST_EMBEDDINGS


def test_embeddings_of_another_bundle_are_not_compared() -> None:
    def change(
        device: str, day: int, statistics: dict[str, float], embedding: np.ndarray
    ) -> BundleKey | None:
        if day < CHANGED:
            return None
        embedding[:] = embedding[::-1] + 3
        return NEW

    frame = frame_of(change)
    assert alarms(frame) == {}
    assert set(frame.rows.embeddings) == {0, 1}


def test_another_machine_at_a_site_is_no_drift_of_the_site() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        if device == "d3":
            statistics["mean"] += 30
            embedding[6] += 2

    frame = frame_of(change, ("d1", "d2", "d3"))
    late = (frame.rows.device == 2) & (frame.rows.day < FIRST + 200)
    assert not any(each.is_alarm for each in drifts(frame, "site", 0.01, late))


def test_the_same_findings_give_the_same_drift() -> None:
    def change(device: str, day: int, statistics: dict[str, float], embedding: np.ndarray) -> None:
        embedding[5] += 0.1 * (device == "d1" and day >= CHANGED)

    assert drifts(frame_of(change), "device", 0.01) == drifts(frame_of(change), "device", 0.01)


def test_embeddings_in_memory_are_bounded() -> None:
    frame = frame_of(lambda device, day, statistics, embedding: None, ("d1",))
    rows = frame.rows
    (own,) = rows.embeddings.values()
    assert len(own.row) == sum(min(MOST_OF_FOUR_WEEKS, n) for n in np.bincount(rows.day // 28) if n)
    assert own.values.dtype == np.float16
    assert (np.diff(own.row) > 0).all()


def test_findings_without_features_have_no_drift_of_pictures() -> None:
    builder = RowsBuilder()
    frame = Frame(builder.build(), ("NT",), FIRST)
    assert frame.rows.statistics.shape == (0, 0)
    assert drifts(frame, "device", 0.01) == []

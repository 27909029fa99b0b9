import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from model.criteria.checks import Better, CriteriaThresholds, measure
from model.criteria.thresholds import ThreeWayThreshold
from model.finding import STANDARD
from training.bundling.real_criteria import (
    MIN_DECIDED,
    MIN_STANDARD,
    RealPicture,
    criteria_figures,
    fit_to_real,
    read_real_pictures,
    widen,
)
from training.evaluation.ablation import ABLATIONS
from training.evaluation.summary import UNMET_ON_STANDARD

NT_LABELS = [label.code for label in LABELS if label.view is View.NT and label.code != "F"]
KNOWN = frozenset(label.code for label in LABELS)


def make_row(number: int, standard: bool, rng: np.random.Generator, fold: int) -> dict:
    """A row of predictions.json: every ninth standard picture has no nasal bone."""
    has_bone = standard and number % 9 != 0
    boxed = [code for code in NT_LABELS if standard and (code != "NB" or has_bone)]
    detections = [
        Detection(code, (10.0 * i, 20.0, 10.0 * i + 8, 30.0), 0.9) for i, code in enumerate(boxed)
    ]
    pixels = rng.integers(30, 90 + number % 7, (120, 200, 3)).astype(np.uint8)
    measurements = measure(View.NT, detections, 200, 120, pixels, KNOWN)
    return {
        "picture": f"{number}.png",
        "group": f"group {number}",
        "source": "set2_train",
        "view": "NT",
        "standard": standard,
        "fold": fold,
        "logits": dict.fromkeys(ABLATIONS, 3.0 if standard else -3.0 + 0.1 * rng.normal()),
        "gates": [0.4, 0.2, 0.4],
        "views": [0.0, 1.0, 0.0, 0.0, 0.0],
        "detections": [astuple(detection) for detection in detections],
        "measurements": {code: astuple(m) for code, m in measurements.items()},
        "annotated": NT_LABELS if standard else [],
        "boxed": boxed,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation's folder with the predictions of three folds and of one style."""
    rng = np.random.default_rng(0)
    out = tmp_path_factory.mktemp("folds")
    rows = [make_row(n, n % 4 != 0, rng, n // 2 % 3) for n in range(300)]
    for fold in range(3):
        (out / f"spatialclip-{fold}").mkdir()
        part = [row for row in rows if row["fold"] == fold]
        (out / f"spatialclip-{fold}" / "predictions.json").write_text(json.dumps(part))
    (out / "look-1" / "spatialclip").mkdir(parents=True)
    text = json.dumps(json.loads(json.dumps(rows[:40])))
    (out / "look-1" / "spatialclip" / "predictions.json").write_text(text)
    return out


def test_a_measured_criterion_fails_no_picture_within_the_fences_of_standard_ones(folder):
    start = CriteriaThresholds()
    fitted = fit_to_real(start, read_real_pictures(folder))
    gains = [
        picture.measurements["CRIT-GAIN"].value
        for picture in read_real_pictures(folder)
        if picture.is_standard
    ]
    before, after = (each.measured[View.NT]["CRIT-GAIN"] for each in (start, fitted))
    assert all(after.judge(gain) is not False for gain in gains)
    assert sum(after.judge(gain) is True for gain in gains) >= MIN_DECIDED * len(gains) - 1
    assert after.unmet_below <= before.unmet_below
    assert after.unmet_above >= before.unmet_above
    assert fitted.measured[View.HEAD] == start.measured[View.HEAD]


def test_a_structure_that_standard_pictures_lack_is_never_missing_for_sure(folder):
    fitted = fit_to_real(CriteriaThresholds(), read_real_pictures(folder))
    prevalence = fitted.prevalence[View.NT]
    assert prevalence["CRIT-NASAL"] == pytest.approx(8 / 9, abs=0.02)
    assert prevalence["CRIT-NT"] == 1.0
    without_bone = next(
        picture
        for picture in read_real_pictures(folder)
        if picture.is_standard and "NB" not in picture.boxed
    )
    outcomes = {c.code: c.met for c in without_bone.judge(STANDARD, fitted)[0]}
    assert outcomes["CRIT-NASAL"] is None
    assert outcomes["CRIT-NT"] is True
    known = CriteriaThresholds.from_json(json.loads(json.dumps(fitted.to_json())))
    assert known.prevalence == fitted.prevalence


def test_too_few_standard_pictures_change_nothing(folder):
    few = read_real_pictures(folder)[: MIN_STANDARD // 2]
    start = CriteriaThresholds()
    assert fit_to_real(start, few).to_json() == start.to_json()


def test_figures_are_given_for_each_set_and_for_each_style_left_out(folder):
    figures = criteria_figures(folder, CriteriaThresholds())
    assert set(figures) == {"set2_train", "look 1 left out"}
    for of_set in figures.values():
        assert of_set[UNMET_ON_STANDARD]["value"] == 0
        shares = of_set["criteria"]["CRIT-NASAL"]["standard"]
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["met"] == pytest.approx(8 / 9, abs=0.06)
        assert shares["not met"] == 0


def test_a_cross_validation_without_measurements_has_no_figures(folder, tmp_path):
    rows = json.loads((folder / "spatialclip-0" / "predictions.json").read_text())
    for row in rows:
        del row["measurements"]
    (tmp_path / "spatialclip-0").mkdir()
    (tmp_path / "spatialclip-0" / "predictions.json").write_text(json.dumps(rows))
    assert criteria_figures(tmp_path, CriteriaThresholds()) is None
    assert read_real_pictures(tmp_path) == []


def test_what_a_row_stores_is_what_the_picture_is_judged_by(folder):
    row = json.loads((folder / "spatialclip-0" / "predictions.json").read_text())[1]
    picture = RealPicture.of_row(row)
    assert [astuple(d) for d in picture.weak_detections] == [
        (label, tuple(box), confidence) for label, box, confidence in row["detections"]
    ]
    assert picture.measurements["CRIT-GAIN"].value == row["measurements"]["CRIT-GAIN"][1]


finite = st.floats(-5, 5)


@given(
    st.lists(finite, min_size=4, max_size=60),
    st.tuples(finite, finite, finite, finite).map(sorted),
    st.sampled_from(list(Better)),
)
def test_ends_only_move_outwards(values, ends, better):
    band = ThreeWayThreshold(*ends)
    if better is Better.HIGH:
        band = ThreeWayThreshold(ends[0], ends[1])
    elif better is Better.LOW:
        band = ThreeWayThreshold(met_to=ends[2], unmet_above=ends[3])
    widened = widen(band, np.array(values), better)
    assert widened.unmet_below <= band.unmet_below
    assert widened.met_from <= band.met_from
    assert widened.unmet_above >= band.unmet_above
    assert widened.met_to >= band.met_to
    assert all(widened.judge(v) is not False or band.judge(v) is False for v in values)

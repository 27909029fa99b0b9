"""The out-of-distribution score."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.outlier import OutlierModel, detector_evidence

CENTRES = {View.NT: np.array([4.0, 0, 0, 0]), View.CRL: np.array([0, 4.0, 0, 0])}
SPREAD = np.array([1.0, 1.0, 0.1, 0.5])


def fitted_pictures(n=300, seed=0):
    generator = np.random.default_rng(seed)
    views = [View.NT, View.CRL] * (n // 2)
    features = np.stack([CENTRES[v] + generator.normal(0, SPREAD) for v in views])
    return features, views


def test_strange_pictures_score_higher():
    model = OutlierModel.fit(*fitted_pictures())
    usual = model.score_many(fitted_pictures(seed=1)[0])
    assert usual.mean() == pytest.approx(0, abs=0.3)
    assert model.score(np.array([4.0, 4.0, 0, 0])) > np.quantile(usual, 0.99)
    # Far in the direction that hardly varies, though near in plain distance.
    assert model.score(np.array([4.0, 0, 1.0, 0])) > np.quantile(usual, 0.99)
    assert model.score(CENTRES[View.CRL]) < 0


def test_distance_is_to_the_nearest_view():
    model = OutlierModel.fit(*fitted_pictures())
    a, b = model.distances(np.stack([CENTRES[View.NT], CENTRES[View.CRL]]))
    assert a == pytest.approx(b, abs=0.3)


def test_little_evidence_is_strange_and_much_is_no_bonus():
    features, views = fitted_pictures()
    evidence = np.random.default_rng(2).normal(2.0, 0.3, len(views))
    model = OutlierModel.fit(features, views, evidence)
    feature = CENTRES[View.NT]
    assert model.score(feature, 0.0) > model.score(feature, 2.0) + 4
    assert model.score(feature, 3.0) == model.score(feature)
    assert OutlierModel.fit(features, views).score(feature, 0.0) == pytest.approx(
        OutlierModel.fit(features, views).score(feature)
    )


def test_threshold():
    model = OutlierModel.fit(*fitted_pictures())
    far = np.array([30.0, 30, 30, 30])
    assert not model.is_outlier(far)
    assert model.with_threshold(3.0).is_outlier(far)
    assert not model.with_threshold(3.0).is_outlier(CENTRES[View.NT])


def test_indifferent_model_finds_nothing_strange(tmp_path):
    model = OutlierModel.indifferent(4)
    model.save(tmp_path / "o.safetensors")
    for each in (model, OutlierModel.load(tmp_path / "o.safetensors")):
        assert each.score(np.full(4, 1e6), 0.0) == 0
        assert not each.is_outlier(np.full(4, 1e6))


def test_more_dimensions_than_pictures():
    features = np.random.default_rng(0).normal(size=(10, 64))
    model = OutlierModel.fit(features, [View.NT] * 10)
    assert np.isfinite(model.score(np.ones(64)))


@pytest.mark.parametrize("threshold", [None, 2.5])
def test_round_trip(tmp_path, threshold):
    features, views = fitted_pictures()
    model = OutlierModel.fit(features, views, [2.0] * 150 + [1.0] * 150, weight=0.5)
    if threshold is not None:
        model = model.with_threshold(threshold)
    model.save(tmp_path / "outlier.safetensors")
    again = OutlierModel.load(tmp_path / "outlier.safetensors")
    assert again.threshold == model.threshold
    assert again.views == model.views
    assert again.score_many(features, [0.5] * 300) == pytest.approx(
        model.score_many(features, [0.5] * 300), abs=1e-3
    )


def test_fit_refuses():
    with pytest.raises(ValueError):
        OutlierModel.fit(np.zeros((2, 3)), [View.NT])
    with pytest.raises(ValueError):
        OutlierModel.fit(np.full((2, 3), np.nan), [View.NT, View.NT])


def test_load_refuses(tmp_path):
    path = tmp_path / "outlier.safetensors"
    path.write_bytes(b"no model")
    with pytest.raises(QCError) as caught:
        OutlierModel.load(path)
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH
    save_file({"means": np.zeros((1, 2), np.float32)}, path, metadata={"outlier": "{}"})
    with pytest.raises(QCError):
        OutlierModel.load(path)
    save_file({"means": np.zeros((1, 2), np.float32)}, path)
    with pytest.raises(QCError):
        OutlierModel.load(path)


def test_evidence():
    assert detector_evidence([0.1, 0.9, 0.8, 0.7]) == pytest.approx(2.4)
    assert detector_evidence([]) == 0

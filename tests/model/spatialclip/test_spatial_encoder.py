"""Geometry of boxes and the spatial encoder."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.boxes import Detection
from model.spatialclip.preprocess import Preprocessor
from model.spatialclip.spatial_encoder import FEATURES, SpatialEncoder, geometry, usable

X, Y, W, H, LOG_AREA, LOG_ASPECT, RADIUS, SIN, COS, NEAR, NEAR_SIN, NEAR_COS, CONFIDENCE = range(13)


def one(boxes, confidences=None, mask=None):
    boxes = torch.tensor([boxes], dtype=torch.float32)
    count = boxes.shape[1]
    confidences = torch.full((1, count), 0.9) if confidences is None else confidences
    mask = torch.ones(1, count, dtype=torch.bool) if mask is None else torch.tensor([mask])
    return geometry(boxes, confidences, mask)[0]


def encoder(**changes):
    torch.manual_seed(0)
    sizes = {"dim": 32, "label_dim": 8, "layers": 2, "heads": 4, "ffn": 64}
    return SpatialEncoder(**{**sizes, **changes}).eval()


def random_batch(rows=3, count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(rows, count, 2, generator=generator) * 0.6
    side = torch.rand(rows, count, 2, generator=generator) * 0.3 + 0.05
    labels = torch.randint(0, 20, (rows, count), generator=generator)
    confidences = torch.rand(rows, count, generator=generator)
    return torch.cat((corner, side), -1), labels, confidences, torch.ones(rows, count).bool()


def test_features_of_a_known_box():
    row = one([[0.6, 0.7, 0.2, 0.1], [0.1, 0.7, 0.2, 0.1]])[0]
    assert row[[X, Y, W, H]].tolist() == pytest.approx([0.6, 0.7, 0.2, 0.1], abs=1e-6)
    assert row[LOG_AREA] == pytest.approx(-3.912023, abs=1e-4)
    assert row[LOG_ASPECT] == pytest.approx(0.693147, abs=1e-5)
    assert row[RADIUS] == pytest.approx((0.2**2 + 0.25**2) ** 0.5, abs=1e-6)
    assert row[SIN] == pytest.approx(0.25 / 0.320156, abs=1e-4)
    assert row[COS] == pytest.approx(0.2 / 0.320156, abs=1e-4)
    assert row[NEAR] == pytest.approx(0.5, abs=1e-6)
    assert (row[NEAR_SIN], row[NEAR_COS]) == (pytest.approx(0, abs=1e-6), pytest.approx(-1))
    assert row[CONFIDENCE] == pytest.approx(0.9)


def test_nearest_neighbour_ignores_padding_at_the_origin():
    # The published code reported .354 toward the padding; the other box is .778 away.
    boxes = [[0.2, 0.2, 0.1, 0.1], [0.75, 0.75, 0.1, 0.1], [0, 0, 0, 0]]
    row = one(boxes, mask=[True, True, False])[0]
    assert row[NEAR] == pytest.approx(0.7778, abs=1e-3)
    assert row[NEAR_SIN] > 0
    assert row[NEAR_COS] > 0


def test_lone_box_has_no_neighbour():
    row = one([[0.2, 0.2, 0.1, 0.1]])[0]
    assert row[[NEAR, NEAR_SIN, NEAR_COS]].tolist() == [0, 0, 0]


def test_equal_centres_have_no_direction():
    rows = one([[0.4, 0.4, 0.2, 0.2], [0.45, 0.45, 0.1, 0.1]])
    assert rows[:, [RADIUS, SIN, COS, NEAR, NEAR_SIN, NEAR_COS]].abs().max() < 1e-6


@pytest.mark.parametrize(
    "bad",
    [
        [0.5, 0.5, 0.0, 0.2],
        [1.2, 0.5, 0.2, 0.2],
        [0.5, 0.5, -0.1, 0.2],
        [float("nan"), 0.5, 0.1, 0.2],
        [0.5, 0.5, float("inf"), 0.2],
    ],
)
def test_box_without_area_in_the_picture_counts_as_padding(bad):
    good = [0.2, 0.2, 0.1, 0.1]
    rows = one([good, bad])
    assert rows[1].abs().sum() == 0
    assert torch.equal(rows[0], one([good])[0])
    assert usable(torch.tensor([[good, bad]]), torch.ones(1, 2).bool()).tolist() == [[True, False]]


def test_box_is_cut_to_the_picture():
    row = one([[0.9, 0.9, 0.5, 0.5]])[0]
    assert row[[X, Y, W, H]].tolist() == pytest.approx([0.9, 0.9, 0.1, 0.1], abs=1e-6)


def test_mirrored_boxes_mirror_the_geometry():
    boxes, _, confidences, mask = random_batch()
    x, y, w, h = boxes.unbind(-1)
    flipped = torch.stack((1 - x - w, y, w, h), -1)
    before, after = geometry(boxes, confidences, mask), geometry(flipped, confidences, mask)
    sign = torch.ones(FEATURES)
    sign[[COS, NEAR_COS]] = -1
    others = [i for i in range(FEATURES) if i != X]
    assert torch.allclose(after[..., others], (before * sign)[..., others], atol=1e-4)
    assert torch.allclose(after[..., X], 1 - before[..., X] - before[..., W], atol=1e-6)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-2, 3, width=32)] * 4, st.floats(0, 1, width=32), st.booleans()),
        max_size=8,
    )
)
def test_geometry_is_finite_and_bounded(rows):
    boxes = torch.tensor([[r[:4] for r in rows]], dtype=torch.float32).reshape(1, -1, 4)
    confidences = torch.tensor([[r[4] for r in rows]]).reshape(1, -1)
    mask = torch.tensor([[r[5] for r in rows]], dtype=torch.bool).reshape(1, -1)
    features = geometry(boxes, confidences, mask)
    assert features.shape == (1, len(rows), FEATURES)
    assert features.isfinite().all()
    assert features.abs().max() < 20 if rows else True
    assert features[~mask].abs().sum() == 0


def test_padding_does_not_matter_whatever_it_holds():
    model = encoder()
    boxes, labels, confidences, mask = random_batch()
    unpadded = model(boxes, labels, confidences, mask)
    rubbish = torch.full((3, 5, 4), torch.nan)
    padded = model(
        torch.cat((boxes, rubbish), 1),
        torch.cat((labels, torch.full((3, 5), 999)), 1),
        torch.cat((confidences, torch.full((3, 5), torch.inf)), 1),
        torch.cat((mask, torch.zeros(3, 5).bool()), 1),
    )
    assert torch.allclose(unpadded, padded, atol=1e-6)


def test_order_of_boxes_does_not_matter_but_boxes_do():
    model = encoder()
    boxes, labels, confidences, mask = random_batch()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = model(boxes[:, order], labels[:, order], confidences[:, order], mask)
    feature = model(boxes, labels, confidences, mask)
    assert torch.allclose(feature, shuffled, atol=1e-6)
    for changed in (
        model(boxes * 0.8, labels, confidences, mask),
        model(boxes, (labels + 1) % 20, confidences, mask),
        model(boxes, labels, confidences * 0.5, mask),
    ):
        assert (feature - changed).abs().max() > 1e-4


def test_class_token_stands_first_in_training_too():
    """With every box hidden, what comes out must be the class token's answer, each time."""
    model = encoder(dropout=0.0, token_dropout=1.0)
    batch = random_batch()
    nothing = model(*batch[:3], torch.zeros(3, 6).bool())
    model.train()
    for _ in range(5):
        assert torch.allclose(model(*batch), nothing, atol=1e-5)


def test_no_boxes_give_the_learned_answer():
    model = encoder()
    boxes, labels, confidences, _ = random_batch()
    masked = model(boxes, labels, confidences, torch.zeros(3, 6).bool())
    empty = model(boxes[:, :0], labels[:, :0], confidences[:, :0], torch.ones(3, 0).bool())
    assert masked.isfinite().all()
    assert torch.allclose(masked, empty, atol=1e-6)
    assert torch.allclose(masked[0], masked[1])
    assert torch.allclose(masked.norm(dim=-1), torch.ones(3))


def test_every_parameter_learns():
    model = encoder().train()
    model(*random_batch()).square().mul(torch.arange(32)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "in_proj" not in n)


def test_published_sizes():
    model = SpatialEncoder()
    assert model.geometry_projection.weight.shape == (576, 13)
    assert model.label_embedding.weight.shape == (20, 192)
    assert model.transformer.layers[0].linear1.out_features == 2048
    assert model.transformer.layers[0].norm_first is False


def test_a_box_of_low_confidence_counts_in_training_as_in_evaluation():
    """Upstream drops boxes below 0.5 in training only."""
    model = encoder(dropout=0.0, token_dropout=0.0)
    boxes, labels, _, mask = random_batch()
    confidences = torch.full((3, 6), 0.3)
    judged = model(boxes, labels, confidences, mask)
    model.train()
    assert torch.allclose(model(boxes, labels, confidences, mask), judged, atol=1e-6)
    moved = boxes.clone()
    moved[:, 0, :2] += 0.2
    assert (model(moved, labels, confidences, mask) - judged).abs().max() > 1e-4


def test_the_surest_boxes_are_the_layout():
    """Upstream keeps the first 32."""
    box = (10.0, 10.0, 30.0, 30.0)
    layout = [Detection("F", box, 0.1 + 0.01 * number) for number in range(40)]
    _, _, confidences, mask = Preprocessor(None, 64).layouts([layout], [(64, 64)])
    assert confidences.shape == (1, 32)
    assert mask.all()
    assert confidences.min() == pytest.approx(0.18)

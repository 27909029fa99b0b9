"""Maps of classes: exact where that can be worked out, unlike for unlike classes, checked."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.fetalclip.explain import (
    Explained,
    Method,
    attention_map,
    check_by_deletion,
    contrast,
    draw_map,
    explain,
    gradient_map,
    of_network,
    of_prompts,
    place_in_square,
)
from model.nextgen_uia.adapters import AdapterConfig, Kind, add_adapters
from model.nextgen_uia.network import AdaptedNetwork, ClipTower, HeadConfig, HeadKind, Task
from tests.support.clips import random_clip
from tests.support.towers import pictures, vision_tower

WHOLE = (0, 0, 32, 32)


def test_a_contrast_is_against_the_mean_of_the_others() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0]])
    assert contrast(logits).tolist() == [[1.5, -1.5, 0.0]]
    with pytest.raises(ValueError, match="there is one only"):
        contrast(logits[:, :1])


def test_gradients_are_the_exact_shares_of_a_linear_score() -> None:
    """Behind a pooled map and a linear layer each position's share is known."""
    torch.manual_seed(0)
    layer, head = nn.Conv2d(3, 5, 8, stride=8), nn.Linear(5, 2, bias=False)

    def scores(images: Tensor) -> Tensor:
        return head(layer(images).mean((-2, -1)))

    image = pictures(1)
    values = gradient_map(Explained(scores, layer), image, 0)
    difference = head.weight[0] - head.weight[1]
    expected = (layer(image)[0] * difference[:, None, None]).sum(0) / 16
    assert values == pytest.approx(expected.detach().numpy(), abs=1e-6)
    assert values.sum() == pytest.approx(float(contrast(scores(image))[0, 0].detach()), abs=1e-5)


def test_maps_depend_on_the_class() -> None:
    network = random_clip()
    directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    explained = of_prompts(network, directions)
    for method in Method:
        maps = [explain(explained, pictures(1), number, method) for number in range(3)]
        assert all(each.shape == (4, 4) for each in maps)
        assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] < 0.99
    # Contrasts of all classes sum to nothing, and so do their gradients.
    gradients = [explain(explained, pictures(1), number, Method.GRADIENT) for number in range(3)]
    assert sum(gradients) == pytest.approx(np.zeros((4, 4)), abs=1e-3)


def test_attention_of_one_block_is_worked_out_by_hand() -> None:
    tower = ClipTower(vision_tower(1), (0,))
    config = HeadConfig(Task.CLASSIFICATION, ("a", "b"), kind=HeadKind.POOLED)
    network = AdaptedNetwork(tower, config).eval().requires_grad_(False)
    image = pictures(1)
    values = attention_map(of_network(network), image, 1)
    vision = tower.vision
    assert vision.config._attn_implementation == "sdpa"

    hidden = vision.pre_layrnorm(vision.embeddings(image))
    block, attention = vision.encoder.layers[0], vision.encoder.layers[0].self_attn
    inner = block.layer_norm1(hidden)
    query, key, value = (
        each(inner).unflatten(2, (4, 8)).transpose(1, 2)
        for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (query @ key.transpose(2, 3) / 8**0.5).softmax(-1).requires_grad_(True)
    tokens = hidden + attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    tokens = tokens + block.mlp(block.layer_norm2(tokens))
    logits = network.head(vision.post_layernorm(tokens[:, 0]))
    (gradient,) = torch.autograd.grad(contrast(logits)[0, 1], weights)
    expected = (weights * gradient)[0].clamp(min=0).mean(0)[0, 1:].reshape(4, 4)
    assert values == pytest.approx(expected.detach().numpy(), abs=1e-6)


def test_towers_with_adapters_are_explained_and_other_heads_refused() -> None:
    vision = vision_tower(2)
    add_adapters(vision, AdapterConfig(Kind.MONA, (0, 1), bottleneck=8))
    config = HeadConfig(Task.CLASSIFICATION, ("a", "b"), 8, HeadKind.POOLED)
    network = AdaptedNetwork(ClipTower(vision, (1,)), config).eval()
    for method in Method:
        assert np.abs(explain(of_network(network), pictures(1), 0, method)).max() > 0
    layers = HeadConfig(Task.CLASSIFICATION, ("a", "b"), 8)
    with pytest.raises(ValueError, match="a head on the pooled feature"):
        of_network(AdaptedNetwork(ClipTower(vision, (1,)), layers))
    with pytest.raises(ValueError, match="no attention"):
        attention_map(Explained(network, nn.Identity()), pictures(1), 0)


def _brightness(images: Tensor) -> Tensor:
    """Class 0 is the sum of the second patch of the second row (of 4 x 4)."""
    value = images[:, :, 8:16, 8:16].sum((1, 2, 3))
    return torch.stack((value, torch.zeros_like(value)), 1)


def test_deletion_tells_a_right_map_from_a_wrong_one() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 8:16, 8:16] = 1.0
    right = np.zeros((4, 4), np.float32)
    right[1, 1] = 1
    deletion = check_by_deletion(_brightness, image, 0, right, WHOLE, orders=20)
    whole, left_over = 192.0, 192 / 16
    # A deleted patch has the mean colour. Two of sixteen patches go at each step.
    assert deletion.curve == pytest.approx([whole] + [left_over] * 8)
    assert deletion.area == pytest.approx((whole - left_over) / 16 + left_over)
    assert deletion.better_than > 0.8
    assert deletion.area < deletion.random_area
    wrong = check_by_deletion(_brightness, image, 0, -right, WHOLE, orders=20)
    assert wrong.better_than == 0
    assert wrong.curve[-1] == pytest.approx(left_over)


def test_only_the_picture_is_deleted_not_the_border() -> None:
    # A wide picture lies in the two middle rows of patches; what is black around it stays.
    place = place_in_square(16, 32, 32)
    assert place == (0, 8, 32, 16)
    image = pictures(1)
    images: list[Tensor] = []

    def scores(batch: Tensor) -> Tensor:
        images.append(batch)
        return _brightness(batch)

    check_by_deletion(scores, image, 0, np.zeros((4, 4), np.float32), place, orders=1)
    copies = torch.cat(images[:1])
    assert torch.equal(copies[:, :, :8], image[:, :, :8].expand(len(copies), -1, -1, -1))
    assert torch.equal(copies[:, :, 24:], image[:, :, 24:].expand(len(copies), -1, -1, -1))
    assert not torch.equal(copies[7, :, 8:24], image[0, :, 8:24])


def test_the_drawing_has_the_pictures_size_and_colours() -> None:
    pixels = np.full((20, 40, 3), 100, np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[1, 3] = 2.0
    drawing = draw_map(pixels, values, place_in_square(20, 40, 32), 32)
    assert drawing.shape == pixels.shape
    assert drawing.dtype == np.uint8
    right, left = drawing[3, 38].astype(int), drawing[3, 1].astype(int)
    # The highest value is the colour map's light yellow, RGB; no value is its black.
    assert right.sum() > left.sum() + 100
    assert right[0] > right[2]
    assert left.tolist() == [50, 50, 52]
    # A map without any positive value is no colour, and no division by zero.
    assert np.array_equal(draw_map(pixels, -values, (0, 8, 32, 16), 32)[3, 1], drawing[3, 1])

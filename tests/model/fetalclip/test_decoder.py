"""The decoder of masks: shapes, what it reads, and the blocks that it reads them from."""

from dataclasses import replace

import pytest
import torch

from model.fetalclip.decoder import MaskDecoder, PyramidDecoder, decoder_layers
from model.fetalclip.explain import Method, explain, of_network
from model.fetalclip.network import Architecture, FetalClip
from model.nextgen_uia.network import AdaptedNetwork, ClipTower, HeadConfig, HeadKind, Task
from tests.support.towers import pictures, vision_tower

MASKS = HeadConfig(Task.SEGMENTATION, ("background", "head"), 4, HeadKind.DECODER)


def test_blocks_are_read_at_each_quarter() -> None:
    # The published ones of 24 are 5, 7, 11 and 23: three of four in the first half.
    assert decoder_layers(24) == (5, 11, 17, 23)
    assert decoder_layers(12) == (2, 5, 8, 11)
    with pytest.raises(ValueError, match="reads 4 blocks, the tower has 3"):
        decoder_layers(3)


def test_maps_of_any_grid_become_logits_of_the_pictures_size() -> None:
    # 16 x 16 positions of patches of 14 become 14 x 14 of 16 pixels each.
    decoder = MaskDecoder((8, 8, 8, 8), classes=2, width=4)
    maps = [torch.randn(1, 8, 16, 16) for _ in range(4)]
    assert decoder(maps, torch.randn(1, 3, 224, 224)).shape == (1, 2, 224, 224)
    with pytest.raises(ValueError, match="a multiple of 16, not 40"):
        decoder(maps, torch.randn(1, 3, 40, 40))
    with pytest.raises(ValueError, match="4 maps of a tower, not 3"):
        MaskDecoder((8, 8, 8), classes=2)


def test_the_published_decoder_has_as_many_numbers() -> None:
    """Of the published layers for ViT-L at width 32, counted by hand: the same convolutions; batch
    normalisation has as many weights as that of groups."""

    def convolution(a: int, b: int) -> int:
        return 9 * a + 2 * a + a * b + 2 * b

    def transposed(a: int) -> int:
        return 4 * a + a

    def doubling(a: int, b: int) -> int:
        return transposed(a) + a * b + b

    def both(a: int, b: int) -> int:
        return transposed(a) + convolution(a, b)

    expected = (
        doubling(1024, 256)
        + both(1024, 256) + convolution(512, 256) + 2 * convolution(256, 256) + doubling(256, 128)
        + both(1024, 256) + both(256, 128)
        + convolution(256, 128) + convolution(128, 128) + doubling(128, 64)
        + both(1024, 256) + both(256, 128) + both(128, 64)
        + convolution(128, 64) + convolution(64, 64) + doubling(64, 32)
        + convolution(3, 32) + convolution(32, 32)
        + convolution(64, 32) + convolution(32, 32) + (32 + 1) * 2
    )  # fmt: skip
    with torch.device("meta"):
        decoder = MaskDecoder((1024,) * 4, classes=2)
    assert sum(p.numel() for p in decoder.parameters()) == expected


def test_every_map_and_the_picture_change_the_answer() -> None:
    torch.manual_seed(0)
    decoder = MaskDecoder((8, 8, 8, 8), classes=2, width=4).eval()
    inputs = [torch.randn(1, 8, 2, 2, requires_grad=True) for _ in range(4)]
    picture = torch.randn(1, 3, 32, 32, requires_grad=True)
    decoder(inputs, picture)[:, 1].square().sum().backward()
    for tensor in (*inputs, picture):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0


def test_a_pyramid_of_maps_becomes_logits_of_the_pictures_size() -> None:
    torch.manual_seed(0)
    decoder = PyramidDecoder((4, 8, 16), classes=2, width=8).eval()
    maps = [torch.randn(1, a, s, s, requires_grad=True) for a, s in ((4, 16), (8, 8), (16, 4))]
    assert decoder(maps, 16).shape == (1, 2, 16, 16)
    logits = decoder(maps, 32)
    assert logits.shape == (1, 2, 32, 32)
    logits[:, 1].square().sum().backward()
    for each in maps:
        assert each.grad is not None
        assert each.grad.abs().max() > 0
    # Each map counts by its pattern, whatever scale its layer has.
    scaled = [each * factor for each, factor in zip(maps, (1, 100, 0.1), strict=True)]
    assert torch.allclose(decoder(scaled, 32), logits, atol=1e-2)
    with pytest.raises(ValueError, match="two maps of a tower at least"):
        PyramidDecoder((8,), classes=2)


def test_a_tower_with_the_decoder_segments_and_stays_frozen() -> None:
    tower = ClipTower(vision_tower(4), decoder_layers(4)).requires_grad_(False)
    network = AdaptedNetwork(tower, MASKS)
    logits = network(pictures())
    assert logits.shape == (2, 2, 32, 32)
    logits.square().sum().backward()
    assert all(p.grad is None for p in tower.parameters())
    assert HeadConfig.from_json(MASKS.to_json()) == MASKS
    with pytest.raises(ValueError, match="kind decoder does no classification"):
        HeadConfig(Task.CLASSIFICATION, ("a", "b"), kind=HeadKind.DECODER)


def test_a_pooled_head_reads_what_clip_projects() -> None:
    tower = ClipTower(vision_tower(4), (3,))
    config = HeadConfig(Task.CLASSIFICATION, ("unusable", "usable"), kind=HeadKind.POOLED)
    network = AdaptedNetwork(tower, config).eval()
    expected = network.head(tower.vision(pixel_values=pictures()).pooler_output)
    assert torch.equal(network(pictures()), expected)
    assert sum(p.numel() for p in network.head.parameters()) == 2 * 32 + 2
    # Runs from before heads had kinds are read as what they were.
    old = HeadConfig(Task.CLASSIFICATION, ("a", "b"))
    assert "kind" not in old.to_json()
    assert HeadConfig.from_json(old.to_json()) == old


@pytest.mark.slow
def test_the_published_size_segments_and_is_explained() -> None:
    """ViT-L/14 at 224 with random weights: the decoder, and maps by both methods."""
    torch.manual_seed(0)
    vision = FetalClip(replace(Architecture(), text_layers=1)).clip.vision_model
    vision.requires_grad_(False)
    images = torch.randn(1, 3, 224, 224)
    tower = ClipTower(vision, decoder_layers(24)).eval()
    masks = AdaptedNetwork(tower, HeadConfig(Task.SEGMENTATION, ("a", "b"), 32, HeadKind.DECODER))
    with torch.no_grad():
        assert masks(images).shape == (1, 2, 224, 224)
    config = HeadConfig(Task.CLASSIFICATION, ("a", "b"), kind=HeadKind.POOLED)
    frames = AdaptedNetwork(ClipTower(vision, (23,)), config).eval()
    for method in Method:
        values = explain(of_network(frames), images, 1, method)
        assert values.shape == (16, 16)
        assert abs(values).max() > 0

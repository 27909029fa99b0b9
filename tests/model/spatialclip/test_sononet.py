"""SonoNet-16 as a backbone: shapes, its own normalisation, published weights."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from model.spatialclip.backbone import HybridEmbed
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import FILL, MEAN, STD
from model.spatialclip.sononet import SonoNet, normalise_picture

BOTH = "tf_efficientnet_lite0+sononet16"


def clip_pixels(grey: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) grey levels within 0 and 1 as CLIP normalises them."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (grey.expand(-1, 3, -1, -1) - mean) / std


def test_features_have_a_stride_of_32() -> None:
    network = SonoNet().eval()
    assert network(torch.zeros(2, 1, 96, 64)).shape == (2, 128, 3, 2)


@given(gain=st.floats(0.2, 1.0), bars=st.integers(0, 20), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_brightness_contrast_and_letterbox_do_not_count(gain: float, bars: int, seed: int) -> None:
    grey = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(seed)) * 0.4
    grey[..., :bars, :] = FILL / 255
    other = gain * grey + 0.05
    other[..., :bars, :] = FILL / 255
    result = normalise_picture(grey, FILL / 255)
    assert torch.allclose(result, normalise_picture(other, FILL / 255), atol=0.5)
    inside = result[..., bars:, :]
    assert abs(float(inside.mean())) < 0.1
    assert float(inside.std(correction=0)) == pytest.approx(255, abs=0.1)
    assert not result[..., :bars, :].any()


@pytest.mark.parametrize("level", [0.0, FILL / 255, 1.0])
def test_a_picture_of_one_grey_level_gives_finite_features(level: float) -> None:
    stem = HybridEmbed("sononet16", 24).eval()
    assert stem.forward_features(clip_pixels(torch.full((1, 1, 64, 64), level))).isfinite().all()


def test_both_networks_stand_beside_each_other() -> None:
    both = HybridEmbed(BOTH, 24).eval()
    sononet = HybridEmbed("sononet16", 24).eval()
    assert both.sononet is not None
    assert sononet.sononet is not None
    sononet.sononet.load_state_dict(both.sononet.state_dict())
    pixels = clip_pixels(torch.rand(2, 1, 64, 96))
    features = both.forward_features(pixels)
    assert features.shape == (2, both.channels, 2, 3)
    assert both.channels == 320 + 128
    assert torch.allclose(features[:, 320:], sononet.forward_features(pixels), atol=1e-4)
    both.requires_grad_(True)
    both.freeze_early()
    assert not any(p.requires_grad for p in both.sononet.blocks[0].parameters())
    assert all(p.requires_grad for p in both.sononet.blocks[-1].parameters())


@pytest.mark.parametrize("name", ["sononet16+sononet16", "resnet18+resnet34"])
def test_two_of_a_kind_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one of each"):
        HybridEmbed(name, 24)


def test_another_networks_weights_are_refused() -> None:
    stem = HybridEmbed("sononet16", 24)
    with pytest.raises(ValueError, match="another network"):
        stem.load_sononet({"features.0.0.0.weight": torch.zeros(16, 3, 3, 3)})
    with pytest.raises(ValueError, match="EfficientNet"):
        stem.load_pretrained({})
    with pytest.raises(ValueError, match="no SonoNet"):
        HybridEmbed("tf_efficientnet_lite0", 24).load_sononet({})


def test_a_network_on_both_judges() -> None:
    model = SpatialClip(small_config(300, stem=BOTH)).with_stem(pooled=True, mirrored=True).eval()
    with torch.inference_mode():
        feature = model.trimodal_clip.encode_image(clip_pixels(torch.rand(1, 1, 288, 288)))
    assert feature.norm().item() == pytest.approx(1, abs=1e-4)


def test_published_weights_load_whole(shared_data: Path) -> None:
    weights = load_file(shared_data / "weights" / "sononet16.safetensors")
    stem = HybridEmbed("sononet16", 24)
    stem.load_sononet(weights)
    network = SonoNet().eval()
    network.load_published(weights)
    picture = torch.randn(1, 1, 64, 64) * 255
    with torch.inference_mode():
        expected = network(picture)
        assert expected.std() > 0
        assert stem.sononet is not None
        assert torch.allclose(stem.sononet(picture), expected, rtol=1e-3, atol=1e-2)

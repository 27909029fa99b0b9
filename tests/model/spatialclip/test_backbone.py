"""The convolutional stem: what an image network knows, as CLIP's patches."""

from pathlib import Path

import pytest
import torch
from torch import nn

from model.spatialclip.backbone import HybridEmbed, fold_batch_norm
from model.spatialclip.checkpoint import load_spatialclip, save_spatialclip
from model.spatialclip.network import SpatialClip, SpatialClipConfig, full_config, small_config
from model.spatialclip.preprocess import MEAN, STD
from model.spatialclip.stages import Stage, set_stage

NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def stem() -> HybridEmbed:
    return HybridEmbed(NAME, 24).eval()


def test_one_feature_for_each_patch_of_32_pixels(stem: HybridEmbed) -> None:
    assert stem(stem.forward_features(torch.zeros(2, 3, 96, 64))).shape == (2, 24, 3, 2)


def test_the_network_sees_grey_levels_as_its_weights_were_trained(stem: HybridEmbed) -> None:
    inputs = []
    hook = stem.features.conv_stem.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    grey = torch.tensor([0.0, 127.0, 255.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    stem.forward_features(
        (grey / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    )
    hook.remove()
    expected = (torch.tensor([0.0, 127.0, 255.0]) - 127) / 128
    assert torch.allclose(inputs[0][0, :, 0, 0], expected, atol=1e-5)


def test_folding_changes_no_output_and_leaves_no_normalisation() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    network[1].running_mean.uniform_(-1, 1)
    network[1].running_var.uniform_(0.5, 2)
    network.eval()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = network(pixels)
        after = fold_batch_norm(network)(pixels)
    assert torch.allclose(before, after, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_pretrained_weights_are_matched_by_order_and_others_refused(stem: HybridEmbed) -> None:
    from timm import create_model

    published = create_model(NAME, pretrained=False).eval()
    weights = {f"other.{i}": t for i, t in enumerate(published.state_dict().values())}
    stem.load_pretrained(weights)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = published.bn1(published.conv_stem(pixels))
        assert torch.allclose(published.blocks(x), stem.features(pixels)[0], atol=1e-4)
    weights["other.0"] = torch.zeros(1)
    with pytest.raises(ValueError, match="another network"):
        stem.load_pretrained(weights)


def test_the_first_stages_are_not_trained() -> None:
    model = SpatialClip(small_config(300))
    set_stage(model, Stage.ALL)
    features = model.trimodal_clip.stem.features
    assert not any(p.requires_grad for p in features.conv_stem.parameters())
    assert not any(p.requires_grad for p in features.blocks[0].parameters())
    assert all(p.requires_grad for p in features.blocks[-1].parameters())


def test_the_pooled_average_says_nothing_until_it_has_learnt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = SpatialClip(small_config(300)).eval()
    wider = plain.with_stem(pooled=True, mirrored=False)
    assert wider.config.pooled
    assert not wider.training
    pixels = torch.randn(2, 3, 288, 288)
    with torch.no_grad():
        before = plain.trimodal_clip.encode_image(pixels)
        assert torch.equal(wider.trimodal_clip.encode_image(pixels), before)
        wider.trimodal_clip.pooled_projection.projection.weight.normal_()
        after = wider.trimodal_clip.encode_image(pixels)
    assert (after - before).abs().max() > 0.01
    assert torch.allclose(after.norm(dim=-1), torch.ones(2))
    save_spatialclip(tmp_path, wider)
    with torch.no_grad():
        again = load_spatialclip(tmp_path).trimodal_clip.encode_image(pixels)
    # Weights are kept in half precision.
    assert (again - after).abs().max() < 5e-3


@pytest.mark.parametrize("stage", [Stage.FUSION, Stage.PROJECTION, Stage.TOP])
def test_every_published_stage_trains_the_pooled_average(stage: Stage) -> None:
    model = SpatialClip(small_config(300)).with_stem(pooled=True, mirrored=False)
    set_stage(model, stage)
    assert all(p.requires_grad for p in model.trimodal_clip.pooled_projection.parameters())
    assert not any(p.requires_grad for p in model.trimodal_clip.stem.parameters())


def test_a_stem_that_mirrors_sees_the_same_in_a_picture_and_its_mirror_image(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = SpatialClip(small_config(300)).with_stem(pooled=False, mirrored=True).eval()
    save_spatialclip(tmp_path, model)
    stem = load_spatialclip(tmp_path).trimodal_clip.stem
    pixels = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        features, flipped = stem.forward_features(pixels), stem.forward_features(pixels.flip(-1))
        stem.mirrored = False
        once = (stem.forward_features(pixels) + stem.forward_features(pixels.flip(-1)).flip(-1)) / 2
    assert torch.allclose(features, flipped.flip(-1), atol=1e-5)
    assert torch.allclose(features, once, atol=1e-5)
    assert not torch.allclose(features, features.flip(-1), atol=1e-3)


@pytest.mark.parametrize("setting", ["pooled", "mirrored"])
def test_nothing_is_pooled_or_mirrored_without_a_stem(setting: str) -> None:
    with pytest.raises(ValueError, match="stem"):
        SpatialClipConfig(full_config().clip, **{setting: True})

"""Heads on layers 3, 6 and 9, and the preprocessing of pictures and masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.errors import QCError
from model.nextgen_uia.adapters import AdapterConfig, adapter_parameters, add_adapters
from model.nextgen_uia.checkpoint import load_network, load_tower, save_trained, tower_sha256
from model.nextgen_uia.network import (
    AdaptedNetwork,
    ClipTower,
    HeadConfig,
    HeadKind,
    LayerHead,
    SonoNetTower,
    Task,
    default_layers,
)
from model.nextgen_uia.preprocess import fit_mask, normalise, read_mask, square, unfit
from model.spatialclip.backbone import SONONET
from model.spatialclip.checkpoint import load_spatialclip, save_spatialclip
from model.spatialclip.preprocess import MEAN, STD
from tests.support.towers import SIDE, pictures, spatialclip, vision_tower


def test_maps_are_the_towers_hidden_states() -> None:
    tower = ClipTower(vision_tower(5), (1, 2, 3))
    images = pictures()
    states = tower.vision(pixel_values=images, output_hidden_states=True).hidden_states
    for number, each in zip((1, 2, 3), tower.maps(images), strict=True):
        assert each.shape == (2, 32, 4, 4)
        # The first of the hidden states is what goes into block 0.
        assert torch.allclose(each.flatten(2).transpose(1, 2), states[number + 1][:, 1:], atol=1e-6)


def test_adapters_of_blocks_that_the_head_reads_all_learn() -> None:
    tower = ClipTower(vision_tower(5), (0, 1, 2))
    add_adapters(tower, AdapterConfig(layers=(0, 1, 2)))
    network = AdaptedNetwork(tower, HeadConfig(Task.CLASSIFICATION, ("a", "b"), width=16))
    network(pictures()).sum().backward()
    assert all(parameter.grad is not None for _, parameter in adapter_parameters(tower))


def test_a_head_convolves_before_it_enlarges() -> None:
    head = LayerHead((32, 32, 32), HeadConfig(Task.SEGMENTATION, ("background", "b"), width=16))
    maps = [torch.randn(2, 32, 4, 4) for _ in range(3)]
    sizes: list[int] = []
    head.classifier.register_forward_hook(lambda _, given, __: sizes.append(given[0].shape[1]))
    logits = head.eval()(maps, 64)
    assert logits.shape == (2, 2, 64, 64)
    assert sizes == [4]


def test_a_head_sums_layers_of_different_grids() -> None:
    tower = SonoNetTower(64)
    config = HeadConfig(Task.SEGMENTATION, ("background", "head"), width=8)
    logits = AdaptedNetwork(tower, config).eval()(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 2, 64, 64)
    assert [each.shape[-1] for each in tower.maps(torch.randn(1, 3, 64, 64))] == [16, 8, 4]


def test_towers_refuse_layers_that_they_lack() -> None:
    with pytest.raises(ValueError, match="4 blocks, and none 9"):
        ClipTower(vision_tower(4))
    with pytest.raises(ValueError, match="multiple of 16"):
        SonoNetTower(100)
    with pytest.raises(ValueError, match="SonoNet-16 has 5 blocks, and none 5"):
        SonoNetTower(64, (3, 5))


def test_sononets_blocks_are_a_pyramid() -> None:
    torch.manual_seed(0)
    tower, every = SonoNetTower(64), SonoNetTower(64, (0, 1, 2, 3, 4))
    every.load_state_dict(tower.state_dict())
    maps = every.maps(pictures := torch.randn(1, 3, 64, 64))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8), (128, 4, 4)
    ]  # fmt: skip
    assert all(map(torch.equal, maps[2:], tower.maps(pictures)))
    # Folders of heads on the default layers stay as they were.
    assert tower.facts() == {"kind": "sononet16", "side": 64}
    assert every.facts() == tower.facts() | {"layers": [0, 1, 2, 3, 4]}
    config = HeadConfig(Task.SEGMENTATION, ("background", "head"), 4, HeadKind.PYRAMID)
    assert HeadConfig.from_json(config.to_json()) == config
    network = AdaptedNetwork(every.requires_grad_(False), config)
    logits = network(pictures)
    assert logits.shape == (1, 2, 64, 64)
    logits.square().sum().backward()
    assert all(parameter.grad is None for parameter in every.parameters())
    with pytest.raises(ValueError, match="the last block's, which the tower does not read"):
        SonoNetTower(64, (2, 3)).pooled(pictures)


def test_a_head_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two different classes"):
        HeadConfig(Task.CLASSIFICATION, ("a", "a"))


def test_pictures_keep_their_aspect_and_have_clips_normalisation() -> None:
    picture = np.full((20, 40, 3), 200, np.uint8)
    inputs = normalise([square(picture, SIDE)])
    assert inputs.shape == (1, 3, SIDE, SIDE)
    middle = inputs[0, :, SIDE // 2, SIDE // 2] * torch.tensor(STD) + torch.tensor(MEAN)
    assert torch.allclose(middle, torch.tensor(200 / 255), atol=1e-4)
    border = inputs[0, :, 2, 2] * torch.tensor(STD) + torch.tensor(MEAN)
    assert torch.allclose(border, torch.tensor(128 / 255), atol=1e-4)


def test_a_mask_goes_with_its_picture_and_back() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[20:40, 30:80] = 1
    fitted = fit_mask(mask, 50)
    assert fitted.shape == (50, 50)
    assert fitted[:10].sum() == 0
    assert abs(int(fitted.sum()) - 10 * 25) <= 10
    back = unfit(fitted[None].astype(np.float32), 60, 100)[0] >= 0.5
    assert (back & (mask == 1)).sum() * 2 / (back.sum() + mask.sum()) > 0.97


def test_a_grey_mask_is_thresholded_not_dithered(tmp_path: object) -> None:
    path = tmp_path / "mask.png"  # type: ignore[operator]
    Image.fromarray(np.tile(np.array([0, 100, 160, 255], np.uint8), (8, 1))).save(path)
    assert (read_mask(path) == [0, 0, 1, 1]).all()
    path.write_bytes(b"no picture")
    with pytest.raises(QCError, match=r"mask mask\.png cannot be read"):
        read_mask(path)


@pytest.mark.parametrize(("stem", "kind"), [("", "clip"), (SONONET, "spatialclip")])
def test_spatialclips_tower_takes_adapters_and_a_head(stem: str, kind: str, tmp_path: Path) -> None:
    model = spatialclip(stem)
    save_spatialclip(tmp_path / "spatialclip", model)
    images = torch.randn(2, 3, 64, 64)
    tower = load_tower(tmp_path / "spatialclip")
    assert isinstance(tower, ClipTower)
    # By the depth of the published ones.
    assert (tower.kind, tower.layers, tower.side) == (kind, (1, 2, 3), 64)
    reference = load_spatialclip(tmp_path / "spatialclip").trimodal_clip
    features = images if reference.stem is None else reference.stem.forward_features(images)
    states = reference.clip_model.vision_model(
        pixel_values=features, interpolate_pos_encoding=bool(stem), output_hidden_states=True
    ).hidden_states
    maps = tower.maps(tower.stem_features(images))
    for layer, each in zip(tower.layers, maps, strict=True):
        tokens = each.flatten(2).transpose(1, 2)
        assert torch.allclose(tokens, states[layer + 1][:, 1:], atol=1e-5)

    sha256 = tower_sha256(tower)
    adapters = AdapterConfig(layers=(1, 2), bottleneck=8)
    add_adapters(tower, adapters)
    assert tower_sha256(tower) == sha256
    # A new adapter changes nothing, and nothing else learns.
    for before, after in zip(maps, tower.eval().maps(tower.stem_features(images)), strict=True):
        assert (before - after).abs().max() < 1e-6
    network = AdaptedNetwork(tower, HeadConfig(Task.CLASSIFICATION, ("a", "b"), width=16)).eval()
    with torch.no_grad():
        for _, parameter in adapter_parameters(tower):
            parameter.normal_(0, 0.2)
    save_trained(
        tmp_path / "run", tower, sha256,
        adapters=adapters, head=network.head, head_config=network.head.config,
    )  # fmt: skip
    again = load_network(tmp_path / "run", load_tower(tmp_path / "spatialclip"))
    assert torch.equal(again(images), network(images))
    of_features = network.forward_features(tower.stem_features(images))
    assert torch.equal(of_features, network(images))
    save_spatialclip(tmp_path / "other", spatialclip("" if stem else SONONET))
    other = load_tower(tmp_path / "other")
    with pytest.raises(QCError, match="trained on another tower"):
        load_network(tmp_path / "run", other)


@pytest.mark.parametrize(("blocks", "layers"), [(24, (3, 6, 9)), (12, (3, 6, 9)), (4, (1, 2, 3))])
def test_default_layers_keep_their_depth(blocks: int, layers: tuple[int, ...]) -> None:
    assert default_layers(blocks) == layers

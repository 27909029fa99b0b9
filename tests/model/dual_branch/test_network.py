"""The dual-branch network: sizes as published, torchvision's arithmetic, inputs at two scales."""

import socket
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from model.dual_branch.network import (
    ARCHITECTURES,
    PUBLISHED_CLASSES,
    DualBranch,
    DualBranchConfig,
    Layout,
    build_backbone,
)

THREE = ("a", "b", "c")


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        ("efficientnet-b0-b6", 3584),
        ("resnet18-resnet34", 1024),
        ("resnet34-efficientnet-b6", 2816),
        ("resnet18-densenet201", 2432),
        ("resnet18", 512),
        ("efficientnet-b7", 2560),
    ],
)
def test_the_head_reads_the_published_number_of_features(architecture: str, features: int) -> None:
    with torch.device("meta"):
        network = DualBranch(DualBranchConfig(architecture, PUBLISHED_CLASSES))
        assert network.head.weight.shape == (16, features)
        pictures = torch.zeros(1, 3, 64, 64)
        assert network(pictures).shape == (1, 16)


def test_only_the_resnets_begin_with_a_head_of_zeros() -> None:
    resnets = DualBranch(DualBranchConfig("resnet18-resnet34", THREE))
    assert not resnets.head.weight.any()
    assert DualBranch(DualBranchConfig("resnet18", THREE)).head.weight.any()


def test_every_architecture_is_an_option_of_training() -> None:
    from training.commands.dual_branch import ArchitectureName

    assert {each.value for each in ArchitectureName} == set(ARCHITECTURES)


def test_each_branch_sees_its_own_size() -> None:
    network = DualBranch(DualBranchConfig("resnet18-resnet34", THREE, ((32, 40), (64, 80))))
    sizes = []
    for branch in network.branches:
        branch.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2:]))
    network.eval()(torch.zeros(1, 3, 64, 80))
    assert sizes == [(32, 40), (64, 80)]


def test_the_shallow_branch_gets_the_average_of_a_grating_and_not_its_samples() -> None:
    """Published networks resize without antialiasing, so that speckle turns into patterns."""
    grating = torch.zeros(1, 3, 64, 64)
    grating[..., ::4] = 1
    sizes = ((32, 32), (64, 64))
    ours = DualBranch(DualBranchConfig("resnet18-resnet34", THREE, sizes))
    published = DualBranch(
        DualBranchConfig("resnet18-resnet34", THREE, sizes, layout=Layout.PUBLISHED)
    )
    assert ours._resize(grating, (20, 20)).std() < 0.15
    assert published._resize(grating, (20, 20)).std() > 0.3
    expected = interpolate(grating, (20, 20), mode="bilinear", align_corners=True)
    assert torch.equal(published._resize(grating, (20, 20)), expected)


def test_a_gate_shares_the_branches_out() -> None:
    sizes = ((32, 32), (32, 32))
    network = DualBranch(DualBranchConfig("resnet18-densenet201", THREE, sizes, gated=True)).eval()
    pictures = torch.rand(1, 3, 32, 32)
    assert network.gate is not None
    with torch.no_grad():
        network.gate.fill_(0.25)
        both = network.features(pictures)
        shallow, detailed = (branch(pictures) for branch in network.branches)
    assert torch.allclose(both, torch.cat((0.25 * shallow, 0.75 * detailed), 1))


def test_frozen_backbones_leave_only_the_head_to_learn() -> None:
    network = DualBranch(DualBranchConfig("resnet18", THREE))
    network.freeze_backbones()
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trainable == ["head.weight", "head.bias"]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_a_backbone_is_torchvisions(name: str) -> None:
    """Published checkpoints were trained with torchvision's layers and constants."""
    _is_torchvisions(name, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "efficientnet_b6", "efficientnet_b7", "densenet201"])
def test_a_large_backbone_is_torchvisions(name: str) -> None:
    _is_torchvisions(name, 64)


def _is_torchvisions(name: str, side: int) -> None:
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None)
    _spread_statistics(theirs)
    setattr(theirs, "fc" if name.startswith("resnet") else "classifier", nn.Identity())
    ours = build_backbone(name)
    tensors = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    pictures = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, actual = theirs.eval()(pictures), ours.eval()(pictures)
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _spread_statistics(network: nn.Module) -> None:
    """As after some training: in deep networks another epsilon shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vgg"}, "'vgg' is none of efficientnet-b0-b6"),
        ({"classes": ("a",)}, "two are needed"),
        ({"classes": ("a", "a")}, "'a' is named twice"),
        ({"classes": ("a", " ")}, "has no name"),
        ({"sizes": ((64, 64),)}, "has 2 branches, not 1"),
        ({"sizes": ((64, 64), (16, 64))}, "32 to 2048"),
        ({"gated": True}, "has no gate"),
    ],
)
def test_a_config_that_makes_no_network_is_refused(changes: dict, message: str) -> None:
    values = {"architecture": "resnet18-resnet34", "classes": THREE} | changes
    with pytest.raises(ValueError, match=message):
        DualBranchConfig(**values)


def test_a_config_goes_to_json_and_back() -> None:
    config = DualBranchConfig("efficientnet-b0-b6", PUBLISHED_CLASSES, layout=Layout.PUBLISHED)
    assert DualBranchConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0-b6", "resnet18-densenet201"])
def test_nothing_is_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of upstream's networks fetch ImageNet's weights, also where they are told not to."""

    def connect(*_: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    with torch.device("meta"):
        network = DualBranch(DualBranchConfig(name, ("a", "b")))
    assert network.head.weight.is_meta

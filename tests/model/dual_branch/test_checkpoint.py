"""Checkpoints of the dual-branch classifier: ours, and the published code's."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detector.errors import ErrorCode, QCError
from model.dual_branch.checkpoint import (
    CONFIG,
    WEIGHTS,
    load_backbones,
    load_dual_branch,
    read_published,
    read_recipe,
    save_dual_branch,
)
from model.dual_branch.network import DualBranch, DualBranchConfig, Layout

THREE = ("a", "b", "c")
RESNETS = ("resnet18", "resnet34")


class Published(nn.Module):
    """As the published networks are built: torchvision's backbones without their heads, features
    side by side, one linear layer. Its names are invented."""

    def __init__(self, backbones: tuple[str, ...], classes: int, gated: bool = False) -> None:
        super().__init__()
        networks = [torchvision.models.get_model(name, weights=None) for name in backbones]
        width = sum(list(network.modules())[-1].in_features for network in networks)
        if gated:
            self.share = nn.Parameter(torch.tensor(0.3))
        self.coarse = nn.Sequential(*list(networks[0].children())[:-1])
        self.fine = nn.Sequential(*list(networks[1].children())[:-1])
        self.fc = nn.Linear(width, classes)

    def forward(self, shallow: Tensor, detailed: Tensor) -> Tensor:
        features = [self.coarse(shallow).flatten(1), self.fine(detailed).flatten(1)]
        logits: Tensor = self.fc(torch.cat(features, 1))
        return logits


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def random_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)


def test_a_published_checkpoint_gives_the_published_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = Published(RESNETS, 3)
    random_statistics(published)
    path = save(tmp_path / "best_model.pth", published.state_dict())
    network = read_published(path, THREE)
    assert network.config.architecture == "resnet18-resnet34"
    assert network.config.layout is Layout.PUBLISHED
    assert network.config.classes == THREE
    assert network.config.sizes == ((281, 374), (570, 761))
    # Of the published sizes only the arithmetic counts here, which smaller ones show as well.
    network.config = replace(network.config, sizes=((57, 75), (114, 151)))
    pictures = torch.randn(1, 3, 170, 227)

    def resize(size: tuple[int, int]) -> Tensor:
        return nn.functional.interpolate(pictures, size, mode="bilinear", align_corners=True)

    with torch.no_grad():
        expected = published.eval()(resize((57, 75)), resize((114, 151)))
        assert torch.allclose(network(pictures), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbones", "name", "gated"),
    [
        (("efficientnet_b0", "efficientnet_b6"), "efficientnet-b0-b6", False),
        (("resnet34", "efficientnet_b6"), "resnet34-efficientnet-b6", False),
        (("resnet18", "densenet201"), "resnet18-densenet201", False),
        (("resnet18", "densenet201"), "resnet18-densenet201", True),
    ],
)
def test_every_published_pair_is_recognised(
    backbones: tuple[str, ...], name: str, gated: bool, tmp_path: Path
) -> None:
    path = save(tmp_path / "best_model.pth", Published(backbones, 16, gated).state_dict())
    classes = tuple(map(str, range(16)))
    network = read_published(path, classes)
    assert network.config.architecture == name
    assert network.config.gated == gated
    if gated:
        assert network.gate is not None
        assert float(network.gate) == pytest.approx(0.3)


def test_a_backbone_that_still_carries_its_imagenet_head_is_read(tmp_path: Path) -> None:
    state = Published(RESNETS, 3).state_dict()
    state = {"fine.fc.weight": torch.zeros(1000, 512), "fine.fc.bias": torch.zeros(1000)} | state
    path = save(tmp_path / "w.pth", {"state_dict": state})
    assert read_published(path, THREE).config.architecture == "resnet18-resnet34"


def test_another_architecture_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = save(tmp_path / "best_model.pth", Published(RESNETS, 3).state_dict())
    with pytest.raises(QCError) as caught:
        read_published(path, THREE, "efficientnet-b0-b6")
    assert str(caught.value) == (
        "best_model.pth cannot be used: its tensors are not those of efficientnet-b0-b6 but of"
        " resnet18-resnet34"
    )
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH


def drop(state: dict[str, Tensor]) -> None:
    state.pop("fine.4.0.bn1.running_var")


def swap(state: dict[str, Tensor]) -> None:
    """Same shapes in another order of names: the norm's bias in place of its weight."""
    items = list(state.items())
    at = list(state).index("coarse.1.weight")
    items[at], items[at + 1] = items[at + 1], items[at]
    state.clear()
    state.update(items)


def add(state: dict[str, Tensor]) -> None:
    state["more.weight"] = torch.zeros(4, 4)


def widen(state: dict[str, Tensor]) -> None:
    state["fc.weight"] = torch.zeros(3, 1000)


@pytest.mark.parametrize("change", [drop, swap, add, widen])
def test_tensors_that_are_not_exactly_an_architectures_are_refused(
    change: Any, tmp_path: Path
) -> None:
    state = dict(Published(RESNETS, 3).state_dict())
    change(state)
    with pytest.raises(QCError, match="are not those of any of"):
        read_published(save(tmp_path / "w.pth", state), THREE)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", Published(RESNETS, 3).state_dict())
    with pytest.raises(QCError, match="has 3 classes, not 2: name its own"):
        read_published(path, ("a", "b"))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("content", [{"w": Malicious()}, {"w": "text"}, {}, [1]])
def test_a_pickle_of_anything_else_is_refused_and_not_run(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QCError, match="cannot be used"):
        read_published(save(tmp_path / "w.pth", content), THREE)
    assert not (tmp_path / "pwned").exists()


def test_ours_carries_its_classes_and_its_recipe(tmp_path: Path) -> None:
    config = DualBranchConfig("resnet18", THREE, ((32, 32),))
    torch.manual_seed(0)
    network = DualBranch(config).eval()
    random_statistics(network)
    save_dual_branch(tmp_path / "run", network, {"epochs": 3})
    again = load_dual_branch(tmp_path / "run")
    assert again.config == config
    assert read_recipe(tmp_path / "run") == {"epochs": 3}
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(pictures), network(pictures))


def test_weights_are_not_read_with_another_runs_classes(tmp_path: Path) -> None:
    for name, classes in (("one", THREE), ("two", ("c", "b", "a"))):
        config = DualBranchConfig("resnet18", classes, ((32, 32),))
        save_dual_branch(tmp_path / name, DualBranch(config))
    shutil.copy(tmp_path / "two" / CONFIG, tmp_path / "one" / CONFIG)
    with pytest.raises(QCError, match="copy both from one run"):
        load_dual_branch(tmp_path / "one")


def test_a_broken_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QCError, match=r"config\.json is missing"):
        load_dual_branch(tmp_path)
    save_dual_branch(tmp_path, DualBranch(DualBranchConfig("resnet18", THREE)))
    facts = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(facts | {"architecture": "vgg"}))
    with pytest.raises(QCError, match="dual-branch: "):
        load_dual_branch(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(QCError, match="dual-branch: "):
        load_dual_branch(tmp_path)


def imagenet(path: Path, name: str = "resnet18", **changes: Tensor | None) -> Path:
    """A file as timm publishes one, with its 1,000 classes."""
    torch.manual_seed(3)
    state = timm.create_model(name, pretrained=False).state_dict() | changes
    save_file({key: tensor for key, tensor in state.items() if tensor is not None}, path)
    return path


def test_backbones_begin_with_timms_files(tmp_path: Path) -> None:
    network = DualBranch(DualBranchConfig("resnet18", THREE))
    path = imagenet(tmp_path / "a.safetensors")
    load_backbones(network, {"resnet18": path})
    state = load_file(path)
    own = network.branches[0].state_dict()
    assert set(state) - set(own) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv1.weight": None}, "it is no resnet18: it lacks conv1.weight"),
        ({"extra.weight": torch.zeros(2)}, "it is no resnet18: it also has extra.weight"),
        ({"conv1.weight": torch.zeros(2)}, "it has another shape of conv1.weight"),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias has values that are infinite"),
    ],
)
def test_a_file_of_another_backbone_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    network = DualBranch(DualBranchConfig("resnet18", THREE))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(QCError) as caught:
        load_backbones(network, {"resnet18": imagenet(tmp_path / "a.safetensors", **changes)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_name_that_is_no_branch_and_no_file_are_refused(tmp_path: Path) -> None:
    network = DualBranch(DualBranchConfig("resnet18", THREE))
    path = imagenet(tmp_path / "a.safetensors")
    with pytest.raises(QCError, match="resnet18 has no backbone resnet34, but resnet18"):
        load_backbones(network, {"resnet34": path})
    path.write_text("nothing")
    with pytest.raises(QCError, match=r"it is no sound \.safetensors file"):
        load_backbones(network, {"resnet18": path})

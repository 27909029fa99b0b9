"""Folders of adapters and heads hold what was trained, and go with their tower only."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detector.errors import QCError
from model.nextgen_uia.adapters import (
    AdapterConfig,
    Kind,
    Spectrum,
    adapter_parameters,
    adapter_state,
    add_adapters,
    load_adapter_state,
)
from model.nextgen_uia.checkpoint import (
    WEIGHTS,
    apply_adapters,
    expand_filter,
    load_clip,
    load_network,
    load_tower,
    read_published,
    read_trained,
    save_trained,
    tower_sha256,
)
from model.nextgen_uia.network import AdaptedNetwork, ClipTower, HeadConfig, Task
from tests.support.towers import pictures, tower_folder, vision_tower

HEAD = HeadConfig(Task.CLASSIFICATION, ("benign", "malignant"), width=16)


def _tower(seed: int = 0, layers: int = 4) -> ClipTower:
    return ClipTower(vision_tower(layers, seed=seed), (1, 2))


def _trained(folder: Path, config: AdapterConfig) -> tuple[torch.Tensor, AdaptedNetwork]:
    """A tower whose adapters and head are random, saved; its logits."""
    tower = _tower()
    sha256 = tower_sha256(tower)
    add_adapters(tower, config)
    network = AdaptedNetwork(tower, HEAD)
    for _, parameter in adapter_parameters(tower):
        torch.nn.init.normal_(parameter, std=0.2)
    save_trained(
        folder, tower, sha256, adapters=config, head=network.head, head_config=HEAD
    )  # fmt: skip
    return network.eval()(pictures()), network


@pytest.mark.parametrize("kind", list(Kind))
def test_a_saved_network_gives_the_same_logits(tmp_path: Path, kind: Kind) -> None:
    logits, network = _trained(tmp_path, AdapterConfig(kind, (0, 1, 2)))
    assert torch.equal(load_network(tmp_path, _tower())(pictures()), logits)
    names = set(load_file(tmp_path / WEIGHTS))
    # LoRA that was trained with a head is in it, which upstream forgets.
    assert names == {f"adapters.{name}" for name in adapter_state(network.tower)} | {
        f"head.{name}" for name in network.head.state_dict()
    }


@pytest.mark.parametrize("kind", [Kind.HYBRID, Kind.LORA, Kind.LORA_SPLIT])
def test_the_hash_of_a_tower_does_not_see_its_adapters(kind: Kind) -> None:
    tower = _tower()
    before = tower_sha256(tower)
    add_adapters(tower, AdapterConfig(kind, (0, 2)))
    assert tower_sha256(tower) == before
    assert tower_sha256(_tower(seed=1)) != before


def test_another_tower_is_refused(tmp_path: Path) -> None:
    _trained(tmp_path, AdapterConfig(layers=(0, 1)))
    with pytest.raises(QCError, match="of this shape, but with other weights"):
        load_network(tmp_path, _tower(seed=1))
    with pytest.raises(QCError, match="its blocks is 4, here 5"):
        load_network(tmp_path, _tower(layers=5))
    with pytest.raises(QCError, match=r"its layers is \[1, 2\], here \[0, 3\]"):
        load_network(tmp_path, ClipTower(vision_tower(), (0, 3)))


def _rewrite(folder: Path, change: Any) -> None:
    """The folder's tensors and facts changed, in both files."""
    weights = load_file(folder / WEIGHTS)
    facts = json.loads((folder / "config.json").read_text())
    change(weights, facts)
    text = json.dumps(facts, sort_keys=True)
    save_file(weights, folder / WEIGHTS, metadata={"nextgen-uia": text})
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w, _: w.pop("adapters.0.mona.gamma"), "they lack 0.mona.gamma"),
        (
            lambda w, _: w.update({"adapters.3.mona.gamma": torch.ones(32)}),
            "they also have 3.mona.gamma",
        ),
        (lambda _, f: f["adapters"].update(kind="mona"), "they also have"),
        (lambda _, f: f["adapters"].update(kind="fractional"), "fractional"),
        (
            lambda w, _: w["adapters.0.mona.gamma"].fill_(float("nan")),
            "0.mona.gamma has values that are infinite",
        ),
        (lambda w, _: w.pop("head.classifier.bias"), "the head does not fit"),
        (lambda _, f: f.update(head=None), "adapters without a head"),
    ],
)
def test_tensors_that_are_not_exactly_the_adapters_are_refused(
    tmp_path: Path, change: Any, line: str
) -> None:
    _trained(tmp_path, AdapterConfig(layers=(0, 1)))
    _rewrite(tmp_path, change)
    with pytest.raises(QCError) as caught:
        load_network(tmp_path, _tower())
    assert line in caught.value.message
    assert "\n" not in caught.value.message


def test_files_of_two_runs_do_not_go_together(tmp_path: Path) -> None:
    _trained(tmp_path / "a", AdapterConfig(layers=(0, 1)))
    _trained(tmp_path / "b", AdapterConfig(Kind.MONA, layers=(0, 1)))
    (tmp_path / "a/config.json").write_bytes((tmp_path / "b/config.json").read_bytes())
    with pytest.raises(QCError, match="copy both from one run"):
        read_trained(tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).unlink()
    with pytest.raises(QCError, match=r"weights\.safetensors is missing"):
        read_trained(tmp_path / "a")


def test_adapters_can_be_taken_without_the_blocks_behind_the_head(tmp_path: Path) -> None:
    tower = _tower()
    sha256, config = tower_sha256(tower), AdapterConfig(layers=(0, 1, 2, 3))
    add_adapters(tower, config)
    save_trained(tmp_path, tower, sha256, adapters=config)
    other = _tower()
    apply_adapters(read_trained(tmp_path), other, layers=(0, 1, 2))
    assert {name.partition(".")[0] for name in adapter_state(other)} == {"0", "1", "2"}


PREFIXES = {
    "BiomedCLIP": "visual.trunk.blocks.{}.mona.clip_mona.",
    "MetaCLIP": "visual.transformer.resblocks.{}.mona.clip_mona.",
    "OpenAI": "visual.transformer.resblocks.{}.mona.",
    "run": "clip_model.visual.trunk.blocks.{}.mona.clip_mona.",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("kind", [k for k in Kind if k.startswith("mona")])
def test_published_adapters_load(tmp_path: Path, prefix: str, kind: Kind) -> None:
    tower = _tower()
    config = AdapterConfig(kind, (0, 1), Spectrum.SCALAR)
    add_adapters(tower, config)
    for _, parameter in adapter_parameters(tower):
        torch.nn.init.normal_(parameter, std=0.2)
    published = {}
    for name, tensor in adapter_state(tower).items():
        number, _, leaf = name.partition(".mona.")
        published[prefix.format(number) + leaf] = tensor
    torch.save(published, tmp_path / "best_model.pth")

    config_read, weights = read_published(tmp_path / "best_model.pth")
    assert config_read == config
    other = _tower()
    add_adapters(other, config_read)
    load_adapter_state(other, weights)
    before = [each.clone() for each in tower.maps(pictures())]
    assert all(map(torch.equal, before, other.maps(pictures())))
    if kind in (Kind.FREQUENCY, Kind.HYBRID):
        masked = _tower()
        wider, expanded = expand_filter(config_read, weights, grid=4)
        add_adapters(masked, wider)
        load_adapter_state(masked, expanded)
        for each, same in zip(before, masked.maps(pictures()), strict=True):
            assert torch.allclose(each, same, atol=1e-5)


def test_published_lora_loads(tmp_path: Path) -> None:
    tower = _tower()
    config = AdapterConfig(Kind.LORA, (0, 1))
    add_adapters(tower, config)
    published = {f"visual.trunk.blocks.{n}": t for n, t in adapter_state(tower).items()}
    torch.save(published, tmp_path / "lora.pth")
    config_read, weights = read_published(tmp_path / "lora.pth")
    assert config_read == config
    assert set(weights) == set(adapter_state(tower))


def test_a_whole_model_is_not_taken_for_adapters(tmp_path: Path) -> None:
    # Upstream loads what names share, here nothing, and goes on with random adapters.
    torch.save({"visual.trunk.blocks.0.attn.qkv.weight": torch.ones(3)}, tmp_path / "full.pth")
    with pytest.raises(QCError, match="no file of adapters alone"):
        read_published(tmp_path / "full.pth")


def test_a_clip_folder_is_read_strictly(tmp_path: Path) -> None:
    folder = tower_folder(tmp_path / "clip")
    tower = load_tower(folder, (0, 1))
    assert isinstance(tower, ClipTower)
    weights = load_file(folder / "model.safetensors")
    weights.pop("vision_model.post_layernorm.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(QCError, match=r"post_layernorm\.bias"):
        load_clip(folder)
    with pytest.raises(QCError, match=r"config\.json is missing"):
        load_clip(tmp_path)

"""Mona and LoRA: nothing changes at first, as many numbers as published, and only they learn."""

from copy import deepcopy

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from model.nextgen_uia.adapters import (
    AdapterConfig,
    Kind,
    LowRank,
    Mona,
    Spectrum,
    adapter_parameters,
    adapter_state,
    add_adapters,
    load_adapter_state,
    remove_adapters,
    set_training_mode,
)
from tests.support.towers import pictures, vision_tower

EVERY = [
    AdapterConfig(kind, (0, 1, 2, 3), spectrum)
    for kind in Kind
    for spectrum in Spectrum
    if spectrum is Spectrum.MASK or kind in (Kind.FREQUENCY, Kind.HYBRID)
]
_IDS = [f"{each.kind}-{each.spectrum}" for each in EVERY]


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", EVERY, ids=_IDS)
def test_a_new_adapter_changes_nothing(config: AdapterConfig) -> None:
    tower, images = vision_tower(), pictures()
    before = tower(pixel_values=images)
    add_adapters(tower, config)
    after = tower(pixel_values=images)
    assert (after.last_hidden_state - before.last_hidden_state).abs().max() <= 1e-6
    assert (after.pooler_output - before.pooler_output).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("kind", "spectrum", "count"),
    [
        (Kind.MONA, Spectrum.SCALAR, 111_872),
        (Kind.NOISE_AWARE, Spectrum.SCALAR, 112_963),
        (Kind.FREQUENCY, Spectrum.SCALAR, 111_936),
        (Kind.HYBRID, Spectrum.SCALAR, 113_027),
        # A mask has 64 channels x 14 x 8 frequencies, where the scalar has 64 numbers.
        (Kind.FREQUENCY, Spectrum.MASK, 119_040),
        (Kind.HYBRID, Spectrum.MASK, 120_131),
    ],
)
def test_mona_has_the_published_count_of_parameters(
    kind: Kind, spectrum: Spectrum, count: int
) -> None:
    assert _count(Mona(768, 14, AdapterConfig(kind, spectrum=spectrum))) == count


def test_lora_on_vit_b_has_the_published_count_of_parameters() -> None:
    def count(kind: Kind) -> int:
        with torch.device("meta"):
            tower = CLIPVisionModel(CLIPVisionConfig(patch_size=16))
        add_adapters(tower, AdapterConfig(kind))
        assert sum(p.numel() for p in tower.parameters() if p.requires_grad) == sum(
            p.numel() for _, p in adapter_parameters(tower)
        )
        return sum(parameter.numel() for _, parameter in adapter_parameters(tower))

    assert count(Kind.LORA) == 884_736
    assert count(Kind.LORA_SPLIT) == 12 * 4 * 16 * (768 + 768)


def test_lora_scales_by_the_root_of_its_rank() -> None:
    low_rank = LowRank(4, 4, AdapterConfig(Kind.LORA_SPLIT)).eval()
    torch.nn.init.ones_(low_rank.w_lora_A)
    torch.nn.init.ones_(low_rank.w_lora_B)
    # 16 rows of A sum 4 ones each; scale 32 / sqrt(16).
    assert low_rank(torch.ones(1, 4), slice(None))[0, 0] == 16 * 4 * 8


def test_fused_lora_is_low_rank_of_the_fused_projection() -> None:
    tower = vision_tower(1)
    attention = tower.encoder.layers[0].self_attn
    x = torch.randn(2, 5, 32)
    before = [attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)]
    add_adapters(tower, AdapterConfig(Kind.LORA, (0,)))
    pair = attention.q_proj.low_rank
    torch.nn.init.normal_(pair.w_lora_B)
    tower.eval()
    fused = torch.cat(before, -1) + (x @ pair.w_lora_A.T @ pair.w_lora_B.T) * 8
    now = torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], -1)
    assert torch.allclose(now, fused, atol=1e-5)


def test_a_scalar_filter_is_no_more_than_a_gain_and_a_mask_is_a_filter() -> None:
    channels, side = 3, 6
    tokens = torch.randn(1, channels, side, side)
    scalar = torch.randn(channels, 1, 1)
    mask = torch.rand(channels, side, side // 2 + 1)
    convolution = Mona(8, side, AdapterConfig(Kind.FREQUENCY, bottleneck=channels)).adapter_conv
    assert torch.allclose(convolution._filter(tokens, scalar), tokens * scalar, atol=1e-5)
    filtered = convolution._filter(tokens, mask)
    assert torch.allclose(torch.fft.rfft2(filtered).abs().sum(), (torch.fft.rfft2(tokens) * mask)
        .abs().sum(), rtol=0.2)  # fmt: skip
    gains = filtered / tokens
    assert float(gains.amax() - gains.amin()) > 0.1


@pytest.mark.parametrize("config", EVERY, ids=_IDS)
def test_only_adapters_learn_and_each_of_their_tensors_does(config: AdapterConfig) -> None:
    tower = vision_tower()
    add_adapters(tower, config)
    for name, parameter in adapter_parameters(tower):
        # At zero it would hide the gradients of what stands before it.
        if name.endswith(("project2.weight", "w_lora_B")):
            torch.nn.init.normal_(parameter, std=0.1)
    set_training_mode(tower)
    tower(pixel_values=pictures()).pooler_output.sum().backward()
    learning = {id(p) for p in tower.parameters() if p.grad is not None}
    assert learning == {id(parameter) for _, parameter in adapter_parameters(tower)}
    # Upstream leaves the bias of each new projection to learn, and does not save it.
    assert not any(p.requires_grad for n, p in tower.named_parameters() if "base.bias" in n)


def test_frozen_parts_evaluate_while_adapters_train() -> None:
    tower = vision_tower()
    add_adapters(tower, AdapterConfig(Kind.MONA, (1,)))
    set_training_mode(tower)
    assert not tower.encoder.layers[1].block.training
    assert tower.encoder.layers[1].mona.dropout.training


@pytest.mark.parametrize("kind", [Kind.HYBRID, Kind.LORA])
def test_a_tower_with_adapters_can_be_copied(kind: Kind) -> None:
    tower = vision_tower()
    add_adapters(tower, AdapterConfig(kind, (0, 1)))
    copy = deepcopy(tower)
    for _, parameter in adapter_parameters(copy):
        torch.nn.init.normal_(parameter)
    images = pictures()
    # The copy has its own adapters, and its own blocks behind them.
    assert not torch.equal(
        copy(pixel_values=images).pooler_output, tower(pixel_values=images).pooler_output
    )
    assert len(list(adapter_parameters(copy))) == len(list(adapter_parameters(tower)))


@pytest.mark.parametrize("kind", [Kind.HYBRID, Kind.LORA, Kind.LORA_SPLIT])
def test_adapters_come_out_as_they_went_in(kind: Kind) -> None:
    tower = vision_tower()
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    add_adapters(tower, AdapterConfig(kind, (0, 3)))
    remove_adapters(tower)
    after = tower.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_state_of_another_kind_is_refused() -> None:
    tower, other = vision_tower(), vision_tower()
    add_adapters(tower, AdapterConfig(Kind.HYBRID, (0, 1)))
    add_adapters(other, AdapterConfig(Kind.MONA, (0, 1)))
    with pytest.raises(ValueError, match=r"lack 0\.mona\.adapter_conv\.freq_filter and"):
        load_adapter_state(tower, adapter_state(other))
    with pytest.raises(ValueError, match="also have"):
        load_adapter_state(other, adapter_state(tower))
    state = adapter_state(tower)
    state["0.mona.gamma"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"0\.mona\.gamma is \[7\], not \[32\]"):
        load_adapter_state(tower, state)


def test_blocks_that_are_not_there_are_refused() -> None:
    tower = vision_tower(4)
    with pytest.raises(ValueError, match="4 blocks"):
        add_adapters(tower, AdapterConfig(layers=(4,)))
    with pytest.raises(ValueError, match="different blocks"):
        AdapterConfig(layers=())
    add_adapters(tower, AdapterConfig(layers=(0,)))
    with pytest.raises(ValueError, match="already"):
        add_adapters(tower, AdapterConfig(layers=(1,)))


def test_lora_of_the_feed_forward_layers_has_the_published_count_and_all_of_it_learns() -> None:
    """FetalCLIP-IQA: 98,304 a block of ViT-L, of which a sixth got no gradient upstream."""
    with torch.device("meta"):
        wide = vision_tower(1, width=1024, heads=16, intermediate=4096)
    add_adapters(wide, AdapterConfig(Kind.LORA_MLP, (0,), rank=8))
    assert sum(p.numel() for _, p in adapter_parameters(wide)) == 98_304

    tower = vision_tower()
    add_adapters(tower, AdapterConfig(Kind.LORA_MLP, (0, 1, 2, 3), rank=2))
    assert [name for name, _ in adapter_parameters(tower)][:6:2] == [
        "0.attn.proj.w_lora_A",
        "0.mlp.fc1.w_lora_A",
        "0.mlp.fc2.w_lora_A",
    ]
    tower(pixel_values=pictures()).pooler_output.square().sum().backward()
    for name, parameter in adapter_parameters(tower):
        # B is zero at first, so that its gradient comes first.
        if name.endswith("_B"):
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name
    remove_adapters(tower)
    assert not list(adapter_parameters(tower))

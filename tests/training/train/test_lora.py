"""Low-rank adapters: they alone of CLIP's blocks learn, and merging leaves what they learnt."""

from pathlib import Path

import torch

from model.spatialclip.checkpoint import load_spatialclip, save_spatialclip
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import Inputs
from model.spatialclip.stages import Stage, set_stage
from training.train.lora import add_adapters, merge_adapters


def inputs(network: SpatialClip) -> Inputs:
    torch.manual_seed(1)
    size = network.config.clip["vision_config"]["image_size"]
    return Inputs(
        torch.randn(2, 3, size, size),
        torch.randint(3, 200, (2, 12)),
        torch.ones(2, 12, dtype=torch.long),
        torch.rand(2, 4, 4),
        torch.zeros(2, 4, dtype=torch.long),
        torch.rand(2, 4),
        torch.ones(2, 4, dtype=torch.bool),
    )


def test_merging_adapters_leaves_the_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SpatialClip(small_config(300)).eval()
    names = list(network.state_dict())
    model_input = inputs(network)
    arguments = model_input.arguments()
    with torch.inference_mode():
        before = network(**arguments).logit
    set_stage(network, Stage.PROJECTION)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    add_adapters(network, 4)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning < trained
    assert all(".lora_" in name for name in trained - learning)
    with torch.no_grad():
        # Adapters begin as nothing.
        assert torch.allclose(network(**arguments).logit, before, atol=1e-5)
        for name, parameter in network.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.2)
        beside = network(**arguments).logit
        assert not torch.allclose(beside, before, atol=1e-3)
        merge_adapters(network)
        assert list(network.state_dict()) == names
        assert torch.allclose(network(**arguments).logit, beside, atol=1e-4)
    save_spatialclip(tmp_path, network)
    assert list(load_spatialclip(tmp_path).state_dict()) == names

"""Low-rank adapters (LoRA, Hu et al. 2021) in CLIP's attention, by peft, and their merging.

With them the published top stage learns some thousand numbers a block in place of all of it. They
are merged into the weights afterwards, so that the network has the shape it had.
"""

from torch import nn

from model.spatialclip.network import SpatialClip

_TARGETS = ("q_proj", "v_proj")


def add_adapters(network: SpatialClip, rank: int) -> None:
    """Put trainable adapters of `rank`, zero at first, into every attention block of CLIP.

    Which other parameters of CLIP are trainable stays as it was.
    """
    # Its import takes seconds.
    from peft import LoraConfig, inject_adapter_in_model

    clip = network.trimodal_clip.clip_model
    trainable = {id(p) for p in clip.parameters() if p.requires_grad}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_TARGETS))
    inject_adapter_in_model(config, clip)
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(id(parameter) in trainable or ".lora_" in name)


def merge_adapters(network: SpatialClip) -> None:
    """Add what the adapters learnt to the weights and take them out again."""
    from peft.tuners.lora import Linear

    clip = network.trimodal_clip.clip_model
    for name, module in list(clip.named_modules()):
        if isinstance(module, Linear):
            module.merge()
            owner, _, attribute = name.rpartition(".")
            base: nn.Module = module.get_base_layer()
            setattr(clip.get_submodule(owner), attribute, base)

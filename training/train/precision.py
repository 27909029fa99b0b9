"""Half precision where the machine multiplies in it."""

import torch

_KINDS = ("avx512_bf16", "amx_bf16", "bf16")


def autocast(device: torch.device | str) -> torch.autocast:
    """bfloat16 for the forward pass, but on CPUs only where they have instructions for it: without
    them torch imitates it, some ten times as slowly as float32 in convolutions."""
    kind = torch.device(device).type
    able = kind != "cpu" or any(torch.cpu.get_capabilities().get(name) for name in _KINDS)
    return torch.autocast(kind, torch.bfloat16, enabled=able)

"""Half precision where the machine multiplies in it."""

import torch

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def autocast(device: torch.device | str) -> torch.autocast:
    """A bfloat16 context for the forward pass; on a CPU only where it has instructions for it, for
    without them torch emulates it, in convolutions some ten times as slowly as float32."""
    kind = torch.device(device).type
    has_bf16 = kind != "cpu" or any(
        torch.cpu.get_capabilities().get(name) for name in _BF16_INSTRUCTIONS
    )
    return torch.autocast(kind, torch.bfloat16, enabled=has_bf16)

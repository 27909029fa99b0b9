"""What each branch is worth: SpatialCLIP with image, text or layout masked."""

import numpy as np
import numpy.typing as npt
import torch

from model.spatialclip.network import SpatialClip

Floats = npt.NDArray[np.float64]
BRANCHES = ("image", "text", "spatial")
ALL_BRANCHES = "all"
ABLATIONS: dict[str, tuple[bool, bool, bool]] = {
    ALL_BRANCHES: (True, True, True),
    "without image": (False, True, True),
    "without text": (True, False, True),
    "without layout": (True, True, False),
    "image alone": (True, False, False),
    "text alone": (False, True, False),
    "layout alone": (False, False, True),
}
"""Which of image, text and layout are present. "Without" one is the pair of the others."""
SINGLE_BRANCHES = tuple(name for name, present in ABLATIONS.items() if sum(present) == 1)


@torch.inference_mode()
def ablate(network: SpatialClip, features: Floats) -> list[dict[str, float]]:
    """(N, 3, d) features of image, text and layout -> each picture's logit by each of
    ABLATIONS."""
    logits: list[dict[str, float]] = [{} for _ in features]
    image, text, spatial = torch.from_numpy(features).float().to(network.device).unbind(1)
    for name, branches in ABLATIONS.items():
        present = torch.tensor([branches], device=network.device).expand(len(features), 3)
        output = network.fuse(image, text, spatial, present)
        for row, logit in zip(logits, output.logit.tolist(), strict=True):
            row[name] = logit
    return logits

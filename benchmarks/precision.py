"""A training step of the detector in bfloat16 and in float32, side by side on this machine.

.venv/bin/python benchmarks/precision.py
"""

import statistics
import time

import torch

from detector.yolo.yolo import build_network
from training.train.detector import CODES, canvas
from training.train.precision import autocast

STEPS = 3


def main() -> None:
    torch.set_num_threads(1)
    network = (
        build_network("yolo11n.yaml", len(CODES)).to(memory_format=torch.channels_last).train()
    )
    width, height = canvas(512)
    pixels = torch.rand(16, 3, height, width).contiguous(memory_format=torch.channels_last)
    for half in (True, False):
        seconds = []
        for _ in range(1 + STEPS):
            start = time.monotonic()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                output = network(pixels)
            (output["boxes"].float().mean() + output["scores"].float().mean()).backward()
            seconds.append(time.monotonic() - start)
        name = "bfloat16" if half else "float32"
        print(f"{name}: {statistics.median(seconds[1:]):.1f} s a step", flush=True)
    with autocast("cpu"):
        dtype = torch.nn.Linear(1, 1)(torch.ones(1, 1)).dtype
    print(f"training takes {dtype} here")


if __name__ == "__main__":
    main()

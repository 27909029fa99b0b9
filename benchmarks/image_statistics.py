"""What the image statistics of a picture cost, on one core.

.venv/bin/python benchmarks/image_statistics.py

A row for each size of region: the median of 50 runs in milliseconds. The target is 2 ms at most at
any size; regions above 800 x 600 are measured in part (`image_statistics.MOST_PIXELS`).
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model.image_statistics import measure_image

SIZES = ((640, 480), (800, 600), (1024, 768), (1280, 960), (1920, 1080))
RUNS = 50


def main() -> None:
    """Print a table."""
    cv2.setNumThreads(1)
    generator = np.random.default_rng(0)
    for width, height in SIZES:
        speckle = generator.rayleigh(40, (height, width, 1)).clip(0, 255).astype(np.uint8)
        pixels = np.repeat(speckle, 3, axis=2)
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            measure_image(pixels, (0.1, 0.1))
            times.append(time.perf_counter() - start)
        print(f"{width} x {height}: {1000 * float(np.median(times)):.2f} ms")


if __name__ == "__main__":
    main()

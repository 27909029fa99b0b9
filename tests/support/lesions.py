"""A small data set in NextGen-UIA's published layout: bright blobs on speckle, with their masks."""

from pathlib import Path

import numpy as np
from PIL import Image

COUNT = {"train": 8, "val": 4, "test": 4}


def write_published(root: Path, *, patients: bool = False) -> Path:
    """Data set BUSI for both tasks; class 1 has the larger blob. Pictures are 48 x 36."""
    for folder in ("all/images", "all/masks", "classification/BUSI", "segmentation/BUSI"):
        (root / folder).mkdir(parents=True)
    labels, owners, number = [], ["file,patient"], 0
    for split, count in COUNT.items():
        names = []
        for _ in range(count):
            generator = np.random.default_rng(number)
            y, x = np.mgrid[:36, :48]
            radius = 6 + 6 * (number % 2)
            cx, cy = generator.uniform(16, 32), generator.uniform(14, 22)
            mask = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            grey = np.clip(np.where(mask, 190, 60) + generator.normal(0, 12, mask.shape), 0, 255)
            name = f"case{number}.png"
            Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(root / "all/images" / name)
            Image.fromarray(mask.astype(np.uint8) * 255).save(root / "all/masks" / name)
            labels.append(f"{name},{number % 2}")
            owners.append(f"{name},p{number}")
            names.append(name)
            number += 1
        for task in ("classification", "segmentation"):
            (root / task / "BUSI" / f"{split}.txt").write_text("\n".join(names) + "\n")
    (root / "classification/BUSI/labels.csv").write_text("\n".join(labels) + "\n")
    if patients:
        (root / "patients.csv").write_text("\n".join(owners) + "\n")
    return root

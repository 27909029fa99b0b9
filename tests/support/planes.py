"""Small labelled planes: pictures of shapes that a small network can tell apart, and cines."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from detector.frame import Pixels
from model.dual_branch.network import Architecture, Branch
from tests.support.dicom_objects import part10, ultrasound

US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
CLASSES = ("bar", "disc", "ring")
TINY = Architecture(
    (Branch("test_resnet", 96, (32, 32)), Branch("test_efficientnet", 256, (32, 32)))
)
"""timm's smallest networks: published ones cost seconds and hundreds of megabytes an epoch."""


def shape(name: str, seed: int, size: int = 64) -> Pixels:
    """A bright shape of the class on speckle, (size, size, 3)."""
    generator = np.random.default_rng((seed, CLASSES.index(name)))
    rows, columns = np.mgrid[:size, :size] - size / 2 + generator.uniform(-3, 3)
    radius = np.hypot(rows, columns)
    mask = {
        "bar": np.abs(rows) < size / 10,
        "disc": radius < size / 4,
        "ring": np.abs(radius - size / 4) < size / 16,
    }[name]
    grey = np.where(mask, 200, 60) + generator.normal(0, 15, (size, size))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def write_pictures(folder: Path, patients: int = 8, **columns: Sequence[str]) -> Path:
    """`patients` patients with a picture of each class each, and their CSV; `columns` by patient
    are added to it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(patients):
        for name in CLASSES:
            file = f"{patient}_{name}.png"
            Image.fromarray(shape(name, patient)).save(folder / file)
            more = {column: values[patient] for column, values in columns.items()}
            rows.append({"file": file, "class": name, "patient": f"p{patient}"} | more)
    return write_csv(folder / "pictures.csv", rows)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_dicom(path: Path, pixels: np.ndarray, **values: Any) -> str:
    """An ultrasound object of stills (H, W) or (H, W, 3) or a cine (F, H, W) or (F, H, W, 3);
    returns its SOP Instance UID."""
    is_colour = pixels.shape[-1] == 3
    is_cine = pixels.ndim - is_colour == 3
    rows, columns = pixels.shape[1:3] if is_cine else pixels.shape[:2]
    facts: dict[str, Any] = {
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if is_colour else 1,
        "PhotometricInterpretation": "RGB" if is_colour else "MONOCHROME2",
    }
    if is_colour:
        facts["PlanarConfiguration"] = 0
    if is_cine:
        facts |= {"sop_class": US_MULTI_FRAME, "NumberOfFrames": len(pixels)}
    data = pixels.astype(np.uint8).tobytes()
    dataset = ultrasound(
        pixels=data + b"\0" * (len(data) % 2), syntax=ExplicitVRLittleEndian, **facts | values
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(part10(dataset))
    return str(dataset.SOPInstanceUID)

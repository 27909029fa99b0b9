"""Small DICOM images made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """write_dicom(stored, photometric, syntax, **elements) -> path of an ultrasound image.

    `stored` is (frames, rows, columns[, 3]); elements are DICOM keywords, None removes one.
    """

    def write(
        stored: np.ndarray,
        photometric: str = "RGB",
        syntax: UID = ExplicitVRLittleEndian,
        **elements: Any,
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax if syntax in NATIVE else NATIVE[1]
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(len(list(tmp_path.iterdir())))])
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        dataset.PatientName = "Secret^Name"
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = stored.shape[:3]
        dataset.SamplesPerPixel = 3 if stored.ndim == 4 else 1
        if stored.ndim == 4:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = stored.dtype.itemsize * 8
        dataset.BitsStored = dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(stored.dtype.kind == "i")
        big = syntax == ExplicitVRBigEndian and stored.dtype.itemsize > 1
        dataset.PixelData = (stored.byteswap() if big else stored).tobytes()
        if len(dataset.PixelData) % 2:
            dataset.PixelData += b"\0"
        dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
        if syntax not in NATIVE:
            dataset.compress(syntax)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def speckle() -> np.ndarray:
    """Three coloured frames of noise with structure, shape (3, 48, 64, 3)."""
    noise = np.random.default_rng(7).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    noise[:, 10:20, 10:30] = (200, 40, 10)
    return noise

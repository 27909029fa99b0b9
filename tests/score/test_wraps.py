"""The same picture as PNG and as DICOM, through `qc-daemon score`: how a file is wrapped must not
change what is said of it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from detector.frame import Pixels
from detector.imaging.picture_file import read_picture
from tests.support.command_line import qc_daemon_here
from training.data.fetus_framework import read_fetus_framework

LOSSLESS = ("rgb", "region", "cine")
JPEG_QUALITY = 90


def wrapped(pixels: Pixels, how: str) -> Dataset:
    """The picture as an ultrasound machine would send it; `region`: with its tissue region."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = (
        JPEGBaseline8Bit if how == "jpeg" else ExplicitVRLittleEndian
    )
    cine = how == "cine"
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage if cine else UltrasoundImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PhotometricInterpretation = {"ybr": "YBR_FULL", "jpeg": "YBR_FULL_422"}.get(how, "RGB")
    data = pixels.tobytes()
    if how == "ybr":
        data = convert_color_space(pixels, "RGB", "YBR_FULL").tobytes()
    elif how == "jpeg":
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2")
        data = encapsulate([out.getvalue()])
    elif cine:
        dataset.NumberOfFrames, dataset.FrameTime = 2, 40
        data = data * 2
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = how == "jpeg"
    if how == "region":
        region = Dataset()
        region.RegionSpatialFormat = region.RegionDataType = 1
        region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
        region.RegionLocationMaxX1 = pixels.shape[1] - 1
        region.RegionLocationMaxY1 = pixels.shape[0] - 1
        dataset.SequenceOfUltrasoundRegions = [region]
    return dataset


def scored(folder: Path, pictures: list[Path], ways: tuple[str, ...]) -> dict[tuple[str, str], Any]:
    """What the command says of each picture in each way, "png" among them, by name and way."""
    for path in pictures:
        pixels = read_picture(path)
        Image.fromarray(pixels).save(folder / f"{path.stem}.png.png")
        for how in ways:
            file = folder / f"{path.stem}.{how}.dcm"
            wrapped(pixels, how).save_as(file, enforce_file_format=True)
    process = qc_daemon_here("score", folder, "--format", "jsonl")
    assert process.returncode == 0, process.stderr
    findings: dict[tuple[str, str], Any] = {}
    for line in map(json.loads, process.stdout.splitlines()):
        name, how, _ = Path(line["source"]).name.split(".")
        findings.setdefault((name, how), []).append(line)
    return findings


def pictures(shared_data: Path, every: int) -> list[Path]:
    samples = read_fetus_framework(shared_data / "fetus_framework", ("set2_train",))
    return [sample.image for sample in samples[::every]]


def apart(one: dict[str, Any], second: dict[str, Any]) -> float:
    """By how much P(standard) differs; 1 where only one of them has any."""
    p, q = (each["quality"]["probability"] for each in (one, second))
    if p is None or q is None:
        return float((p is None) != (q is None))
    return abs(float(p) - float(q))


def test_wraps_that_lose_nothing_change_nothing(shared_data: Path, tmp_path: Path) -> None:
    paths = pictures(shared_data, 200)
    findings = scored(tmp_path, paths, LOSSLESS)
    assert len(findings) == len(paths) * (1 + len(LOSSLESS))
    for path in paths:
        (png,) = findings[path.stem, "png"]
        for how in LOSSLESS:
            frames = findings[path.stem, how]
            assert len(frames) == (2 if how == "cine" else 1)
            for frame in frames:
                assert frame["view"]["code"] == png["view"]["code"]
                assert apart(png, frame) <= 1e-6, how


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["ybr", "jpeg"])
def test_lossy_wraps_change_little(how: str, shared_data: Path, tmp_path: Path) -> None:
    paths = pictures(shared_data, 5)
    findings = scored(tmp_path, paths, (how,))
    gaps = [apart(findings[p.stem, "png"][0], findings[p.stem, how][0]) for p in paths]
    print(f"{how}: 95th percentile {np.quantile(gaps, 0.95):.4f}, largest {max(gaps):.4f}")
    assert np.quantile(gaps, 0.95) <= 0.02

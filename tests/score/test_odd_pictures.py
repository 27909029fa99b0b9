"""Odd wraps of one simulated view through `qc-daemon score`: what is said of the picture must not
depend on them, and what is doubtful or no ultrasound must not be judged with certainty."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedUSVolumeStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from detector.anatomy import View
from tests.support.command_line import qc_daemon_here
from training.phantom import make


def grey_view() -> np.ndarray:
    return np.asarray(Image.fromarray(make(77, View.NT, standard=True).pixels).convert("L"))


VIEW = grey_view()


def ultrasound(**elements: Any) -> Dataset:
    """The view as a machine would send it, grey, with further elements."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality = "US"
    dataset.Rows, dataset.Columns = VIEW.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = VIEW.tobytes() + b"\0" * (VIEW.size % 2)
    dataset["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def cine(*streams: bytes) -> Dataset:
    dataset = ultrasound(
        SOPClassUID=UltrasoundMultiFrameImageStorage,
        NumberOfFrames=len(streams),
        PixelData=encapsulate(list(streams), has_bot=False),
    )
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset["PixelData"].is_undefined_length = True
    return dataset


def enhanced() -> Dataset:
    """Sixteen bits of which the shared groups show the lower twelve."""
    stored = VIEW.astype(np.uint16) * 16
    stored[0, 0] = 65535
    voi, group = Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 2048, 4096
    group.FrameVOILUTSequence = [voi]
    dataset = ultrasound(
        SOPClassUID=EnhancedUSVolumeStorage,
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelData=stored.tobytes(),
        SharedFunctionalGroupsSequence=[group],
        PerFrameFunctionalGroupsSequence=[Dataset()],
    )
    dataset["PixelData"].VR = "OW"
    return dataset


RGB = np.repeat(VIEW[..., None], 3, axis=2)
GREEN = RGB * np.array([0, 1, 0], np.uint8)


@pytest.fixture(scope="module")
def objects_by_file(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What one run says of each file, and its exit status as "status"."""
    folder = tmp_path_factory.mktemp("odd")
    files = {
        "plain": ultrasound(),
        "rescale": ultrasound(RescaleSlope=None, RescaleIntercept=None, NumberOfFrames=None),
        "rgb-called-422": _with(ultrasound(), RGB, "YBR_FULL_422"),
        "rgb-called-ybr": _with(ultrasound(), RGB, "YBR_FULL"),
        "enhanced": enhanced(),
        "frames-absent": _with(ultrasound(), np.stack([VIEW, VIEW, VIEW]), "MONOCHROME2"),
        "green": _with(ultrasound(), GREEN, "RGB"),
        "ct": ultrasound(SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT"),
        "mr-capture": ultrasound(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="MR"),
        "us-capture": ultrasound(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT"),
        "bad-frame": cine(_jpeg(VIEW), bytes(600), _jpeg(VIEW)),
    }
    for name, dataset in files.items():
        dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(VIEW).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.png", exif=exif)
    process = qc_daemon_here("score", folder, "--format", "jsonl")
    lines: dict[str, list[dict[str, Any]]] = {"status": [{"status": process.returncode}]}
    for line in map(json.loads, process.stdout.splitlines()):
        lines.setdefault(Path(line["source"]).stem, []).append(line)
    return lines


def _with(dataset: Dataset, pixels: np.ndarray, label: str) -> Dataset:
    dataset.PhotometricInterpretation = label
    if pixels.shape[-1] == 3:
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("rescale", []),
        ("rgb-called-422", ["colour-doubtful"]),
        ("rgb-called-ybr", ["colour-doubtful"]),
        ("enhanced", []),
        ("frames-absent", ["more-frames-than-stated"]),
        ("us-capture", []),
        ("turned", []),
    ],
)
def test_the_picture_is_judged_as_it_is(
    objects_by_file: dict[str, list[dict[str, Any]]], name: str, flags: list[str]
) -> None:
    (plain,), (finding,) = objects_by_file["plain"], objects_by_file[name]
    assert plain["quality"]["label"] == "standard"
    assert finding["quality"]["label"] == "standard"
    assert finding["view"]["code"] == "NT"
    probabilities = (plain["quality"]["probability"], finding["quality"]["probability"])
    assert abs(probabilities[0] - probabilities[1]) < 0.01
    assert [flag for flag in finding["flags"] if flag not in plain["flags"]] == flags


@pytest.mark.parametrize("name", ["ct", "mr-capture"])
def test_what_is_no_ultrasound_gets_no_verdict(
    objects_by_file: dict[str, list[dict[str, Any]]], name: str
) -> None:
    (finding,) = objects_by_file[name]
    assert finding["quality"]["label"] == "review"
    assert {"out-of-distribution", "not-ultrasound"} <= set(finding["flags"])


def test_nor_does_a_picture_that_is_coloured_all_over(
    objects_by_file: dict[str, list[dict[str, Any]]],
) -> None:
    (finding,) = objects_by_file["green"]
    assert finding["quality"]["label"] == "review"
    assert "out-of-distribution" in finding["flags"]


def test_a_bad_frame_is_listed_beside_the_others(
    objects_by_file: dict[str, list[dict[str, Any]]],
) -> None:
    one, three, bad = objects_by_file["bad-frame"]
    assert (one["frame"], three["frame"], bad["frame"]) == (1, 3, 2)
    assert bad["error"]["code"] == "decode-failed"
    for finding in (one, three):
        assert finding["quality"]["label"] == "standard"
        assert "unreadable-frames" in finding["flags"]
        assert finding["unreadable_frames"] == [{"frame": 2, "error": bad["error"]}]
    # Every file is scored, this one too.
    assert not any(
        "error" in each and "frame" not in each
        for objects in objects_by_file.values()
        for each in objects
    )
    assert objects_by_file["status"] == [{"status": 0}]

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from detector.imaging.picture_file import read_picture
from detector.imaging.reader import read_frames
from detector.imaging.regions import estimated_region, tissue_regions
from training.data.fetus_framework import read_fetus_framework

TISSUE = {"RegionSpatialFormat": 1, "RegionDataType": 1}
FLOW = {"RegionSpatialFormat": 1, "RegionDataType": 2}
WAVEFORM = {"RegionSpatialFormat": 4, "RegionDataType": 10}


def region(kind: dict[str, int], box: tuple[int, int, int, int], **elements: Any) -> dict[str, Any]:
    names = ("MinX0", "MinY0", "MaxX1", "MaxY1")
    corners = {f"RegionLocation{name}": value for name, value in zip(names, box, strict=True)}
    scale = {
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.01,
        "PhysicalDeltaY": 0.02,
    }
    return kind | corners | scale | elements


def header(*regions: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    dataset.SequenceOfUltrasoundRegions = []
    for elements in regions:
        item = Dataset()
        for keyword, value in elements.items():
            if value is not None:
                setattr(item, keyword, value)
        dataset.SequenceOfUltrasoundRegions.append(item)
    return dataset


def boxes(*regions: dict[str, Any]) -> list[tuple[int, tuple[float, ...]]]:
    return [(r.index, r.bbox) for r in tissue_regions(header(*regions), 600, 800)]


def test_tissue_regions_are_read_at_any_position() -> None:
    regions = boxes(
        region({"RegionSpatialFormat": 0, "RegionDataType": 0}, (0, 0, 799, 599)),
        region(WAVEFORM, (0, 500, 799, 599)),
        region(TISSUE, (10, 20, 399, 499)),
        region(TISSUE, (400, 20, 799, 499)),
    )
    assert regions == [(2, (10, 20, 400, 500)), (3, (400, 20, 800, 500))]


def test_colour_flow_serves_only_without_tissue() -> None:
    flow, tissue = region(FLOW, (0, 0, 99, 99)), region(TISSUE, (0, 0, 299, 299))
    assert boxes(flow, tissue) == [(1, (0, 0, 300, 300))]
    assert boxes(flow) == [(0, (0, 0, 100, 100))]


def test_a_maximum_on_the_column_count_is_clipped() -> None:
    assert boxes(region(TISSUE, (120, 60, 800, 600))) == [(0, (120, 60, 800, 600))]


@pytest.mark.parametrize(
    "box", [(100, 100, 50, 200), (900, 100, 1200, 300), (5, 5, 9, 400), (400, 300, 3000, 2000)]
)
def test_a_region_that_is_not_of_this_picture_is_ignored(box: tuple[int, int, int, int]) -> None:
    assert boxes(region(TISSUE, box)) == []


def test_an_incomplete_region_is_ignored() -> None:
    assert boxes(region(TISSUE, (0, 0, 99, 99), RegionLocationMaxX1=None)) == []
    assert tissue_regions(Dataset(), 600, 800) == ()


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, (0.1, 0.2)),
        ({"PhysicalDeltaX": -0.01}, (0.1, 0.2)),
        ({"PhysicalUnitsYDirection": 4}, None),
        ({"PhysicalDeltaX": 0.0}, None),
        ({"PhysicalDeltaY": None}, None),
    ],
)
def test_spacing(elements: dict[str, Any], spacing: tuple[float, float] | None) -> None:
    (only,) = tissue_regions(header(region(TISSUE, (0, 0, 99, 99), **elements)), 600, 800)
    assert only.spacing_mm == (pytest.approx(spacing) if spacing else None)


CORNER = st.integers(0, 2**32 - 1) | st.integers(0, 900)


@given(CORNER, CORNER, CORNER, CORNER)
def test_no_region_reaches_outside(x0: int, y0: int, x1: int, y1: int) -> None:
    for _, box in boxes(region(TISSUE, (x0, y0, x1, y1))):
        assert 0 <= box[0] < box[2] <= 800
        assert 0 <= box[1] < box[3] <= 600


def sector(background: int = 0) -> np.ndarray:
    """A speckled block at x 200..600, y 100..500 in 600 x 800, with text and a ruler about it."""
    picture = np.full((600, 800), background, np.uint8)
    picture[100:500, 200:600] = np.random.default_rng(1).integers(40, 220, (400, 400))
    for row in range(30, 90, 20):
        cv2.putText(picture, "HOSPITAL 12:30 MI 1.1", (10, row), 0, 0.6, 255, 1)
    cv2.putText(picture, "GA 12w3d", (640, 300), 0, 0.7, 255, 2)
    picture[100:500:20, 780:790] = 255
    return np.repeat(picture[..., None], 3, axis=2)


@pytest.mark.parametrize("background", [0, 30])
def test_the_estimate_holds_the_tissue_without_the_text(background: int) -> None:
    estimate = estimated_region(sector(background))
    assert estimate.bbox == pytest.approx((200, 100, 600, 500), abs=8)
    assert (estimate.index, estimate.spacing_mm) == (0, None)


def test_fluid_does_not_cut_tissue_off() -> None:
    picture = sector()
    picture[100:500, 380:440] = 0
    picture[420:440, 200:600] = 0
    assert estimated_region(picture).bbox == pytest.approx((200, 100, 600, 500), abs=8)


def test_most_of_the_picture_is_all_of_it() -> None:
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[20:580, 20:760] = np.random.default_rng(3).integers(40, 220, (560, 740, 1))
    assert estimated_region(picture).bbox == (0, 0, 800, 600)


@pytest.mark.parametrize("exponent", [1.0, 1.8])
def test_no_structure_of_a_real_picture_is_cut_off(shared_data: Path, exponent: float) -> None:
    """Nor in the dark: a grey curve of 1.8 takes dark tissue near the background."""
    curve = (255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    samples = read_fetus_framework(shared_data / "fetus_framework", ("set1_train", "set2_train"))
    for sample in samples[::12]:
        x0, y0, x1, y1 = estimated_region(curve[read_picture(sample.image)]).bbox
        for box in sample.boxes:
            assert x0 - 2 <= box.bbox[0] < box.bbox[2] <= x1 + 2, sample.image.name
            assert y0 - 2 <= box.bbox[1] < box.bbox[3] <= y1 + 2, sample.image.name


@pytest.mark.parametrize("picture", [0, 255, "text", "noise"])
def test_without_a_region_to_find_it_is_the_whole(picture: int | str) -> None:
    pixels = np.zeros((400, 640, 3), np.uint8)
    if picture == "text":
        cv2.putText(pixels, "PRESS ANY KEY", (20, 40), 0, 0.6, (255, 255, 255), 1)
    elif picture == "noise":
        pixels = np.random.default_rng(2).integers(0, 256, pixels.shape, dtype=np.uint8)
    else:
        pixels += np.uint8(picture)
    assert estimated_region(pixels).bbox == pytest.approx((0, 0, 640, 400), abs=2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IM00001.implicit_little_endian", [(1, (0, 16, 320, 218))]),
        ("OBXXXX1A", [(0, (120, 60, 800, 519))]),
        ("gdcm-US-ALOKA-16", [(0, (32, 24, 336, 416)), (1, (336, 24, 640, 416))]),
        ("JPGLosslessP14SV1_1s_1f_8b", [(0, (14, 38, 1011, 759))]),
    ],
)
def test_regions_of_real_files(shared_data: Path, name: str, expected: list[Any]) -> None:
    frame = next(read_frames(shared_data / "us_dicom" / f"{name}.dcm", [1]))
    assert [(r.index, r.bbox) for r in frame.regions] == expected
    assert all(r.spacing_mm and 0 < r.spacing_mm[0] < 3 for r in frame.regions)


def test_a_header_of_another_pixel_matrix_is_not_believed(shared_data: Path) -> None:
    """The picture was halved, its region was not: it would cover the far quarter."""
    frame = next(read_frames(shared_data / "us_dicom" / "examples_ybr_color.dcm", [20]))
    (estimate,) = frame.regions
    assert estimate.spacing_mm is None
    assert estimate.bbox == pytest.approx((84 / 2, 31 / 2, 596 / 2, 415 / 2), abs=80)


def test_the_estimate_is_the_same_whichever_frames_are_read(shared_data: Path) -> None:
    path = shared_data / "us_dicom" / "jpeg-ls-Palette.dcm"
    everything = {frame.number: frame.regions for frame in read_frames(path)}
    assert {frame.regions for frame in read_frames(path, [4, 9])} == {everything[4]}
    assert len(set(everything.values())) == 1

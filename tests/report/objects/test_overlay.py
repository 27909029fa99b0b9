"""The overlay: the picture untouched but for boxes, the verdict below it, a valid object."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from detector.anatomy import LABELS
from detector.boxes import Detection
from model.finding import NON_STANDARD, REVIEW, STANDARD
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.overlay import (
    MIN_WIDTH,
    VERDICT_COLOURS,
    build_overlay,
    colour_of,
    render_overlay,
)
from qc_daemon.report.source import SourceInstance

Make = Callable[..., Any]
CREATED = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)
ILLEGAL_ROOT = re.compile(r'Error - Illegal root for UID - "999\.999\.')


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 90, (480, 700, 3), dtype=np.uint8)


def test_picture_without_boxes_is_untouched(
    a_source: Make, a_finding: Make, pixels: np.ndarray
) -> None:
    finding = a_finding(a_source(), detections=(), region_bbox=(0.0, 0.0, 700.0, 480.0))
    overlay = render_overlay(pixels, finding)
    assert overlay.shape[1] == 700
    assert overlay.shape[0] > 480
    np.testing.assert_array_equal(overlay[:480], pixels)


def test_box_is_drawn_where_it_is(a_source: Make, a_finding: Make, pixels: np.ndarray) -> None:
    box = (100.0, 200.0, 300.0, 280.0)
    finding = a_finding(
        a_source(),
        detections=(Detection("NT", box, 0.9),),
        region_bbox=(0.0, 0.0, 700.0, 480.0),
    )
    overlay = render_overlay(pixels, finding)
    colour = colour_of("NT")
    for row, column in [(200, 250), (279, 250), (240, 100), (240, 299)]:
        assert tuple(overlay[row, column]) == colour
    np.testing.assert_array_equal(overlay[205:275, 105:295], pixels[205:275, 105:295])
    np.testing.assert_array_equal(overlay[300:480], pixels[300:480])


@pytest.mark.parametrize("quality", [STANDARD, NON_STANDARD, REVIEW])
def test_verdict_shows_at_thumbnail_size(
    a_source: Make, a_finding: Make, pixels: np.ndarray, quality: str
) -> None:
    """The banner takes at least a tenth of the picture's height and the verdict's colour."""
    overlay = render_overlay(pixels, a_finding(a_source(), quality=quality))
    background = VERDICT_COLOURS[quality][0]
    rows = [i for i in range(len(overlay)) if tuple(overlay[i, 2]) == background]
    assert min(rows) == 480
    assert len(rows) >= len(overlay) / 10


def test_small_pictures_are_magnified(a_source: Make, a_finding: Make) -> None:
    small = np.full((60, 80, 3), 7, np.uint8)
    overlay = render_overlay(small, a_finding(a_source(), detections=()))
    assert overlay.shape[1] >= MIN_WIDTH
    assert overlay.shape[1] % 80 == 0


@pytest.mark.parametrize("shape", [(1, 1), (5, 3000), (900, 40)])
def test_any_shape_and_box_can_be_drawn(
    a_source: Make, a_finding: Make, shape: tuple[int, int]
) -> None:
    detections = tuple(
        Detection(label.code, (0.0, 0.0, float(shape[1]), float(shape[0])), 0.5) for label in LABELS
    )
    overlay = render_overlay(
        np.zeros((*shape, 3), np.uint8), a_finding(a_source(), detections=detections)
    )
    assert overlay.dtype == np.uint8
    assert overlay.shape[2] == 3


def test_object_describes_itself(a_source: Make, a_finding: Make, pixels: np.ndarray) -> None:
    source = a_source(SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", NumberOfFrames=9)
    finding = a_finding(source, frame=4)

    def build(**changes: Any) -> bytes:
        return to_bytes(
            build_overlay(source, pixels, finding, **{"revision": 1, "created": CREATED, **changes})
        )

    assert build() == build()
    dataset = dcmread(BytesIO(build()))
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert dataset.BurnedInAnnotation == "YES"
    assert dataset.PatientName == "Müller^Änne"
    assert dataset.StudyInstanceUID == source.study_instance_uid
    assert dataset.DerivationDescription
    (reference,) = dataset.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.sop_instance_uid
    assert reference.ReferencedFrameNumber == 4
    np.testing.assert_array_equal(dataset.pixel_array, render_overlay(pixels, finding))
    assert dcmread(BytesIO(build(revision=2))).SOPInstanceUID != dataset.SOPInstanceUID


def test_overlays_are_numbered_as_their_pictures(
    a_source: Make, a_finding: Make, pixels: np.ndarray
) -> None:
    def number(frame: int, **header: Any) -> int:
        source = a_source(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", NumberOfFrames=99_999, **header
        )
        finding = a_finding(source, frame=frame)
        overlay = build_overlay(source, pixels, finding, revision=1, created=CREATED)
        return int(overlay.InstanceNumber)

    assert number(1, InstanceNumber=2) < number(7, InstanceNumber=2) < number(1, InstanceNumber=11)
    assert number(4) == 4
    assert number(99_998, InstanceNumber=5) == 99_998


def test_valid_over_every_real_header(
    tmp_path: Path,
    shared_data: Path,
    a_finding: Make,
    pixels: np.ndarray,
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    paths = sorted((shared_data / "us_dicom").glob("*.dcm"))
    assert len(paths) >= 26
    unexpected = {}
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        source = SourceInstance.of(header, "cc" * 32)
        dataset = tmp_path / path.name
        overlay = build_overlay(source, pixels, a_finding(source), revision=1, created=CREATED)
        dataset.write_bytes(to_bytes(overlay))
        illegal = source.sop_instance_uid.startswith("999.999.")
        errors = [e for e in dciodvfy(dataset) if not (illegal and ILLEGAL_ROOT.match(e))]
        if errors:
            unexpected[path.name] = errors
    assert unexpected == {}

"""The file of a de-identified image: valid, cleaned in every frame, released by a person."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.errors import QCError
from detector.frame import Frame
from detector.imaging.dicom_file import open_dicom_file
from detector.imaging.reader import read_frames
from qc_daemon.deidentification.image_facts import ImageFacts, read_image_facts
from qc_daemon.deidentification.pixel_cleaning import clean_frame, plan_cleaning
from qc_daemon.deidentification.teaching_image import (
    Pseudonyms,
    build_header,
    pixel_bytes,
    release,
    write_image,
)
from tests.deidentification.test_pixel_cleaning import frame, no_words

NAMES = Pseudonyms("0123456789ab", "2.25.1", "2.25.2", "2.25.3")


def write(frames: list[Frame], facts: ImageFacts | None = None) -> bytes:
    plan = plan_cleaning(frames, lambda _pixels: [(0, 0, 30, 3)])
    header = build_header(facts or ImageFacts(), plan, NAMES, 7)
    file = io.BytesIO()
    write_image(file, header, plan, (clean_frame(each.pixels, plan) for each in frames))
    return file.getvalue()


def released(content: bytes) -> bytes:
    file = io.BytesIO()
    release(io.BytesIO(content), file)
    return file.getvalue()


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_file_is_valid_before_and_after_its_release(
    tmp_path: Path, dciodvfy: Callable[[Path], list[str]], grey: bool, count: int
) -> None:
    frames = [frame(n + 1, (4.0, 4.0, 45.0, 35.0), grey=grey) for n in range(count)]
    for name, content in (
        ("prepared", prepared := write(frames)),
        ("released", released(prepared)),
    ):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        assert dciodvfy(path) == []
        dataset = dcmread(path)
        pixels = dataset.pixel_array.reshape(count, 40, 50, *(() if grey else (3,)))
        for each, stored in zip(frames, pixels, strict=True):
            expected = np.zeros_like(each.pixels)
            expected[4:35, 4:45] = each.pixels[4:35, 4:45]
            expected[:3, :30] = 0
            np.testing.assert_array_equal(stored, expected[..., 0] if grey else expected)


def test_only_a_released_file_says_that_nobody_is_in_it() -> None:
    content = write([frame()])
    before, after = dcmread(io.BytesIO(content)), dcmread(io.BytesIO(released(content)))
    assert (before.BurnedInAnnotation, before.PatientIdentityRemoved) == ("YES", "NO")
    assert "DeidentificationMethodCodeSequence" not in before
    assert (after.BurnedInAnnotation, after.PatientIdentityRemoved) == ("NO", "YES")
    codes = [each.CodeValue for each in after.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101"]
    assert after.SOPInstanceUID == before.SOPInstanceUID == "2.25.3"
    assert released(content) == released(content)


def test_pixels_of_an_odd_number_of_bytes_are_padded() -> None:
    pixels = np.full((33, 35, 3), 9, np.uint8)
    (whole,) = [frame()]
    odd = Frame(1, pixels, (type(whole.regions[0])(0, (0.0, 0.0, 35.0, 33.0)),))
    dataset = dcmread(io.BytesIO(released(write([odd]))))
    assert len(dataset.PixelData) == 33 * 35 + 1
    assert dataset.pixel_array.shape == (33, 35)


def test_other_frames_than_planned_are_refused() -> None:
    frames = [frame(1), frame(2)]
    plan = plan_cleaning(frames, no_words)
    header = build_header(ImageFacts(), plan, NAMES, 1)
    with pytest.raises(QCError, match="other frames"):
        write_image(io.BytesIO(), header, plan, [frames[0].pixels])


def test_a_cine_too_long_for_one_file_is_refused() -> None:
    plan = plan_cleaning([frame()], no_words)
    long = type(plan)(*(3000, 4000, 400, plan.regions, plan.is_tissue, plan.is_text, 0, 0, True))
    assert pixel_bytes(long) > 2**32
    with pytest.raises(QCError, match="4 GiB"):
        build_header(ImageFacts(), long, NAMES, 1)


def test_every_scanners_file_becomes_a_valid_one_with_the_same_tissue(
    shared_data: Path, tmp_path: Path, dciodvfy: Callable[[Path], list[str]]
) -> None:
    """Every transfer syntax, colour space and number of frames of the real files, three frames."""
    syntaxes = set()
    for path in sorted((shared_data / "us_dicom").rglob("*.dcm")):
        with open_dicom_file(path) as source:
            syntaxes.add(str(source.transfer_syntax))
            facts = read_image_facts(source.dataset, str(source.transfer_syntax))
        frames = first_frames(path)
        content = released(write(frames, facts))
        out = tmp_path / "out.dcm"
        out.write_bytes(content)
        dataset = dcmread(out)
        assert dciodvfy(out) == [], path.name
        check_pixels(dataset, frames)
    assert len(syntaxes) > 5


def first_frames(path: Path) -> list[Frame]:
    frames = []
    for each in read_frames(path):
        frames.append(each)
        if len(frames) == 3:
            break
    return frames


def check_pixels(dataset: Dataset, frames: list[Frame]) -> None:
    plan = plan_cleaning(frames, lambda _pixels: [(0, 0, 30, 3)])
    stored = dataset.pixel_array.reshape(len(frames), plan.rows, plan.columns, -1)
    for pixels, each in zip(stored, frames, strict=True):
        np.testing.assert_array_equal(
            np.broadcast_to(pixels, each.pixels.shape), clean_frame(each.pixels, plan)
        )
        assert not pixels[~plan.is_tissue].any()

"""Display elements: what says nothing is passed over, what says something is applied, whatever
place of the data set it stands in (PS3.3 C.11.1, C.11.2, C.7.6.16.2.9, C.7.6.16.2.10)."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from detector.imaging.reader import read_frames
from tests.support.raw_elements import write_elements

Write = Callable[..., Path]
NATIVE = (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)
EIGHT = (np.arange(48 * 64).reshape(1, 48, 64) % 251).astype(np.uint8)
DEEP = np.linspace(0, 4000, 48 * 64).astype(np.uint16).reshape(1, 48, 64)


def grey(path: Path, number: int = 1) -> np.ndarray:
    (frame,) = read_frames(path, [number])
    assert (frame.pixels == frame.pixels[..., :1]).all()
    return frame.pixels[..., 0].astype(int)


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def table(descriptor: list[int], data: list[int] | bytes) -> Dataset:
    dataset = item(LUTDescriptor=descriptor, LUTData=data)
    dataset["LUTDescriptor"].VR = "US"
    dataset["LUTData"].VR = "OW" if isinstance(data, bytes) else "US"
    return dataset


SAY_NOTHING: dict[str, dict[str, Any]] = {
    "rescale empty": {"RescaleIntercept": None, "RescaleSlope": None},
    "rescale slope empty": {"RescaleIntercept": "0", "RescaleSlope": None},
    "rescale intercept empty": {"RescaleIntercept": None, "RescaleSlope": "1"},
    "rescale slope zero": {"RescaleIntercept": "0", "RescaleSlope": "0"},
    "rescale slope nan": {"RescaleIntercept": "nan", "RescaleSlope": "nan"},
    "rescale slope inf": {"RescaleIntercept": "0", "RescaleSlope": "inf"},
    "rescale words": {"RescaleIntercept": "none", "RescaleSlope": "one"},
    "rescale type only": {"RescaleType": "US"},
    "modality lut no item": {"ModalityLUTSequence": []},
    "modality lut empty item": {"ModalityLUTSequence": [Dataset()]},
    "modality lut bare": {"ModalityLUTSequence": [item(LUTExplanation="NORMAL")]},
    "modality lut no data": {"ModalityLUTSequence": [item(LUTDescriptor=[256, 0, 8])]},
    "modality lut short": {"ModalityLUTSequence": [table([256, 0, 8], [1, 2])]},
    "voi lut no item": {"VOILUTSequence": []},
    "voi lut empty item": {"VOILUTSequence": [Dataset()]},
    "voi lut no descriptor": {"VOILUTSequence": [table([], [1, 2])]},
    "voi lut short": {"VOILUTSequence": [table([4096, 0, 16], [1, 2, 3])]},
    "voi lut of one value": {"VOILUTSequence": [table([4, 0, 8], [7, 7, 7, 7])]},
    "voi lut of no bits": {"VOILUTSequence": [table([4, 0, 0], [1, 2, 3, 4])]},
    "window empty": {"WindowCenter": None, "WindowWidth": None},
    "window centre only": {"WindowCenter": "40", "WindowWidth": None},
    "window width only": {"WindowCenter": None, "WindowWidth": "40"},
    "window width zero": {"WindowCenter": "40", "WindowWidth": "0"},
    "window width negative": {"WindowCenter": "40", "WindowWidth": "-40"},
    "window nan": {"WindowCenter": "nan", "WindowWidth": "nan"},
    "window inf": {"WindowCenter": "inf", "WindowWidth": "inf"},
    "window words": {"WindowCenter": "middle", "WindowWidth": "wide"},
    "window of another picture": {"WindowCenter": "-5000", "WindowWidth": "10"},
    "voi function empty": {"VOILUTFunction": None},
    "voi function unknown": {"VOILUTFunction": "CUBIC"},
    "frames blank": {"NumberOfFrames": "  "},
    "frames nul": {"NumberOfFrames": "\0\0"},
    "frames zero": {"NumberOfFrames": "0"},
    "frames negative": {"NumberOfFrames": "-1"},
    "frames words": {"NumberOfFrames": "one"},
    "frames absent": {"NumberOfFrames": None},
    "bits stored empty": {"BitsStored": None},
    "high bit empty": {"HighBit": None},
    "pixel representation empty": {"PixelRepresentation": None},
    "planar configuration empty": {"PlanarConfiguration": None},
    "groups without items": {"SharedFunctionalGroupsSequence": []},
    "groups with empty items": {
        "SharedFunctionalGroupsSequence": [Dataset()],
        "PerFrameFunctionalGroupsSequence": [Dataset()],
    },
    "groups with empty sequences": {
        "SharedFunctionalGroupsSequence": [
            item(FrameVOILUTSequence=[], PixelValueTransformationSequence=[Dataset()])
        ],
        "PerFrameFunctionalGroupsSequence": [item(FrameVOILUTSequence=[Dataset()])],
    },
}


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("name", SAY_NOTHING)
def test_an_element_that_says_nothing_changes_nothing(
    write_dicom: Write, name: str, syntax: str
) -> None:
    path = write_dicom(EIGHT, "MONOCHROME2", syntax)
    changed = write_elements(path, **SAY_NOTHING[name])
    assert np.array_equal(grey(changed), EIGHT[0])


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("name", SAY_NOTHING)
def test_nor_in_compressed_pictures(write_dicom: Write, name: str, syntax: str) -> None:
    path = write_dicom(EIGHT, "MONOCHROME2", syntax)
    assert np.array_equal(grey(write_elements(path, **SAY_NOTHING[name])), EIGHT[0])


def test_a_valid_element_behind_one_that_says_nothing(write_dicom: Write) -> None:
    """The window counts though the table is empty, and the second window though the first is."""
    expected = np.rint(DEEP[0].astype(float) * 255 / 4095)
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    for elements in (
        {"VOILUTSequence": [Dataset()], **window},
        {"VOILUTSequence": [table([4, 0, 8], [0, 0, 0, 0])], **window},
        {"WindowCenter": ["", "2048"], "WindowWidth": ["", "4096"]},
        {"WindowCenter": ["abc", "2048"], "WindowWidth": ["1", "4096"]},
        {"RescaleSlope": None, "RescaleIntercept": "0", **window},
    ):
        pixels = grey(write_elements(write_dicom(DEEP, "MONOCHROME2"), **elements))
        assert np.abs(pixels - expected).max() <= 1, elements


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("width", [8, 16])
def test_tables_in_each_encoding(write_dicom: Write, syntax: str, width: int) -> None:
    """Four entries as bytes packed into words, and as words."""
    entries = [0, 255, 10, 128]
    if width == 8:
        data = bytes(entries)
        if syntax == ExplicitVRBigEndian:
            data = data[1::-1] + data[3:1:-1]
    else:
        data = struct.pack((">" if syntax == ExplicitVRBigEndian else "<") + "4H", *entries)
    stored = np.tile(np.arange(6, dtype=np.uint16), (1, 48, 11))
    path = write_dicom(stored, "MONOCHROME2", syntax, VOILUTSequence=[table([4, 0, 8], data)])
    assert grey(path)[0, :6].tolist() == [0, 255, 10, 128, 128, 128]


def test_modality_table_before_the_window(write_dicom: Write) -> None:
    """0..3 become 0, 100, 200, 300, of which 0..255 are shown."""
    stored = np.tile(np.arange(4, dtype=np.uint16), (1, 48, 16))
    path = write_dicom(
        stored,
        "MONOCHROME2",
        ModalityLUTSequence=[table([4, 0, 16], [0, 100, 200, 300])],
        WindowCenter=128,
        WindowWidth=256,
    )
    assert grey(path)[0, :4].tolist() == [0, 100, 200, 255]


def shared(**elements: Any) -> dict[str, Any]:
    return {"SharedFunctionalGroupsSequence": [item(**elements)]}


VOI = [item(WindowCenter="2048", WindowWidth="4096")]
TRANSFORM = [item(RescaleSlope="2", RescaleIntercept="-1000", RescaleType="US")]


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEG2000Lossless])
def test_the_window_of_shared_groups(write_dicom: Write, syntax: str) -> None:
    path = write_dicom(DEEP, "MONOCHROME2", syntax, **shared(FrameVOILUTSequence=VOI))
    assert np.abs(grey(path) - DEEP[0].astype(float) * 255 / 4095).max() <= 0.51


def test_pixel_values_are_transformed_by_shared_groups(write_dicom: Write) -> None:
    """2 v - 1000 through a window of centre 3000 and width 8001 is v over its whole range."""
    groups = shared(
        PixelValueTransformationSequence=TRANSFORM,
        FrameVOILUTSequence=[item(WindowCenter="3000", WindowWidth="8001")],
    )
    pixels = grey(write_dicom(DEEP, "MONOCHROME2", **groups))
    assert np.abs(pixels - DEEP[0].astype(float) * 255 / 4000).max() <= 0.6


def test_a_frames_own_group_comes_before_the_shared_one(write_dicom: Write) -> None:
    three = np.repeat(DEEP, 3, axis=0)
    own = [
        item(FrameVOILUTSequence=[item(WindowCenter="1000", WindowWidth="2000")]),
        item(FrameVOILUTSequence=[Dataset()]),
    ]
    path = write_dicom(
        three,
        "MONOCHROME2",
        **shared(FrameVOILUTSequence=VOI),
        PerFrameFunctionalGroupsSequence=own,
        WindowCenter=1,
        WindowWidth=2,
    )
    first = np.clip(np.rint((DEEP[0].astype(float) - 0.5) * 255 / 1999), 0, 255)
    assert np.abs(grey(path, 1) - first).max() <= 1
    usual = np.rint(DEEP[0].astype(float) * 255 / 4095)
    for number in (2, 3):
        # Of the second the group is empty, of the third there is none.
        assert np.abs(grey(path, number) - usual).max() <= 1


def test_a_table_in_a_functional_group(write_dicom: Write) -> None:
    stored = np.tile(np.arange(4, dtype=np.uint16), (1, 48, 16))
    voi = [item(VOILUTSequence=[table([4, 0, 8], [0, 255, 10, 128])])]
    path = write_dicom(stored, "MONOCHROME2", **shared(FrameVOILUTSequence=voi))
    assert grey(path)[0, :4].tolist() == [0, 255, 10, 128]


def test_groups_of_undefined_length(write_dicom: Write) -> None:
    groups = shared(FrameVOILUTSequence=VOI)
    for sequence in groups.values():
        sequence[0].is_undefined_length_sequence_item = True
        sequence[0]["FrameVOILUTSequence"].is_undefined_length = True
    path = write_dicom(DEEP, "MONOCHROME2")
    changed = write_elements(path, undefined=True, **groups)
    assert np.abs(grey(changed) - DEEP[0].astype(float) * 255 / 4095).max() <= 0.51


@pytest.mark.parametrize(
    ("shift", "stored_bits", "high_bit"), [(0, 12, 15), (0, 12, 0), (0, 8, 7), (0, 99, 98)]
)
def test_bits_stored_that_are_not_true(
    write_dicom: Write, shift: int, stored_bits: int, high_bit: int
) -> None:
    """Values that need twelve bits, with any label: nothing wraps to black."""
    path = write_dicom(DEEP << shift, "MONOCHROME2", BitsStored=stored_bits, HighBit=high_bit)
    pixels = grey(path)
    assert np.abs(pixels - DEEP[0].astype(float) * 255 / 4000).max() <= 0.6


def test_values_at_the_top_of_their_words(write_dicom: Write) -> None:
    path = write_dicom(DEEP << 4, "MONOCHROME2", BitsStored=12, HighBit=15)
    windowed = write_elements(path, WindowCenter="2048", WindowWidth="4096")
    assert np.abs(grey(windowed) - DEEP[0].astype(float) * 255 / 4095).max() <= 0.51


def test_eight_bits_called_seven(write_dicom: Write) -> None:
    assert np.array_equal(
        grey(write_dicom(EIGHT, "MONOCHROME2", BitsStored=7, HighBit=6)), EIGHT[0]
    )


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEG2000Lossless])
def test_eight_bits_called_signed(write_dicom: Write, syntax: str) -> None:
    """A smooth ramp through the middle of the range, which wraps where it is read as signed."""
    ramp = np.linspace(0, 255, 48 * 64).astype(np.uint8).reshape(1, 48, 64)
    path = write_dicom(ramp, "MONOCHROME2", syntax)
    dataset = dcmread(path)
    dataset.PixelRepresentation = 1
    dataset.save_as(path)
    assert np.array_equal(grey(path), ramp[0])
    truly = (ramp.astype(np.int16) - 128).astype(np.int8)
    assert np.array_equal(grey(write_dicom(truly, "MONOCHROME2", syntax)), ramp[0])


def test_signed_values_without_their_sign_bits(write_dicom: Write) -> None:
    """Twelve-bit two's complement in sixteen bits whose upper four are empty."""
    stored = (DEEP.astype(np.int16) - 2000) & 0x0FFF
    path = write_dicom(
        stored.astype(np.int16), "MONOCHROME2", BitsStored=12, HighBit=11, PixelRepresentation=1
    )
    assert np.abs(grey(path) - DEEP[0].astype(float) * 255 / 4000).max() <= 0.51


VALUES = st.sampled_from(
    ["", " ", "0", "1", "-1", "1e400", "nan", "inf", "-inf", "abc", "1\\2", "\\", "2048", "4096"]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    slope=VALUES,
    intercept=VALUES,
    centre=VALUES,
    width=VALUES,
    frames=VALUES.filter(lambda text: text not in ("2048", "4096")),
    function=VALUES,
)
def test_any_text_in_them_gives_a_picture(
    write_dicom: Write,
    slope: str,
    intercept: str,
    centre: str,
    width: str,
    frames: str,
    function: str,
) -> None:
    changed = write_elements(
        write_dicom(EIGHT, "MONOCHROME2"),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
        NumberOfFrames=frames,
    )
    pixels = grey(changed)
    assert pixels.shape == (48, 64)
    assert pixels.min() < pixels.max()

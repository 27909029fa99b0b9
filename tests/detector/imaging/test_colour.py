"""Stored values to RGB, against values computed by hand or by another implementation."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from detector.errors import ErrorCode, QCError
from detector.imaging.codestream import jpeg2000_colour, jpeg_colour
from detector.imaging.reader import read_frames

Write = Callable[..., Path]
RAMP = np.linspace(0, 4000, 48 * 64).astype(np.uint16).reshape(1, 48, 64)


def decode(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in read_frames(path)])


def grey(path: Path) -> np.ndarray:
    pixels = decode(path)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, ..., 0].astype(int)


def to_ybr(rgb: np.ndarray) -> np.ndarray:
    """By Pillow, whose conversion is JFIF's, as YBR_FULL is."""
    return np.stack([np.asarray(Image.fromarray(f).convert("YCbCr")) for f in rgb])


@pytest.mark.parametrize(
    "syntax",
    [
        *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian),
        *(RLELossless, JPEG2000Lossless),
    ],
)
def test_rgb_survives_every_lossless_syntax(
    write_dicom: Write, speckle: np.ndarray, syntax: str
) -> None:
    assert np.array_equal(decode(write_dicom(speckle, syntax=syntax)), speckle)


def test_planar_rgb(write_dicom: Write, speckle: np.ndarray) -> None:
    planar = np.ascontiguousarray(speckle.transpose(0, 3, 1, 2))
    path = write_dicom(speckle, PixelData=planar.tobytes(), PlanarConfiguration=1)
    assert np.array_equal(decode(path), speckle)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_ybr_full_is_converted_once(write_dicom: Write, speckle: np.ndarray, syntax: str) -> None:
    rgb = decode(write_dicom(to_ybr(speckle), "YBR_FULL", syntax)).astype(int)
    assert np.abs(rgb - speckle).max() <= 3


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_PARTIAL_422"])
def test_native_422_of_several_frames(write_dicom: Write, photometric: str) -> None:
    colours = np.array([(220, 30, 30), (20, 200, 60), (40, 60, 230)], np.uint8)
    rgb = np.broadcast_to(colours[:, None, None], (3, 48, 64, 3))
    ybr = to_ybr(np.ascontiguousarray(rgb)).astype(float)
    if photometric == "YBR_PARTIAL_422":
        ybr[..., 0] = ybr[..., 0] * 219 / 255 + 16
        ybr[..., 1:] = (ybr[..., 1:] - 128) * 224 / 255 + 128
    ybr = ybr.round().astype(np.uint8)
    pairs = np.stack(
        (ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]), axis=-1
    )
    path = write_dicom(ybr, photometric, PixelData=pairs.tobytes())
    assert np.abs(decode(path).astype(int) - rgb).max() <= 4


def test_422_that_is_not_subsampled(write_dicom: Write, speckle: np.ndarray) -> None:
    rgb = decode(write_dicom(to_ybr(speckle), "YBR_FULL_422")).astype(int)
    assert np.abs(rgb - speckle).max() <= 3


def test_eight_bit_monochrome_is_unchanged(write_dicom: Write) -> None:
    stored = np.arange(48 * 64, dtype=np.uint32).reshape(1, 48, 64).astype(np.uint8)
    assert np.array_equal(grey(write_dicom(stored, "MONOCHROME2")), stored[0])
    assert np.array_equal(grey(write_dicom(stored, "MONOCHROME1")), 255 - stored[0].astype(int))


def test_sixteen_bits_are_stretched_without_a_window(write_dicom: Write) -> None:
    rgb = grey(write_dicom(RAMP + 100, "MONOCHROME2"))
    assert np.abs(rgb - RAMP[0].astype(float) * 255 / 4000).max() <= 0.51


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless])
def test_the_window_of_the_standard(write_dicom: Write, syntax: str) -> None:
    """PS3.3 C.11.2.1.2.1: centre 2048, width 4096 maps 0..4095 to the whole range."""
    path = write_dicom(RAMP, "MONOCHROME2", syntax, WindowCenter=2048, WindowWidth=4096)
    assert np.abs(grey(path) - RAMP[0].astype(float) * 255 / 4095).max() <= 0.51
    narrow = write_dicom(RAMP, "MONOCHROME2", syntax, WindowCenter=1000, WindowWidth=2)
    assert set(np.unique(grey(narrow)[RAMP[0] > 1000])) == {255}
    assert set(np.unique(grey(narrow)[RAMP[0] < 999])) == {0}


def test_the_window_counts_in_rescaled_values(write_dicom: Write) -> None:
    path = write_dicom(
        RAMP,
        "MONOCHROME2",
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=3000,
        WindowWidth=8001,
    )
    assert np.abs(grey(path) - RAMP[0].astype(float) * 255 / 4000).max() <= 0.6


def test_signed_values_and_a_useless_window(write_dicom: Write) -> None:
    stored = RAMP.astype(np.int16) - 2000
    rgb = grey(write_dicom(stored, "MONOCHROME1", WindowCenter=0, WindowWidth=0))
    assert np.abs(rgb - (255 - RAMP[0].astype(float) * 255 / 4000)).max() <= 0.51


def test_voi_lut_sequence(write_dicom: Write) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4, 0, 8], [0, 255, 10, 128]
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    stored = np.tile(np.arange(6, dtype=np.uint16), (1, 48, 11))
    rgb = grey(write_dicom(stored, "MONOCHROME2", VOILUTSequence=[lut]))
    assert rgb[0, :6].tolist() == [0, 255, 10, 128, 128, 128]


PALETTE = ([0, 60, 120, 255], [10, 20, 30, 40], [255, 128, 64, 0])
INDICES = np.tile(np.array([0, 1, 2, 3, 4, 5, 6, 255], np.uint8), (1, 48, 8))
"""With first mapped value 2 these are entries 0 0 0 1 2 3 3 3."""
EXPECTED = [[channel[entry] for channel in PALETTE] for entry in (0, 0, 0, 1, 2, 3, 3, 3)]


def palette(kind: str, endian: str = "<") -> dict[str, object]:
    elements: dict[str, object] = {}
    for name, channel in zip(("Red", "Green", "Blue"), PALETTE, strict=True):
        depth = 8 if kind == "bytes" else 16
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [4, 2, depth]
        if kind == "segmented":
            # A discrete segment of two values, a linear one of one, a discrete one of one.
            words = [0, 2, channel[0] << 8, channel[1] << 8, 1, 1, channel[2] << 8, 0, 1]
            words.append(channel[3] << 8)
            data = struct.pack(f"{endian}{len(words)}H", *words)
            elements[f"Segmented{name}PaletteColorLookupTableData"] = data
            continue
        shift = 8 if kind == "words" else 0
        if kind == "bytes":
            data = bytes(channel)
        else:
            data = struct.pack(f"{endian}4H", *(value << shift for value in channel))
        elements[f"{name}PaletteColorLookupTableData"] = data
    return elements


@pytest.mark.parametrize("kind", ["bytes", "words", "low-words", "segmented"])
def test_palettes(write_dicom: Write, kind: str) -> None:
    rgb = decode(write_dicom(INDICES, "PALETTE COLOR", **palette(kind)))
    assert rgb[0, 0, :8].tolist() == EXPECTED


@pytest.mark.parametrize("kind", ["words", "segmented"])
def test_palettes_in_big_endian(write_dicom: Write, kind: str) -> None:
    elements = palette(kind, ">")
    rgb = decode(write_dicom(INDICES, "PALETTE COLOR", ExplicitVRBigEndian, **elements))
    assert rgb[0, 0, :8].tolist() == EXPECTED


def test_segmented_palette_as_pydicom_expands_it(write_dicom: Write) -> None:
    """A discrete segment, a ramp, an indirect segment that repeats both, another ramp."""
    words = [0, 1, 0, 1, 7, 7000, 2, 2, 0, 0, 0, 4, 9, 60000, 30000, 2]
    data = struct.pack(f"<{len(words)}H", *words)
    elements: dict[str, object] = {}
    for name in ("Red", "Green", "Blue"):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [20, 0, 16]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = data
    stored = np.tile(np.arange(32, dtype=np.uint8), (1, 48, 2))
    path = write_dicom(stored, "PALETTE COLOR", **elements)
    expected = apply_color_lut(stored, dcmread(path)) >> 8
    assert np.array_equal(decode(path), expected)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        palette("words") | {"BluePaletteColorLookupTableData": b"\0\0"},
        palette("words") | {"RedPaletteColorLookupTableDescriptor": None},
        palette("segmented") | {"SegmentedRedPaletteColorLookupTableData": b"\2\0\1\0\0\0\0\0"},
    ],
)
def test_a_broken_palette_is_refused(write_dicom: Write, elements: dict[str, object]) -> None:
    path = write_dicom(INDICES, "PALETTE COLOR", **{k: v for k, v in elements.items() if v})
    with pytest.raises(QCError) as caught:
        decode(path)
    assert caught.value.code is ErrorCode.DECODE_FAILED


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", ""])
def test_an_unknown_colour_space_is_refused(
    write_dicom: Write, speckle: np.ndarray, photometric: str
) -> None:
    with pytest.raises(QCError) as caught:
        decode(write_dicom(speckle, photometric))
    assert caught.value.code is ErrorCode.DECODE_FAILED


SOF = b"\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03%c\x11\x00%c\x11\x01%c\x11\x01"
JFIF = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
ADOBE = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0%c"


@pytest.mark.parametrize(
    ("stream", "photometric", "expected"),
    [
        (SOF % (1, 2, 3), "RGB", "RGB"),
        (SOF % (1, 2, 3), "YBR_FULL_422", "YBR_FULL"),
        (SOF % (b"R", b"G", b"B"), "YBR_FULL_422", "RGB"),
        (ADOBE % 0 + SOF % (1, 2, 3), "YBR_FULL_422", "RGB"),
        (ADOBE % 1 + SOF % (1, 2, 3), "RGB", "YBR_FULL"),
        (JFIF + SOF % (1, 2, 3), "RGB", "YBR_FULL"),
        ((SOF % (1, 2, 3)).replace(b"\1\x11\0", b"\1\x21\0"), "RGB", "YBR_FULL"),
        (b"\xff\xff\xff", "RGB", "RGB"),
    ],
)
def test_the_jpeg_codestream_settles_the_colour_space(
    stream: bytes, photometric: str, expected: str
) -> None:
    assert jpeg_colour(b"\xff\xd8" + stream + b"\xff\xda\0\0", photometric).space == expected


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_FULL"])
def test_jpeg_2000_with_a_component_transform_is_rgb(
    write_dicom: Write, speckle: np.ndarray, photometric: str
) -> None:
    """A header that says YBR_FULL of such a stream must not make it converted again."""
    streams = []
    for pixels in speckle:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
        streams.append(buffer.getvalue())
    path = write_dicom(speckle, "RGB", JPEG2000Lossless)
    dataset = dcmread(path)
    dataset.PixelData = encapsulate(streams)
    dataset.PhotometricInterpretation = photometric
    dataset.save_as(path)
    assert np.array_equal(decode(path), speckle)


def test_jpeg_2000_without_one_follows_the_header() -> None:
    plain = b"\xff\x4f\xff\x51" + b"\0" * 40 + b"\xff\x52\x00\x0c\0\0\0\1\0"
    assert jpeg2000_colour(plain, "YBR_FULL").space == "YBR_FULL"
    assert jpeg2000_colour(plain, "RGB").space == "RGB"

"""Samples and colours: the codestream and the length of the data decide, labels that contradict
each other are settled by the picture, and told."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from detector.errors import Flag
from detector.frame import Frame
from detector.imaging.codestream import jpeg2000_colour, jpeg_colour, read_jpeg
from detector.imaging.colour_check import coloured_share, coloured_tissue
from detector.imaging.reader import read_frames

Write = Callable[..., Path]
NATIVE = (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)
LOSSLESS = (RLELossless, JPEG2000Lossless, JPEGLSLossless)
YBR_LABELS = ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422")


def scan(size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Grey speckle in a fan on black, with a small red box: ultrasound as colours go."""
    rows, columns = size
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:rows, :columns]
    fan = np.hypot(y, x - columns / 2) < rows * 0.9
    grey = np.clip(rng.normal(110, 40, size) + 30 * np.sin(x / 9), 0, 255) * fan
    rgb = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    rgb[30:40, 60:75] = (200, 30, 20)
    return rgb


SCAN = scan()
GREY = SCAN[..., :1].copy().reshape(1, *SCAN.shape[:2])


def to_ybr(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("YCbCr"))


def first(path: Path) -> Frame:
    return next(read_frames(path, [1]))


def close(pixels: np.ndarray, expected: np.ndarray, tolerance: float = 3) -> bool:
    return bool(np.abs(pixels.astype(int) - expected).mean() <= tolerance)


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("label", YBR_LABELS)
def test_native_rgb_called_ybr(write_dicom: Write, syntax: UID, label: str) -> None:
    frame = first(write_dicom(SCAN[None], label, syntax))
    assert np.array_equal(frame.pixels, SCAN)
    assert frame.flags == (Flag.COLOUR_DOUBTFUL,)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *LOSSLESS])
def test_ybr_called_rgb(write_dicom: Write, syntax: UID) -> None:
    path = write_dicom(to_ybr(SCAN)[None], "YBR_FULL", syntax)
    dataset = dcmread(path)
    dataset.PhotometricInterpretation = "RGB"
    dataset.save_as(path)
    frame = first(path)
    assert close(frame.pixels, SCAN)
    assert frame.flags == (Flag.COLOUR_DOUBTFUL,)


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("label", ["YBR_FULL", "YBR_FULL_422"])
def test_lossless_rgb_called_ybr(write_dicom: Write, syntax: UID, label: str) -> None:
    path = write_dicom(SCAN[None], "RGB", syntax)
    dataset = dcmread(path)
    dataset.PhotometricInterpretation = label
    dataset.save_as(path)
    frame = first(path)
    assert np.array_equal(frame.pixels, SCAN)
    assert Flag.COLOUR_DOUBTFUL in frame.flags


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_labels_that_are_true_are_not_doubted(write_dicom: Write, label: str, syntax: UID) -> None:
    stored = SCAN if label == "RGB" else to_ybr(SCAN)
    frame = first(write_dicom(stored[None], label, syntax))
    assert close(frame.pixels, SCAN)
    assert frame.flags == ()


def test_a_coloured_picture_keeps_its_label(write_dicom: Write) -> None:
    """No reading of it is grey, so that the label stands."""
    noise = np.random.default_rng(1).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)
    frame = first(write_dicom(noise, "RGB"))
    assert np.array_equal(frame.pixels, noise[0])
    assert frame.flags == ()


@pytest.mark.parametrize("true", [0, 1])
@pytest.mark.parametrize("syntax", NATIVE)
def test_a_wrong_planar_configuration(write_dicom: Write, true: int, syntax: UID) -> None:
    stored = SCAN if true == 0 else np.ascontiguousarray(SCAN.transpose(2, 0, 1))
    path = write_dicom(
        SCAN[None], "RGB", syntax, PixelData=stored.tobytes(), PlanarConfiguration=1 - true
    )
    frame = first(path)
    assert np.array_equal(frame.pixels, SCAN)
    assert frame.flags == (Flag.COLOUR_DOUBTFUL,)


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def wrapped(write: Write, codestream: bytes, syntax: UID, samples: int, label: str) -> Path:
    """A codestream under a header that says what it likes."""
    path = write(SCAN[None] if samples == 3 else GREY, label)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    return path


def codestream(write: Write, stored: np.ndarray, syntax: UID) -> bytes:
    if syntax == JPEGBaseline8Bit:
        return jpeg(stored[0], **({"subsampling": 0} if stored.ndim == 4 else {}))
    label = "RGB" if stored.ndim == 4 else "MONOCHROME2"
    dataset = dcmread(write(stored, label, syntax))
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT"])
@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit])
def test_grey_called_coloured(write_dicom: Write, syntax: UID, label: str) -> None:
    path = wrapped(write_dicom, codestream(write_dicom, GREY, syntax), syntax, 3, label)
    expected = np.repeat(GREY[0][..., None], 3, axis=2)
    assert close(first(path).pixels, expected, 3 if syntax == JPEGBaseline8Bit else 0)


@pytest.mark.parametrize("label", ["MONOCHROME2", "MONOCHROME1", "PALETTE COLOR"])
@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit])
def test_coloured_called_grey(write_dicom: Write, syntax: UID, label: str) -> None:
    stream = codestream(write_dicom, SCAN[None], syntax)
    frame = first(wrapped(write_dicom, stream, syntax, 1, label))
    assert close(frame.pixels, SCAN, 4 if syntax == JPEGBaseline8Bit else 0)


def test_native_samples_that_the_length_belies(write_dicom: Write) -> None:
    grey = first(write_dicom(SCAN[None], "RGB", PixelData=GREY.tobytes()))
    assert np.array_equal(grey.pixels, np.repeat(GREY[0][..., None], 3, axis=2))
    coloured = write_dicom(GREY, "MONOCHROME2", PixelData=SCAN.tobytes())
    dataset = dcmread(coloured)
    dataset.PhotometricInterpretation = "RGB"
    dataset.save_as(coloured)
    assert np.array_equal(first(coloured).pixels, SCAN)


@pytest.mark.parametrize("stated", [8, 16])
@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit])
def test_depths_unlike_the_codestreams(write_dicom: Write, syntax: UID, stated: int) -> None:
    """Eight-bit codestreams under Bits Allocated 16, deep ones under 8."""
    path = wrapped(write_dicom, codestream(write_dicom, GREY, syntax), syntax, 1, "MONOCHROME2")
    dataset = dcmread(path)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = stated, stated, stated - 1
    dataset.save_as(path)
    expected = np.repeat(GREY[0][..., None], 3, axis=2)
    assert close(first(path).pixels, expected, 3)
    if syntax != JPEGBaseline8Bit:
        deep = GREY.astype(np.uint16) * 16
        path = wrapped(write_dicom, codestream(write_dicom, deep, syntax), syntax, 1, "MONOCHROME2")
        low, high = int(deep.min()), int(deep.max())
        stretched = (deep[0].astype(float) - low) * 255 / (high - low)
        assert close(first(path).pixels, np.repeat(stretched[..., None], 3, axis=2), 1)


def jfif_lossless() -> bytes:
    """A frame header of lossless JPEG behind a JFIF marker; it has no scan."""
    app0 = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    return (
        b"\xff\xd8"
        + app0
        + b"\xff\xc3\x00\x11\x08\x00\x10\x00\x10\x03"
        + bytes((1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0))
    )


def test_jfif_says_nothing_of_a_lossless_process() -> None:
    assert jpeg_colour(jfif_lossless(), "RGB").space == "RGB"
    assert not jpeg_colour(jfif_lossless(), "RGB").is_contradicted
    assert jpeg_colour(jfif_lossless(), "YBR_FULL").space == "YBR_FULL"
    lossy = jfif_lossless().replace(b"\xff\xc3", b"\xff\xc0")
    assert jpeg_colour(lossy, "RGB").space == "YBR_FULL"
    assert jpeg_colour(lossy, "RGB").is_contradicted
    assert not jpeg_colour(lossy, "YBR_FULL_422").is_contradicted


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_baseline_jpeg_under_any_label(write_dicom: Write, label: str, subsampling: str) -> None:
    stream = jpeg(SCAN, subsampling=subsampling)
    frame = first(wrapped(write_dicom, stream, JPEGBaseline8Bit, 3, label))
    assert close(frame.pixels, SCAN, 5)
    assert (Flag.COLOUR_DOUBTFUL in frame.flags) == (label == "RGB")


def test_baseline_jpeg_of_rgb_behind_a_jfif_marker(write_dicom: Write) -> None:
    """Encoded without a transform, with a marker that claims one: the header is right."""
    planes = [Image.fromarray(SCAN[..., i]) for i in range(3)]
    stream = io.BytesIO()
    Image.merge("YCbCr", planes).save(stream, "JPEG", quality=97, subsampling=0)
    assert read_jpeg(stream.getvalue()).space == "YBR_FULL"  # type: ignore[union-attr]
    frame = first(wrapped(write_dicom, stream.getvalue(), JPEGBaseline8Bit, 3, "RGB"))
    assert close(frame.pixels, SCAN, 5)
    assert frame.flags == (Flag.COLOUR_DOUBTFUL,)


def test_jpeg_2000_labels() -> None:
    head = b"\xff\x4f\xff\x51" + b"\0" * 40
    plain, turned = (head + b"\xff\x52\x00\x0c\0\0\0\1" + bytes((t,)) for t in (0, 1))
    assert jpeg2000_colour(turned, "RGB").space == "RGB"
    assert not jpeg2000_colour(turned, "RGB").is_contradicted
    assert jpeg2000_colour(turned, "YBR_FULL").is_contradicted
    assert jpeg2000_colour(plain, "YBR_RCT").is_contradicted


def test_transparency_is_ignored(write_dicom: Write) -> None:
    alpha = np.full((*SCAN.shape[:2], 1), 200, np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.concatenate((SCAN, alpha), axis=2), "RGBA")
    picture.save(buffer, "JPEG2000", no_jp2=True, irreversible=False)
    path = wrapped(write_dicom, buffer.getvalue(), JPEG2000Lossless, 3, "RGB")
    assert np.array_equal(first(path).pixels, SCAN)


def test_the_share_of_colours() -> None:
    assert coloured_share(SCAN) < 0.05
    assert coloured_tissue(SCAN) < 0.1
    green = np.zeros_like(SCAN)
    green[..., 1] = SCAN[..., 1]
    assert coloured_tissue(green) > 0.95
    assert coloured_tissue(np.zeros_like(SCAN)) == 0
    assert coloured_share(np.zeros((0, 4, 3), np.uint8)) == 0
    tinted = (SCAN * (1.0, 0.95, 0.85)).astype(np.uint8)
    assert coloured_tissue(tinted) < 0.1


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1])
def test_real_lossless_jpeg_keeps_its_colours(shared_data: Path, syntax: UID) -> None:
    path = shared_data / "us_dicom" / "JPGLosslessP14SV1_1s_1f_8b.dcm"
    assert dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    assert first(path).flags == ()

"""Whole files: the real ones, the malformed ones, and what must be refused."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.imaging.reader import pixel_sha256, read_frames, read_header, summarise_image

Write = Callable[..., Path]

# name: rows, columns, frames
US_DICOM = {
    "ExplVR_BigEnd": (60, 80, 1),
    "IM00001.fragmented_no_bot_jpeg_baseline.50": (240, 320, 8),
    "IM00001.implicit_little_endian": (240, 320, 8),
    "JPEGExtended_3s_1f_u_08_08": (576, 768, 1),
    "JPGLosslessP14SV1_1s_1f_8b": (768, 1024, 1),
    "OBXXXX1A": (600, 800, 1),
    "OBXXXX1A_2frame": (600, 800, 2),
    "OBXXXX1A_expb": (600, 800, 1),
    "OBXXXX1A_rle": (600, 800, 1),
    "US-RGB-8-esopecho": (120, 256, 1),
    "US-YBR_FULL_422-EVRLE": (555, 800, 1),
    "US1_J2KI": (480, 640, 1),
    "US1_J2KR": (480, 640, 1),
    "US1_RLE": (480, 640, 1),
    "US1_UNCI": (480, 640, 1),
    "US1_UNCR": (480, 640, 1),
    "YBR_FULL-RLE": (480, 640, 1),
    "color-pl": (120, 256, 1),
    "color-px": (120, 256, 1),
    "deid_RGB_IMAGE": (768, 1024, 1),
    "examples_palette": (350, 800, 1),
    "examples_rgb_color": (240, 320, 1),
    "examples_ybr_color": (240, 320, 30),
    "gdcm-US-ALOKA-16": (480, 640, 1),
    "jpeg-ls-Palette": (430, 600, 10),
    "no-pixel-spacing": (600, 800, 1),
}


def first(path: Path) -> Pixels:
    return next(read_frames(path, [1])).pixels


def refused(path: Path, **options: int) -> ErrorCode:
    with pytest.raises(QCError) as caught:
        list(read_frames(path, **options))
    assert "\n" not in caught.value.message
    assert "Secret" not in caught.value.message
    return caught.value.code


def test_the_list_is_that_of_the_folder(shared_data: Path) -> None:
    assert {path.stem for path in (shared_data / "us_dicom").glob("*.dcm")} == set(US_DICOM)


@pytest.mark.parametrize("name", US_DICOM)
def test_real_ultrasound(shared_data: Path, name: str) -> None:
    path = shared_data / "us_dicom" / f"{name}.dcm"
    rows, columns, count = US_DICOM[name]
    header = read_header(path)
    assert (header.rows, header.columns, header.frames) == (rows, columns, count)
    numbers = []
    for frame in read_frames(path):
        numbers.append(frame.number)
        assert frame.pixels.shape == (rows, columns, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.std() > 5
        assert frame.regions
    assert numbers == list(range(1, count + 1))


@pytest.fixture
def cine(shared_data: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(shared_data / "us_dicom" / "deid_GREYSCALE_CINE.zip") as archive:
        return Path(archive.extract("GREYSCALE_CINE.dcm", tmp_path))


def test_the_monochrome_cine(cine: Path) -> None:
    numbers = [frame.number for frame in read_frames(cine)]
    assert numbers == list(range(1, 28))
    stored = dcmread(cine).pixel_array
    for frame in read_frames(cine, [27, 5]):
        assert (frame.pixels == frame.pixels[..., :1]).all()
        # The header's window is about the identity: brightness keeps its order.
        correlation = np.corrcoef(frame.pixels[..., 0].ravel(), stored[frame.number - 1].ravel())
        assert correlation[0, 1] > 0.999


@pytest.mark.parametrize(
    "names",
    [
        ("US1_UNCR", "US1_RLE", "US1_J2KR"),
        ("US1_UNCI", "US1_J2KI"),
        ("color-pl", "color-px", "US-RGB-8-esopecho"),
        ("OBXXXX1A", "OBXXXX1A_expb", "OBXXXX1A_rle"),
    ],
)
def test_one_picture_in_several_syntaxes_has_one_hash(
    shared_data: Path, names: tuple[str, ...]
) -> None:
    assert len({pixel_sha256(shared_data / "us_dicom" / f"{name}.dcm") for name in names}) == 1


def test_a_lossy_copy_differs_little_and_hashes_apart(shared_data: Path) -> None:
    folder = shared_data / "us_dicom"
    native = folder / "IM00001.implicit_little_endian.dcm"
    lossy = folder / "IM00001.fragmented_no_bot_jpeg_baseline.50.dcm"
    for a, b in zip(read_frames(native), read_frames(lossy), strict=True):
        assert np.abs(a.pixels.astype(int) - b.pixels).mean() < 5
    assert pixel_sha256(native) != pixel_sha256(lossy)


def test_jpeg_baseline_as_pillow_decodes_it(shared_data: Path) -> None:
    path = shared_data / "us_dicom" / "examples_ybr_color.dcm"
    streams = list(generate_frames(dcmread(path).PixelData, number_of_frames=30))
    for frame in read_frames(path, [1, 17, 30]):
        expected = np.asarray(Image.open(io.BytesIO(streams[frame.number - 1])).convert("RGB"))
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 1


def test_colour_flow_has_its_colours(shared_data: Path) -> None:
    """Red and blue flow on grey tissue: a picture converted twice, or not at all, has neither."""
    pixels = first(shared_data / "us_dicom" / "color-px.dcm").astype(int)
    red, green, blue = (pixels[..., i] for i in range(3))
    assert ((red > 150) & (green < 90) & (blue < 90)).mean() > 0.01
    assert ((blue > 150) & (red < 90) & (green < 90)).mean() > 0.01
    for name in ("YBR_FULL-RLE", "US-YBR_FULL_422-EVRLE", "JPEGExtended_3s_1f_u_08_08"):
        pixels = first(shared_data / "us_dicom" / f"{name}.dcm").astype(int)
        assert (np.ptp(pixels, axis=2) < 12).mean() > 0.8


def test_malformed_files_give_frames_or_a_reason(shared_data: Path) -> None:
    codes = {}
    for path in sorted((shared_data / "malformed").rglob("*")):
        if path.is_file():
            try:
                codes[path.name] = f"{sum(1 for _ in read_frames(path))} frames"
            except QCError as error:
                codes[path.name] = error.code.value
    assert len(codes) == 37
    assert codes["MR_truncated.dcm"] == ErrorCode.TRUNCATED
    assert codes["badVR.dcm"] == ErrorCode.TOO_SMALL
    assert codes["test-SR.dcm"] == ErrorCode.NOT_AN_IMAGE
    assert codes["zipMR.gz"] == ErrorCode.NOT_AN_IMAGE
    assert codes["image_dfl.dcm"] == codes["MR_small_padded.dcm"] == "1 frames"
    assert {codes[name] for name in codes if name.startswith("chrX")} == {"1 frames"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", ErrorCode.UNREADABLE),
        (b"just some text\n" * 20, ErrorCode.NOT_AN_IMAGE),
        (b"\0" * 128 + b"DICM" + b"\xff" * 40, None),
        (b"\x89PNG\r\n\x1a\n", ErrorCode.UNREADABLE),
        (b"\xff\xd8\xff\xe0nothing", ErrorCode.UNREADABLE),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, code: ErrorCode | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refusal = refused(path)
    assert refusal is code if code else refusal in (ErrorCode.UNREADABLE, ErrorCode.NOT_AN_IMAGE)
    with pytest.raises(QCError):
        read_header(path)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.dcm") is ErrorCode.UNREADABLE
    assert refused(tmp_path) is ErrorCode.UNREADABLE


def test_frames_that_are_not_there(write_dicom: Write, speckle: np.ndarray) -> None:
    assert refused(write_dicom(speckle, PixelData=b"")) is ErrorCode.NO_FRAMES
    assert refused(write_dicom(speckle), numbers=[4]) is ErrorCode.NO_FRAMES
    assert refused(write_dicom(speckle, NumberOfFrames=5)) is ErrorCode.TRUNCATED
    compressed = write_dicom(speckle, syntax=RLELossless, NumberOfFrames=5)
    assert refused(compressed) is ErrorCode.TRUNCATED


def test_sizes(write_dicom: Write, speckle: np.ndarray) -> None:
    assert refused(write_dicom(np.zeros((1, 1, 1), np.uint8), "MONOCHROME2")) is (
        ErrorCode.TOO_SMALL
    )
    assert refused(write_dicom(speckle[:, :31])) is ErrorCode.TOO_SMALL
    assert len(list(read_frames(write_dicom(speckle), max_pixels=48 * 64))) == 3
    assert refused(write_dicom(speckle), max_pixels=48 * 64 - 1) is ErrorCode.TOO_LARGE
    # The header alone is enough to refuse: nothing of this size is ever allocated.
    assert refused(write_dicom(speckle, Rows=65535, Columns=65535)) is ErrorCode.TOO_LARGE


def test_an_unsupported_syntax_is_named(write_dicom: Write, speckle: np.ndarray) -> None:
    path = write_dicom(speckle)
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([b"????"] * 3)
    dataset["PixelData"].is_undefined_length = True
    for uid in ("1.2.840.10008.1.2.4.94", "1.2.3.4.5"):
        dataset.file_meta.TransferSyntaxUID = UID(uid)
        dataset.save_as(path, implicit_vr=False, little_endian=True)
        with pytest.raises(QCError, match=uid) as caught:
            list(read_frames(path))
        assert caught.value.code is ErrorCode.UNSUPPORTED_SYNTAX


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_file_cut_anywhere(write_dicom: Write, speckle: np.ndarray, syntax: str) -> None:
    path = write_dicom(speckle, syntax=syntax)
    whole = path.read_bytes()
    codes = set()
    for share in (0.05, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        codes.add(refused(path))
    assert ErrorCode.TRUNCATED in codes
    assert codes <= {ErrorCode.TRUNCATED, ErrorCode.NOT_AN_IMAGE, ErrorCode.UNREADABLE}


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_header_bytes_give_frames_or_a_reason(
    write_dicom: Write, speckle: np.ndarray, data: st.DataObject, tmp_path: Path
) -> None:
    """Of native data, which no codec touches: those are fuzzed where they may crash, in the child
    (tests/score)."""
    whole = bytearray(write_dicom(speckle[:1]).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, 1000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "0.dcm"
    path.write_bytes(whole)
    try:
        for frame in read_frames(path, max_pixels=10_000_000):
            assert frame.pixels.ndim == 3
    except QCError:
        pass


def test_files_without_preamble_or_meta(write_dicom: Write, speckle: np.ndarray) -> None:
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        path = write_dicom(speckle, syntax=syntax)
        dataset = dcmread(path)
        whole = path.read_bytes()
        start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
        path.write_bytes(whole[start:])
        assert np.array_equal(first(path), speckle[0])
        assert read_header(path).transfer_syntax_uid == syntax


def test_any_character_set(write_dicom: Write, speckle: np.ndarray) -> None:
    path = write_dicom(speckle, SpecificCharacterSet="ISO_IR 192")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"KLINGON-42"))
    assert read_header(path).study_instance_uid == "1.2.3"
    assert np.array_equal(first(path), speckle[0])


def test_the_single_frame_class_with_several_frames(
    write_dicom: Write, speckle: np.ndarray
) -> None:
    path = write_dicom(speckle, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1")
    assert [frame.number for frame in read_frames(path)] == [1, 2, 3]


def test_an_incomplete_header_is_completed(write_dicom: Write, speckle: np.ndarray) -> None:
    path = write_dicom(speckle, PlanarConfiguration=None, PixelRepresentation=None, BitsStored=None)
    assert np.array_equal(first(path), speckle[0])
    single = write_dicom(speckle[:1], NumberOfFrames=None)
    assert read_header(single).frames == 1


def test_fragments_without_offset_table(write_dicom: Write, speckle: np.ndarray) -> None:
    path = write_dicom(speckle, syntax=JPEG2000Lossless)
    dataset = dcmread(path)
    streams = list(generate_frames(dataset.PixelData, number_of_frames=3))
    dataset.PixelData = encapsulate(streams, fragments_per_frame=3, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    for numbers in (None, [2], [1, 3]):
        for frame in read_frames(path, numbers):
            assert np.array_equal(frame.pixels, speckle[frame.number - 1])


def test_hash_is_of_the_pixels(write_dicom: Write, speckle: np.ndarray) -> None:
    same = {
        pixel_sha256(write_dicom(speckle, PatientName=name, syntax=syntax))
        for name, syntax in (
            ("A", ImplicitVRLittleEndian),
            ("B", ExplicitVRBigEndian),
            ("C", RLELossless),
            ("D", JPEG2000Lossless),
        )
    }
    assert len(same) == 1
    changed = speckle.copy()
    changed[2, 47, 63, 2] ^= 1
    turned = np.ascontiguousarray(speckle.reshape(3, 64, 48, 3))
    hashes = {pixel_sha256(write_dicom(stored)) for stored in (changed, turned, speckle[:2])}
    assert len(hashes) == 3
    assert not hashes & same


def test_summary(write_dicom: Write, speckle: np.ndarray) -> None:
    path = write_dicom(speckle)
    summary = summarise_image(path)
    assert (summary.rows, summary.columns, summary.frames) == (48, 64, 3)
    assert summary.pixel_sha256 == pixel_sha256(path)
    assert summary.series_instance_uid == "1.2.3.4"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "jpg"])
def test_pictures(tmp_path: Path, speckle: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(speckle[0]).save(path)
    (frame,) = read_frames(path)
    assert (frame.number, frame.regions[0].bbox) == (1, (0, 0, 64, 48))
    if suffix != "jpg":
        assert np.array_equal(frame.pixels, speckle[0])
    header = read_header(path)
    assert (header.sop_instance_uid, header.rows, header.frames) == (None, 48, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path) in (ErrorCode.TRUNCATED, ErrorCode.DECODE_FAILED, ErrorCode.UNREADABLE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_picture_modes(tmp_path: Path, speckle: np.ndarray, mode: str) -> None:
    path = tmp_path / "picture.tiff"
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 4000, 48 * 64).astype(np.uint16).reshape(48, 64)).save(path)
    else:
        Image.fromarray(speckle[0]).convert(mode).save(path)
    pixels = first(path)
    assert pixels.shape == (48, 64, 3)
    assert pixels.max() - pixels.min() > 200


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    """Stored by undoing what the orientation asks for (CIPA DC-008 4.6.5.2)."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32], upright[:24, 32:] = (250, 10, 10), (10, 250, 10)
    upright[24:, :32] = (10, 10, 250)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    stored.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if suffix == "jpg" else {}))
    (frame,) = read_frames(path)
    assert frame.pixels.shape == (48, 64, 3)
    assert np.abs(frame.pixels.astype(int) - upright).mean() < 4
    header = read_header(path)
    assert (header.rows, header.columns) == (48, 64)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpg"
    Image.new("L", (64, 48), 9).save(path, exif=exif)
    assert first(path).shape == (48, 64, 3)
    broken = path.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0XX")
    path.write_bytes(broken)
    assert first(path).shape == (48, 64, 3)


def test_picture_sizes(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("L", (1, 1)).save(path)
    assert refused(path) is ErrorCode.TOO_SMALL
    Image.new("L", (40, 40)).save(path)
    assert refused(path, max_pixels=1000) is ErrorCode.TOO_LARGE


CODECS = {
    "mpeg2video": ("1.2.840.10008.1.2.4.100", "mpegts"),
    "libx264": ("1.2.840.10008.1.2.4.102", "mpegts"),
    "libx265": ("1.2.840.10008.1.2.4.107", "mp4"),
}


def video(codec: str, container: str) -> bytes:
    """Twelve frames of 256 x 192, each of one brightness, with a red block at the left."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p"
        stream.codec_context.thread_count = 1
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none:pools=1"}
        for number in range(12):
            pixels = np.full((192, 256, 3), 20 * number, np.uint8)
            pixels[40:150, 20:120] = (220, 20, 20)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("codec", CODECS)
def test_video(write_dicom: Write, codec: str) -> None:
    syntax, container = CODECS[codec]
    stream = video(codec, container)
    path = write_dicom(np.zeros((12, 192, 256, 3), np.uint8), "YBR_PARTIAL_420")
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate([stream], fragments_per_frame=3, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(1, 13))
    for frame in frames:
        assert abs(int(frame.pixels[180, 200, 0]) - 20 * (frame.number - 1)) < 12
        assert np.abs(frame.pixels[60:130, 40:100].mean((0, 1)) - (220, 20, 20)).max() < 20
    (chosen,) = read_frames(path, [7])
    assert np.array_equal(chosen.pixels, frames[6].pixels)
    dataset.NumberOfFrames = 14
    dataset.save_as(path)
    assert summarise_image(path).frames == 12
    assert refused(path, numbers=[14]) is ErrorCode.TRUNCATED
    dataset.PixelData = encapsulate([b"\0" * 400], has_bot=False)
    dataset.save_as(path)
    assert refused(path) is ErrorCode.DECODE_FAILED

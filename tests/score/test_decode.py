"""The decoding child: what it gives, and what becomes of a worker whose child goes wrong."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from detector.errors import ErrorCode, QCError
from detector.imaging.reader import read_frames, summarise_image
from qc_daemon.score.decode import DecodeProcess, spread_frames
from training.phantom.dicom import exam

FRAME = np.random.default_rng(3).integers(0, 256, (600, 800, 3), dtype=np.uint8)


def cine(path: Path, count: int, rle: bool = False) -> Path:
    """`count` frames of 600 x 800 RGB noise, which RLE cannot shrink."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = FRAME.shape
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    if rle:
        dataset.compress(RLELossless, FRAME)
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
        dataset.PixelData = encapsulate([frame] * count)
    else:
        dataset.PixelData = FRAME.tobytes() * count
        dataset["PixelData"].VR = "OB"
    dataset.NumberOfFrames = count
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cines")


@pytest.fixture(scope="module")
def short(folder: Path) -> Path:
    return cine(folder / "short.dcm", 6)


@pytest.fixture
def decoder() -> Iterator[DecodeProcess]:
    with DecodeProcess(megabytes=512, seconds=60) as decoder:
        yield decoder


def code_of(caught: pytest.ExceptionInfo[QCError]) -> ErrorCode:
    assert "\n" not in caught.value.message
    return caught.value.code


def test_it_gives_what_the_reader_gives(
    decoder: DecodeProcess, short: Path, shared_data: Path
) -> None:
    aloka = shared_data / "us_dicom" / "gdcm-US-ALOKA-16.dcm"
    cineloop = shared_data / "us_dicom" / "IM00001.fragmented_no_bot_jpeg_baseline.50.dcm"
    for path, numbers in ((short, None), (short, [5, 2]), (aloka, None), (cineloop, [1, 8])):
        assert decoder.summary(path) == summarise_image(path)
        for frame, expected in zip(
            decoder.frames(path, numbers), read_frames(path, numbers), strict=True
        ):
            assert (frame.number, frame.regions) == (expected.number, expected.regions)
            assert np.array_equal(frame.pixels, expected.pixels)
            assert frame.pixels.flags.writeable
            assert not frame.simulated, "a scanner made it"


def test_a_phantom_says_what_it_is(decoder: DecodeProcess, tmp_path: Path) -> None:
    path = tmp_path / "phantom.dcm"
    exam(1, cine_frames=1)[0].save_as(path, enforce_file_format=True)
    assert next(read_frames(path)).simulated
    assert next(decoder.frames(path)).simulated


def test_errors_come_through_and_the_child_stays(
    decoder: DecodeProcess, short: Path, tmp_path: Path
) -> None:
    child = decoder.pid
    text = tmp_path / "text.dcm"
    text.write_text("no image")
    with pytest.raises(QCError) as caught:
        decoder.summary(text)
    assert code_of(caught) is ErrorCode.NOT_AN_IMAGE
    with pytest.raises(QCError) as caught:
        list(decoder.frames(short, [99]))
    assert code_of(caught) is ErrorCode.NO_FRAMES
    assert decoder.summary(short).frames == 6
    assert decoder.pid == child


@pytest.mark.parametrize("rle", [False, True])
def test_a_long_cine_needs_the_memory_of_a_few_frames(folder: Path, rle: bool) -> None:
    """200 MB of frames pass through a child that may take 48."""
    path = cine(folder / "long.dcm", 140, rle)
    with DecodeProcess(megabytes=48) as decoder:
        assert decoder.summary(path).frames == 140
        (frame,) = decoder.frames(path, [139])
        assert np.array_equal(frame.pixels, FRAME)
    path.unlink()


def test_too_much_memory(short: Path, tmp_path: Path) -> None:
    path = tmp_path / "vast.png"
    Image.new("L", (5000, 5000)).save(path)
    with DecodeProcess(megabytes=64) as decoder:
        for _ in range(2):
            with pytest.raises(QCError) as caught:
                decoder.summary(path)
            assert code_of(caught) is ErrorCode.DECODE_MEMORY
        assert decoder.summary(short).frames == 6


def test_too_many_pixels(short: Path) -> None:
    with DecodeProcess(max_pixels=600 * 800 - 1) as decoder, pytest.raises(QCError) as caught:
        list(decoder.frames(short))
    assert code_of(caught) is ErrorCode.TOO_LARGE


def test_a_hanging_child_is_replaced(short: Path) -> None:
    with DecodeProcess(seconds=1) as decoder:
        hung = decoder.pid
        assert hung
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(QCError) as caught:
            decoder.summary(short)
        assert code_of(caught) is ErrorCode.DECODE_TIMEOUT
        assert not Path(f"/proc/{hung}").exists()
        assert decoder.pid is None


def test_the_callers_own_time_does_not_count(short: Path) -> None:
    with DecodeProcess(seconds=3) as decoder:
        numbers = []
        for frame in decoder.frames(short):
            numbers.append(frame.number)
            time.sleep(0.6)
    assert numbers == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_in_the_midst(
    decoder: DecodeProcess, short: Path, death: signal.Signals
) -> None:
    frames = decoder.frames(short)
    next(frames)
    assert decoder.pid
    os.kill(decoder.pid, death)
    with pytest.raises(QCError, match=death.name) as caught:
        list(frames)
    assert code_of(caught) is ErrorCode.DECODE_FAILED
    assert len(list(decoder.frames(short))) == 6


def test_a_child_that_died_while_idle_is_replaced(decoder: DecodeProcess, short: Path) -> None:
    child = decoder.pid
    assert child
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert decoder.summary(short).frames == 6
    assert decoder.pid != child


def test_leaving_a_cine_early(decoder: DecodeProcess, short: Path) -> None:
    for frame in decoder.frames(short):
        assert frame.number == 1
        break
    frames = decoder.frames(short, [2, 3])
    assert next(frames).number == 2
    with pytest.raises(RuntimeError):
        decoder.summary(short)
    frames.close()
    assert decoder.summary(short).frames == 6


def test_closing(short: Path) -> None:
    decoder = DecodeProcess()
    assert decoder.pid is None
    assert decoder.summary(short).frames == 6
    child = decoder.pid
    decoder.close()
    decoder.close()
    assert decoder.pid is None
    assert not Path(f"/proc/{child}").exists()


def test_the_child_is_small_and_knows_no_secrets(
    decoder: DecodeProcess, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.close()
    for name in ("QC_DAEMON_STORE__URL", "PGPASSWORD", "AWS_SESSION_TOKEN", "HTTPS_PROXY", "X"):
        monkeypatch.setenv(name, "postgresql://user:Pa55phrase@host/db")
    decoder.summary(short)
    process = Path(f"/proc/{decoder.pid}")
    assert "torch" not in (process / "maps").read_text()
    assert b"Pa55phrase" not in (process / "environ").read_bytes()


def test_a_child_that_cannot_be_started_is_an_error_and_tried_again(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handles(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as without:
        without.setattr(subprocess, "Popen", no_handles)
        decoder = DecodeProcess()
        with pytest.raises(QCError, match="too many open files") as caught:
            decoder.summary(short)
    assert code_of(caught) is ErrorCode.INTERNAL
    with decoder:
        assert decoder.summary(short).frames == 6


def jpeg2000() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FRAME[..., 0]).save(buffer, "JPEG2000", no_jp2=True, irreversible=False)
    return buffer.getvalue()


SIZ = {"X": (8, 4), "Y": (12, 4), "XT": (24, 4), "YT": (28, 4), "C": (40, 2), "S": (42, 1)}
"""Place and width of fields in a codestream that begins with SOC and SIZ (T.800 A.5.1)."""
BOMBS: dict[str, dict[str, int]] = {
    "a size of 2^31": {"X": 2**31, "Y": 2**31},
    "no tile size": {"XT": 0, "YT": 0},
    "a tile for each pixel": {"XT": 1, "YT": 1},
    "16384 components": {"C": 16384},
    "no components": {"C": 0},
    "38 bits": {"S": 37},
}


@pytest.mark.parametrize("name", BOMBS)
def test_codestreams_that_claim_too_much_end_with_a_reason(
    decoder: DecodeProcess, short: Path, tmp_path: Path, name: str
) -> None:
    stream = bytearray(jpeg2000())
    assert stream.startswith(b"\xff\x4f\xff\x51")
    for field, value in BOMBS[name].items():
        at, width = SIZ[field]
        stream[at : at + width] = value.to_bytes(width, "big")
    path = cine(tmp_path / "bomb.dcm", 1)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset.save_as(path)
    with pytest.raises(QCError) as caught:
        decoder.summary(path)
    assert code_of(caught) is ErrorCode.DECODE_FAILED
    assert decoder.summary(short).frames == 6


def test_a_file_that_may_not_be_read_says_so(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so that the system's answer is made here."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(QCError, match="Permission denied") as caught:
        next(read_frames(short))
    assert code_of(caught) is ErrorCode.UNREADABLE


PARENT = """
import os, sys
from qc_daemon.score.decode import DecodeProcess
decoder = DecodeProcess()
with decoder:
    print(decoder.pid, flush=True)
    os.kill(decoder.pid, 19)
    sys.stdin.read()
"""


def test_the_child_dies_with_its_parent() -> None:
    """Even a child that no longer runs, when the parent is killed outright."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 20
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def outcome(decoder: DecodeProcess, path: Path) -> str:
    try:
        return f"{decoder.summary(path).frames} frames"
    except QCError as error:
        return error.message


def test_every_real_and_malformed_file_leaves_the_child_alive(
    decoder: DecodeProcess, shared_data: Path
) -> None:
    child = decoder.pid
    for path in sorted((*shared_data.glob("us_dicom/*"), *shared_data.glob("malformed/**/*"))):
        assert "the decoder" not in outcome(decoder, path)
    assert decoder.pid == child


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[DecodeProcess]:
    with DecodeProcess(megabytes=512, seconds=20, max_pixels=4_000_000) as decoder:
        yield decoder


@pytest.mark.parametrize(
    "name", ["ExplVR_BigEnd", "US1_J2KI", "OBXXXX1A_rle", "JPEGExtended_3s_1f_u_08_08"]
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_give_frames_or_a_reason(
    fuzzed: DecodeProcess, shared_data: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """A codec may crash on them, in the child only; our own code may not."""
    whole = bytearray((shared_data / "us_dicom" / f"{name}.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 3000))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "flipped.dcm"
    path.write_bytes(whole)
    assert "the decoder failed with" not in outcome(fuzzed, path)


@given(st.integers(1, 500), st.integers(0, 500))
def test_spread(count: int, number_of_frames: int) -> None:
    numbers = spread_frames(count, number_of_frames)
    assert len(numbers) == (min(number_of_frames, count) or count)
    assert list(numbers) == sorted(set(numbers))
    assert numbers[0] >= 1
    assert numbers[-1] <= count
    # As far from the first as from the last, and no gap twice another but for rounding.
    assert abs((numbers[0] - 1) - (count - numbers[-1])) <= 1
    gaps = np.diff(numbers)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_spread_takes_the_middle() -> None:
    assert spread_frames(1, 16) == (1,)
    assert spread_frames(30, 1) == (16,)
    assert spread_frames(100, 4) == (13, 38, 63, 88)

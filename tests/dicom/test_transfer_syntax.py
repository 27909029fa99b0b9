"""Encoding anew: the same values, no pixel touched, and no more memory than is allowed."""

import collections
import io
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.transfer_syntax import CONVERTIBLE, alternatives, reencode
from qc_daemon.score.convert import Converter
from qc_daemon.settings import ScoreSettings
from qc_daemon.spool import verification
from tests.support.dicom_objects import part10, ultrasound

MEGABYTE = 1 << 20


def inflating(megabytes: int) -> bytes:
    """A deflated object of one element after the others, that grows a thousandfold."""
    small = part10(ultrasound(syntax=ExplicitVRLittleEndian))
    header = small[small.index(b"\x08\x00\x16\x00UI") : small.index(b"\xe0\x7f\x10\x00")]
    length = megabytes * MEGABYTE
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(header + b"\xe0\x7f\x10\x00OB\x00\x00" + length.to_bytes(4, "little"))
    block = bytes(MEGABYTE)
    body += b"".join(deflate.compress(block) for _ in range(megabytes)) + deflate.flush()
    head = part10(ultrasound(syntax=DeflatedExplicitVRLittleEndian))
    group = 144 + int.from_bytes(head[140:144], "little")
    return head[:group] + body


@pytest.mark.parametrize("own", CONVERTIBLE)
def test_the_values_and_pixels_stay(tmp_path: Path, own: str) -> None:
    dataset = ultrasound(syntax=own)
    path = tmp_path / "object"
    path.write_bytes(part10(dataset))
    for other in alternatives(own):
        converted = dcmread(io.BytesIO(b"".join(reencode(path, other))))
        assert converted.file_meta.TransferSyntaxUID == other
        assert converted.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert values(converted) == values(dataset)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    pixels=st.binary(min_size=256, max_size=256),
    name=st.text(st.characters(codec="ascii", exclude_characters="\\^=", min_codepoint=32)),
)
def test_there_and_back_is_the_same(tmp_path: Path, pixels: bytes, name: str) -> None:
    path, back = tmp_path / "object", tmp_path / "back"
    name = name[:60].strip()
    path.write_bytes(part10(ultrasound(pixels=pixels, PatientName=name)))
    back.write_bytes(b"".join(reencode(path, ImplicitVRLittleEndian)))
    again = dcmread(io.BytesIO(b"".join(reencode(back, ExplicitVRLittleEndian))))
    assert values(again) == values(dcmread(path))


def test_a_compressed_object_stays_as_it_is(tmp_path: Path) -> None:
    assert alternatives(JPEGBaseline8Bit) == []
    path = tmp_path / "object"
    path.write_bytes(part10(jpeg()))
    with pytest.raises(QCError) as caught:
        list(reencode(path, ExplicitVRLittleEndian))
    assert caught.value.code is ErrorCode.UNSUPPORTED_SYNTAX


def jpeg() -> Dataset:
    dataset = ultrasound(syntax=JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([b"compressed, never decoded here"])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def values(dataset: Dataset) -> dict[int, object]:
    """By tag; that pixels are OB or OW is lost where no VR is written."""
    return {int(element.tag): element.value for element in dataset}


@pytest.mark.parametrize("other", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_what_grows_beyond_measure_is_not_inflated(tmp_path: Path, other: str) -> None:
    path = tmp_path / "object"
    path.write_bytes(inflating(200))
    assert path.stat().st_size < MEGABYTE
    blocks = reencode(path, other)
    with pytest.raises(QCError) as caught:
        collections.deque(blocks, maxlen=0)
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_what_grows_as_pictures_do_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(inflating(20))
    size = sum(len(block) for block in reencode(path, ExplicitVRLittleEndian))
    assert 20 * MEGABYTE < size < 21 * MEGABYTE


def test_a_deflated_object_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(part10(ultrasound(syntax=DeflatedExplicitVRLittleEndian))[:-60])
    with pytest.raises(QCError) as caught:
        list(reencode(path, ExplicitVRLittleEndian))
    assert caught.value.code is ErrorCode.TRUNCATED


class TestConverter:
    """The same in a child of its own."""

    def test_one_file_after_the_other(self, tmp_path: Path) -> None:
        converter = Converter(ScoreSettings(), tmp_path)
        for number in range(2):
            dataset = ultrasound()
            path = tmp_path / str(number)
            path.write_bytes(part10(dataset))
            with converter(path, None, ImplicitVRLittleEndian) as converted:
                assert values(dcmread(converted)) == values(dataset)
                assert len(list(tmp_path.iterdir())) == number + 1
        converter.close()

    def test_errors_leave_nothing_behind(self, tmp_path: Path) -> None:
        converter = Converter(ScoreSettings(), tmp_path)
        path = tmp_path / "object"
        path.write_bytes(inflating(200))
        with (
            pytest.raises(QCError) as caught,
            converter(path, None, ExplicitVRLittleEndian),
        ):
            pass
        assert caught.value.code is ErrorCode.TOO_LARGE
        with pytest.raises(QCError) as caught, converter(path, "0" * 64, ExplicitVRLittleEndian):
            pass
        assert caught.value.code is ErrorCode.SPOOL_DAMAGED
        assert list(tmp_path.iterdir()) == [path]
        converter.close()

    def test_a_full_disk_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.TemporaryFile", full)
        with (
            pytest.raises(QCError, match="no space left") as caught,
            Converter(ScoreSettings(), tmp_path)(tmp_path, None, ExplicitVRLittleEndian),
        ):
            pass
        assert caught.value.code is ErrorCode.DELIVERY_RESOURCES


def test_the_hash_in_a_name() -> None:
    assert verification.hash_in_name(Path("ab") / ("ab" * 32 + ".dcm")) == "ab" * 32
    assert verification.hash_in_name(Path("1.2.3.dcm")) is None

"""The SR and overlays of one file, written without the service."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.files import ReportWriter
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.sr.parse import parse_findings

Make = Callable[..., Any]
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"


def black(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
    for number in numbers:
        yield Frame(number, np.zeros((120, 160, 3), np.uint8), ())


def never(*_arguments: Any) -> Any:
    raise AssertionError("a frame was decoded")


def test_a_valid_report_holds_the_findings(
    tmp_path: Path,
    us_header: Make,
    a_finding: Make,
    dciodvfy: Callable[[Path], list[str]],
    dsrdump: Callable[[Path], str],
) -> None:
    header = us_header(SOPClassUID=MULTI_FRAME, NumberOfFrames=3)
    path = tmp_path / "Müller_4711.dcm"
    path.write_bytes(to_bytes(header))
    source = SourceInstance.of(header, "")
    # As scoring has them: with the path, which is not told.
    findings = [replace(a_finding(source, frame=n), source=str(path)) for n in (1, 3)]
    ReportWriter(sr=tmp_path / "out" / "sr")(path, findings, never)
    (written,) = (tmp_path / "out" / "sr").iterdir()
    assert dciodvfy(written) == []
    assert "Comprehensive 3D SR Document" in dsrdump(written)
    assert parse_findings(written.read_bytes()) == [
        a_finding(source, frame=frame) for frame in (1, 3)
    ]
    assert written.name == f"{dcmread(written).SOPInstanceUID}.dcm"
    assert path.name not in str(dcmread(written))


def test_names_follow_from_the_whole_file_and_are_not_the_services(
    tmp_path: Path, us_header: Make, a_finding: Make
) -> None:
    def written(preamble: bytes) -> str:
        path = tmp_path / "a.dcm"
        path.write_bytes(preamble + to_bytes(us_header())[128:])
        out = tmp_path / preamble[:1].hex()
        ReportWriter(sr=out)(path, [a_finding(SourceInstance.of(us_header(), ""))], never)
        return next(out.iterdir()).stem

    content = to_bytes(us_header())
    source = SourceInstance.of(us_header(), sha256(content).hexdigest())
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    service = build_sr([source], [a_finding(source)], revision=1, created=moment)
    names = {written(b"\0" * 128), written(b"x" * 128), str(service.SOPInstanceUID)}
    assert len(names) == 3


def test_overlays_show_the_best_of_each_view(
    tmp_path: Path, us_header: Make, a_finding: Make
) -> None:
    header = us_header(SOPClassUID=MULTI_FRAME, NumberOfFrames=3)
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(header))
    source = SourceInstance.of(header, "")
    findings = [a_finding(source, frame=n, probability=p) for n, p in ((1, 0.1), (2, 0.8))]
    write = ReportWriter(overlay=tmp_path / "overlays")
    write(path, findings, black)
    write(path, findings, black)
    (written,) = (tmp_path / "overlays").iterdir()
    assert dcmread(written).SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"


def test_a_plain_picture_has_no_report(tmp_path: Path, a_source: Make, a_finding: Make) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(QCError, match="needs a DICOM file") as caught:
        ReportWriter(sr=tmp_path / "sr")(path, [a_finding(a_source())], never)
    assert caught.value.code is ErrorCode.REPORT_INVALID
    assert not (tmp_path / "sr").exists()


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, us_header: Make, a_finding: Make
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(us_header()))
    with pytest.raises(QCError, match="cannot be written") as caught:
        ReportWriter(sr=path)(path, [a_finding(SourceInstance.of(us_header(), ""))], never)
    assert caught.value.code is ErrorCode.STORAGE

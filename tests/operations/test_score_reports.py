"""`score --sr --overlay` as a user types it, with the shipped bundle."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread

from detector.anatomy import View
from model.finding import Finding
from qc_daemon.report.sr.parse import parse_findings
from qc_daemon.spool.private_files import is_open_to_others
from tests.support.command_line import qc_daemon
from tests.support.report_objects import assert_same_findings
from tests.support.socket_guard import SocketGuard
from training.phantom.dicom import exam

pytestmark = pytest.mark.timeout(900)


def test_reports_and_overlays_beside_the_findings(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    guard = SocketGuard(tmp_path_factory.mktemp("guard"))
    (picture,) = exam(90, views=(View.NT,), cine_frames=0)[:1]
    picture.save_as(tmp_path / "nt.dcm", enforce_file_format=True)
    Image.new("RGB", (640, 480)).save(tmp_path / "plain.png")
    process = qc_daemon(
        *("score", tmp_path / "plain.png", tmp_path / "nt.dcm", "--format", "jsonl"),
        *("--sr", tmp_path / "sr", "--overlay", tmp_path / "overlays"),
        environment=guard.environment,
    )
    # No address but loopback is asked for, in the decode child either.
    assert any("decode_child" in line for line in guard.processes())
    assert guard.outside() == []
    # The picture was scored, but nothing can be made of it.
    assert process.returncode == 1, process.stderr
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    (error,) = (row["error"] for row in rows if "error" in row)
    assert error["message"].startswith("an SR or overlay needs a DICOM file")
    assert "\n" not in error["message"]
    findings = [Finding.from_json(row) for row in rows if row.get("sop_instance_uid")]
    assert findings
    (report,) = (tmp_path / "sr").iterdir()
    assert dciodvfy(report) == []
    assert_same_findings(parse_findings(report.read_bytes()), findings)
    overlays = list((tmp_path / "overlays").iterdir())
    assert overlays
    assert not any(is_open_to_others(each) for each in (tmp_path / "sr", tmp_path / "overlays"))
    for path in (report, *overlays):
        assert not is_open_to_others(path)
        header = dcmread(path, stop_before_pixels=True)
        assert header.PatientID == picture.PatientID
        assert path.name == f"{header.SOPInstanceUID}.dcm"

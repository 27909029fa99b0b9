"""`qc-daemon demo`: the main job as a newcomer sees it."""

from pathlib import Path

import pytest
from pydicom import dcmread

from qc_daemon.cli.demo import list_real_files
from qc_daemon.report.sr.parse import parse_findings
from tests.support.command_line import qc_daemon
from tests.support.socket_guard import SocketGuard


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "out"
    environment = SocketGuard(out.parent).environment
    # Some frames of each cine are as good as the sixteen that are scored by default.
    process = qc_daemon(
        *("demo", "--out", out), environment=environment | {"QC_DAEMON_SCORE__CINE_FRAMES": "2"}
    )
    assert process.returncode == 0, process.stderr
    return out, process.stdout


def test_it_shows_every_object(demo: tuple[Path, str]) -> None:
    _, output = demo
    assert "Not for clinical use" in output
    for name in [f"phantom_{n:02d}.dcm" for n in range(1, 10)] + [
        p.name for p in list_real_files()
    ]:
        assert name in output


def test_srs_hold_the_findings(demo: tuple[Path, str]) -> None:
    out, _ = demo
    reported = [
        f for p in sorted((out / "results").glob("sr_*.dcm")) for f in parse_findings(dcmread(p))
    ]
    sources = {f.sop_instance_uid for f in reported}
    stored = {str(dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in _sent(out)}
    assert sources == stored


def test_originals_reach_the_pacs_unchanged(demo: tuple[Path, str]) -> None:
    out, _ = demo
    for path in _sent(out):
        original = dcmread(path)
        arrived = dcmread(out / "pacs" / f"{original.SOPInstanceUID}.dcm")
        assert arrived == original


def test_the_page_needs_nothing_from_outside(demo: tuple[Path, str]) -> None:
    out, _ = demo
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    for forbidden in ('src="http', "src='http", 'href="http', "@import", "<script src"):
        assert forbidden not in page
    assert "Not for clinical use" in page


def test_no_address_outside_was_tried(demo: tuple[Path, str]) -> None:
    guard = SocketGuard(demo[0].parent)
    for part in ("demo", "serve", "roles receive", "roles work", "roles deliver", "decode_child"):
        assert any(part in line for line in guard.processes())
    assert guard.outside() == []


def test_overlays_are_pictures(demo: tuple[Path, str]) -> None:
    out, _ = demo
    assert len(list((out / "results").glob("overlay_*.png"))) >= 9


def _sent(out: Path) -> list[Path]:
    return [*sorted((out / "exam").glob("*.dcm")), *list_real_files()]

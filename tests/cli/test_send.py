"""Storing files as `qc-daemon send` does."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, StoragePresentationContexts, evt
from rich.console import Console

from detector.console import UsageError
from qc_daemon.cli.send import parse_address, send, send_with_progress
from tests.support.command_line import qc_daemon_here
from tests.support.dicom_objects import US_RETIRED, ultrasound, write
from tests.support.pacs import Pacs
from tests.support.ports import reserve_port


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs().start()
    yield pacs
    pacs.stop()


def to(pacs: Pacs) -> str:
    return f"PACS@127.0.0.1:{pacs.port}"


def test_a_folder_is_sent_and_each_file_listed(tmp_path: Path, pacs: Pacs) -> None:
    objects = [ultrasound() for _ in range(3)]
    paths = write(tmp_path / "exam", *objects)
    (tmp_path / "exam" / "notes.txt").write_text("not DICOM")
    ticks: list[tuple[int, int]] = []
    report = send([tmp_path / "exam"], to(pacs), progress=lambda *tick: ticks.append(tick))
    assert report.stored == paths
    assert report.is_complete
    assert [each.name for each in report.skipped] == ["notes.txt"]
    assert pacs.uids() == [each.SOPInstanceUID for each in objects]
    assert ticks == [(0, 3), (1, 3), (2, 3), (3, 3)]
    named = send([tmp_path / "exam" / "notes.txt"], to(pacs))
    assert [(each.path.name, each.reason) for each in named.failed] == [
        ("notes.txt", "not a DICOM file")
    ]


def test_refused_object_stops_no_other(tmp_path: Path, pacs: Pacs) -> None:
    paths = write(tmp_path, ultrasound(sop_class=US_RETIRED), ultrasound())
    report = send(paths, to(pacs))
    assert report.stored == paths[1:]
    assert "accepts no presentation context" in report.failed[0].reason


def test_unreachable_receiver_is_not_tried_for_every_file(tmp_path: Path) -> None:
    paths = write(tmp_path, *(ultrasound() for _ in range(4)))
    ticks: list[tuple[int, int]] = []
    report = send(
        paths,
        f"PACS@127.0.0.1:{reserve_port()}",
        progress=lambda *tick: ticks.append(tick),
        timeout=5,
    )
    assert max(ticks) < (4, 4)
    assert (report.stored, report.failed, report.not_sent) == ([], [], paths)
    assert "cannot be reached: connection refused" in report.stop_reason


class Rejecting:
    """A receiver that rejects every association after so many, for an AE title (PS3.8 9.3.4)."""

    def __init__(self, known: str) -> None:
        self.attempts = 0
        self._ae = AE("ARCHIVE")
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = [known]
        self._ae.supported_contexts = StoragePresentationContexts
        handlers = [(evt.EVT_CONN_OPEN, self._count), (evt.EVT_C_STORE, lambda _event: 0x0000)]
        self.server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)

    def _count(self, _event: object) -> None:
        self.attempts += 1


@pytest.fixture
def archive() -> Iterator[Rejecting]:
    archive = Rejecting("KNOWN")
    yield archive
    archive.server.shutdown()


@pytest.mark.parametrize(
    ("calling", "called", "words"),
    [
        ("OTHER", "ARCHIVE", ["does not know our AE title OTHER", "--calling"]),
        ("KNOWN", "WRONG", ["the AE title that it was called by, WRONG", "--to"]),
    ],
)
def test_a_rejected_association_is_one_failure_with_both_titles_and_the_fix(
    tmp_path: Path, archive: Rejecting, calling: str, called: str, words: list[str]
) -> None:
    paths = write(tmp_path / "exam", *(ultrasound() for _ in range(5)))
    to = f"{called}@127.0.0.1:{archive.server.server_address[1]}"
    process = qc_daemon_here("send", tmp_path / "exam", "--to", to, "--calling", calling)
    assert process.returncode == 1
    lines = [line for line in process.stderr.splitlines() if "rejected" in line]
    assert len(lines) == 1, process.stderr
    for word in (calling, called, *words):
        assert word in lines[0]
    assert f"0 stored, 0 failed, {len(paths)} not sent" in process.stderr
    assert archive.attempts == 1


def test_the_result_is_printed_on_the_terminal(tmp_path: Path, pacs: Pacs) -> None:
    write(tmp_path / "exam", ultrasound())
    out = io.StringIO()
    assert send_with_progress([tmp_path], to(pacs), "QCSEND", Console(file=out, width=200))
    assert "1 stored, 0 failed\n" in out.getvalue()
    (tmp_path / "truth.json").write_text("{}")
    assert send_with_progress([tmp_path], to(pacs), "QCSEND", Console(file=out, width=200))
    assert "1 stored, 0 failed, 1 skipped (no DICOM)\n" in out.getvalue()
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"rubbish")
    assert not send_with_progress([tmp_path], to(pacs), "QCSEND", Console(file=out, width=200))
    assert "1 stored, 1 failed" in out.getvalue()


def test_missing_path_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        send([tmp_path / "none"], "PACS@127.0.0.1:104")


@pytest.mark.parametrize(
    "text",
    ["", "PACS", "PACS@host", "@host:104", "PACS@:104", "PACS@host:x", "PACS@host:0",
     "PACS@host:70000", "A" * 17 + "@host:104"],
)  # fmt: skip
def test_bad_address_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--to"):
        parse_address(text)


def test_address() -> None:
    assert parse_address("QCDAEMON@127.0.0.1:11112") == ("QCDAEMON", "127.0.0.1", 11112)
    assert parse_address("MY AE@[::1]:104") == ("MY AE", "::1", 104)

"""DCMTK's `dcmsend` as the modality."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

SUCCESS = "0x0000"


@dataclass(frozen=True)
class SendResult:
    """One line of its report: the file, and the DIMSE status ("" if it never went out)."""

    path: Path
    sop_instance_uid: str
    status: str


def dcmsend(program: str, port: int, files: list[Path], report: Path) -> list[SendResult]:
    """Store the files as they are encoded, in one association; what became of each.

    A compressed object is proposed in its own transfer syntax only. Among uncompressed ones
    dcmsend takes what the receiver accepts first, so that headers may change their encoding.
    """
    how = ["-v", "--decompress-never", "--no-halt", "--call", "QCDAEMON"]
    # A receiver on a busy machine may be slow to answer its first caller.
    how += ["--acse-timeout", "300"]
    report_option = ["--create-report-file", str(report)]
    process = subprocess.run(
        [program, *how, *report_option, "127.0.0.1", str(port), *map(str, files)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )
    assert report.exists(), process.stdout + process.stderr
    return [
        _send_result(block) for block in report.read_text(errors="replace").split("\n\nNumber ")[1:]
    ]


def _send_result(block: str) -> SendResult:
    facts = dict(re.findall(r"^(\w[\w ./]*?) *: (.*)$", block, re.MULTILINE))
    return SendResult(
        Path(facts["Filename"]),
        facts["SOP Instance"].split(" ")[0],
        facts.get("DIMSE Status", "").split(" ")[0],
    )

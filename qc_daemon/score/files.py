"""Score files without a network or a database."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from model.bundle.bundle import Bundle
from model.finding import Finding
from model.judge import Judge
from qc_daemon.score.decode import DecodeProcess, chosen_frames
from qc_daemon.score.findings import findings_of
from qc_daemon.settings import ScoreSettings

FrameReader = Callable[[Path, Sequence[int]], Iterable[Frame]]
Teller = Callable[[Path, Sequence[Finding], FrameReader], None]
"""Tells of a file's findings; raises QCError if it cannot."""


def files_under(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those below folders, in a fixed order."""
    found: list[Path] = []
    for path in paths:
        found.extend(sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    return found


def score_files(
    paths: Sequence[Path], settings: ScoreSettings, tell: Teller | None = None
) -> Iterator[dict[str, Any]]:
    """Finding objects, or {"source", "error"} for a file that cannot be scored, or of which `tell`
    could not tell; of a frame that cannot be decoded while others can, with its "frame"."""
    files = files_under(paths)
    judge = Judge.open(Bundle.open(settings.bundle), settings.device, settings.augment)
    with DecodeProcess.of(settings) as decoder:
        for path in files:
            try:
                findings = _score(path, judge, decoder, settings.cine_frames)
                yield from (finding.to_json() for finding in findings)
                if findings:
                    yield from _unreadable(path, findings[0])
                if tell is not None:
                    tell(path, findings, decoder.frames)
            except QCError as error:
                yield _refused(path, error)


def _score(path: Path, judge: Judge, decoder: DecodeProcess, cine_frames: int) -> list[Finding]:
    if not path.is_file():
        raise QCError(ErrorCode.UNREADABLE, "no such file")
    summary = decoder.summary(path)
    return findings_of(
        decoder.frames(path, chosen_frames(summary, cine_frames)),
        judge,
        source=str(path),
        study_instance_uid=summary.study_instance_uid,
        series_instance_uid=summary.series_instance_uid,
        sop_instance_uid=summary.sop_instance_uid,
        bad_frames=summary.bad_frames,
    )


def _unreadable(path: Path, finding: Finding) -> Iterator[dict[str, Any]]:
    for each in finding.unreadable_frames:
        yield {
            "source": str(path),
            "frame": each.frame,
            "error": {"code": each.code, "message": each.message},
        }


def _refused(path: Path, error: QCError) -> dict[str, Any]:
    return {
        "source": str(path),
        "error": {"code": error.code.value, "message": error.message},
    }

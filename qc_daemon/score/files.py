"""Score files without a network or a database."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from model.bundle.bundle import Bundle
from model.device import device_failure
from model.finding import BundleId, Finding
from model.judge import Judge
from model.site.names import is_same_site
from model.site.record import SiteRecord
from model.site.use import SiteUse
from qc_daemon.score.decode import DecodeProcess, choose_frames
from qc_daemon.score.findings import judge_frames
from qc_daemon.score.models import open_judge
from qc_daemon.settings import ScoreSettings

FrameReader = Callable[[Path, Sequence[int]], Iterable[Frame]]
FindingsWriter = Callable[[Path, Sequence[Finding], FrameReader], None]
"""Writes what is made of a file's findings, as reports; raises QCError if it cannot."""


def list_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those below folders, in a fixed order."""
    files: list[Path] = []
    for path in paths:
        files.extend(sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    return files


def score_files(
    paths: Sequence[Path],
    settings: ScoreSettings,
    write_report: FindingsWriter | None = None,
    site: SiteRecord | None = None,
) -> Iterator[dict[str, Any]]:
    """Finding objects, and {"source", "error"} for each file that cannot be scored or whose
    `write_report` failed; with "frame" for a frame that cannot be decoded while others can.

    A picture that memory is not enough for is such a file; a device that fails raises QCError.

    `site` is the calibration of the place that the files are from; a file whose header names
    another institution is not calibrated by it and carries the flag not-commissioned. Raises
    UsageError where it was fitted on another bundle."""
    files = list_files(paths)
    bundle = Bundle.open(settings.bundle)
    if site is not None:
        check_bundle(site, bundle.id)
    judge = open_judge(bundle, settings)
    with DecodeProcess.of(settings) as decoder:
        for path in files:
            try:
                findings = _score(path, judge, decoder, settings.cine_frames, site)
                yield from (finding.to_json() for finding in findings)
                if findings:
                    yield from _unreadable_frames(path, findings[0])
                if write_report is not None:
                    write_report(path, findings, decoder.frames)
            except QCError as error:
                failure = error
            except (RuntimeError, MemoryError) as error:
                memory_failure = device_failure(error)
                if memory_failure is None:
                    raise
                if memory_failure.code is ErrorCode.DEVICE_UNAVAILABLE:
                    raise memory_failure from error
                failure = memory_failure
            else:
                continue
            # Out of the handler, whose traceback keeps the picture's tensors.
            yield _error_object(path, failure)


def check_bundle(site: SiteRecord, bundle: BundleId) -> None:
    """Raises UsageError where the site calibration was fitted on another bundle."""
    if site.bundle.model_id != bundle.model_id:
        raise UsageError(
            f"the site calibration {site.id} was fitted on bundle {site.bundle.name}"
            f" {site.bundle.version} ({site.bundle.model_id[:12]}), not on {bundle.name}"
            f" {bundle.version} ({bundle.model_id[:12]}): fit it again, or name its bundle with"
            " --bundle"
        )


def is_elsewhere(finding: Mapping[str, Any], site: SiteRecord) -> bool:
    """Whether a finding object is of another institution than the calibration's."""
    facts = finding.get("site")
    return facts is not None and not is_same_site(facts["id"], site.site)


def _score(
    path: Path, judge: Judge, decoder: DecodeProcess, cine_frames: int, site: SiteRecord | None
) -> list[Finding]:
    if not path.is_file():
        raise QCError(ErrorCode.UNREADABLE, "no such file")
    summary, acquisition = decoder.summary_and_acquisition(path)
    use = None if site is None else SiteUse.of_record(site, acquisition.institution)
    return judge_frames(
        decoder.frames(path, choose_frames(summary, cine_frames)),
        judge,
        source=str(path),
        study_instance_uid=summary.study_instance_uid,
        series_instance_uid=summary.series_instance_uid,
        sop_instance_uid=summary.sop_instance_uid,
        bad_frames=summary.bad_frames,
        site=use,
    )


def _unreadable_frames(path: Path, finding: Finding) -> Iterator[dict[str, Any]]:
    for each in finding.unreadable_frames:
        yield {
            "source": str(path),
            "frame": each.frame,
            "error": {"code": each.code, "message": each.message},
        }


def _error_object(path: Path, error: QCError) -> dict[str, Any]:
    return {
        "source": str(path),
        "error": {"code": error.code.value, "message": error.message},
    }

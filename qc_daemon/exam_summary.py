"""The summary of a stored exam, written to a file when someone asks for it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from detector.codes import ErrorCode, QCError
from detector.console import UsageError
from qc_daemon.operate import open_store
from qc_daemon.records import exams, rejections
from qc_daemon.report.html import summary_html
from qc_daemon.report.language import LANGUAGES
from qc_daemon.report.page import compose
from qc_daemon.report.pdf import Pictures, summary_pdf
from qc_daemon.report.summary import Summary
from qc_daemon.report.worker import drawn, load_findings, summary_of
from qc_daemon.retain import Originals
from qc_daemon.routing import Routes
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.settings import Settings

_SUFFIXES = (".html", ".pdf")


def write_summary(settings: Settings, study: str, out: Path, language: str | None = None) -> None:
    """Write what is known of the study now; the suffix of `out` says as what.

    Raises UsageError for another suffix or language, QCError for a study without findings or where
    a picture cannot be had.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--out {out}: give a name that ends in {' or '.join(_SUFFIXES)}")
    language = language or settings.report.language
    if language not in LANGUAGES:
        raise UsageError(f"--language {language}: give one of {', '.join(LANGUAGES)}")
    now = datetime.now(UTC)
    summary, pictures = _summary(settings, study, now)
    page = compose(summary, language)
    try:
        if out.suffix.lower() == ".pdf":
            out.write_bytes(summary_pdf(page, pictures, now))
        else:
            out.write_text(summary_html(page, pictures), encoding="utf-8")
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{out} cannot be written: {error.strerror}") from error


def _summary(settings: Settings, study: str, now: datetime) -> tuple[Summary, Pictures]:
    store = open_store(settings)
    with store.read() as session:
        # Several exams under one UID are of several patients: the last one is what is looked at.
        contents = [exams.exam_content(session, each) for each in exams.of_study(session, study)]
        content = next((each for each in reversed(contents) if each.findings), None)
        if content is None:
            raise QCError(ErrorCode.NOT_AVAILABLE, f"no findings of study {study}; see results")
        rejected = rejections.of_exam(session, content.exam_id)
        omissions = [each.code for each in exams.omissions(session, content.exam_id)]
    with DecodeProcess(
        megabytes=settings.score.decode_megabytes,
        seconds=settings.score.decode_seconds,
        max_pixels=settings.score.max_pixels,
    ) as decoder:
        originals = Originals(store, settings, lambda path: decoder.summary(path).pixel_sha256)
        told, missing = load_findings(content.findings, originals)
        if not told:
            raise missing[0].error
        omissions += [each.error.code for each in missing]
        revision = max(1, content.report_revision)
        summary = summary_of(told, settings.report, revision, now, rejected, omissions)
        # Without routes nobody wants overlays.
        frames, to_none = decoder.frames, Routes()
        _, pictures, _ = drawn(told, summary, revision, now, frames, to_none, settings.report)
    return replace(summary, drawn=frozenset(pictures)), pictures

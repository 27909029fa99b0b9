"""The summary of a stored exam, written to a file when someone asks for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.operations.store import open_store
from qc_daemon.records.received import exams, progress
from qc_daemon.records.received.progress import Progress
from qc_daemon.records.results import rejections
from qc_daemon.report.summary.html import summary_html
from qc_daemon.report.summary.language import check_language
from qc_daemon.report.summary.pdf import Pictures, summary_pdf
from qc_daemon.report.summary.summary import Summary
from qc_daemon.report.summary.text import compose
from qc_daemon.report.worker import drawn, load_findings, summary_of
from qc_daemon.retain import Originals
from qc_daemon.routing import Routes
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

Choose = Callable[[Sequence[Progress]], int]
"""Asks a person which of these exams is meant; gives its id."""
_SUFFIXES = (".html", ".pdf")


def write_summary(
    settings: Settings,
    study: str | None,
    out: Path,
    language: str | None = None,
    *,
    exam: int | None = None,
    patient: str | None = None,
    choose: Choose | None = None,
) -> None:
    """Write what is known of the study now; the suffix of `out` says as what.

    `exam` (an id) or `patient` (a Patient ID) say which of a study's exams; without them `choose`
    is asked where several patients share the study. Raises UsageError for another suffix or
    language, and where it is not clear which exam is meant; QCError for a study without findings or
    where a picture cannot be had.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--out {out}: give a name that ends in {' or '.join(_SUFFIXES)}")
    language = check_language(language or settings.report.language)
    now = datetime.now(UTC)
    exam_id = _exam(settings, study, exam, patient, choose)
    summary, pictures = _summary(settings, exam_id, now)
    page = compose(summary, language, settings.schedule.zone)
    try:
        if out.suffix.lower() == ".pdf":
            private_files.write(out, summary_pdf(page, pictures, now))
        else:
            private_files.write(out, summary_html(page, pictures).encode("utf-8"))
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{out} cannot be written: {error.strerror}") from error


def _exam(
    settings: Settings,
    study: str | None,
    exam: int | None,
    patient: str | None,
    choose: Choose | None,
) -> int:
    """The id of the exam that is meant. Raises UsageError, QCError NOT_AVAILABLE."""
    with open_store(settings).read() as session:
        if study is None:
            if exam is None:
                raise UsageError("give --study or --exam")
            return exam
        exams_of_study = progress.of_study(session, study)
    choices = [each for each in exams_of_study if exam in (None, each.exam_id)]
    choices = [each for each in choices if patient in (None, each.patient_id)]
    if not choices and exams_of_study:
        listed = "; ".join(_choice(each) for each in exams_of_study)
        raise UsageError(f"study {study} has no such exam or patient; its exams: {listed}")
    if not choices:
        raise QCError(ErrorCode.NOT_AVAILABLE, f"no findings of study {study}; see results")
    if len(choices) == 1:
        return choices[0].exam_id
    if choose is not None:
        return choose(choices)
    listed = "; ".join(_choice(each) for each in choices)
    raise UsageError(
        f"{len(choices)} patients share study {study}; give --exam or --patient: {listed}"
    )


def _choice(exam: Progress) -> str:
    """An exam without patient data: this stands in error messages."""
    opened = exam.opened_at.isoformat(timespec="seconds")
    return f"--exam {exam.exam_id} ({exam.objects} objects, since {opened})"


def _summary(settings: Settings, exam_id: int, now: datetime) -> tuple[Summary, Pictures]:
    store = open_store(settings)
    with store.read() as session:
        try:
            content = exams.exam_content(session, exam_id)
        except LookupError:
            raise UsageError(f"there is no exam {exam_id}; see results --study") from None
        if not content.findings:
            raise QCError(ErrorCode.NOT_AVAILABLE, f"no findings of exam {exam_id}; see results")
        rejected = rejections.of_exam(session, content.exam_id)
        omissions = [each.code for each in exams.omissions(session, content.exam_id)]
    with DecodeProcess(
        megabytes=settings.score.decode_megabytes,
        seconds=settings.score.decode_seconds,
        max_pixels=settings.score.max_pixels,
    ) as decoder:
        originals = Originals(store, settings, lambda path: decoder.summary(path).pixel_sha256)
        reported, missing = load_findings(content, originals)
        if not reported:
            raise missing[0].error
        omissions += [each.error.code for each in missing]
        revision = max(1, content.report_revision)
        summary = summary_of(reported, settings.report, revision, now, rejected, omissions)
        # Without routes nobody wants overlays.
        frames, to_none = decoder.frames, Routes()
        pictures, _ = drawn(reported, summary, revision, now, frames, to_none, settings.report)
    return replace(summary, drawn=frozenset(pictures)), pictures

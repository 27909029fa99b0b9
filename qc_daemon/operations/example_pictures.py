"""Pictures of findings for reports of audits: the tissue with its boxes, and what to change.

A picture is the region that was judged and nothing around it, where a machine writes the patient's
name. One with text in the tissue, or whose region is the whole picture, is left out unless its
header says that nothing is burned in. So is one that somebody is still to read blinded: its verdict
would give the answer away.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels
from model.finding import STANDARD, Finding, Judgement
from qc_daemon.audit.reports.document import Picture
from qc_daemon.language.catalogues import CHINESE, translations
from qc_daemon.operations.reviews import state_of
from qc_daemon.records.received import revisions
from qc_daemon.records.received.revisions import RevisionFacts, in_spool
from qc_daemon.records.results import reviews
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AcquisitionRow
from qc_daemon.retain.originals import Originals
from qc_daemon.review.state import ReviewState
from qc_daemon.settings import Settings

MAX_FAULTS = 3
"""At most so many faults stand below a picture, the most important first."""

FrameReader = Callable[[Path, Sequence[int]], Iterable[Frame]]


@dataclass(frozen=True, slots=True)
class ExamplePictures:
    """The pictures that may be shown, by finding id, and how many of those asked for may not."""

    pictures: dict[int, Picture]
    left_out: int


def load_pictures(
    settings: Settings,
    store: Store,
    finding_ids: Sequence[int],
    language: str,
    *,
    is_spool_only: bool = False,
) -> ExamplePictures:
    """The pictures of these findings, drawn; decoding runs in a child process. With `is_spool_only`
    no file is fetched back from a destination."""
    from qc_daemon.score.decode import DecodeProcess

    with store.read() as session:
        examples = [
            example
            for finding_id in finding_ids
            if (example := _choose(session, settings, finding_id)) is not None
        ]
    pictures: dict[int, Picture] = {}
    if examples:
        with DecodeProcess.of(settings.score) as decoder:
            originals: revisions.Originals = in_spool(settings.store.spool)
            if not is_spool_only:
                originals = Originals(store, settings, decoder.pixel_sha256)
            for example in examples:
                try:
                    path = originals(example.file)
                    pixels = _draw(example, path, decoder.frames)
                except QCError:
                    # A report without one picture is better than none; it says how many lack.
                    continue
                pictures[example.finding_id] = _picture(example, pixels, language)
    return ExamplePictures(pictures, len(finding_ids) - len(pictures))


@dataclass(frozen=True, slots=True)
class _Example:
    finding_id: int
    finding: Finding
    file: RevisionFacts
    is_free_of_text: bool  # By the header, Burned In Annotation NO.


def _choose(session: Session, settings: Settings, finding_id: int) -> _Example | None:
    """The finding as persons have it; None where its picture may not be shown."""
    from qc_daemon.report.person_verdict import apply_review

    reviewable = reviews.reviewable(session, finding_id)
    if reviewable is None or not reviewable.reported:
        return None
    state: ReviewState = state_of(session, settings, reviewable)
    if state.is_blinded:
        return None
    finding = apply_review(Finding.from_json(reviewable.body), state)
    burned_in = session.execute(
        select(AcquisitionRow.burned_in_annotation).where(
            AcquisitionRow.revision_id == reviewable.file.revision_id
        )
    ).scalar_one_or_none()
    if burned_in or Flag.BURNED_IN_TEXT in finding.judgement.flags:
        return None
    return _Example(finding_id, finding, reviewable.file, burned_in is False)


def _draw(example: _Example, path: Path, frames: FrameReader) -> Pixels:
    """The region's pixels with its boxes. Raises QCError, also where a region that is the whole
    picture may have a name in it."""
    from qc_daemon.report.objects.overlay import render_frame

    finding = example.finding
    decoded = list(frames(path, [finding.frame]))
    if not decoded:
        raise QCError(ErrorCode.DECODE_FAILED, "its frame cannot be decoded again")
    pixels = decoded[0].pixels
    rows, columns = pixels.shape[:2]
    is_whole = finding.judgement.region_bbox == (0.0, 0.0, float(columns), float(rows))
    if is_whole and not example.is_free_of_text:
        raise QCError(ErrorCode.NOT_AVAILABLE, "the whole picture may have text in it")
    overlay = render_frame(pixels, finding)
    scale = overlay.shape[1] // columns
    x0, y0, x1, y1 = (scale * edge for edge in finding.judgement.region_bbox)
    left, top = max(0, math.ceil(x0)), max(0, math.ceil(y0))
    region = overlay[top : math.floor(y1), left : math.floor(x1)]
    if region.size == 0:
        raise QCError(ErrorCode.TOO_SMALL, "its region is empty")
    return region


def _picture(example: _Example, pixels: Pixels, language: str) -> Picture:
    from qc_daemon.report.sr.codes import VIEWS
    from qc_daemon.report.summary import words

    t = translations(language)
    judgement: Judgement = example.finding.judgement
    title = f"{example.finding_id}: {t.gettext(VIEWS[judgement.view].meaning)}"
    verdict = t.gettext(words.VERDICTS[judgement.quality])
    lines = [verdict]
    if judgement.probability is not None:
        share = words.percent(judgement.probability)
        # As the charts beside it write shares.
        share = share.replace("\N{NO-BREAK SPACE}", "") if language == CHINESE else share
        sentence = t.gettext("{verdict} (probability of a standard view: {share})")
        lines = [sentence.format(verdict=verdict, share=share)]
    if judgement.quality != STANDARD:
        for fault in words.faults(judgement)[:MAX_FAULTS]:
            fix = words.fix(fault, t)
            statement = words.statement(fault, t)
            lines.append(f"{statement} → {fix}" if fix else statement)
    return Picture(pixels, title, tuple(lines))

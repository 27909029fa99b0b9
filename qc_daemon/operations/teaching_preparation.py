"""Prepares images for teaching: de-identified, for a person to look at, what was blanked marked.

PS3.15 Annex E, Basic Application Level Confidentiality Profile with the Clean Pixel Data Option:
see `qc_daemon/deidentification`. Nothing that is prepared counts as released
(`qc_daemon/operations/teaching_release.py`).
"""

import contextlib
import hashlib
import io
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image
from pydicom.dataset import Dataset

from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels
from detector.plain_text import count_of
from model.criteria.rules import RULES
from model.finding import Finding
from qc_daemon.deidentification.pixel_cleaning import PixelPlan, clean_frame, plan_cleaning
from qc_daemon.deidentification.pseudonyms import pseudonym, replacement_uid
from qc_daemon.deidentification.teaching_image import (
    METHODS,
    Pseudonyms,
    build_header,
    write_image,
)
from qc_daemon.deidentification.text_detector import NAME, TextDetector
from qc_daemon.operations.results import FindingFilter, select_acquisitions
from qc_daemon.operations.review_lists import add_states
from qc_daemon.operations.shared import Outcome, open_store
from qc_daemon.operations.teaching_folder import (
    IMAGES,
    LIST,
    LIST_CSV,
    PAGE,
    PREVIEWS,
    TEACHING_SECRET,
    TO_LOOK_AT,
    check_is_new,
    write_list,
)
from qc_daemon.records import secrets
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.results import findings
from qc_daemon.records.store import Store
from qc_daemon.report.person_verdict import apply_review
from qc_daemon.retain.originals import Originals
from qc_daemon.score.decode import DecodeProcess, spread_frames
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files
from qc_daemon.spool.verification import content_hash

Progress = Callable[[int, int], None]
"""How many images are done, of how many."""
PREVIEW_FRAMES = 12
"""A cine has so many previews at most, beside those of its findings."""
WHOLE_PICTURE = (
    "Nothing was cut off, since the tissue fills the picture or no edge of it is known: what is"
    " written in it was left to the text detector."
)
ESTIMATED = "The header tells no region of tissue: its edge is an estimate."
MUCH_BLANKED = "More than a tenth of the tissue was blanked: is it still worth showing?"
_MUCH = 0.1
_OUTSIDE_COLOUR = (24, 28, 48)
_WORD_COLOUR = (213, 94, 0)


@dataclass(frozen=True, slots=True)
class TeachingPreparation:
    """What was prepared: the outcome with a line for each image that cannot be had, and how many
    findings were left out, by the reason."""

    outcome: Outcome
    left_out: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _ImageToPrepare:
    """An image, the text that stands for its patient, and its findings by id; the flag says whether
    a person has the verdict."""

    file: RevisionFacts
    patient: str
    findings: list[tuple[int, Finding, bool]] = field(default_factory=list)


def prepare(
    settings: Settings,
    folder: Path,
    exam_filter: ExamFilter,
    window: Window,
    finding_filter: FindingFilter,
    progress: Progress = lambda _done, _count: None,
) -> TeachingPreparation:
    """Prepare the images of the findings that match, into a new or empty folder.

    View and verdict are those that stand: the person's where one said otherwise than the models.
    At most `window.limit` images. Raises UsageError for a folder with something in it; QCError
    NOT_AVAILABLE without a text detector, STORAGE where nothing matches or nothing can be written.
    What was written before a failure is removed again.
    """
    check_is_new(folder)
    detector = TextDetector()
    store = open_store(settings)
    source_images, left_out = _select_images(store, settings, exam_filter, window, finding_filter)
    if not source_images:
        why = "; ".join(f"{count} left out: {reason}" for reason, count in left_out.items())
        raise QCError(ErrorCode.STORAGE, f"no finding matches{f' ({why})' if why else ''}")
    with store.begin() as session:
        key = secrets.get(session, TEACHING_SECRET)
    is_new = not folder.exists()
    try:
        for name in (IMAGES, PREVIEWS):
            private_files.make_folder(folder / name)
        images, problems = _write_images(
            settings, store, folder, source_images, detector, key, progress
        )
        if images:
            body = {
                "preparation": str(uuid4()),
                "methods": [meaning for _, meaning in METHODS],
                "text_detector": NAME,
                "images": images,
            }
            write_list(folder, body, key)
        else:
            _empty(folder, is_new)
    except BaseException as error:
        _empty(folder, is_new)
        if isinstance(error, OSError):
            raise QCError(
                ErrorCode.STORAGE, f"{folder} cannot be written: {error.strerror}; nothing is left"
            ) from error
        raise
    outcome = Outcome(len(images), tuple(problems))
    return TeachingPreparation(outcome, tuple(left_out.items()))


def describe_preparation(preparation: TeachingPreparation, folder: Path) -> list[str]:
    """The lines that say what was left out, and what to do now."""
    lines = [f"{reason}: {count_of(count, 'finding')}" for reason, count in preparation.left_out]
    if preparation.outcome.count:
        lines.append(
            f"look at {folder / PAGE}, then: qc-daemon export --release {shlex.quote(str(folder))}"
            " --by NAME, with --reject NUMBER for each image that must not leave"
        )
    return lines


def _select_images(
    store: Store,
    settings: Settings,
    exam_filter: ExamFilter,
    window: Window,
    finding_filter: FindingFilter,
) -> tuple[list[_ImageToPrepare], Counter[str]]:
    """The images to prepare, and how many findings are left out, by the reason."""
    left_out: Counter[str] = Counter()
    by_revision: dict[int, _ImageToPrepare] = {}
    with store.read() as session:
        every = findings.iter_findings(
            session,
            exam_filter,
            replace(window, limit=None),
            all_revisions=False,
            acquisition_filter=select_acquisitions(session, finding_filter),
        )
        for each, state, _ in add_states(session, settings, every):
            if each.finding_id is None or state is None or not each.is_best:
                continue
            reported = state.as_reported()
            finding = apply_review(Finding.from_json(each.body), reported)
            if not finding_filter.has(finding.to_json()):
                continue
            if each.is_imported:
                left_out["its image is not here: it was imported"] += 1
            elif state.is_blinded:
                left_out["waits for a blinded reading"] += 1
            else:
                image = by_revision.get(each.revision.revision_id)
                if image is None and len(by_revision) == window.limit:
                    break
                if image is None:
                    patient = each.patient_id or f"study {each.revision.study_instance_uid}"
                    image = _ImageToPrepare(each.revision, patient)
                    by_revision[each.revision.revision_id] = image
                image.findings.append((each.finding_id, finding, reported.outcome is not None))
    return list(by_revision.values()), left_out


def _write_images(
    settings: Settings,
    store: Store,
    folder: Path,
    source_images: Sequence[_ImageToPrepare],
    detector: TextDetector,
    key: bytes,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries of the list, and a line for each image that cannot be had. Raises OSError."""
    images: list[dict[str, Any]] = []
    problems: list[str] = []
    with DecodeProcess.of(settings.score) as decoder:
        originals = Originals(store, settings, decoder.pixel_sha256)
        for done, image in enumerate(source_images):
            progress(done, len(source_images))
            number = len(images) + 1
            try:
                path = originals(image.file)
                sha256 = content_hash(path, image.file.sha256)
                facts = decoder.image_facts(path, sha256)
                plan = plan_cleaning(
                    _ultrasound(decoder.frames(path, sha256=sha256)), detector.find_words
                )
                header = build_header(facts, plan, _pseudonyms(image, key), number)
                writer = _ImageWriter(folder, number, plan, image)
                images.append(writer.write(header, decoder.frames(path, sha256=sha256)))
            except QCError as error:
                _remove(folder, number)
                problems.append(f"finding {image.findings[0][0]}: {error.message}")
        progress(len(source_images), len(source_images))
    return images, problems


def _ultrasound(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames. Raises QCError NOT_AN_IMAGE where they are of no ultrasound."""
    for frame in frames:
        if Flag.NOT_ULTRASOUND in frame.flags:
            raise QCError(ErrorCode.NOT_AN_IMAGE, "it is no ultrasound")
        yield frame


def _pseudonyms(image: _ImageToPrepare, key: bytes) -> Pseudonyms:
    """The same for the same content: another export gives the same, other content another image."""
    file = image.file
    return Pseudonyms(
        pseudonym(key, "patient", image.patient),
        replacement_uid(key, "study", file.study_instance_uid),
        replacement_uid(key, "series", file.series_instance_uid),
        replacement_uid(key, "instance", file.sop_instance_uid, file.sha256),
    )


class _ImageWriter:
    """Writes one image: the DICOM file, the picture of its first finding's frame, the previews."""

    def __init__(self, folder: Path, number: int, plan: PixelPlan, image: _ImageToPrepare) -> None:
        self._folder = folder
        self._number = number
        self._plan = plan
        self._image = image
        frames = [finding.frame for _, finding, _ in image.findings]
        self._picture_frame = frames[0]
        self._preview_frames = {*frames, *spread_frames(plan.frames, PREVIEW_FRAMES)}
        self._file = f"{IMAGES}/{number:04}.dcm"
        self._picture = f"{IMAGES}/{number:04}.png"
        self._previews: list[dict[str, Any]] = []

    def write(self, header: Dataset, frames: Iterable[Frame]) -> dict[str, Any]:
        """The entry of the list. Raises OSError, QCError."""
        with private_files.replacing(self._folder / self._file) as file:
            write_image(file, header, self._plan, self._clean(frames))
        paths = [self._file, self._picture, *(each["file"] for each in self._previews)]
        plan = self._plan
        return {
            "number": self._number,
            "state": TO_LOOK_AT,
            "file": self._file,
            "picture": self._picture,
            "previews": self._previews,
            "frames": plan.frames,
            "rows": plan.rows,
            "columns": plan.columns,
            "words_blanked": plan.words_inside,
            "words_outside": plan.words_outside,
            "blanked_share": round(plan.blanked_share, 4),
            "cautions": _cautions(plan, "SequenceOfUltrasoundRegions" in header),
            "sha256": {path: _sha256(self._folder / path) for path in paths},
            "findings": [
                _finding_entry(id, finding, is_person)
                for id, finding, is_person in self._image.findings
            ],
        }

    def _clean(self, frames: Iterable[Frame]) -> Iterator[Pixels]:
        for frame in frames:
            pixels = clean_frame(frame.pixels, self._plan)
            if frame.number == self._picture_frame:
                private_files.write(self._folder / self._picture, _png(pixels))
            if frame.number in self._preview_frames:
                path = f"{PREVIEWS}/{self._number:04}-{frame.number:05}.png"
                private_files.write(self._folder / path, _png(_marked(pixels, self._plan)))
                self._previews.append({"frame": frame.number, "file": path})
            yield pixels


def _marked(pixels: Pixels, plan: PixelPlan) -> Pixels:
    """The cleaned picture with colour where it was blanked."""
    marked = pixels.copy()
    marked[~plan.is_tissue] = _OUTSIDE_COLOUR
    marked[plan.is_tissue & plan.is_text] = _WORD_COLOUR
    return marked


def _cautions(plan: PixelPlan, has_regions: bool) -> list[str]:
    """What the person who looks should know of how the image was cleaned."""
    cautions = []
    if plan.is_whole:
        cautions.append(WHOLE_PICTURE)
    elif not has_regions:
        cautions.append(ESTIMATED)
    if plan.blanked_share > _MUCH:
        cautions.append(MUCH_BLANKED)
    return cautions


def _finding_entry(id: int, finding: Finding, is_person: bool) -> dict[str, Any]:
    judgement = finding.judgement
    meanings = {rule.code: rule.meaning for rule in RULES[judgement.view]}
    return {
        "finding_id": id,
        "frame": finding.frame,
        "view": judgement.view.value,
        "verdict": judgement.quality,
        "verdict_by": "a person" if is_person else "the models",
        "probability": judgement.probability,
        "description": judgement.description,
        "reasons": [reason.words for reason in judgement.reasons],
        "criteria": [
            {
                "code": each.code,
                "meaning": meanings.get(each.code, each.code),
                "met": each.met,
                "value": each.value,
                "unit": each.unit,
            }
            for each in judgement.criteria
        ],
        "structures": [
            {"label": each.label, "bbox": list(each.bbox), "confidence": each.confidence}
            for each in judgement.detections
        ],
    }


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(out, "PNG")
    return out.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path, number: int) -> None:
    """Remove what was written of one image."""
    for path in [
        *folder.glob(f"{IMAGES}/{number:04}.*"),
        *folder.glob(f"{PREVIEWS}/{number:04}-*"),
    ]:
        path.unlink()


def _empty(folder: Path, is_new: bool) -> None:
    """Remove what was written into the folder, and the folder if it was not there before."""
    for name in (IMAGES, PREVIEWS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (LIST, LIST_CSV, PAGE):
        (folder / name).unlink(missing_ok=True)
    if is_new and folder.is_dir():
        with contextlib.suppress(OSError):
            folder.rmdir()

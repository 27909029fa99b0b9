"""Reviewed findings as training samples: SpatialCLIP's JSON with the pictures of their regions.

A picture is the tissue region alone, as PNG without a header. Patients and sites are pseudonyms:
keyed hashes with a key of this store, so that samples of one patient stay together and nobody
without the key finds out whose they are. Text that a machine has burned into the tissue stays in
it: a picture whose header says so is left out unless it is asked for, and `README.txt` beside the
samples says what to look at before they leave the house.
"""

import hmac
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from detector.boxes import Box
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame, Pixels
from detector.plain_text import count_of
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import Outcome, open_store
from qc_daemon.records import secrets
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.results import reviews
from qc_daemon.records.results.reviews import ReviewedFinding
from qc_daemon.records.store import Store
from qc_daemon.retain.originals import Originals
from qc_daemon.review.events import Event
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

PSEUDONYM_SECRET = "pseudonym"
SAMPLES = "samples.json"
README = "README.txt"
_MIN_SIDE = 32  # As `training.data.samples.MIN_SIDE`: what a sample has to have.
_HEX_DIGITS = 16
_NOTES = """\
Pictures of ultrasound that persons of this site have judged, for `qc-model train spatialclip
--samples samples.json` and `qc-model evaluate --samples samples.json`.

Labels are persons' verdicts that stand: where two readings differed, the decision between them.
Boxes and descriptions are the models' of that time, whoever judged. `boxes_by` says so: qc-model
neither learns from these boxes nor measures a detector by them.
`group` is a pseudonym of the patient, `hospital` of the site. The key to both is in the database.

The pictures show the tissue region alone. TEXT THAT THE MACHINE HAS WRITTEN INTO IT IS STILL THERE:
measures as a rule, but a name or a date may be among it. {burned}
Look at the pictures before you give them to anybody. They are pictures of patients all the same.
"""
_LEFT_OUT = (
    "Pictures whose header says that there is such text (Burned In Annotation YES) were left out;"
    " most headers say nothing."
)
_INCLUDED = "Pictures whose header says that there is such text are among them, as was asked for."


@dataclass(frozen=True, slots=True)
class TrainingExport:
    """What was written: the outcome with a line for each finding whose picture cannot be had, and
    how many findings were left out, by the reason."""

    outcome: Outcome
    left_out: tuple[tuple[str, int], ...]


def export_training(
    settings: Settings, folder: Path, window: Window = ALL, *, with_burned_in: bool = False
) -> TrainingExport:
    """Write the samples of settled reviews into a new or empty folder.

    The window is about the first reading. Raises UsageError for a folder with something in it,
    QCError STORAGE where nothing can be learnt from or nothing can be written.
    """
    from qc_daemon.score.decode import DecodeProcess

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--training {folder}: give a folder that is new or empty")
    store = open_store(settings)
    candidates, left_out = _select_candidates(store, window, with_burned_in)
    if not candidates:
        why = "; ".join(f"{count} left out: {reason}" for reason, count in left_out.items())
        raise QCError(
            ErrorCode.STORAGE,
            f"no reviewed finding to learn from{f' ({why})' if why else ''}; see review list --all",
        )
    with store.begin() as session:
        secret = secrets.get(session, PSEUDONYM_SECRET)
    problems: list[str] = []
    samples: list[dict[str, Any]] = []
    try:
        private_files.make_folder(folder / "images")
        with DecodeProcess.of(settings.score) as decoder:
            originals = Originals(store, settings, decoder.pixel_sha256)
            for each in candidates:
                try:
                    frame = _frame(decoder.frames, originals(each.reviewed.file), each.reviewed)
                    name = f"images/{_pseudonym(secret, str(each.reviewed.key))}.png"
                    pixels, sample = _sample(each, frame, name, secret)
                except QCError as error:
                    problems.append(f"finding {each.reviewed.finding_id}: {error.message}")
                    continue
                private_files.write(folder / name, _png(pixels))
                samples.append(sample)
        notes = _NOTES.format(burned=_INCLUDED if with_burned_in else _LEFT_OUT)
        private_files.write(folder / README, notes.encode())
        private_files.write(folder / SAMPLES, json.dumps(samples, indent=1).encode())
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{folder} cannot be written: {error.strerror}") from error
    detail = {"what": "training samples", "count": len(samples), "anonymized": "true"}
    record(settings, AuditKind.EXPORTED, detail=detail)
    return TrainingExport(Outcome(len(samples), tuple(problems)), tuple(left_out.items()))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A reviewed finding to learn from, with its outcome."""

    reviewed: ReviewedFinding
    outcome: Event


def _select_candidates(
    store: Store, window: Window, with_burned_in: bool
) -> tuple[list[_Candidate], Counter[str]]:
    """The findings to learn from, and how many are left out, by the reason."""
    left_out: Counter[str] = Counter()
    by_picture: dict[tuple[object, ...], _Candidate] = {}
    with store.read() as session:
        for reviewed in reviews.reviewed_findings(session, window, settled_only=False):
            if not reviewed.state.is_settled:
                left_out["waits for a second reading or a decision"] += 1
                continue
            if reviewed.has_burned_in_text and not with_burned_in:
                left_out["text is burned into the picture (--with-burned-in takes it)"] += 1
                continue
            outcome = reviewed.state.outcome
            assert outcome is not None
            candidate = _Candidate(reviewed, outcome)
            earlier = by_picture.setdefault(_picture(reviewed), candidate)
            # Two bundles may have judged one picture: the later verdict stands.
            if earlier is not candidate:
                left_out["another review of the same picture"] += 1
                if outcome.at > earlier.outcome.at:
                    by_picture[_picture(reviewed)] = candidate
    return list(by_picture.values()), left_out


def _picture(reviewed: ReviewedFinding) -> tuple[object, ...]:
    file, key = reviewed.file, reviewed.key
    return (key.sop_instance_uid, file.pixel_sha256 or file.sha256, key.frame, key.region)


def _frame(frames: Callable[..., Iterator[Frame]], path: Path, reviewed: ReviewedFinding) -> Frame:
    """The finding's frame, decoded in a child. Raises QCError."""
    decoded = list(frames(path, [reviewed.key.frame]))
    if not decoded:
        raise QCError(ErrorCode.DECODE_FAILED, "its frame cannot be decoded again")
    return decoded[0]


def _sample(
    candidate: _Candidate, frame: Frame, name: str, secret: bytes
) -> tuple[Pixels, dict[str, Any]]:
    """The region's pixels and the sample (DESIGN section 5). Raises QCError for one too small."""
    reviewed, outcome = candidate.reviewed, candidate.outcome
    body = reviewed.body
    height, width = frame.pixels.shape[:2]
    x0, y0, x1, y1 = _whole_pixels(body["region"]["bbox"], width, height)
    if min(x1 - x0, y1 - y0) < _MIN_SIDE:
        raise QCError(ErrorCode.TOO_SMALL, f"its region is smaller than {_MIN_SIDE} pixels a side")
    patient = reviewed.patient_id or f"study {reviewed.file.study_instance_uid}"
    sample: dict[str, Any] = {
        "image_path": name,
        "description": body["description"],
        # Of a view that is not assessed no picture is a standard one.
        "class_label": outcome.verdict or "non-standard",
        "view": outcome.view,
        "origin": "simulated" if frame.simulated else "real",
        "group": f"patient-{_pseudonym(secret, patient)}",
        "dataset": "reviews",
        "region": [0, 0, x1 - x0, y1 - y0],
        "coordinates": list(_coordinates(body["detections"], (x0, y0, x1, y1))),
        "boxes_by": "models",
        "criteria": {code: met for code, met in outcome.criteria if met is not None},
        "review": {
            "state": reviewed.state.status,
            "readings": len(reviewed.state.readings),
            "weight": reviewed.weight,
            "model_verdict": body["quality"]["label"],
        },
    }
    if reviewed.site is not None:
        sample["hospital"] = f"site-{_pseudonym(secret, f'site {reviewed.site}')}"
    spacing = _spacing(frame, reviewed.key.region)
    if spacing is not None:
        sample["spacing_mm"] = spacing
    return frame.pixels[y0:y1, x0:x1], sample


def _whole_pixels(region: Iterable[float], width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = region
    return (
        max(0, math.floor(x0)),
        max(0, math.floor(y0)),
        min(width, math.ceil(x1)),
        min(height, math.ceil(y1)),
    )


def _coordinates(
    detections: Iterable[dict[str, Any]], region: tuple[int, int, int, int]
) -> Iterator[dict[str, Any]]:
    """The boxes in pixels of the region, clipped to it; none that lies beside it."""
    x0, y0, x1, y1 = region
    for each in detections:
        left, top, right, bottom = each["bbox"]
        box: Box = (
            max(left, x0) - x0,
            max(top, y0) - y0,
            min(right, x1) - x0,
            min(bottom, y1) - y0,
        )
        if box[0] < box[2] and box[1] < box[3]:
            yield {"label": each["label"], "bbox": list(box), "confidence": each["confidence"]}


def _spacing(frame: Frame, region: int) -> float | None:
    """Millimetres of a pixel's side, where the header calibrates the region and pixels are square
    within a hundredth."""
    for each in frame.regions:
        if each.index == region and each.spacing_mm is not None:
            x, y = each.spacing_mm
            return x if math.isclose(x, y, rel_tol=0.01) else None
    return None


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(out, "PNG")
    return out.getvalue()


def _pseudonym(secret: bytes, text: str) -> str:
    return hmac.digest(secret, text.encode(), "sha256").hex()[:_HEX_DIGITS]


def describe_export(export: TrainingExport, folder: Path) -> list[str]:
    """The lines that say what was written, what was left out and what to look at."""
    lines = [f"{reason}: {count_of(count, 'finding')}" for reason, count in export.left_out]
    lines.append(f"look at the pictures before you give them to anybody: see {folder / README}")
    return lines

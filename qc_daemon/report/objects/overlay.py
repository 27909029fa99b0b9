"""The overlay: the frame with its boxes, and a panel below it with the verdict.

Many viewers drop the boxes of a structured report; a Secondary Capture (PS3.3 A.8.1) every viewer
shows. The verdict stands in the panel, never over the anatomy, in letters that survive a thumbnail.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from gettext import NullTranslations

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from detector.anatomy import BY_CODE
from detector.boxes import Box
from detector.errors import Flag
from detector.frame import Pixels
from model.finding import NON_STANDARD, REVIEW, STANDARD, Finding
from qc_daemon.language.catalogues import ENGLISH, translations
from qc_daemon.language.fonts import load_font, wrap_text
from qc_daemon.report.derived_uids import derived_uid, object_uid
from qc_daemon.report.equipment import (
    local_time,
)
from qc_daemon.report.objects.captions import overlap, place_captions
from qc_daemon.report.objects.secondary_capture import build_secondary_capture, source_image
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import Decision

SERIES_NUMBER = 9902
SERIES_DESCRIPTION = "Ultrasound image quality overlay (machine-made)"
DERIVATION = "Boxes of detected structures drawn into the frame, verdict in a panel below it"
_FRAMES = 10_000
"""From so many frames or images on, Instance Numbers of overlays are the frame numbers alone."""
MIN_WIDTH = 640
"""Smaller pictures are magnified by a whole number, so that the letters fit."""

_LETTERS, _PAGE_LETTERS = 45, 24
"""The letters of captions are the frame's width divided by this high, in overlays and on pages."""

Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
GREY: Colour = (120, 120, 120)
# Okabe and Ito's palette, which every kind of colour vision distinguishes; without black, the
# background of ultrasound.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (120, 170, 255),
)
VERDICT_COLOURS: dict[str, tuple[Colour, Colour]] = {
    STANDARD: ((0, 114, 178), WHITE),
    NON_STANDARD: ((213, 94, 0), BLACK),
    REVIEW: ((240, 228, 66), BLACK),
}
"""The colours of the banner's background and letters, by verdict."""
NO_VIEW_COLOURS: tuple[Colour, Colour] = (GREY, BLACK)
"""The same where a person says that the picture shows none of the views."""


def build_overlay(
    source: SourceInstance,
    pixels: Pixels,
    finding: Finding,
    *,
    revision: int,
    created: datetime,
    language: str = ENGLISH,
    decision: Decision | None = None,
) -> Dataset:
    """The overlay of one finding as a Secondary Capture; same arguments, same dataset.

    `pixels` is the finding's frame, RGB, shape (rows, columns, 3); `language` one of
    `language.LANGUAGES`; `decision` says whose verdict the finding has, where it is a person's.
    Raises QCError REPORT_INVALID where no valid object can be made.
    """
    moment = local_time(created, source.header)
    return build_secondary_capture(
        render_overlay(pixels, finding, language, decision, moment.tzinfo),
        source.header,
        series=(
            derived_uid("overlay-series", source.study_instance_uid, finding.bundle.model_id),
            SERIES_NUMBER,
            SERIES_DESCRIPTION,
        ),
        sop_instance_uid=overlay_uid(source, finding, revision),
        number=_number(source, finding.frame),
        derivation=DERIVATION,
        sources=[
            source_image(
                source.sop_class_uid,
                source.sop_instance_uid,
                source.frame_numbers(finding.frame) or (),
            )
        ],
        # Parts of the frame were burned in by the machine, and the verdict is now.
        burned_in=True,
        moment=moment,
    )


def _number(source: SourceInstance, frame: int) -> int:
    """Instance Number: overlays sort as their pictures do, by image and frame."""
    _, instance = source.numbers
    return instance * _FRAMES + frame if 0 < instance < _FRAMES and frame < _FRAMES else frame


def overlay_uid(source: SourceInstance, finding: Finding, revision: int) -> str:
    """SOP Instance UID of the finding's overlay."""
    return object_uid(
        f"overlay {finding.frame} {finding.judgement.region_index}",
        SecondaryCaptureImageStorage,
        source.study_instance_uid,
        [source.sha256],
        finding.bundle.model_id,
        revision,
    )


def render_overlay(
    pixels: Pixels,
    finding: Finding,
    language: str = ENGLISH,
    decision: Decision | None = None,
    zone: tzinfo | None = None,
) -> Pixels:
    """The frame with boxes over a panel with the verdict; RGB, at least MIN_WIDTH wide."""
    frame = _draw_frame(pixels, finding)
    panel = _panel(frame.width, finding, language, decision, zone)
    whole = Image.new("RGB", (frame.width, frame.height + panel.height), BLACK)
    whole.paste(frame, (0, 0))
    whole.paste(panel, (0, frame.height))
    return np.asarray(whole).copy()


def render_frame(pixels: Pixels, finding: Finding) -> Pixels:
    """The frame with its boxes and nothing else, for a page; RGB, at least MIN_WIDTH wide.

    A page shows it at a third of its size, so that the letters are larger than in an overlay.
    """
    return np.asarray(_draw_frame(pixels, finding, _PAGE_LETTERS)).copy()


def _draw_frame(pixels: Pixels, finding: Finding, letters: int = _LETTERS) -> Image.Image:
    rows, columns = pixels.shape[:2]
    scale = max(1, -(-MIN_WIDTH // columns))
    frame = Image.fromarray(pixels, "RGB").resize(
        (columns * scale, rows * scale), Image.Resampling.NEAREST
    )
    _draw_boxes(frame, finding, scale, letters)
    return frame


def colour_of(label: str) -> Colour:
    """The label's colour."""
    return PALETTE[BY_CODE[label].index % len(PALETTE)]


def _draw_boxes(frame: Image.Image, finding: Finding, scale: int, letters: int) -> None:
    draw = ImageDraw.Draw(frame)
    stroke = max(2, frame.width // 400)
    font = load_font(frame.width // letters)
    region = finding.judgement.region_bbox
    if region != (0.0, 0.0, frame.width / scale, frame.height / scale):
        draw.rectangle(_scale_box(region, scale, frame), outline=GREY, width=1)
    detections = finding.judgement.detections
    boxes = [_scale_box(detection.bbox, scale, frame) for detection in detections]
    colours = [colour_of(detection.label) for detection in detections]
    # All boxes first: a caption may cover a box's line, a box must not cut through a caption.
    for box, colour in zip(boxes, colours, strict=True):
        draw.rectangle(box, outline=colour, width=stroke)
    sizes = [(draw.textlength(d.label, font=font) + 4, font.size + 4.0) for d in detections]
    captions = place_captions(boxes, sizes, frame.size)
    for box, caption, colour in zip(boxes, captions, colours, strict=True):
        if not _touch(box, caption):
            draw.line((_centre(caption), _centre(box)), fill=colour, width=1)
    for detection, caption, colour in zip(detections, captions, colours, strict=True):
        draw.rectangle(caption, fill=BLACK)
        anchor = (caption[0] + 2, (caption[1] + caption[3]) / 2)
        draw.text(anchor, detection.label, colour, font, anchor="lm")


def _touch(box: Box, caption: Box) -> bool:
    """Whether a caption stands right beside its box; else a line leads to it."""
    x0, y0, x1, y1 = box
    return overlap((x0 - 3, y0 - 3, x1 + 3, y1 + 3), caption)


def _centre(box: Box) -> tuple[float, float]:
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def _scale_box(box: Box, scale: int, frame: Image.Image) -> Box:
    """The box in the magnified frame's pixels, maximum inclusive as Pillow draws it."""
    x0, y0, x1, y1 = (edge * scale for edge in box)
    x1, y1 = min(x1, frame.width) - 1, min(y1, frame.height) - 1
    return (min(x0, x1), min(y0, y1), x1, y1)


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    colour: Colour = WHITE
    small: bool = False


def _panel(
    width: int, finding: Finding, language: str, decision: Decision | None, zone: tzinfo | None
) -> Image.Image:
    """The banner with the verdict, then the reasons line by line, wrapped to the width."""
    banner_height = width // 7
    t = translations(language)
    verdict, (background, letters) = _verdict(finding, t, decision)
    regular, small = (load_font(width // part, language) for part in (28, 38))
    margin = width // 40
    lines = [
        _Line(part, line.colour, line.small)
        for line in _lines(finding, t, decision, zone)
        for part in wrap_text(line.text, small if line.small else regular, width - 2 * margin)
    ]
    heights = [int((small if line.small else regular).size * 1.4) for line in lines]
    panel = Image.new("RGB", (width, banner_height + sum(heights) + 2 * margin), BLACK)
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, 0, width, banner_height - 1), fill=background)
    middle = (width / 2, banner_height / 2)
    draw.text(middle, verdict, letters, load_font(width // 11, language, bold=True), anchor="mm")
    y = banner_height + margin
    for line, height in zip(lines, heights, strict=True):
        font = small if line.small else regular
        draw.text((margin, y + height / 2), line.text, line.colour, font, anchor="lm")
        y += height
    return panel


def _verdict(
    finding: Finding, t: NullTranslations, decision: Decision | None
) -> tuple[str, tuple[Colour, Colour]]:
    """The banner's words, and the colours of its background and letters."""
    if decision is not None and decision.outcome.verdict is None:
        # Nobody has to review what a person calls none of the views.
        return t.gettext(words.NO_VIEW), NO_VIEW_COLOURS
    quality = finding.judgement.quality
    return t.gettext(words.VERDICTS[quality]), VERDICT_COLOURS[quality]


def _lines(
    finding: Finding,
    t: NullTranslations,
    decision: Decision | None = None,
    zone: tzinfo | None = None,
) -> Iterator[_Line]:
    judgement = finding.judgement
    if Flag.OTHER_PATIENT_IN_STUDY in judgement.flags:
        yield _Line(f"! {t.gettext(words.OTHER_PATIENT)}", (255, 170, 90))
    yield _Line(words.view_line(judgement, t, is_decided=decision is not None))
    if decision is not None:
        yield _Line(words.decision_line(decision, t, zone), (150, 210, 255))
    for opinion in judgement.opinions:
        agrees = opinion.agrees_with(judgement.view)
        colour = (255, 170, 90) if agrees is False and decision is None else (200, 200, 200)
        yield _Line(words.opinion_line(opinion, t), colour)
    yield from (_Line(line, (255, 170, 90)) for line in words.fault_lines(judgement, t))
    unchecked = [t.gettext(topic) for topic in words.unchecked(judgement)]
    if unchecked:
        yield _Line(f"? {t.gettext(words.CANNOT_TELL)}: {', '.join(unchecked)}", (200, 200, 200))
    if not finding.bundle.clinical_use:
        yield _Line(t.gettext(words.NOT_FOR_CLINICAL_USE), (240, 228, 66))
    legend = words.legend([finding], t)
    if legend:
        yield _Line(legend, (170, 170, 170), small=True)
    disclaimer = t.gettext(words.disclaimer(has_decision=decision is not None))
    footer = f"{disclaimer} · {words.models_line(finding.bundle)}"
    yield _Line(footer, (170, 170, 170), small=True)

"""Pages in one file that needs no other: every finding of an exam, or its summary."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from detector.frame import Pixels
from model.finding import STANDARD, Criterion, Finding, Judgement
from qc_daemon.report.sr.codes import FLAGS, LABEL_CODES, VIEWS
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import ImageKey
from qc_daemon.report.summary.text import Page

_UNCHECKED = "could not be checked"
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class PageEntry:
    """A finding with the name of its image, its overlay (RGB; None: not drawn) and the seconds that
    scoring took."""

    finding: Finding
    name: str
    picture: Pixels | None = None
    seconds: float | None = None


def exam_page(entries: Sequence[PageEntry], *, title: str, banner: str) -> str:
    """The page as HTML: a table of all entries, then each with picture, criteria and fixes.

    Pictures, style and words are inside; the page's own policy forbids it to load anything.
    `banner`, at the top of every page, says for what the models are not meant.
    """
    return _ENVIRONMENT.get_template("exam.html").render(
        title=title,
        banner=banner,
        entries=[_template_values(entry) for entry in entries],
        is_timed=any(entry.seconds is not None for entry in entries),
    )


def summary_html(page: Page, pictures: Mapping[ImageKey, Pixels]) -> str:
    """The summary as HTML; pictures (drawn frames, by `SummaryImage.key`) and style are inside."""
    return _ENVIRONMENT.get_template("summary.html").render(
        page=page, pictures={key: _data_uri(pixels) for key, pixels in pictures.items()}
    )


def encode_png(pixels: Pixels) -> bytes:
    """The picture as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _template_values(entry: PageEntry) -> dict[str, object]:
    finding, judgement = entry.finding, entry.finding.judgement
    return {
        "name": entry.name,
        "frame": finding.frame,
        "region": judgement.region_index,
        "view": VIEWS[judgement.view].meaning,
        "view_probability": words.percent(judgement.view_probability),
        "quality": judgement.quality,
        "verdict": words.VERDICTS[judgement.quality],
        "probability": words.percent(judgement.probability),
        "gates": " / ".join(f"{100 * gate:.0f}" for gate in judgement.gates),
        # Faults beside a standard verdict would contradict it: there they stand below, with why.
        "faults": [
            fault.statement for fault in words.faults(judgement) if judgement.quality != STANDARD
        ],
        "points": [*_faults(judgement), *_criteria(judgement)],
        "detections": [
            (d.label, LABEL_CODES[d.label].meaning, words.percent(d.confidence))
            for d in judgement.detections
        ],
        "description": judgement.description,
        "flags": [FLAGS[flag].meaning for flag in judgement.flags],
        "bundle": words.models_line(finding.bundle),
        "seconds": None if entry.seconds is None else f"{entry.seconds:.2f}",
        "picture": None if entry.picture is None else _data_uri(entry.picture),
    }


def _faults(judgement: Judgement) -> Iterator[dict[str, str]]:
    """What speaks against a standard view, the most important first, and what to do."""
    unmet = {c.code: c for c in judgement.criteria if c.met is False}
    codes = [r.code for r in judgement.reasons] or list(unmet)
    for code, fault in zip(codes, words.faults(judgement), strict=True):
        statement = fault.statement
        if judgement.quality == STANDARD:
            statement = words.STILL_STANDARD.format(fault=statement)
        yield {
            "words": statement,
            "kind": "not-met",
            "fix": fault.fix,
            "value": _value(unmet.get(code)),
            "source": words.rule(judgement, code).source if code in unmet else "",
        }


def _criteria(judgement: Judgement) -> Iterator[dict[str, str]]:
    """The criteria that are met or could not be checked."""
    unchecked = {criterion.code for criterion in words.unchecked_criteria(judgement)}
    for criterion in judgement.criteria:
        if criterion.met or criterion.code in unchecked:
            rule = words.rule(judgement, criterion.code)
            topic = words.fault(judgement, criterion).topic
            yield {
                "words": f"{rule.meaning}: met" if criterion.met else f"{topic}: {_UNCHECKED}",
                "kind": "met" if criterion.met else _UNCHECKED.replace(" ", "-"),
                "fix": "",
                "value": _value(criterion),
                "source": rule.source,
            }


def _value(criterion: Criterion | None) -> str:
    if criterion is None or criterion.value is None:
        return ""
    unit = "" if criterion.unit == "1" else f" {criterion.unit}"
    return f"{criterion.value:.3g}{unit}"


def _data_uri(pixels: Pixels) -> str:
    return f"data:image/png;base64,{b64encode(encode_png(pixels)).decode('ascii')}"

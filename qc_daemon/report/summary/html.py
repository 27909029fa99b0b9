"""Pages in one file that needs no other: every finding of an exam, or its summary."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from detector.frame import Pixels
from model.finding import Criterion, Finding
from qc_daemon.report.sr.codes import FLAGS, LABEL_CODES, VIEWS
from qc_daemon.report.summary import words
from qc_daemon.report.summary.summary import ImageKey
from qc_daemon.report.summary.text import Page

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
        "unmet": [fault.words for fault in words.faults(judgement)],
        "criteria": [_criterion(entry.finding, c) for c in judgement.criteria],
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


def _criterion(finding: Finding, criterion: Criterion) -> dict[str, str]:
    rule = words.rule(finding.judgement, criterion.code)
    outcome = {True: "met", False: "not met", None: "could not be checked"}[criterion.met]
    fault = words.fault(finding.judgement, criterion)
    return {
        "words": {True: rule.meaning, False: fault.words, None: fault.topic}[criterion.met],
        "outcome": outcome,
        "kind": outcome.replace(" ", "-"),
        "fix": fault.fix if criterion.met is False else "",
        "value": " ".join(_value(criterion)),
        "source": rule.source,
    }


def _value(criterion: Criterion) -> Iterator[str]:
    if criterion.value is not None:
        yield f"{criterion.value:.3g}"
        if criterion.unit != "1":
            yield criterion.unit


def _data_uri(pixels: Pixels) -> str:
    return f"data:image/png;base64,{b64encode(encode_png(pixels)).decode('ascii')}"

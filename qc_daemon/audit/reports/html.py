"""A report as one HTML file that needs no other."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from detector.frame import Pixels
from qc_daemon.audit.charts.drawing import write_svg
from qc_daemon.audit.reports.document import (
    Block,
    Callout,
    ChartBlock,
    Document,
    Heading,
    Items,
    Paragraph,
    Pictures,
    TableBlock,
)

JPEG_QUALITY = 90
_KINDS: dict[type[Block], str] = {
    Heading: "heading",
    Paragraph: "paragraph",
    Items: "items",
    Callout: "callout",
    ChartBlock: "chart",
    TableBlock: "table",
    Pictures: "pictures",
}
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def report_html(document: Document) -> str:
    """The report; pictures, charts and style are inside, and its own policy forbids it to load
    anything. The same document makes the same text."""
    blocks = [(block_kind(block), block) for block in document.blocks]
    return _ENVIRONMENT.get_template("report.html").render(
        document=document, blocks=blocks, svg=_svg, data_uri=_data_uri
    )


def block_kind(block: Block) -> str:
    """What templates call a block of this type."""
    return _KINDS[type(block)]


def encode_jpeg(pixels: Pixels) -> bytes:
    """The picture as a JPEG file."""
    buffer = BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _svg(block: ChartBlock) -> Markup:
    # `write_svg` has escaped what is not ours.
    return Markup(write_svg(block.chart.drawing, block.name))


def _data_uri(pixels: Any) -> str:
    return f"data:image/jpeg;base64,{b64encode(encode_jpeg(pixels)).decode('ascii')}"

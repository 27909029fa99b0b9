"""A report as parts of a page: its blocks with their kinds, and charts as SVG."""

from typing import Any

from markupsafe import Markup

from qc_daemon.audit.charts.drawing import write_svg
from qc_daemon.audit.reports.document import ChartBlock, Document
from qc_daemon.audit.reports.html import block_kind


def report_values(document: Document) -> dict[str, Any]:
    """What the template `report_blocks.html` asks for."""
    blocks = [(block_kind(block), block) for block in document.blocks]
    return {"document": document, "blocks": blocks, "svg": _svg}


def _svg(block: ChartBlock) -> Markup:
    # `write_svg` has escaped what is not ours, and has no style attribute.
    return Markup(write_svg(block.chart.drawing, block.name))

"""What holds of every chart of an audit."""

import re
from itertools import combinations
from xml.etree import ElementTree

from qc_daemon.audit.charts.drawing import Chart, bounds, overlap, texts, write_svg

SVG = "{http://www.w3.org/2000/svg}"


def check_chart(chart: Chart) -> ElementTree.Element:
    """All marks on the paper, no label on another, valid XML without script and style."""
    drawing = chart.drawing
    for shape in drawing.shapes:
        left, top, right, bottom = bounds(shape)
        assert -0.01 <= left <= right <= drawing.width + 0.01, shape
        assert -0.01 <= top <= bottom <= drawing.height + 0.01, shape
    for one, other in combinations([each for each in texts(drawing.shapes) if each.text], 2):
        assert not overlap(one.box, other.box), (one, other)
    assert all(len(row) == len(chart.table.columns) for row in chart.table.rows)
    svg = write_svg(drawing, "c1")
    assert svg == write_svg(drawing, "c1")
    root = ElementTree.fromstring(svg)
    assert root.get("role") == ("group" if root.findall(f".//{SVG}a") else "img")
    assert root.find(f"{SVG}title") is not None
    assert root.find(f"{SVG}desc") is not None
    assert not root.findall(f".//{SVG}script")
    assert not re.search(r"\bstyle=|\bon\w+=|javascript:", re.sub(r">[^<]*<", "><", svg))
    return root

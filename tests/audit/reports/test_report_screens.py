"""Reports in Chromium, on a laptop and a phone: no text is cut off, or lies on another."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from detector.anatomy import View
from model.finding import NON_STANDARD, STANDARD
from qc_daemon.audit.reports.document import Document
from qc_daemon.audit.reports.exam import ExamFacts, ExamPicture, exam_report
from qc_daemon.audit.reports.html import report_html
from qc_daemon.audit.reports.place import place_report
from qc_daemon.audit.reports.words import Names
from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.language.wording import Wording
from tests.audit.reports.test_reports import (
    COUNTS,
    GOOD,
    NAMES,
    TO_LEARN,
    composer,
    drift_of_pictures,
    of_person,
)
from tests.support.audit_json import audit_json
from tests.support.browser import PATIENCE_MS, chromium

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
WIDTHS = {"laptop": 1366, "phone": 390}
# Of Latin letters, which every machine has a font for.
LONG = ("W" * 64, "Müller-Lüdenscheidt-von-der-Eichenbaumgartenstraße, Dr. med. A", "l" * 64)
FAULTS = """() => {
  const faults = [], root = document.documentElement;
  const words = (element) => element.textContent.trim().slice(0, 40);
  if (root.scrollWidth > window.innerWidth) faults.push(`the page is ${root.scrollWidth} wide`);
  for (const each of document.querySelectorAll("p, h1, h2, dt, dd, li, td, th, code, figcaption"))
    if (each.clientWidth && each.scrollWidth > each.clientWidth + 1)
      faults.push(`cut off: ${words(each)}`);
  for (const chart of document.querySelectorAll("svg")) {
    const frame = chart.getBoundingClientRect();
    const scale = frame.width / chart.viewBox.baseVal.width;
    const texts = [...chart.querySelectorAll("text")].filter(words);
    const boxes = texts.map((each) => each.getBoundingClientRect());
    boxes.forEach((box, index) => {
      if (box.left < frame.left - scale || box.right > frame.right + scale
          || box.top < frame.top - scale || box.bottom > frame.bottom + scale)
        faults.push(`outside: ${words(texts[index])}`);
      boxes.slice(index + 1).forEach((other, later) => {
        // Boxes have the font's whole height, letters do not.
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > scale && down > 0.3 * Math.min(box.height, other.height))
          faults.push(`on each other: ${words(texts[index])}, ${words(texts[index + 1 + later])}`);
      });
    });
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def documents(language: str) -> Iterator[tuple[str, Document]]:
    """People with 300 pictures, three and none, of many names; a device, a site and an exam."""
    for number, name in enumerate((*NAMES, *LONG)):
        yield f"person {number}", of_person(f"p0{number % 3}", name, language)
    body = audit_json(COUNTS, drift=drift_of_pictures("device", "d1"))
    created = datetime(2026, 6, 28, tzinfo=UTC)
    for kind, id in (("device", "d1"), ("site", "st mary")):
        yield kind, place_report(composer(body, kind, id, LONG[0], language), created)
    codes = ("CRIT-GAIN", "CRIT-NECK")
    pictures = tuple(
        ExamPicture(id, view, verdict, 0.7, codes[: id - 3], codes)
        for id, view, verdict in ((4, "NT", NON_STANDARD), (5, "CRL", STANDARD))
    )
    exam = ExamFacts(12, created, LONG[1], "default 2.0.0", pictures, 1)
    views, w = [View.NT, View.CRL, View.HEAD], Wording(language)
    yield "exam", exam_report(exam, views, Names({}, {}), w, None, GOOD, TO_LEARN)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_cut_off_or_lies_on_another(
    browser: Browser, language: str, tmp_path: Path
) -> None:
    faults: dict[str, list[str]] = {}
    for name, document in documents(language):
        path = tmp_path / f"{name}.html"
        path.write_text(report_html(document), encoding="utf-8")
    for device, width in WIDTHS.items():
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        for path in sorted(tmp_path.glob("*.html")):
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true })")
            faults[f"{path.stem}, {device}"] = page.evaluate(FAULTS)
        context.close()
    assert len(faults) == 2 * (len(NAMES) + len(LONG) + 3)
    assert {name: each for name, each in faults.items() if each} == {}

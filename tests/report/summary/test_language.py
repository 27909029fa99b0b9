"""The catalogues: complete, up to date, and in letters that can be drawn."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from babel.messages.pofile import read_po
from fontTools.ttLib import TTFont

from model.finding import REVIEW
from qc_daemon.language.catalogues import LANGUAGES, catalogue_path, translations
from qc_daemon.language.fonts import font_path
from qc_daemon.report.objects.overlay import render_overlay
from tools.catalogue import extract_messages, update_catalogue

Make = Callable[..., Any]
FOREIGN = [language for language in LANGUAGES if language != "en"]


@pytest.mark.parametrize("language", FOREIGN)
def test_catalogue_is_what_the_code_says(language: str) -> None:
    """Else: python -m tools.catalogue, and translate what is empty."""
    assert catalogue_path(language).read_bytes() == update_catalogue(language)


@pytest.mark.parametrize("language", FOREIGN)
def test_every_message_is_translated_with_its_fields(language: str) -> None:
    with catalogue_path(language).open("rb") as text:
        catalogue = read_po(text, locale=language)
    messages = [message for message in catalogue if message.id]
    assert len(messages) == len(extract_messages())
    for message in messages:
        translated = message.string if isinstance(message.string, tuple) else (message.string,)
        original = message.id[-1] if isinstance(message.id, tuple) else message.id
        assert all(translated), message.id
        for each in translated:
            assert _fields(each) == _fields(original), message.id
        assert not message.fuzzy


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_letter_can_be_drawn(language: str) -> None:
    t = translations(language)
    words = [m.id if isinstance(m.id, str) else m.id[0] for m in extract_messages() if m.id]
    letters = set("".join(t.gettext(word) for word in words) + "×?·…:,()><%\N{NO-BREAK SPACE}")
    for bold in (False, True):
        with TTFont(font_path(language, bold=bold), lazy=True) as font:
            assert {c for c in letters if ord(c) not in font.getBestCmap()} == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_overlay_words_stay_inside_the_panel(
    a_source: Make, a_finding: Make, language: str
) -> None:
    """Cut-off lines would reach the edges."""
    finding = a_finding(a_source(), quality=REVIEW, detections=())
    overlays = render_overlay(np.zeros((300, 640, 3), np.uint8), finding, language)
    below_banner = overlays[300 + 640 // 7 :]
    assert below_banner.any()
    assert not below_banner[:, :8].any()
    assert not below_banner[:, -8:].any()


def test_overlays_differ_by_language_alone_in_their_words(a_source: Make, a_finding: Make) -> None:
    finding = a_finding(a_source(), detections=())
    pixels = np.full((300, 640, 3), 9, np.uint8)
    overlays = [render_overlay(pixels, finding, language) for language in LANGUAGES]
    for overlay in overlays[1:]:
        np.testing.assert_array_equal(overlay[:300], overlays[0][:300])
        assert overlay.shape != overlays[0].shape or (overlay != overlays[0]).any()


def _fields(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))

"""Arabic and Hebrew as they stand on paper."""

import pytest

from qc_daemon.language.right_to_left import (
    is_printable,
    is_right_to_left,
    printable,
    visual_order,
)


@pytest.mark.parametrize("text", ["Anna Berg", "张伟明", "Мария", "12/15 = 80 %", ""])
def test_what_runs_from_left_to_right_stays(text: str) -> None:
    assert visual_order(text) == text
    assert not is_right_to_left(text)


@pytest.mark.parametrize(
    ("text", "on_paper"),
    [
        # Each letter alone, at the end, at the beginning and in the middle of a joined part.
        ("ب", "\ufe8f"),
        ("بب", "\ufe90\ufe91"),
        ("ببب", "\ufe90\ufe92\ufe91"),
        # Waw and dal join the letter before them only.
        ("نور", "\ufead\ufeee\ufee7"),
        ("دب", "\ufe8f\ufea9"),
        # Lam and alef are one.
        ("لا", "\ufefb"),
        ("بلا", "\ufefc\ufe91"),
        # A mark above does not part two letters.
        ("بَب", "\ufe90\u064e\ufe91"),
        ("שרה", "הרש"),
    ],
)
def test_letters_are_joined_and_turned(text: str, on_paper: str) -> None:
    assert visual_order(text) == on_paper


def test_words_around_a_name_keep_their_places() -> None:
    assert visual_order("Report: נור (12)") == "Report: רונ (12)"
    assert visual_order("נור: 12/15, דוד") == "דוד ,12/15 :רונ".replace(" ", "\N{NO-BREAK SPACE}")


def test_brackets_within_a_name_are_mirrored() -> None:
    assert visual_order("נור (דוד) שרה") == "הרש (דוד) רונ".replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("text", "can_be", "printed"),
    [
        ("Ünal 张 نور", True, None),
        ("नेहा", False, "????"),
        ("Eva ไ", False, "Eva ?"),
    ],
)
def test_what_fonts_lack_is_marked(text: str, can_be: bool, printed: str | None) -> None:
    assert is_printable(text) is can_be
    assert printable(text) == (visual_order(text) if printed is None else printed)

"""Numbers in words, in each language."""

import pytest

from qc_daemon.language.wording import Wording


@pytest.mark.parametrize(
    ("language", "few", "some", "most"),
    [
        ("en", "fewer than 1 %", "34\N{NO-BREAK SPACE}%", "more than 99 %"),
        ("de", "weniger als 1 %", "34\N{NO-BREAK SPACE}%", "mehr als 99 %"),
        ("zh", "不到 1%", "34%", "超过 99%"),
    ],
)
def test_a_chance_is_never_rounded_to_none_or_to_all(
    language: str, few: str, some: str, most: str
) -> None:
    w = Wording(language)
    for probability in (0.0, 1e-9, 0.0049):
        assert w.chance(probability) == few
    assert w.chance(0.344) == some
    colon, semicolon = ("：", "；") if language == "zh" else (": ", "; ")
    assert w.join_pairs([("a", some), ("b", few)]) == f"a{colon}{some}{semicolon}b{colon}{few}"
    for probability in (0.996, 1.0):
        assert w.chance(probability) == most
    assert w.chance(0.0051).startswith("1")

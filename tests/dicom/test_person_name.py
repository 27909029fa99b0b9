"""Names as machines type them, cleaned and compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.dicom.person_name import clean_name, fold_name, name_words


@pytest.mark.parametrize(
    "typed", ["DOE^JANE", "Doe^Jane^^", " doe ^ jane ", "Doe^Jane^^^=", "ＤＯＥ^Jane"]
)
def test_one_person_typed_in_several_ways_is_one_name(typed: str) -> None:
    name = clean_name(typed)
    assert name is not None
    assert fold_name(name) == "doe^jane"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Doe^Jane", "Doe^John"),
        ("Doe^Jane", "Jane^Doe"),
        ("Müller^Eva", "Muller^Eva"),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太朗"),
    ],
)
def test_other_names_are_others(one: str, other: str) -> None:
    assert fold_name(clean_name(one) or "") != fold_name(clean_name(other) or "")


def test_the_ideographic_group_stays_and_the_phonetic_one_does_not() -> None:
    assert clean_name("Yamada^Tarou=山田^太郎=やまだ^たろう") == "Yamada^Tarou=山田^太郎"


@pytest.mark.parametrize("typed", ["", "^^^^", "=", " ", "-", "x" * 65, "Doe^Jane=" + "山" * 65])
def test_what_is_no_name_is_none(typed: str) -> None:
    assert clean_name(typed) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [("Doe^Jane", ("Doe", "Jane")), ("=山田^太郎", ("山田", "太郎")), ("Doe^^M", ("Doe", "M"))],
)
def test_words(name: str, words: tuple[str, ...]) -> None:
    assert name_words(name) == words


@given(st.text())
def test_cleaning_and_folding_change_nothing_the_second_time(text: str) -> None:
    name = clean_name(text)
    if name is not None:
        assert clean_name(name) == name
        assert fold_name(fold_name(name)) == fold_name(name)

"""Names of headers as people write them."""

import pytest

from qc_daemon.language.person_names import format_name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^Ann^Dr^Jr", "Doe, Jane Ann"),
        ("Wang^XiaoDong=王^小东=", "Wang, XiaoDong / 王, 小东"),
        ("=王^小东", "王, 小东"),
        ("^Jane", "Jane"),
        (" Doe ^ ", "Doe"),
        ("Doe", "Doe"),
        ("^^^^", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_header_s_name_is_written_as_people_do(name: str | None, text: str) -> None:
    assert format_name(name) == text

"""Suggestions which persons or devices may be one."""

import pytest

from qc_daemon.operations.similar_identities import (
    DeviceFacts,
    PersonFacts,
    Suggestion,
    similar_devices,
    similar_persons,
)

SAME_NAME, SIMILAR = "the same name", "the same family name and a similar given name"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("Doe^Jane", "Jane Doe", SAME_NAME),
        ("Doe^Jane", "Döe^JANE", SAME_NAME),
        ("Müller^Eva", "Muller^Eva", SAME_NAME),
        ("Müller^Eva", "MUELLER^EVA", SAME_NAME),
        ("Mueller^Eva", "Muller^Eva", SAME_NAME),
        ("Weiß^Jörg", "WEISS^JOERG", SAME_NAME),
        ("Sørensen^Åse", "Soerensen^Aase", SAME_NAME),
        ("Łukaš^Ana", "Lukas^Ana", SAME_NAME),
        ("Müller^Eva", "Mueller^E", SIMILAR),
        ("Müller^Eva", "Möller^Eva", None),
        ("Doe^Jane", "Doe^J", SIMILAR),
        ("Doe^Jane", "Doe^Janne", SIMILAR),
        ("Doe^Jane", "Doe^Jane^M", SIMILAR),
        ("Doe^Jane", "Doe^Mary", None),
        ("Doe^Jane", "Roe^Jane", None),
        ("Doe", "Doe", None),
        ("Yamada^T=山田^太郎", "Yamada^Tarou=山田^太郎", SIMILAR),
    ],
)
def test_names(one: str, other: str, reason: str | None) -> None:
    suggestions = similar_persons([PersonFacts("p2", one), PersonFacts("p1", other)])
    assert suggestions == ([] if reason is None else [Suggestion("p1", "p2", reason)])


def test_codes() -> None:
    persons = [
        PersonFacts("p1", None, "17", "A"),
        PersonFacts("p2", None, "17", "B"),
        PersonFacts("p3", "Doe^Jane", "18", "A"),
        PersonFacts("p4", "DOE^JANE"),
    ]
    assert similar_persons(persons) == [
        Suggestion("p1", "p2", "the same code in another scheme"),
        Suggestion("p3", "p4", SAME_NAME),
    ]


def test_devices() -> None:
    devices = [
        DeviceFacts("d1", "SN-7", "V10", "ROOM1"),
        DeviceFacts("d2", "sn 7", "V10 BT21", "ROOM2"),
        DeviceFacts("d3", None, "v10", "Room1"),
        DeviceFacts("d4", None, None, None),
        DeviceFacts("d5", None, None, None),
    ]
    assert similar_devices(devices) == [
        Suggestion("d1", "d2", "the same serial number, another manufacturer"),
        Suggestion("d1", "d3", "the same station name and model"),
    ]

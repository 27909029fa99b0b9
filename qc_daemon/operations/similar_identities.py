"""Which persons or devices may be one and the same: suggestions for a person to decide on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

from detector.plain_text import fold
from qc_daemon.dicom.person_name import name_words

_SIMILAR = 0.8
"""Ratio of matching letters (Ratcliff-Obershelp) from which two given names are similar."""


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """What is compared of a person: the name as a header has it, the code and its scheme."""

    id: str
    name: str | None
    code: str | None = None
    scheme: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is compared of a device."""

    id: str
    serial_number: str | None = None
    model: str | None = None
    station_name: str | None = None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Two that may be one, by their ids in order, and what they share."""

    one: str
    other: str
    reason: str


def similar_persons(persons: Sequence[PersonFacts]) -> list[Suggestion]:
    """Persons with the same code in other schemes, the same words of a name in any order (without
    case, accents and how umlauts are written out), or the same family name and a similar given
    name."""
    return _first_reasons(
        (
            *_sharing(persons, lambda each: each.code, "the same code in another scheme"),
            *_sharing(persons, _name_key, "the same name"),
            *_with_similar_given_names(persons),
        )
    )


def similar_devices(devices: Sequence[DeviceFacts]) -> list[Suggestion]:
    """Devices with the same serial number of other manufacturers, or the same station name and
    model."""
    return _first_reasons(
        (
            *_sharing(
                devices,
                lambda each: fold(each.serial_number or ""),
                "the same serial number, another manufacturer",
            ),
            *_sharing(
                devices,
                lambda each: (
                    f"{fold(each.station_name)} {fold(each.model or '')}"
                    if each.station_name
                    else None
                ),
                "the same station name and model",
            ),
        )
    )


def _sharing(
    rows: Sequence[PersonFacts] | Sequence[DeviceFacts],
    key: Callable[..., str | None],
    reason: str,
) -> Iterable[Suggestion]:
    """A suggestion for each with the first one that has the same key, so that many of one name are
    a line each."""
    first: dict[str, str] = {}
    for row in rows:
        value = key(row)
        if value and first.setdefault(value, row.id) != row.id:
            yield _suggestion(first[value], row.id, reason)


def _with_similar_given_names(persons: Sequence[PersonFacts]) -> Iterable[Suggestion]:
    by_family: dict[str, list[tuple[str, str]]] = {}
    for person in persons:
        words = name_words(person.name or "")
        if len(words) > 1:
            given_name = fold_spelling(" ".join(words[1:]))
            by_family.setdefault(fold_spelling(words[0]), []).append((person.id, given_name))
    for group in by_family.values():
        for (one, name), (other, other_name) in combinations(group, 2):
            if _is_similar(name, other_name):
                yield _suggestion(one, other, "the same family name and a similar given name")


def _is_similar(one: str, other: str) -> bool:
    """Whether one begins the other, as an initial does, or nearly all letters are the same."""
    if not one or not other:
        return False
    if one.startswith(other) or other.startswith(one):
        return True
    return SequenceMatcher(None, one, other).ratio() >= _SIMILAR


def _name_key(person: PersonFacts) -> str | None:
    """The words of the name in alphabetical order; None for a single one, which many may share."""
    words = sorted(fold_spelling(" ".join(name_words(person.name or ""))).split())
    return " ".join(words) if len(words) > 1 else None


def fold_spelling(name: str) -> str:
    """As `fold`, with what one letter is on one machine and two are on another as the same: Müller,
    Mueller and Muller; Håkansson and Haakansson; Weiß and Weiss; Sørensen and Soerensen."""
    letters = fold(name.casefold().translate(_LETTERS))
    for two, one in _WRITTEN_OUT:
        letters = letters.replace(two, one)
    return letters


# Letters that Unicode takes for letters of their own, not for one with an accent.
_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ħ": "h", "ı": "i", "þ": "th"}
)
_WRITTEN_OUT = (("ae", "a"), ("oe", "o"), ("ue", "u"), ("aa", "a"))


def _suggestion(one: str, other: str, reason: str) -> Suggestion:
    first, second = sorted((one, other))
    return Suggestion(first, second, reason)


def _first_reasons(suggestions: Iterable[Suggestion]) -> list[Suggestion]:
    """Each pair once, with the first of its reasons."""
    by_pair: dict[tuple[str, str], Suggestion] = {}
    for each in suggestions:
        by_pair.setdefault((each.one, each.other), each)
    return list(by_pair.values())

"""Decodes text by Specific Character Set, with code extensions (PS3.5 6.1, ISO/IEC 2022).

pydicom's decoder leaves the escapes of ISO 2022 IR 58 in the text, does not know Latin-9, and takes
a byte of a two-byte character for a delimiter. This one has the two code elements of ISO/IEC 2022:
G0 for bytes below 80H, G1 for those above.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

ESC = 0x1B
LINES = frozenset(b"\r\n\f\t")
NAME_DELIMITERS = frozenset(b"\\^=")
VALUE_DELIMITERS = frozenset(b"\\")
"""After each of these, and after control characters, value 1 of the element holds again (PS3.5
6.1.2.5.3)."""

STAND_ALONE = {"ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}
"""Sets without code extensions (PS3.3 C.12.1.1.2), and Python's names of them."""


class CharacterSetError(ValueError):
    """The bytes are no text in these character sets; the message quotes none."""


@dataclass(frozen=True, slots=True)
class CodedSet:
    """A coded character set: how many bytes a character takes, and how these are decoded (with
    their high bits as in G1)."""

    width: int
    decode: Callable[[bytes], str]


def _single(codec: str) -> CodedSet:
    return CodedSet(1, lambda raw: raw.decode(codec))


def _double(codec: str, before: bytes = b"") -> CodedSet:
    return CodedSet(2, lambda raw: (before + raw).decode(codec))


_ASCII = CodedSet(1, lambda raw: chr(raw[0] & 0x7F))
_KATAKANA = _single("shift_jis")
_KANJI, _MORE_KANJI = _double("euc_jp"), _double("euc_jp", b"\x8f")
_HANGUL, _HANZI = _double("euc_kr"), _double("gb2312")

# Sets that are designated to G0 only, by number of their registration.
_G0_ONLY = frozenset({"6", "87", "159"})

# Sets of G1, by number of their registration (PS3.3 tables C.12-2 to C.12-4).
_CODECS = {
    "100": "iso8859_1", "101": "iso8859_2", "109": "iso8859_3", "110": "iso8859_4",
    "144": "iso8859_5", "127": "iso8859_6", "126": "iso8859_7", "138": "iso8859_8",
    "148": "iso8859_9", "203": "iso8859_15", "166": "tis_620", "13": "shift_jis",
}  # fmt: skip
_G1_SETS: dict[str, CodedSet] = {
    **{number: _single(codec) for number, codec in _CODECS.items()},
    "149": _HANGUL,
    "58": _HANZI,
}
DEFINED_TERMS = {
    "": "ascii",
    "ISO_IR 6": "ascii",
    **{f"ISO_IR {number}": codec for number, codec in _CODECS.items()},
    "ISO 2022 IR 6": "ascii",
    **{f"ISO 2022 IR {number}": codec for number, codec in _CODECS.items()},
    "ISO 2022 IR 87": "euc_jp",
    "ISO 2022 IR 159": "euc_jp",
    "ISO 2022 IR 149": "euc_kr",
    "ISO 2022 IR 58": "gb2312",
    **STAND_ALONE,
}
"""The Defined Terms of PS3.3 C.12.1.1.2, and Python's codec that knows each set's letters."""

# Escape sequences: after ESC, the code element and the set (PS3.3 tables C.12-3 and C.12-4). The
# last three are in no table; Japanese machines send them.
_ESCAPES: dict[bytes, tuple[int, CodedSet]] = {
    b"(B": (0, _ASCII),
    b"(J": (0, _ASCII),
    b"$B": (0, _KANJI),
    b"$(D": (0, _MORE_KANJI),
    b"-A": (1, _G1_SETS["100"]),
    b"-B": (1, _G1_SETS["101"]),
    b"-C": (1, _G1_SETS["109"]),
    b"-D": (1, _G1_SETS["110"]),
    b"-L": (1, _G1_SETS["144"]),
    b"-G": (1, _G1_SETS["127"]),
    b"-F": (1, _G1_SETS["126"]),
    b"-H": (1, _G1_SETS["138"]),
    b"-M": (1, _G1_SETS["148"]),
    b"-b": (1, _G1_SETS["203"]),
    b"-T": (1, _G1_SETS["166"]),
    b")I": (1, _KATAKANA),
    b"$)C": (1, _HANGUL),
    b"$)A": (1, _HANZI),
    b"$@": (0, _KANJI),
    b"$(B": (0, _KANJI),
    b"(I": (0, _KATAKANA),
}

_NUMBERED = re.compile(r"ISO[ _-]?(?:2022[ _-]?)?(?:IR[ _-]?)?(\d{1,3})", re.IGNORECASE)
_ALIASES = (
    (re.compile(r"(ISO[ _-]?10646[ _-]?)?UTF[ _-]?8", re.IGNORECASE), "ISO_IR 192"),
    (re.compile(r"(ISO[ _-]?8859[ _-]?1|LATIN[ _-]?1)", re.IGNORECASE), "100"),
    (re.compile(r"(ISO[ _-]?2022[ _-]?)?GBK", re.IGNORECASE), "GBK"),
    (re.compile(r"GB[ _-]?18030", re.IGNORECASE), "GB18030"),
    (re.compile(r"GB[ _-]?2312", re.IGNORECASE), "58"),
)


def character_sets(declared: str | Iterable[str]) -> tuple[str, ...] | None:
    """The sets that values of Specific Character Set name, misspelt ones too: a key of STAND_ALONE,
    or the number of a registration. Nothing declared is ASCII, ("6",); None for an unknown name.
    """
    names = declared.split("\\") if isinstance(declared, str) else list(declared)
    character_sets = tuple(_character_set(name.strip(" \0")) for name in names)
    if None in character_sets:
        return None
    return tuple(name or "6" for name in character_sets) or ("6",)


def _character_set(name: str) -> str | None:
    """Empty for an empty name, None for an unknown one."""
    if not name or name in STAND_ALONE:
        return name
    for pattern, canonical in _ALIASES:
        if pattern.fullmatch(name):
            return canonical
    numbered = _NUMBERED.fullmatch(name)
    number = numbered[1] if numbered else ""
    if number == "192":
        return "ISO_IR 192"
    return number if number in _G1_SETS or number in _G0_ONLY else None


def decode_text(
    raw: bytes, sets: Sequence[str], delimiters: frozenset[int] = VALUE_DELIMITERS
) -> str:
    """The bytes of an element's value as text, in these of `character_sets`.

    An escape to a set that is not declared says all the same what follows. Raises
    CharacterSetError.
    """
    if raw.isascii() and ESC not in raw:
        return raw.decode("ascii")
    codec = next((STAND_ALONE[name] for name in sets if name in STAND_ALONE), None)
    try:
        if codec is not None and (len(sets) == 1 or ESC not in raw):
            return raw.decode(codec)
        return "".join(_characters(raw, _G1_SETS.get(sets[0]), delimiters))
    except (UnicodeDecodeError, IndexError) as error:
        raise CharacterSetError("bytes that are no text in the declared character set") from error


def split_values(text: str) -> list[str]:
    """The values of a decoded element that may have several."""
    return text.split("\\")


def _characters(raw: bytes, first: CodedSet | None, delimiters: frozenset[int]) -> Iterable[str]:
    """Character by character. `first` is G1 of value 1, None where that is ASCII alone."""
    g0, g1, designated = _ASCII, first, first
    position = 0
    while position < len(raw):
        byte = raw[position]
        if byte == ESC:
            sequence = _find_escape(raw, position + 1)
            element, coded = _ESCAPES[sequence]
            if element == 0:
                g0 = coded
            else:
                g1 = designated = coded
            position += 1 + len(sequence)
            continue
        is_delimiter = g0.width == 1 and byte in delimiters
        if byte < 0x20 or is_delimiter:
            g0, g1 = _ASCII, first
        if byte <= 0x20 or is_delimiter:
            yield chr(byte)
            position += 1
            continue
        # Some senders designate a set once and not again after each delimiter.
        coded = g0 if byte < 0x80 else g1 or designated or _no_character_set()
        character = raw[position : position + coded.width]
        if len(character) < coded.width or any((b ^ byte) & 0x80 for b in character):
            raise CharacterSetError("half of a two-byte character")
        yield coded.decode(bytes(b | 0x80 for b in character) if coded is not _ASCII else character)
        position += coded.width


def _find_escape(raw: bytes, position: int) -> bytes:
    """The escape sequence that begins at the position. Raises CharacterSetError."""
    for length in (2, 3):
        if raw[position : position + length] in _ESCAPES:
            return raw[position : position + length]
    raise CharacterSetError("an unknown escape sequence")


def _no_character_set() -> CodedSet:
    raise CharacterSetError("bytes beyond ASCII, and no character set for them")

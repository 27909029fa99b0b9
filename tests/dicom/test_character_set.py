"""Every Defined Term and escape of PS3.3 C.12.1.1.2, through each door that reads text."""

import struct
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from qc_daemon.dicom.character_set import (
    NAME_DELIMITERS,
    STAND_ALONE,
    CharacterSetError,
    character_sets,
    decode_text,
)
from qc_daemon.receive.identifiers import Identity, read_identity
from qc_daemon.report.normalise import normalise

IMPLICIT = "1.2.840.10008.1.2"

# Number of the registration, escape that designates it, Python's codec, family and given name.
SINGLE_BYTE = [
    ("100", b"\x1b-A", "latin_1", ("Müller", "Änne")),
    ("101", b"\x1b-B", "iso8859_2", ("Wałęsa", "Łukasz")),
    ("109", b"\x1b-C", "iso8859_3", ("Ĝoja", "Ħaż")),
    ("110", b"\x1b-D", "iso8859_4", ("Šķēle", "Ēriks")),
    ("144", b"\x1b-L", "iso8859_5", ("Люксембург", "Анна")),
    ("127", b"\x1b-G", "iso8859_6", ("قباني", "لنزار")),
    ("126", b"\x1b-F", "iso8859_7", ("Διονύσιος", "Άννα")),
    ("138", b"\x1b-H", "iso8859_8", ("שרון", "דבורה")),
    ("148", b"\x1b-M", "iso8859_9", ("Çavuşoğlu", "İlkay")),
    ("203", b"\x1b-b", "iso8859_15", ("Œuvrard", "Žofie")),
    ("166", b"\x1b-T", "tis_620", ("นามสกุล", "ชื่อ")),
    ("13", b"\x1b)I", "shift_jis", ("ﾔﾏﾀﾞ", "ﾀﾛｳ")),
]


def header(declared: str, **values: bytes) -> bytes:
    """An implicit data set with these elements as they are on the wire."""
    dataset = b""
    elements = {"SpecificCharacterSet": declared.encode("ascii"), **values}
    for keyword in sorted(elements, key=lambda name: int(Tag(name))):
        value = elements[keyword] + b" " * (len(elements[keyword]) % 2)
        tag = int(Tag(keyword))
        dataset += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    return dataset


def named(declared: str, name: bytes, folder: Path) -> tuple[Dataset, bool, Identity]:
    """What a report and the receiver read of the name in all its places."""
    whole = header(
        declared,
        StudyDescription=name,
        PatientName=name,
        PatientID=name,
        OtherPatientNames=name + b"\\" + name,
        StudyInstanceUID=b"1.2.3",
        SeriesInstanceUID=b"1.2.3.4",
    )
    path = folder / "header"
    path.write_bytes(whole)
    parsed = read_dataset(BytesIO(whole), is_implicit_VR=True, is_little_endian=True)
    copy, lost = normalise(parsed)
    return copy, lost, read_identity(path, 0, IMPLICIT, with_description=True)


def check(declared: str, name: bytes, expected: str, folder: Path) -> None:
    copy, lost, identity = named(declared, name, folder)
    assert str(copy.PatientName) == expected
    assert [str(each) for each in copy.OtherPatientNames] == [expected, expected]
    assert not lost
    text = expected.strip()
    assert (copy.PatientID, copy.StudyDescription) == (text, text)
    assert (identity.patient_id, identity.study_description) == (text, text)


@pytest.mark.parametrize("term", ["ISO_IR {}", "ISO 2022 IR {}", "ISO 2022 IR {}\\ISO 2022 IR 87"])
@pytest.mark.parametrize(("number", "_escape", "codec", "name"), SINGLE_BYTE)
def test_single_byte_set_as_value_1(
    tmp_path: Path, term: str, number: str, _escape: bytes, codec: str, name: tuple[str, str]
) -> None:
    text = "^".join(name)
    check(term.format(number), text.encode(codec), text, tmp_path)


@pytest.mark.parametrize("first", ["", "ISO 2022 IR 6", "ISO 2022 IR 100"])
@pytest.mark.parametrize(("number", "escape", "codec", "name"), SINGLE_BYTE)
def test_single_byte_set_by_its_escape(
    tmp_path: Path, first: str, number: str, escape: bytes, codec: str, name: tuple[str, str]
) -> None:
    """A delimiter ends what an escape began."""
    family, given_name = (escape + part.encode(codec) for part in name)
    declared = f"{first}\\ISO 2022 IR {number}"
    check(declared, b"X^Y=" + family + b"^" + given_name, f"X^Y={'^'.join(name)}", tmp_path)


@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        pytest.param(
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            id="H.3.1",
        ),
        pytest.param(
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^"
            b"\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
            id="H.3.2",
        ),
        pytest.param(
            "\\ISO 2022 IR 87\\ISO 2022 IR 159",
            b"A=\x1b$(D0!\x1b(B^\x1b$B;3\x1b(B",
            "A=丂^山",
            id="JIS X 0212",
        ),
        pytest.param(
            "\\ISO 2022 IR 87",
            # 5CH and 5EH are halves of characters here, not delimiters.
            b"\x1b$B\x41\x5c\x41\x5e\x41\x3d\x1b(B^B",
            "壮藻秋^B".replace("壮藻秋", b"\xc1\xdc\xc1\xde\xc1\xbd".decode("euc_jp")),
            id="delimiters inside kanji",
        ),
        pytest.param(
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
            id="I.2",
        ),
        pytest.param(
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\xd1\xce\xd4\xd7",
            "Hong^Gildong=洪^吉洞",
            id="designated once",
        ),
        pytest.param("ISO 2022 IR 149", b"\xc8\xab^\xb1\xe6\xb5\xbf", "홍^길동", id="never"),
        pytest.param(
            "\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东",
            id="K.2",
        ),
        pytest.param(
            "\\ISO 2022 IR 58",
            b"\x1b$)A\xcd\xf5^\x1b(B\x1b$)A\xd0\xa1",
            "王^小",
            id="both code elements designated",
        ),
        pytest.param(
            "\\ISO 2022 IR 149\\ISO 2022 IR 58",
            b"\x1b$)C\xc8\xab^\x1b$)A\xd5\xc5",
            "홍^张",
            id="two sets of two bytes",
        ),
        pytest.param("ISO_IR 192", "Wang^Xiao=王^小東=".encode(), "Wang^Xiao=王^小東", id="J.1"),
        pytest.param(
            "GB18030", "Wang^Xiao=王^小东".encode("gb18030"), "Wang^Xiao=王^小东", id="J.2"
        ),
        # In these two a trailing byte is 5CH.
        pytest.param("GB18030", "乗^A".encode("gb18030"), "乗^A", id="GB18030 backslash"),
        pytest.param("GBK", "乗^A=誠^B".encode("gbk"), "乗^A=誠^B", id="GBK"),
        pytest.param("ISO 2022 GBK", "乗^A".encode("gbk"), "乗^A", id="GBK misspelt"),
        pytest.param("ISO_IR 100", b"\x1b$)A\xd5\xc5^A", "张^A", id="escape not declared"),
        pytest.param("ISO_IR 6", b"Doe^Jane", "Doe^Jane", id="default repertoire"),
    ],
)
def test_examples_of_the_standard_and_beyond(
    tmp_path: Path, declared: str, name: bytes, expected: str
) -> None:
    copy, lost, identity = named(declared, name, tmp_path)
    assert str(copy.PatientName).rstrip("=") == expected
    assert [str(each).rstrip("=") for each in copy.OtherPatientNames] == [expected, expected]
    assert not lost
    assert copy.StudyDescription.rstrip("=") == expected
    assert identity.patient_id.rstrip("=") == expected
    assert identity.study_description.rstrip("=") == expected


@pytest.mark.parametrize(
    ("declared", "raw"),
    [
        ("", b"M\xfcller"),
        ("ISO_IR 192", b"M\xfcller"),
        ("\\ISO 2022 IR 87", b"\x1b$B\x41"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xc8"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xc8A"),
        ("\\ISO 2022 IR 58", b"\x1b$)"),
        ("\\ISO 2022 IR 58", b"\x1b(Zxyz"),
        ("ISO_IR 127", b"\xff"),
    ],
)
def test_what_is_no_text_is_emptied_and_still_identifies(
    tmp_path: Path, declared: str, raw: bytes
) -> None:
    with pytest.raises(CharacterSetError):
        decode_text(raw, character_sets(declared) or ("6",))
    copy, lost, identity = named(declared, raw, tmp_path)
    assert lost
    assert not copy.PatientName
    assert identity.patient_id == raw.decode("latin-1").strip()


@pytest.mark.parametrize("declared", ["ISO_IR 999", "nonsense", "ISO_IR 100\\KLINGON", "zlib"])
def test_unknown_names_are_unknown(declared: str) -> None:
    assert character_sets(declared) is None


@given(
    declared=st.lists(
        st.sampled_from(
            [
                "",
                *STAND_ALONE,
                *(f"ISO_IR {each[0]}" for each in SINGLE_BYTE),
                *(f"ISO 2022 IR {n}" for n in ("6", "13", "58", "87", "100", "149", "159")),
            ]
        ),
        max_size=4,
    ),
    raw=st.lists(
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from([b"\x1b$)A", b"\x1b$)C", b"\x1b$B", b"\x1b(B", b"\x1b-A", b"^", b"="]),
        ),
        max_size=12,
    ).map(b"".join),
)
def test_any_bytes_are_text_or_refused(declared: list[str], raw: bytes) -> None:
    sets = character_sets(declared)
    assert sets is not None
    try:
        text = decode_text(raw, sets, NAME_DELIMITERS)
    except CharacterSetError:
        text = ""
    assert "\x1b" not in text or any(name in STAND_ALONE for name in sets)


@given(
    parts=st.lists(
        st.sampled_from(SINGLE_BYTE).flatmap(
            lambda row: st.tuples(st.just(row), st.text("".join(row[3]), min_size=1, max_size=8))
        ),
        min_size=1,
        max_size=5,
    )
)
def test_mixed_character_sets_are_decoded(
    parts: list[tuple[tuple[str, bytes, str, tuple[str, str]], str]],
) -> None:
    raw = b"^".join(row[1] + text.encode(row[2]) for row, text in parts)
    sets = character_sets(["", *(f"ISO 2022 IR {row[0]}" for row, _ in parts)])
    assert sets is not None
    assert decode_text(raw, sets, NAME_DELIMITERS) == "^".join(text for _, text in parts)


def test_item_with_its_own_character_set_is_read_in_that() -> None:
    """PS3.3 C.12.1.1.2: in a sequence item it replaces that of the data set around it."""
    item = Dataset()
    for keyword, vr, value in (
        ("SpecificCharacterSet", "CS", b"ISO_IR 144"),
        ("CodeValue", "SH", b"1"),
        ("CodingSchemeDesignator", "SH", b"99X"),
        ("CodeMeaning", "LO", "УЗИ".encode("iso8859_5")),
    ):
        tag = Tag(keyword)
        item[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    around = Dataset()
    around.SpecificCharacterSet = "ISO_IR 100"
    around.ProcedureCodeSequence = [item]
    copy, lost = normalise(around)
    assert copy.ProcedureCodeSequence[0].CodeMeaning == "УЗИ"
    assert not lost

"""ADT messages about a patient, and their acknowledgement (HL7 v2.5.1 chapters 2 and 3).

hl7apy takes messages apart; what it says of a faulty one quotes it, and never leaves this module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hl7apy.parser import parse_message as parse_elements

from qc_daemon.dicom.person_name import clean_name

CHARACTER_SETS = {
    "ASCII": "ascii",
    **{f"8859/{number}": f"iso8859_{number}" for number in (*range(1, 10), 15)},
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
"""Values of MSH-18 (table 0211) and Python's names of them. UTF-8 is what some senders call it."""

_NULL = '""'  # A field that is to be emptied; here it says nothing.
_MAX_ID = 64
_ECHO = 180  # Letters of a sender's field that an acknowledgement repeats.
_HEADER_FIELDS = 18
_OTHER_BYTES = "bytes that are not of the character set of MSH-18, or of the setting"


class MessageError(Exception):
    """A message that is not processed; `code` is the acknowledgement (table 0008), `reason` a fixed
    phrase, without a word of the message. `header` is what could be read of it."""

    def __init__(self, code: str, reason: str, header: "Header | None" = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.header = header


@dataclass(frozen=True, slots=True)
class Header:
    """What an acknowledgement repeats of a message, as far as it could be read.

    `separators` are the field separator and the encoding characters; `fields` are MSH-3 to MSH-18.
    """

    separators: str = "|^~\\&"
    fields: tuple[str, ...] = ()
    codec: str = "ascii"

    def field(self, number: int) -> str:
        """MSH-`number`, from 3; empty if it is not there."""
        return self.fields[number - 3] if number - 3 < len(self.fields) else ""

    @property
    def sender(self) -> str:
        """Sending application and facility (MSH-3, MSH-4)."""
        return f"{self.field(3)}|{self.field(4)}"[:_ECHO]

    @property
    def control_id(self) -> str:
        """The message's id (MSH-10)."""
        return self.field(10)

    @property
    def event(self) -> str:
        """Message type and trigger event (MSH-9), as `ADT^A08`."""
        return "^".join(self.field(9).split(self.separators[1])[:2])


@dataclass(frozen=True, slots=True)
class Identifier:
    """A patient's number, and its assigning authority by namespace and universal id (CX-1, CX-4.1,
    CX-4.2); empty: not there."""

    number: str
    namespace: str = ""
    universal_id: str = ""

    @property
    def names(self) -> tuple[str, str]:
        """What the authority is called, as it is compared: case does not count."""
        return self.namespace.casefold(), self.universal_id.casefold()


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as PID has it. `ids` are her numbers in the order of the message; `name` as PN and
    `birth_date` as DA (PS3.5 6.2), None where nothing is said."""

    ids: tuple[Identifier, ...]
    name: str | None = None
    birth_date: str | None = None


@dataclass(frozen=True, slots=True)
class PatientUpdate:
    """What a message says of one patient; `prior_ids` are of the patient merged into it (MRG)."""

    patient: Patient
    prior_ids: tuple[Identifier, ...] = ()


def read_header(content: bytes, character_set: str = "ASCII") -> Header:
    """The message's header; `character_set` is the one where MSH-18 names none. Raises MessageError
    where there is no header, or its character set is not known or not kept."""
    line = content.split(b"\r", 1)[0]
    if not line.startswith(b"MSH") or len(line) < len(b"MSH|^~\\&"):
        raise MessageError("AR", "not an HL7 v2 message: it does not begin with MSH")
    separators = line[3:8].decode("latin-1")
    if len(set(separators)) < len(separators) or any(
        each.isalnum() or each in " \r\n" or not each.isascii() for each in separators
    ):
        raise MessageError("AR", "the encoding characters of MSH-2 are not usable")
    fields = line.decode("latin-1").split(separators[0])[2:_HEADER_FIELDS]
    name = fields[15] if len(fields) > 15 else ""  # MSH-18
    # Its letters go back byte for byte, whatever they are.
    header = Header(separators, tuple(fields), "latin-1")
    name = name.split(separators[2])[0].strip().upper()
    codec = CHARACTER_SETS.get(name or character_set)
    if codec is None:
        raise MessageError("AR", "the character set of MSH-18 is not known here", header)
    try:
        text = line.decode(codec)
    except UnicodeDecodeError:
        raise MessageError("AE", _OTHER_BYTES, header) from None
    fields = text.split(separators[0])[2:_HEADER_FIELDS]
    return Header(header.separators, tuple(fields), codec)


def read_updates(content: bytes, header: Header) -> list[PatientUpdate]:
    """The patients of an A08 or A40. Raises MessageError for anything else, and for a message that
    says of nobody what is to be done."""
    if not header.control_id.strip():
        raise MessageError("AR", "the message has no control id (MSH-10)")
    if header.field(11).split(header.separators[1])[0] not in ("", "P"):
        raise MessageError("AR", "the processing id (MSH-11) is not P")
    if header.event not in ("ADT^A08", "ADT^A40"):
        raise MessageError("AR", "the message type is not supported: ADT^A08 and ADT^A40 are")
    try:
        text = content.decode(header.codec)
    except UnicodeDecodeError:
        raise MessageError("AE", _OTHER_BYTES) from None
    try:
        message = parse_elements(_own_segments(text, header), find_groups=False)
        updates = list(_updates(message, header))
    except MessageError:
        raise
    except Exception as error:
        # Whatever a faulty message makes the library raise; its words quote the message.
        unsupported = type(error).__name__ == "UnsupportedVersion"
        reason = "its version (MSH-12) is not supported" if unsupported else "it cannot be parsed"
        raise MessageError("AR" if unsupported else "AE", reason) from None
    if not updates:
        raise MessageError("AE", "the message has no patient (PID)")
    if header.event == "ADT^A40" and not all(each.prior_ids for each in updates):
        raise MessageError("AE", "the message has no prior patient (MRG)")
    return updates


def _own_segments(text: str, header: Header) -> str:
    """The segments that are read here. Others, as a site's own ones, are to be ignored (2.7), and
    the library refuses those that the version lacks."""
    names = tuple(f"{name}{header.separators[0]}" for name in ("MSH", "PID", "MRG"))
    lines = (line.strip("\n") for line in text.split("\r"))
    return "".join(f"{line}\r" for line in lines if line.startswith(names))


def acknowledge(header: Header, code: str, reason: str, ours: str, now: datetime) -> bytes:
    """The acknowledgement (ACK) of a message: `code` as in table 0008, for a refusal a reason."""
    field, component = header.separators[0], header.separators[1]
    echo = [header.field(number)[:_ECHO] for number in (3, 4, 9, 10, 11, 12)]
    application, facility, _, control_id, processing, version = echo
    trigger = header.event.partition("^")[2]
    kind = f"ACK{component}{trigger}" if trigger else "ACK"
    moment = now.strftime("%Y%m%d%H%M%S%z")
    own_id = f"{now:%Y%m%d%H%M%S%f}"
    msh = [
        f"MSH{header.separators[:1]}{header.separators[1:]}",
        *(ours, "", application, facility, moment, "", kind, own_id, processing or "P"),
        version or "2.5.1",
    ]
    if header.codec != "ascii":
        msh += [*[""] * 5, header.field(18)]
    msa = ["MSA", code, control_id, *([reason] if reason else [])]
    text = "\r".join((field.join(msh), field.join(msa))) + "\r"
    return text.encode(header.codec, "replace")


def _updates(message: Any, header: Header) -> Iterator[PatientUpdate]:
    """Each PID with the MRG that follows it."""
    patient: Patient | None = None
    prior: tuple[Identifier, ...] = ()
    for segment in message.children:
        if segment.name == "PID":
            if patient is not None:
                yield PatientUpdate(patient, prior)
            patient, prior = _patient(segment, header), ()
        elif segment.name == "MRG" and patient is not None:
            prior = _ids(segment.mrg_1, header)
    if patient is not None:
        yield PatientUpdate(patient, prior)


def _patient(segment: Any, header: Header) -> Patient:
    day = _value(segment.pid_7, header)[:8]
    return Patient(
        _ids(segment.pid_3, header),
        _name([each.value for each in segment.pid_5], header),
        day if _is_day(day) else None,
    )


def _ids(fields: Any, header: Header) -> tuple[Identifier, ...]:
    """The number of each repetition that has one."""
    ids = []
    for each in fields:
        parts = each.value.split(header.separators[1])
        number = _text(parts[0], header)
        if not number:
            continue
        if len(number) > _MAX_ID or not number.isprintable() or "\\" in number:
            raise MessageError("AE", "a patient identifier is none that a Patient ID can hold")
        authority = [*(parts[3] if len(parts) > 3 else "").split(header.separators[4]), ""]
        ids.append(Identifier(number, _text(authority[0], header), _text(authority[1], header)))
    return tuple(ids)


def _name(repetitions: list[str], header: Header) -> str | None:
    """XPN as PN: family, given, middle, prefix, suffix; the ideographic one beside the first."""
    alphabetic, ideographic = "", ""
    for value in repetitions:
        parts = value.split(header.separators[1])
        family, given, middle, suffix, prefix, _, _, form, *_ = [*parts, *[""] * 8]
        # Parts of a family name (FN) have separators of their own.
        family = family.split(header.separators[4])[0]
        components = (_text(each, header) for each in (family, given, middle, prefix, suffix))
        # Neither may stand in a component of PN.
        name = "^".join(each.translate({94: " ", 61: " "}) for each in components).rstrip("^")
        if form == "I":
            ideographic = ideographic or name
        elif form != "P":
            alphabetic = alphabetic or name
    if not alphabetic:
        return None
    name = f"{alphabetic}={ideographic}" if ideographic else alphabetic
    return clean_name(name) if name.isprintable() and "\\" not in name else None


def _value(fields: Any, header: Header) -> str:
    """The first repetition of a field; empty if it is not there."""
    return next((_text(each.value, header) for each in fields), "")


def _text(value: str, header: Header) -> str:
    """A value without its escapes (2.7); one to be emptied is empty."""
    if value == _NULL:
        return ""
    field, component, repetition, escape, subcomponent = tuple(header.separators)
    letters = {"F": field, "S": component, "R": repetition, "E": escape, "T": subcomponent}
    first, *parts = value.split(escape)
    text, is_sequence = first, True
    for part in parts:
        # Between two escape characters stands a sequence, behind the second one text.
        text += letters.get(part, "") if is_sequence else part
        is_sequence = not is_sequence
    return text.strip()


def _is_day(value: str) -> bool:
    try:
        return len(value) == len("YYYYMMDD") and bool(datetime.strptime(value, "%Y%m%d"))
    except ValueError:
        return False

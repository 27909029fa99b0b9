"""Reads size, components, precision and colour space from the markers of a codestream.

The header often contradicts it; the codestream decides (PS3.5 8.2). Converting colours twice, or
not at all, gives false ones. Marker segments: ITU-T T.81 B.1.1.3, T.87 C.1, T.800 A.2; the APP14
segment: Adobe Technical Note 5116; RLE: PS3.5 annex G.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

RGB, YBR_FULL = "RGB", "YBR_FULL"

_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
_STANDALONE = {0x01, *range(0xD0, 0xDA)}
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class Colour:
    """The space of three components; `is_contradicted` where header and codestream disagree."""

    space: str
    is_contradicted: bool = False


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a frame's codestream states; `space` is None where its markers name no colour space."""

    rows: int
    columns: int
    components: int
    precision: int
    space: str | None = None


def header_space(photometric: str | None) -> str | None:
    """The colour space that a Photometric Interpretation of three samples names, if any."""
    if photometric == "RGB":
        return RGB
    return YBR_FULL if photometric and photometric.startswith("YBR_") else None


def resolve_colour(declared_space: str | None, photometric: str | None, otherwise: str) -> Colour:
    """The codestream's colour space, else the header's, else `otherwise`, and whether the first two
    contradict each other."""
    label_space = header_space(photometric)
    disagree = (
        declared_space is not None and label_space is not None and declared_space != label_space
    )
    return Colour(declared_space or label_space or otherwise, disagree)


def read_jpeg(codestream: bytes) -> Codestream | None:
    """The first frame header of JPEG or JPEG-LS; None when there is none.

    Colours, in order of authority: component letters, the Adobe transform, subsampled chroma,
    JFIF. JFIF says nothing of a lossless process: it knows lossy ones only, and PS3.5 8.2.1 lets
    those that lose nothing keep RGB.
    """
    jfif = False
    adobe: int | None = None
    for marker, body in _segments(codestream):
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in _START_OF_FRAME and len(body) >= 6:
            precision, rows, columns, count = struct.unpack(">BHHB", body[:6])
            rows = rows or _later_rows(codestream)
            parts = [body[6 + 3 * i : 9 + 3 * i] for i in range(count)]
            letters = bytes(part[0] for part in parts if part)
            is_subsampled = len({part[1] for part in parts if len(part) == 3}) > 1
            is_ybr = adobe == 1 or is_subsampled or (jfif and marker not in _LOSSLESS)
            is_rgb = letters.upper() == b"RGB" or adobe == 0
            space = RGB if is_rgb else YBR_FULL if is_ybr else None
            return Codestream(rows, columns, count, precision, space)
    return None


def _later_rows(codestream: bytes) -> int:
    """The rows of a frame header that leaves them to a DNL marker (T.81 B.2.5); 0 without one."""
    at = codestream.find(b"\xff\xdc\x00\x04")
    return int.from_bytes(codestream[at + 4 : at + 6], "big") if at >= 0 else 0


def jpeg_colour(codestream: bytes, photometric: str | None) -> Colour:
    """`RGB` or `YBR_FULL` of a three-component JPEG or JPEG-LS codestream."""
    stated = read_jpeg(codestream)
    return resolve_colour(stated.space if stated else None, photometric, YBR_FULL)


def read_jpeg2000(codestream: bytes) -> Codestream | None:
    """The SIZ and COD markers of JPEG 2000 (T.800 A.5.1, A.6.1); None without them.

    The decoder undoes the multiple component transform, so that its result is RGB, whatever the
    header calls it.
    """
    at = codestream.find(b"\xff\x4f\xff\x51")
    size = codestream[at + 6 : at + 43]
    if at < 0 or len(size) < 37:
        return None
    _, right, bottom, left, top = struct.unpack(">HLLLL", size[:18])
    (components,) = struct.unpack(">H", size[34:36])
    cod = codestream.find(b"\xff\x52", at)
    is_transformed = cod >= 0 and codestream[cod + 8 : cod + 9] == b"\x01"
    space = RGB if is_transformed and components >= 3 else None
    return Codestream(bottom - top, right - left, components, (size[36] & 0x7F) + 1, space)


def jpeg2000_colour(codestream: bytes, photometric: str | None) -> Colour:
    """`RGB` or `YBR_FULL` of decoded three-component JPEG 2000."""
    start = codestream.find(b"\xff\x4f\xff\x51")
    cod = codestream.find(b"\xff\x52", max(start, 0))
    is_transformed = start >= 0 and cod >= 0 and codestream[cod + 8 : cod + 9] == b"\x01"
    if is_transformed:
        # RGB is how many call what PS3.5 8.2.4 calls YBR_RCT or YBR_ICT: the same thing.
        named = photometric in ("RGB", "YBR_RCT", "YBR_ICT") or header_space(photometric) is None
        return Colour(RGB, not named)
    if photometric in ("YBR_RCT", "YBR_ICT"):
        return Colour(RGB, is_contradicted=True)
    return resolve_colour(None, photometric, YBR_FULL)


def read_rle(codestream: bytes, rows: int, columns: int, bits: int) -> Codestream | None:
    """Samples of an RLE frame: one segment for each byte of each (PS3.5 G.2); None if no header.

    RLE states no size; `bits` (Bits Allocated) tells 16-bit grey from what else has two segments.
    """
    if len(codestream) < 64:
        return None
    (segments,) = struct.unpack("<L", codestream[:4])
    width = max(1, bits // 8)
    if segments in (width, 3 * width):
        return Codestream(rows, columns, segments // width, 8 * width)
    layouts = {1: (1, 8), 2: (1, 16), 3: (3, 8), 6: (3, 16)}
    if segments not in layouts:
        return None
    return Codestream(rows, columns, *layouts[segments])


def _segments(codestream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment before the first scan."""
    at = 2
    while at + 4 <= len(codestream) and codestream[at] == 0xFF:
        marker = codestream[at + 1]
        if marker == _START_OF_SCAN:
            return
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(codestream[at + 2 : at + 4], "big")
        yield marker, codestream[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)

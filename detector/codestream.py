"""What a JPEG or JPEG 2000 codestream says of its own colour space.

The header's Photometric Interpretation often contradicts the codestream; converting twice, or not
at all, gives false colours. Marker segments: ITU-T T.81 B.1.1.3, T.800 A.2; the APP14 segment:
Adobe Technical Note 5116.
"""

from collections.abc import Iterator

_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_STANDALONE = {0x01, *range(0xD0, 0xDA)}
_START_OF_SCAN = 0xDA


def jpeg_colour(codestream: bytes, photometric: str) -> str:
    """`RGB` or `YBR_FULL` of a three-component JPEG or JPEG-LS codestream.

    In order of authority: component letters, the Adobe transform, JFIF, subsampled chroma, and
    only then the header.
    """
    jfif = False
    adobe: int | None = None
    subsampled = False
    letters = b""
    for marker, body in _segments(codestream):
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in _START_OF_FRAME and len(body) >= 6:
            components = [body[6 + 3 * i : 9 + 3 * i] for i in range(body[5])]
            letters = bytes(component[0] for component in components if component)
            factors = {component[1] for component in components if len(component) == 3}
            subsampled = len(factors) > 1
    if letters.upper() == b"RGB" or adobe == 0:
        return "RGB"
    if adobe == 1 or jfif or subsampled:
        return "YBR_FULL"
    return "RGB" if photometric == "RGB" else "YBR_FULL"


def jpeg2000_colour(codestream: bytes, photometric: str) -> str:
    """`RGB` or `YBR_FULL` of decoded three-component JPEG 2000.

    The decoder undoes the multiple component transform (T.800 A.6.1, COD marker), whatever the
    header calls the result.
    """
    start = codestream.find(b"\xff\x4f\xff\x51")
    cod = codestream.find(b"\xff\x52", max(start, 0))
    transformed = start >= 0 and cod >= 0 and codestream[cod + 8 : cod + 9] == b"\x01"
    if transformed or photometric in ("RGB", "YBR_RCT", "YBR_ICT"):
        return "RGB"
    return "YBR_FULL"


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

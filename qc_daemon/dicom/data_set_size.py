"""Whether a DIMSE-N request's data set is small enough to be parsed.

For a data set of tiny elements pydicom needs fifty times its bytes, and minutes; for a deflated one
a thousand times. So its elements and items are counted first, and it is refused if it has more than
an exam can have: an item of a Referenced SOP Sequence is two elements and some 120 bytes.
"""

import struct
import zlib

# Bytes (inflated), elements and sequence items of a data set that is parsed.
MAX_BYTES = 2 << 20
MAX_ELEMENTS = 40_000
MAX_ITEMS = 10_000
_BIG_ENDIAN, _IMPLICIT, _DEFLATED = (
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _DELIMITERS = 0xFFFEE000, (0xFFFEE00D, 0xFFFEE0DD)
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VR = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


def excess(encoded: bytes, transfer_syntax: str) -> str | None:
    """What a data set has too much of, as a reason for the log; None if it may be parsed."""
    if len(encoded) > MAX_BYTES:
        return "the data set is too long"
    if transfer_syntax == _DEFLATED:
        try:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            encoded = inflate.decompress(encoded, MAX_BYTES + 1)
        except zlib.error:
            # The parser will report it.
            return None
        if len(encoded) > MAX_BYTES:
            return "the data set is too long"
    return _count_elements(encoded, transfer_syntax)


def _count_elements(encoded: bytes, transfer_syntax: str) -> str | None:
    """What the data set has too many of; None if nothing.

    Every value that could be a sequence is counted as one, so that no parser finds more.
    """
    order = ">" if transfer_syntax == _BIG_ENDIAN else "<"
    tag_of, long_of, short_of = (struct.Struct(order + each) for each in ("HH", "I", "H"))
    item = tag_of.pack(_ITEM >> 16, _ITEM & 0xFFFF)
    at = elements = items = 0
    while at + 8 <= len(encoded):
        group, element = tag_of.unpack_from(encoded, at)
        vr = encoded[at + 4 : at + 6]
        (length,) = long_of.unpack_from(encoded, at + 4)
        at += 8
        tag = group << 16 | element
        if tag == _ITEM:
            items += 1
            length = 0
        elif tag in _DELIMITERS:
            length = 0
        elif vr in _LONG_VR and not (transfer_syntax == _IMPLICIT and at + length <= len(encoded)):
            if at + 4 > len(encoded):
                break
            (length,) = long_of.unpack_from(encoded, at)
            at += 4
        elif vr in _SHORT_VR and not (transfer_syntax == _IMPLICIT and at + length <= len(encoded)):
            (length,) = short_of.unpack_from(encoded, at - 2)
        elements += 1
        if elements > MAX_ELEMENTS or items > MAX_ITEMS:
            return "the data set has too many elements"
        if length != _UNDEFINED and encoded[at : at + 4] != item:
            at += length
    return None

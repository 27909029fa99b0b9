"""What a C-STORE status means for what we do next (PS3.4 B.2.3, PS3.7 Annex C)."""

from detector.codes import ErrorCode

_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_DUPLICATE = 0x0111
_PROCESSING_FAILURE = 0x0110
_RESOURCE_LIMITATION = 0x0213


def outcome(status: int) -> ErrorCode | None:
    """None where the peer has the object; else why not.

    Warnings mean stored. 0111 (duplicate instance) does too: what carries one of our UIDs, or comes
    again from our spool, is what the peer already holds. Out of resources and processing failures
    may pass; anything else says no to this object for good.
    """
    if status == 0x0000 or status >> 12 == 0xB or status in _WARNINGS or status == _DUPLICATE:
        return None
    if status >> 8 == 0xA7 or status in (_PROCESSING_FAILURE, _RESOURCE_LIMITATION):
        return ErrorCode.DELIVERY_RESOURCES
    return ErrorCode.DELIVERY_REFUSED

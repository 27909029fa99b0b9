"""What a status means for what we do next: C-STORE (PS3.4 B.2.3, PS3.7 Annex C) and STOW-RS (PS3.18
10.5), whose Failure Reasons are C-STORE statuses."""

from collections.abc import Container
from dataclasses import dataclass

from detector.errors import ErrorCode
from qc_daemon.dicom.status import SOP_CLASS_NOT_SUPPORTED

UNSUPPORTED_MEDIA_TYPE = 415


@dataclass(frozen=True, slots=True)
class Meaning:
    """Statuses that mean the same; `code` is None where the peer has the object."""

    statuses: Container[int]
    label: str
    words: str
    code: ErrorCode | None


# The first that holds a status decides.
STORE: tuple[Meaning, ...] = (
    Meaning((0x0000,), "0000H", "success", None),
    Meaning(range(0xB000, 0xC000), "B000H–BFFFH", "warning: stored, with changes", None),
    Meaning((0x0001, 0x0107, 0x0116), "0001H, 0107H, 0116H", "warning: stored", None),
    # What carries one of our UIDs, or comes again from our spool, is what the peer already holds.
    Meaning((0x0111,), "0111H", "duplicate SOP instance", None),
    Meaning(range(0xA700, 0xA800), "A700H–A7FFH", "out of resources", ErrorCode.DELIVERY_RESOURCES),
    Meaning((0x0110,), "0110H", "processing failure", ErrorCode.DELIVERY_FAILED),
    # A Message ID that is still in use says nothing of the object.
    Meaning((0x0210,), "0210H", "duplicate invocation", ErrorCode.DELIVERY_FAILED),
    Meaning((0x0213,), "0213H", "resource limitation", ErrorCode.DELIVERY_RESOURCES),
    Meaning((0x0124,), "0124H", "not authorized", ErrorCode.DELIVERY_FORBIDDEN),
    Meaning(
        (SOP_CLASS_NOT_SUPPORTED,), "0122H", "SOP class not supported", ErrorCode.DELIVERY_REFUSED
    ),
    Meaning(
        range(0xA900, 0xAA00),
        "A900H–A9FFH",
        "data set does not match SOP class",
        ErrorCode.DELIVERY_REFUSED,
    ),
    Meaning(range(0xC000, 0xD000), "C000H–CFFFH", "cannot understand", ErrorCode.DELIVERY_REFUSED),
    Meaning((0x0117,), "0117H", "invalid SOP instance", ErrorCode.DELIVERY_REFUSED),
    Meaning((0x0105, 0x0106), "0105H, 0106H", "attribute refused", ErrorCode.DELIVERY_REFUSED),
    Meaning(
        (0x0211, 0x0212),
        "0211H, 0212H",
        "operation unknown or mistyped",
        ErrorCode.DELIVERY_REFUSED,
    ),
    Meaning(range(0x10000), "any other", "unknown", ErrorCode.DELIVERY_REFUSED),
)
# Read where the answer names no failed object of its own.
HTTP: tuple[Meaning, ...] = (
    Meaning((200, 201, 202, 204), "200, 201, 202, 204", "stored, if the answer says so", None),
    Meaning(
        range(300, 400),
        "300–399",
        "redirected: the url is another",
        ErrorCode.DELIVERY_FORBIDDEN,
    ),
    Meaning(
        (401, 403, 407), "401, 403, 407", "credentials not accepted", ErrorCode.DELIVERY_FORBIDDEN
    ),
    Meaning(
        (404, 405, 406, 501),
        "404, 405, 406, 501",
        "no STOW-RS at the url",
        ErrorCode.DELIVERY_FORBIDDEN,
    ),
    Meaning(
        (408, 425, 429), "408, 425, 429", "not now or not so fast", ErrorCode.DELIVERY_RESOURCES
    ),
    Meaning(
        (502, 503, 504, 507),
        "502–504, 507",
        "away, overloaded or full",
        ErrorCode.DELIVERY_RESOURCES,
    ),
    Meaning(range(500, 600), "500–599", "a fault there", ErrorCode.DELIVERY_FAILED),
    Meaning(
        (UNSUPPORTED_MEDIA_TYPE,), "415", "SOP class not supported", ErrorCode.DELIVERY_REFUSED
    ),
    Meaning(range(1000), "400, 409, 413, any other", "refused", ErrorCode.DELIVERY_REFUSED),
)


def outcome(status: int) -> ErrorCode | None:
    """None where the peer has the object; else why not.

    Warnings mean stored, and so does a duplicate. Out of resources passes, however long it takes;
    a processing failure may pass; what is not authorized waits for someone who fixes that; anything
    else says no to this object for good.
    """
    return _meaning(STORE, status).code


def http_outcome(status: int) -> ErrorCode | None:
    """The same for an HTTP status; None where the answer's body has the last word."""
    return _meaning(HTTP, status).code


def http_words(status: int) -> str:
    """An HTTP status in words."""
    return _meaning(HTTP, status).words


def _meaning(table: tuple[Meaning, ...], status: int) -> Meaning:
    return next(each for each in table if status in each.statuses)

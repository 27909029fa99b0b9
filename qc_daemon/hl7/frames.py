"""Frames of the Minimal Lower Layer Protocol (HL7 v2 Transport Specification, MLLP release 1):
a vertical tab, the message, a file separator and a carriage return."""

from collections.abc import Iterator
from dataclasses import dataclass

START, END, RETURN = 0x0B, 0x1C, 0x0D
MAX_MESSAGE = 256 << 10
"""Bytes of a message. An ADT message has a few kilobytes; without a bound a sender could fill the
memory."""
_BETWEEN = b"\r\n"  # What senders put between frames, beyond the protocol.


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of the stream; `fault` says why it is none, or cannot be read on."""

    content: bytes
    fault: str | None = None
    is_last: bool = False


def write_frame(content: bytes) -> bytes:
    """The message as it goes over the connection."""
    return bytes((START,)) + content + bytes((END, RETURN))


class FrameReader:
    """Takes the bytes of a connection as they come, and gives its messages."""

    def __init__(self, maximum: int = MAX_MESSAGE) -> None:
        self._maximum = maximum
        self._bytes = bytearray()
        self._is_inside = False

    @property
    def is_inside(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._is_inside

    def feed(self, received: bytes) -> Iterator[Frame]:
        """The messages that these bytes complete. After a frame that `is_last` nothing more can be
        read of the connection."""
        self._bytes += received
        while self._bytes:
            if not self._is_inside:
                rest = self._bytes.lstrip(_BETWEEN)
                if not rest:
                    self._bytes.clear()
                    return
                if rest[0] != START:
                    self._bytes.clear()
                    yield Frame(b"", "bytes outside of a frame", is_last=True)
                    return
                self._bytes = rest[1:]
                self._is_inside = True
            end, again = self._bytes.find(END), self._bytes.find(START)
            if again >= 0 and (end < 0 or again < end):
                content = bytes(self._bytes[:again])
                del self._bytes[:again]
                self._is_inside = False
                yield Frame(content, "the end of the message is missing")
            elif end >= 0 and end <= self._maximum:
                content = bytes(self._bytes[:end])
                del self._bytes[: end + 1]
                self._is_inside = False
                yield Frame(content)
            elif len(self._bytes) > self._maximum:
                self._bytes.clear()
                self._is_inside = False
                yield Frame(b"", "the message is too large", is_last=True)
                return
            else:
                return

"""The outgoing object, and the protocol of the transports that send it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, Protocol

from detector.errors import ErrorCode, QCError
from qc_daemon.spool import verification


@dataclass(frozen=True, slots=True)
class Exam:
    """The exam of an object; `day` is the one (UTC) on which its first object came."""

    id: int
    study_instance_uid: str
    day: date


@dataclass(frozen=True)
class OutgoingObject:
    """An object to send: a PS3.10 file, as `path` or as `payload`, sent as stored.

    `name` tells this content from any other under the same SOP Instance UID. With `sha256` the
    file's bytes are compared while they are sent, and the end is held back unless they agree.
    `kind` is "source" or a report object's kind, `revision` the content's or the report's number.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    name: str
    path: Path | None = None
    payload: bytes | None = None
    sha256: str | None = None
    kind: str = "source"
    revision: int = 1
    exam: Exam | None = None

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """The object as a file, which stays the same one. Raises QCError SPOOL_MISSING."""
        if self.payload is not None:
            # In memory: a full disk here does not stop delivery.
            fd = os.memfd_create("object")
            try:
                with os.fdopen(os.dup(fd), "wb") as file:
                    file.write(self.payload)
                yield Path(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
        elif self.path is not None:
            with verification.open_unverified(self.path) as path:
                yield path
        else:
            raise QCError(ErrorCode.SPOOL_MISSING, "the object's bytes are kept no longer")


Convert = Callable[[Path, str | None, str], AbstractContextManager[Path]]
"""The object of the file at a path, if it has this SHA-256, as a file in a transfer syntax that it
may be encoded in (`transfer_syntax.alternatives`). Raises QCError."""


class ClassRefusedError(QCError):
    """The destination refuses this SOP class; another one for the content may do."""

    def __init__(self, destination: str, what: str) -> None:
        super().__init__(ErrorCode.DELIVERY_REFUSED, f"destination {destination} {what}")


class ObjectStatusError(QCError):
    """The destination answered that it does not store this object; it may store others."""


class AssociationRejectedError(QCError):
    """The destination rejects the association, and so every object, until that is fixed.

    `unknown_title`: which AE title it does not know, ours ("calling"), its own ("called"), or None.
    """

    def __init__(
        self,
        code: ErrorCode,
        destination: str,
        what: str,
        unknown_title: Literal["calling", "called"] | None = None,
    ) -> None:
        super().__init__(code, f"destination {destination} {what}")
        self.unknown_title = unknown_title


class Transport(Protocol):
    """Sends objects to one destination."""

    def send(self, outgoing: OutgoingObject) -> bool:
        """Send the object; returning means that the destination has it. Raises QCError.

        True: its commitment is to be requested too.
        """

    def close(self) -> None:
        """Close connections; `send` opens new ones."""

"""A C-STORE data set on its way out: compared with its SHA-256, and never all in memory.

pynetdicom puts every fragment into a queue without bound, from which another thread sends: a cine
of 2 GB would lie there whole. Here a sender waits while the queue is long, and the last fragment,
without which the peer has no object (PS3.7 6.3.1), goes only if the hash of all bytes is right.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu_primitives import P_DATA

from qc_daemon.spool.verification import damaged_error

# Fragments of at most MAX_PDU bytes that may wait to be sent.
_MAX_QUEUE = 32
_WAIT_SECONDS = 0.001
_CONNECTED = "Sta6"
# Message control header (PS3.8 E.2).
_COMMAND, _LAST = 0x01, 0x02


@contextlib.contextmanager
def verify_sending(association: Any, path: Path, sha256: str | None) -> Iterator[None]:
    """Verify the data set of the file at `path` while this thread sends it in the block.

    `send_*` raises QCError SPOOL_DAMAGED before the last fragment where the file's bytes have
    another SHA-256, and ConnectionError where the association has ended; the caller aborts it then.
    Without `sha256` nothing is compared.
    """
    dul = association.dul
    sender, send = threading.get_ident(), dul.send_pdu
    digest = hashlib.sha256(_head(path))

    def send_pdu(primitive: Any) -> None:
        if threading.get_ident() == sender and isinstance(primitive, P_DATA):
            for _, value in primitive.presentation_data_value_list:
                if value[0] & _COMMAND:
                    continue
                digest.update(memoryview(value)[1:])
                if value[0] & _LAST and sha256 not in (None, digest.hexdigest()):
                    raise damaged_error()
            _wait(dul)
        send(primitive)

    dul.send_pdu = send_pdu
    try:
        yield
    finally:
        del dul.send_pdu


def _head(path: Path) -> bytes:
    """The file's bytes before its data set: preamble and meta group."""
    _, offset = split_dataset(path)
    with path.open("rb") as file:
        return file.read(offset)


def _wait(dul: Any) -> None:
    while dul.to_provider_queue.qsize() >= _MAX_QUEUE:
        if not dul.is_alive() or dul.state_machine.current_state != _CONNECTED:
            raise ConnectionError("the association has ended")
        time.sleep(_WAIT_SECONDS)

"""pynetdicom's chunked receive, bent to the spool.

pynetdicom streams a C-STORE data set to a `NamedTemporaryFile` of its module `dimse_messages` and
lets a write error kill the association's network thread. Two names of that module are replaced,
here and nowhere else: the file (errors wait for the handler, which answers A700; bytes are hashed
as they come) and the meta group (our implementation UID, constant bytes).
"""

from functools import partial
from typing import Any, Self

from pynetdicom import _config, dimse_messages
from pynetdicom.dsutils import create_file_meta

from qc_daemon.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.receive.spool import Incoming, Spool


class _ChunkFile:
    """What `dimse_messages` uses of a NamedTemporaryFile, written to an `Incoming`."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.name = str(incoming.path)

    @property
    def file(self) -> Self:
        return self

    def write(self, data: bytes) -> int:
        return self.incoming.write(data)

    def flush(self) -> None:
        """Nothing: the handler asks for every byte at once, with `Incoming.finish`."""

    def close(self) -> None:
        self.incoming.discard()


def receive_into(spool: Spool) -> None:
    """Let every data set that this process receives go to `spool`, chunk by chunk."""

    def open_chunk_file(**_options: Any) -> _ChunkFile:
        return _ChunkFile(spool.open())

    _config.STORE_RECV_CHUNKED_DATASET = True
    dimse_messages.NamedTemporaryFile = open_chunk_file
    dimse_messages.create_file_meta = partial(
        create_file_meta,
        implementation_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version=IMPLEMENTATION_VERSION_NAME,
    )


def abandon(association: Any) -> None:
    """Drop an object whose connection was lost before its last chunk."""
    chunk_file: _ChunkFile | None = getattr(association.dimse.message, "_data_set_file", None)
    if chunk_file is not None:
        chunk_file.close()


def received(request: Any) -> Incoming | None:
    """The file behind a C-STORE request; None if it came without a data set."""
    chunk_file: _ChunkFile | None = getattr(request, "_dataset_file", None)
    return None if chunk_file is None else chunk_file.incoming

"""C-ECHO to a peer, which changes nothing there."""

import contextlib
from collections.abc import Iterator
from typing import Any

from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.tls import tls_args
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.settings import DestinationSettings


@contextlib.contextmanager
def open_association(peer: DestinationSettings, calling: str, timeout: float) -> Iterator[Any]:
    """An association for C-ECHO, established or not."""
    entity = requestor(calling, timeout)
    entity.add_requested_context(VERIFICATION)
    association = associate(
        entity, peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls_args(peer)
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def require_established(association: Any, peer: DestinationSettings) -> None:
    if not association.is_established:
        why = cause(association, peer.host, peer.port, tls_args(peer))
        raise OSError(0, f"{peer.ae_title}@{peer.host}:{peer.port}: {why}")


def require_echo(association: Any, peer: DestinationSettings) -> None:
    status = association.send_c_echo()
    if not status or status.Status != 0x0000:
        raise OSError(0, f"{peer.ae_title}@{peer.host}:{peer.port} does not answer C-ECHO")

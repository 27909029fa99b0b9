"""The storage SCP: an object is on the disk and in the database before its sender hears success.

What happens to a C-STORE (PS3.4 Annex B): chunks to the spool, header against the command, SHA-256
name, fsync of file and folder, one transaction with row, jobs and the exam's hold, then 0x0000. No
pixel is decoded and no text can refuse an object on the way.
"""

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy.exc import SQLAlchemyError

from detector.codes import QCError
from qc_daemon.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.observe import log
from qc_daemon.receive import chunks, contexts, policy
from qc_daemon.receive.header import HeaderError, Identity, data_set_offset, read_identity
from qc_daemon.receive.spool import Incoming, Spool
from qc_daemon.records import bundles, exams, receipts
from qc_daemon.records.store import Store
from qc_daemon.settings import ReceiveSettings

MAX_PDU = (
    128 << 10
)  # 46 % faster than pynetdicom's 16 KiB; unlimited is slower again (daemon-peers 4)
BACKLOG = 128
# An exam is held open by a live association for this long after its last sign of life, so that a
# receiver killed in mid-association cannot hold it for ever.
HOLD_SECONDS = 20.0

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_REJECTED_PERMANENT, _SERVICE_USER, _CALLING_AE_NOT_RECOGNISED = 0x01, 0x01, 0x03


class RefusedError(Exception):
    """An object we do not take: the DICOM status and a reason without any value of the object."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError (in use, no such address)."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(ThreadedAssociationServer):  # type: ignore[misc]
    """An association server on a socket that is listening already, and is not its to shut down."""

    socket: Any

    def __init__(self, *args: Any, listener: Any, **options: Any) -> None:
        self._listener = listener
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        self.socket.close()
        self.socket = self._listener
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Nothing: the socket listens, and connections may be waiting in it."""

    def server_close(self) -> None:
        self.socket.close()

    def shutdown(self) -> None:
        # pynetdicom's own also shuts the socket down, for every process that shares it.
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class Receiver:
    """The SCP of one process: `start` on a listening socket, `drain` to stop."""

    def __init__(
        self,
        settings: ReceiveSettings,
        store: Store,
        spool: Spool,
        owner: str,
        source_destinations: tuple[str, ...] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings = settings
        self.store = store
        self.spool = spool
        self.source_destinations = source_destinations
        self.clock = clock
        self.log = log.get(role="receive")
        self._tokens = (f"{owner}/{number}" for number in itertools.count(1))
        self._lock = threading.Lock()
        # The exams that each open association has stored to, by its token.
        self._held: dict[str, set[int]] = {}
        self._open: dict[Any, str] = {}
        self._server: _Server | None = None
        self._ae = AE(settings.ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_pdu_size = MAX_PDU
        self._ae.maximum_associations = settings.max_associations
        self._ae.network_timeout = settings.network_timeout
        self._ae.acse_timeout = min(30.0, settings.network_timeout)
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME

    def start(self, listener: socket.socket) -> None:
        """Serve associations in threads of their own."""
        chunks.receive_into(self.spool)
        self._server = self._ae.make_server(
            listener.getsockname(),
            contexts=contexts.accepted(),
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_C_ECHO, lambda _event: SUCCESS),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_RELEASED, self._ended),
                (evt.EVT_ABORTED, self._ended),
                (evt.EVT_CONN_CLOSE, self._closed),
            ],
            server_class=_Server,
            listener=listener,
        )
        threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True).start()

    def drain(self, limit_seconds: float) -> int:
        """Accept nothing more, let associations finish, abort those that outlast the limit.

        Returns how many were aborted.
        """
        if self._server is not None:
            self._server.shutdown()
        until = time.monotonic() + limit_seconds
        while self._ae.active_associations and time.monotonic() < until:
            time.sleep(0.05)
        lasting = self._ae.active_associations
        for association in lasting:
            association.abort()
        return len(lasting)

    def hold(self) -> None:
        """Renew the hold of open associations on their exams; called every few seconds."""
        with self._lock:
            held = [(token, exam) for token, exam_ids in self._held.items() for exam in exam_ids]
        if not held:
            return
        now = self.clock()
        try:
            with self.store.begin() as session:
                for token, exam_id in held:
                    exams.touch(session, token, exam_id, now, _hold_until(now))
        except (QCError, SQLAlchemyError) as error:
            self.log.warning("hold not renewed", error_type=type(error).__name__)

    # Events of pynetdicom, each in its association's thread.

    def _requested(self, event: Any) -> None:
        requestor = event.assoc.requestor
        calling = requestor.primitive.calling_ae_title
        if policy.allowed(calling, requestor.address_info.address, self.settings.peer):
            return
        self.log.warning(
            "caller refused", calling_ae=calling, address=requestor.address_info.address
        )
        event.assoc.acse.send_reject(_REJECTED_PERMANENT, _SERVICE_USER, _CALLING_AE_NOT_RECOGNISED)
        event.assoc.kill()

    def _accepted(self, event: Any) -> None:
        with self._lock:
            token = self._open[event.assoc] = next(self._tokens)
            self._held[token] = set()

    def _ended(self, event: Any) -> None:
        with self._lock:
            token = self._open.pop(event.assoc, None)
            exam_ids = self._held.pop(token, set()) if token is not None else set()
        if token is not None and exam_ids:
            self._release(token)

    def _closed(self, event: Any) -> None:
        if event.assoc.requestor.primitive is None:
            # A probe: it connected and left. pynetdicom would keep its thread, and its place among
            # max_associations, until the ACSE timeout; None is what it takes for that timeout.
            event.assoc.dul.to_user_queue.put(None)
        chunks.abandon(event.assoc)
        self._ended(event)

    def _release(self, token: str) -> None:
        try:
            with self.store.begin() as session:
                exams.end_association(session, token)
        except (QCError, SQLAlchemyError) as error:
            # The hold runs out by itself.
            self.log.warning("hold not released", error_type=type(error).__name__)

    def _store(self, event: Any) -> Dataset:
        try:
            admission, receipt = self._take(event)
        except RefusedError as refusal:
            self.log.warning(
                "object refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                sop_instance=str(event.request.AffectedSOPInstanceUID),
                calling_ae=_calling_ae(event),
            )
            return _response(refusal.status, refusal.reason)
        except Exception as error:
            # A fault of ours: the sender keeps the object and may send it again.
            self.log.error(
                "object not taken", error_type=type(error).__name__, error_at=log.where(error)
            )
            return _response(PROCESSING_FAILURE, "internal error")
        self.log.info(
            "object stored",
            kind=admission.kind,
            sop_instance=receipt.sop_instance_uid,
            study=receipt.study_instance_uid,
            bytes=receipt.size,
            calling_ae=receipt.calling_ae,
        )
        return _response(SUCCESS)

    def _take(self, event: Any) -> tuple[receipts.Admission, receipts.Receipt]:
        """Everything between the last chunk and the answer. Raises RefusedError."""
        incoming = chunks.received(event.request)
        if incoming is None:
            raise RefusedError(CANNOT_UNDERSTAND, "no data set")
        syntax = str(event.context.transfer_syntax)
        with incoming:
            identity = self._identify(event, incoming, syntax)
            try:
                path, sha256 = self.spool.adopt(incoming)
            except OSError as error:
                raise RefusedError(OUT_OF_RESOURCES, f"spool: {_errno(error)}") from error
        receipt = receipts.Receipt(
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            patient_id=identity.patient_id,
            transfer_syntax_uid=syntax,
            calling_ae=_calling_ae(event),
            sha256=sha256,
            size=incoming.size,
            path=path.relative_to(self.spool.root).as_posix(),
            association=self._token(event.assoc),
        )
        return self._record(event.assoc, receipt), receipt

    def _identify(self, event: Any, incoming: Incoming, syntax: str) -> Identity:
        try:
            incoming.flush()
            identity = read_identity(incoming.path, data_set_offset(incoming.path), syntax)
        except HeaderError as error:
            raise RefusedError(CANNOT_UNDERSTAND, str(error)) from error
        except OSError as error:
            raise RefusedError(OUT_OF_RESOURCES, f"spool: {_errno(error)}") from error
        if identity.sop_instance_uid != str(event.request.AffectedSOPInstanceUID):
            raise RefusedError(DATA_SET_MISMATCH, "SOP Instance UID differs from the command's")
        if identity.sop_class_uid != str(event.request.AffectedSOPClassUID):
            raise RefusedError(DATA_SET_MISMATCH, "SOP Class UID differs from the command's")
        return identity

    def _record(self, association: Any, receipt: receipts.Receipt) -> receipts.Admission:
        now = self.clock()
        try:
            with self.store.begin() as session:
                bundle = bundles.active(session)
                admission = receipts.admit(
                    session,
                    receipt,
                    source_destinations=self.source_destinations,
                    bundle_id=None if bundle is None else bundle.model_id,
                    now=now,
                )
                exams.touch(session, receipt.association, admission.exam_id, now, _hold_until(now))
        except (QCError, SQLAlchemyError) as error:
            # The file stays: it may be the bytes of an earlier revision, and a resend needs it.
            raise RefusedError(OUT_OF_RESOURCES, "database cannot be used") from error
        self._keep(association, receipt.association, admission.exam_id)
        return admission

    def _token(self, association: Any) -> str:
        with self._lock:
            return self._open.get(association) or next(self._tokens)

    def _keep(self, association: Any, token: str, exam_id: int) -> None:
        """Remember the hold, or let go at once if the association ended meanwhile."""
        with self._lock:
            alive = self._open.get(association) == token
            if alive:
                self._held[token].add(exam_id)
        if not alive:
            self._release(token)


def _hold_until(now: datetime) -> datetime:
    return now + timedelta(seconds=HOLD_SECONDS)


def _calling_ae(event: Any) -> str:
    return str(event.assoc.requestor.primitive.calling_ae_title).strip()


def _errno(error: OSError) -> str:
    """The system's words for an error, without the path that OSError's own text carries."""
    return (error.strerror or "short write").lower()


def _response(status: int, comment: str = "") -> Dataset:
    """A C-STORE response; Error Comment is an LO of 64 characters (PS3.7 C)."""
    response = Dataset()
    response.Status = status
    if comment:
        response.ErrorComment = comment[:64]
    return response

"""The receiver of one process: its listeners, and which associations it accepts.

What an association may then ask for is elsewhere: C-STORE in c_store.py, MPPS in mpps.py, storage
commitment in commitment_scp.py.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pynetdicom import AE, evt

from qc_daemon.dicom.associate_pdu import (
    CALLED_NOT_RECOGNISED,
    CALLING_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Rejection,
)
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.observe import counters, log
from qc_daemon.receive import tls
from qc_daemon.receive.access import (
    AccessPolicy,
    Caller,
    ReportingDestinations,
    caller_of,
    is_doctor,
)
from qc_daemon.receive.back_pressure import BackPressure, Level
from qc_daemon.receive.c_store import StorageSCP
from qc_daemon.receive.commitment_scp import StorageCommitment
from qc_daemon.receive.exam_holds import ExamHolds
from qc_daemon.receive.group_commit import GroupCommit
from qc_daemon.receive.listener import ConnectionListener, OnRequest
from qc_daemon.receive.mpps import ProcedureSteps
from qc_daemon.receive.slots import AssociationSlots
from qc_daemon.receive.upper_layer.association import Acceptor, Server
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.routing import Routes
from qc_daemon.settings import DestinationSettings, PeerSettings, ReceiveSettings
from qc_daemon.spool.spool import Spool

# Bytes of a P-DATA-TF that peers may send. Fragments go to the spool as they come, so that a long
# PDU takes no more memory than a short one.
MAX_PDU = 1 << 20
# Connections that the system holds for us until we accept them.
BACKLOG = 1024
# Log event and counter of each rejection; those that are not here are of the protocol.
_REJECTION_EVENTS: dict[Rejection | None, str] = {
    CALLING_NOT_RECOGNISED: "caller refused",
    LOCAL_LIMIT_EXCEEDED: "too many associations",
}
_REJECTION_COUNTERS: dict[Rejection | None, str] = {
    CALLING_NOT_RECOGNISED: "rejected_unknown",
    CALLED_NOT_RECOGNISED: "rejected_called",
    TEMPORARY_CONGESTION: "rejected_busy",
    LOCAL_LIMIT_EXCEEDED: "rejected_busy",
}
# At a stop an association counts as idle after so long, and one that was aborted has so long to
# close its connection.
_IDLE_SECONDS, _ABORT_SECONDS = 2.0, 1.0
# TLS handshakes at once in one process; each takes a thread.
MAX_HANDSHAKES = 32
# The events of pynetdicom that end an association; several may come for one.
_ASSOCIATION_ENDS = (evt.EVT_RELEASED, evt.EVT_ABORTED, evt.EVT_CONN_CLOSE)


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


class Receiver:
    """Accepts the associations of one process: `start` on a listening socket, `drain` to stop."""

    def __init__(
        self,
        settings: ReceiveSettings,
        store: Store,
        spool: Spool,
        owner: str,
        clock: Clock = utc_now,
        slots: AssociationSlots | None = None,
        destinations: Sequence[DestinationSettings] = (),
        routes: Routes | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.spool = spool
        self.clock = clock
        self.log = log.get(role="receive")
        reporting_destinations = ReportingDestinations(destinations)
        self.commitment = StorageCommitment(store, clock, reporting_destinations)
        self.procedure_steps = ProcedureSteps(store, clock)
        self.access_policy = AccessPolicy(settings.peer, store, clock, reporting_destinations)
        self.back_pressure = BackPressure(settings.pressure, spool.root, store, clock)
        # The supervisor's receivers share one table.
        self.slots = slots or AssociationSlots.create(
            settings.max_associations, settings.max_associations_per_ae
        )
        group_commit = GroupCommit(store)
        self.exam_holds = ExamHolds(store, group_commit, owner, clock)
        self.storage = StorageSCP(
            store,
            spool,
            routes or Routes(),
            clock,
            self.back_pressure,
            group_commit,
            self.exam_holds,
        )
        self._lock = threading.Lock()
        self._slots_by_association: dict[Any, int] = {}
        self._associations: set[Acceptor] = set()
        self._listeners: list[ConnectionListener] = []
        self._served = {
            **self.storage.served(),
            **self.commitment.served(),
            **self.procedure_steps.served(),
        }
        self._ae = AE(settings.ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_pdu_size = MAX_PDU
        # The slots decide; pynetdicom would count those of this process, the refused ones too.
        self._ae.maximum_associations = sys.maxsize
        self._ae.network_timeout = settings.network_timeout
        self._ae.acse_timeout = settings.artim_timeout
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME

    def reload(
        self,
        peers: Iterable[PeerSettings],
        destinations: Iterable[DestinationSettings],
        routes: Routes,
    ) -> None:
        """Go on with other peers, destinations and rules; what is open stays open."""
        self.access_policy.replace_peers(peers)
        self.access_policy.reporting_destinations.replace(destinations)
        self.storage.routes = routes

    def start(self, listener: socket.socket, handshake: tls.Handshake | None = None) -> None:
        """Serve the associations of a listening socket, each in a thread of its own.

        May be called for several, as a plain one and one for TLS; with `handshake` every
        connection of this one begins with a TLS handshake.
        """
        self.access_policy.refresh()
        server = Server(
            self._ae,
            self.spool,
            contexts=[
                *self.storage.contexts(),
                *self.commitment.contexts(),
                *self.procedure_steps.contexts(),
            ],
            handlers=[
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_ACCEPTED, lambda event: self.exam_holds.begin(event.assoc)),
                *self.storage.handlers(),
                *self.commitment.handlers(),
                *self.procedure_steps.handlers(),
                *((event, self._on_association_end) for event in _ASSOCIATION_ENDS),
            ],
            on_thread_end=self._on_thread_end,
            served=self._served,
            has_room=self.back_pressure.has_room,
            on_invalid_request=self._on_invalid_request,
        )

        def on_request(connection: socket.socket, address: Any, first_bytes: bytes) -> None:
            association = server.accept(connection, address, first_bytes)
            with self._lock:
                self._associations.add(association)
            association.start()

        connection_listener = ConnectionListener(
            listener,
            on_request if handshake is None else _with_handshake(on_request, handshake),
            self.settings.artim_timeout,
            encrypted=handshake is not None,
            has_more_than_others=self._has_more_than_others,
            on_invalid_request=lambda address, reason: self._report_rejection(
                Caller("", str(address[0])), "", reason
            ),
        )
        self._listeners.append(connection_listener)
        connection_listener.open()

    def drain(self, limit_seconds: float) -> int:
        """Stop accepting, let associations finish, abort the others; returns how many those are.

        Associations have `limit_seconds` to finish, but an idle one is not waited for.
        """
        while self._listeners:
            self._listeners.pop().close()
        until = time.monotonic() + limit_seconds
        aborted: dict[Acceptor, float] = {}
        while associations := self._open_associations():
            now = time.monotonic()
            for each in associations:
                if each in aborted:
                    if now - aborted[each] >= _ABORT_SECONDS:
                        each.disconnect()
                elif now >= until or each.idle_seconds() >= _IDLE_SECONDS:
                    aborted[each] = now
                    each.abort(block=False)
            if now >= until + 2 * _ABORT_SECONDS:
                break
            time.sleep(0.05)
        return len(aborted)

    def _open_associations(self) -> list[Acceptor]:
        with self._lock:
            return list(self._associations)

    def renew_holds(self) -> None:
        """Renew the holds on exams and record refused callers; called every few seconds."""
        self.access_policy.record_callers()
        self.exam_holds.renew()

    def _on_requested(self, event: Any) -> None:
        try:
            refusal = self._find_rejection(event.assoc)
        except Exception as error:
            # pynetdicom would log it, and accept the association that nobody has judged.
            self.log.error(
                "caller not judged", error_type=type(error).__name__, error_at=log.where(error)
            )
            refusal = TEMPORARY_CONGESTION, "internal error"
        if refusal is not None:
            rejection, reason = refusal
            caller, request = caller_of(event.assoc), event.assoc.associate_request
            if is_doctor(caller, event.assoc.acceptor.address_info.address):
                # The rejection is its answer: it is no machine that anybody may want to approve.
                self.log.info("doctor answered", calling_ae=caller.ae_title, reason=reason)
            else:
                self._report_rejection(caller, request.called_ae, reason, rejection)
            event.assoc.acse.send_reject(*rejection)
            event.assoc.kill()

    def _find_rejection(self, association: Any) -> tuple[Rejection, str] | None:
        """The rejection of the request and its reason; None accepts it."""
        request = association.associate_request
        if request.rejection is not None:
            return request.rejection, request.reason
        is_reporter = self.access_policy.may_only_report(association)
        rejection = None if is_reporter else self.access_policy.find_rejection(association)
        if rejection is not None:
            is_temporary = rejection == TEMPORARY_CONGESTION
            return rejection, "the database cannot tell" if is_temporary else "unknown caller"
        if request.called_ae != self.settings.ae_title.strip():
            return CALLED_NOT_RECOGNISED, f"our AE title is {self.settings.ae_title.strip()}"
        # A destination that reports brings no object, so that no mark need stop it.
        if not is_reporter and self.back_pressure.level() >= Level.SOFT:
            return TEMPORARY_CONGESTION, "no room for now"
        if not self._reserve_slot(association):
            return LOCAL_LIMIT_EXCEEDED, "too many associations"
        if is_reporter:
            self.commitment.restrict(association)
        else:
            association.permitted = frozenset(self._served)
        return None

    def _on_invalid_request(self, association: Any, reason: str) -> None:
        """An association ended by its first PDUs."""
        request = association.associate_request
        self._report_rejection(
            caller_of(association), "" if request is None else request.called_ae, reason
        )

    def _report_rejection(
        self, caller: Caller, called_ae: str, reason: str, rejection: Rejection | None = None
    ) -> None:
        """Log and count an association that was not accepted, and note its caller.

        `rejection` is None where there was no request to answer. A caller who may try again
        unchanged is not noted.
        """
        event = _REJECTION_EVENTS.get(rejection, "association rejected")
        counter = _REJECTION_COUNTERS.get(rejection, "rejected_protocol")
        counters.add(counter)
        self.log.warning(
            event,
            reason=reason,
            calling_ae=caller.ae_title,
            called_ae=called_ae,
            address=caller.address,
            sha256=caller.certificate,
            status=None if rejection is None else "/".join(map(str, rejection)),
        )
        if counter != "rejected_busy" and (caller.ae_title or called_ae):
            self.access_policy.note_caller(caller, called_ae, reason)

    def _on_association_end(self, event: Any) -> None:
        self.exam_holds.end(event.assoc)

    def _reserve_slot(self, association: Any) -> bool:
        """Whether there is a slot; the association has it until its thread ends."""
        title = association.calling_ae
        slot = self.slots.reserve(title)
        if slot is None:
            return False
        with self._lock:
            self._slots_by_association[association] = slot
        return True

    def _on_thread_end(self, association: Acceptor) -> None:
        """Free the association's holds and slot, whatever ended its thread."""
        self.exam_holds.end(association)
        with self._lock:
            self._associations.discard(association)
            slot = self._slots_by_association.pop(association, None)
        if slot is not None:
            self.slots.release(slot)

    def _has_more_than_others(self) -> bool:
        """Whether another receiver of this service has fewer associations than this one."""
        counts = self.slots.count_by_process()
        mine = counts.pop(os.getpid(), 0)
        others = self.settings.processes - 1
        return others > 0 and mine > min(counts.values() if len(counts) >= others else [0])


def _with_handshake(on_request: OnRequest, handshake: tls.Handshake) -> OnRequest:
    """`on_request` after a TLS handshake in its own thread, so that a slow one delays nobody."""
    handshake_slots = threading.BoundedSemaphore(MAX_HANDSHAKES)

    def run_handshake(connection: socket.socket, address: Any, first_bytes: bytes) -> None:
        try:
            on_request(handshake(connection), address, first_bytes)
        except OSError as error:
            counters.add("rejected_protocol")
            log.get(role="receive").warning(
                "handshake failed", reason=tls.reason(error), address=address[0]
            )
        finally:
            handshake_slots.release()

    def start_thread(connection: socket.socket, address: Any, first_bytes: bytes) -> None:
        if not handshake_slots.acquire(blocking=False):
            connection.close()
            return
        threading.Thread(
            target=run_handshake, args=(connection, address, first_bytes), daemon=True
        ).start()

    return start_thread

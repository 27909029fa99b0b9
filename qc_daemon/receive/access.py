"""Who may store to us: peers with this AE title, address range and certificate, and nobody else.

Peers come from the settings, which decide alone about every caller they cover, and from the
database, where commands approve them; the latter are read again while we run.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind, Peer
from qc_daemon.dicom.associate_pdu import (
    CALLING_NOT_RECOGNISED,
    TEMPORARY_CONGESTION,
    Rejection,
)
from qc_daemon.dicom.implementation import DOCTOR_AE_TITLE
from qc_daemon.observe import log
from qc_daemon.receive.tls import certificate_of
from qc_daemon.records.clock import Clock
from qc_daemon.records.received import peers as records
from qc_daemon.records.received.peers import RefusedCaller
from qc_daemon.records.store import Store
from qc_daemon.settings import DestinationSettings, PeerSettings

# Seconds after which the approved peers are read again.
REFRESH_SECONDS = 3.0
# Seconds between two writes of refused callers to the database.
WRITE_SECONDS = 3.0
# Seconds for which the addresses of a destination's host are used without asking again.
RESOLVE_SECONDS = 60.0
# A refused caller that goes on calling is in the audit log again after so many seconds; of more
# callers than that it is told when earlier ones are so long ago.
AUDIT_SECONDS = 600.0
_MAX_AUDITED = 1000
# Refused callers that wait to be written; in a flood the others are only logged.
_MAX_WAITING = 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _AuditedCallers:
    """Which refused callers the audit log is told of: each once in AUDIT_SECONDS, so that one who
    calls all day does not fill it."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}

    def due(self, callers: Mapping[tuple[str, str], RefusedCaller]) -> list[RefusedCaller]:
        """Those of the callers to tell of now."""
        now = time.monotonic()
        last = {key: at for key, at in self._last.items() if now - at < AUDIT_SECONDS}
        due = [key for key in callers if key not in last][: max(0, _MAX_AUDITED - len(last))]
        self._last = last | dict.fromkeys(due, now)
        return [callers[key] for key in due]


@dataclass(frozen=True, slots=True)
class Caller:
    """The requestor of an association; `certificate` is the SHA-256 of a verified one, or None."""

    ae_title: str
    address: str
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class PeerRule:
    """One peer: its AE title, its network, and its certificate's SHA-256 if it must show one."""

    ae_title: str
    network: _Network
    certificate: str | None = None

    @classmethod
    def of(cls, ae_title: str, address: str, certificate: str | None) -> "PeerRule":
        """The rule for an address or a network as text. Raises ValueError."""
        return cls(ae_title, ipaddress.ip_network(address, strict=False), certificate)

    def covers(self, title: str, address: Address) -> bool:
        """Whether a caller with this title and address is the peer.

        AE titles compare case-sensitively; padding spaces are removed before (PS3.5 6.2).
        """
        return (
            self.ae_title == title
            and address.version == self.network.version
            and address in self.network
        )

    def contains(self, title: str, network: str) -> bool:
        """Whether every caller with this title from the network is covered."""
        other = ipaddress.ip_network(network, strict=False)
        return self.covers(title, other.network_address) and self.covers(
            title, other.broadcast_address
        )


def parse_address(text: str) -> Address | None:
    """The address, without its zone; None if it is none. IPv4 mapped to IPv6 becomes IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def rules_of(peers: Iterable[PeerSettings]) -> list[PeerRule]:
    """The rules of the settings' peers."""
    return [PeerRule.of(peer.ae_title, peer.address, peer.certificate) for peer in peers]


def covering_rules(caller: Caller, rules: Iterable[PeerRule]) -> list[PeerRule]:
    """The rules that cover the caller, by title and address."""
    address = parse_address(caller.address)
    title = caller.ae_title.strip()
    return [] if address is None else [rule for rule in rules if rule.covers(title, address)]


def is_allowed(caller: Caller, settings: list[PeerRule], approved: list[PeerRule]) -> bool:
    """Whether a caller may open an association; while no peer is known only loopback may.

    Where a peer that covers the caller names a certificate, one without a name is not enough: a
    wide approval never loosens a narrow one.
    """
    if not settings and not approved:
        address = parse_address(caller.address)
        return address is not None and address.is_loopback
    candidates = covering_rules(caller, settings) or covering_rules(caller, approved)
    certificates = [rule.certificate for rule in candidates if rule.certificate]
    return caller.certificate in certificates if certificates else bool(candidates)


class ReportingDestinations:
    """Finds the destinations that a caller may be, which comes to report storage commitment.

    A destination that is no peer may do nothing else.
    """

    def __init__(self, destinations: Iterable[DestinationSettings]) -> None:
        self.replace(destinations)
        self._lock = threading.Lock()
        self._addresses_by_host: dict[str, tuple[float, frozenset[Address]]] = {}

    def replace(self, destinations: Iterable[DestinationSettings]) -> None:
        """Go on with these destinations."""
        self._destinations = [
            each for each in destinations if each.kind == "dicom" and each.commitment != "off"
        ]

    def with_title(self, ae_title: str) -> list[str]:
        """Names of the destinations with this AE title, which several may share."""
        return [each.name for each in self._destinations if each.ae_title == ae_title]

    def with_title_and_address(self, caller: Caller) -> list[str]:
        """Names of the destinations with the caller's AE title and address."""
        address = parse_address(caller.address)
        return [
            each.name
            for each in self._destinations
            if each.ae_title == caller.ae_title and address in self._addresses(each.host)
        ]

    def _addresses(self, host: str) -> frozenset[Address]:
        """The addresses of a host; one thread at a time asks the name server, which may be slow."""
        with self._lock:
            until, addresses = self._addresses_by_host.get(host, (0.0, frozenset()))
            if time.monotonic() < until:
                return addresses
            try:
                resolved = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                addresses = frozenset(
                    filter(None, (parse_address(str(each[4][0])) for each in resolved))
                )
            except OSError as error:
                # The addresses of the last answer are used on.
                log.get(role="receive").warning(
                    "destination not resolved", host=host, error_type=type(error).__name__
                )
            self._addresses_by_host[host] = (time.monotonic() + RESOLVE_SECONDS, addresses)
            return addresses


class AccessPolicy:
    """Decides about the associations of one receiver. Safe to use from many threads."""

    def __init__(
        self,
        peers: list[PeerSettings],
        store: Store,
        clock: Clock,
        reporting_destinations: ReportingDestinations | None = None,
    ) -> None:
        self.log = log.get(role="receive")
        self.reporting_destinations = reporting_destinations or ReportingDestinations(())
        self._settings = rules_of(peers)
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        # None until the database could be read once.
        self._approved: list[PeerRule] | None = None
        self._refresh_due = self._write_due = 0.0
        self._waiting: dict[tuple[str, str], RefusedCaller] = {}
        self._audited = _AuditedCallers()

    def replace_peers(self, peers: Iterable[PeerSettings]) -> None:
        """Go on with these peers of the settings; who was approved stays so."""
        self._settings = rules_of(peers)

    def find_rejection(self, association: Any) -> Rejection | None:
        """The rejection of an association that is requested; None accepts it."""
        caller = caller_of(association)
        self.refresh()
        approved = self._approved
        if is_allowed(caller, self._settings, approved or []):
            return None
        if approved is None:
            # It may be an approved peer that we cannot read now: it is to try again.
            return TEMPORARY_CONGESTION
        return CALLING_NOT_RECOGNISED

    def may_only_report(self, association: Any) -> bool:
        """Whether the caller is no peer, but a destination that calls to report.

        A caller whom a peer's rule covers is that peer, and must meet the rule (a certificate).
        """
        caller = caller_of(association)
        if not self.reporting_destinations.with_title(caller.ae_title):
            return False
        self.refresh()
        approved = self._approved
        if approved is None or is_allowed(caller, self._settings, approved):
            return False
        rules = covering_rules(caller, [*self._settings, *approved])
        return not rules and bool(self.reporting_destinations.with_title_and_address(caller))

    def refresh(self) -> None:
        """Read the approved peers again if it is time; if that fails, the last ones remain.

        One thread reads while the others use the last ones: a database that does not answer delays
        one association, not all.
        """
        with self._lock:
            if time.monotonic() < self._refresh_due:
                return
            self._refresh_due = time.monotonic() + REFRESH_SECONDS
        try:
            with self._store.read() as session:
                peers = records.approved_peers(session)
            self._approved = [
                PeerRule.of(each.ae_title, each.address, each.certificate) for each in peers
            ]
        except (QCError, SQLAlchemyError, ValueError) as error:
            # ValueError: a row that none of our commands has written.
            self.log.warning("peers not read", error_type=type(error).__name__)

    def record_callers(self) -> None:
        """Write refused callers to the database, if any wait and it is time."""
        with self._lock:
            if not self._waiting or time.monotonic() < self._write_due:
                return
            self._write_due = time.monotonic() + WRITE_SECONDS
            waiting, self._waiting = self._waiting, {}
            due = self._audited.due(waiting)
        for caller in due:
            recorder.enqueue(
                None,
                AuditKind.CALLER_REFUSED,
                is_success=False,
                peer=Peer(caller.ae_title, caller.address),
                detail={"reason": caller.reason},
            )
        try:
            with self._store.begin() as session:
                records.record_refusals(session, waiting.values())
        except (QCError, SQLAlchemyError) as error:
            # Nothing is lost: they will call again.
            self.log.warning("callers not recorded", error_type=type(error).__name__)

    def note_caller(self, caller: Caller, called_ae: str, reason: str) -> None:
        """Add a caller that was not accepted to the list that people may approve from."""
        now = self._clock()
        title, address = printable(caller.ae_title), str(parse_address(caller.address))
        called = printable(called_ae)
        refused = RefusedCaller(title, address, caller.certificate, 1, now, now, called, reason)
        with self._lock:
            earlier = self._waiting.get((title, address))
            if earlier is not None:
                refused = replace(
                    earlier,
                    attempts=earlier.attempts + 1,
                    certificate=caller.certificate or earlier.certificate,
                    last_seen_at=now,
                    called_ae=called,
                    reason=reason,
                )
            elif len(self._waiting) >= _MAX_WAITING:
                return
            self._waiting[title, address] = refused
        self.record_callers()


def caller_of(association: Any) -> Caller:
    """The requestor of an association, by its A-ASSOCIATE-RQ, connection and TLS."""
    return Caller(
        association.calling_ae,
        association.requestor.address_info.address,
        certificate_of(association),
    )


def is_doctor(caller: Caller, own_address: str) -> bool:
    """Whether the caller is our `doctor`: it has its AE title, and calls from this machine.

    `own_address` is the address at which it reached us.
    """
    address = parse_address(caller.address)
    if caller.ae_title != DOCTOR_AE_TITLE or address is None:
        return False
    return address.is_loopback or address == parse_address(own_address)


def printable(title: str) -> str:
    """A title from the wire as an AE title; characters that none may hold become question marks."""
    text = "".join(c if c.isascii() and c.isprintable() and c != "\\" else "?" for c in title)
    # Spaces at the end are padding (PS3.8 9.3.2), also where the 16 characters end with one.
    return text.strip()[:16].rstrip() or "?"

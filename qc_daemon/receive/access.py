"""Who may store to us: deny by default; known by AE title, address range and certificate.

Peers come from the settings, which decide alone about every caller they cover, and from the
database, where commands approve them; the latter are read again while we run.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.dicom.associate_pdu import CALLING_NOT_RECOGNISED, Rejection
from qc_daemon.observe import log
from qc_daemon.receive.tls import certificate_of
from qc_daemon.records.clock import Clock
from qc_daemon.records.received import peers as records
from qc_daemon.records.received.peers import RefusedCaller
from qc_daemon.records.store import Store
from qc_daemon.settings import DestinationSettings, PeerSettings

# How old the list of approved peers may be, and how often refused callers are written down.
REFRESH_SECONDS = 3.0
WRITE_SECONDS = 3.0
# How long the addresses of a destination's host stay known.
RESOLVE_SECONDS = 60.0
# Refused callers that wait to be written; a flood's others are only logged.
_MOST_WAITING = 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NOT_RECOGNISED: Rejection = CALLING_NOT_RECOGNISED
TEMPORARY: Rejection = (0x02, 0x03, 0x01)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association; `certificate` is the SHA-256 of a verified one, or None."""

    ae_title: str
    address: str
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One peer: who has the title and calls from the network is it, with the certificate if any."""

    ae_title: str
    network: _Network
    certificate: str | None = None

    @classmethod
    def of(cls, ae_title: str, address: str, certificate: str | None) -> "Rule":
        return cls(ae_title, ipaddress.ip_network(address, strict=False), certificate)

    def covers(self, title: str, address: Address) -> bool:
        """AE titles compare case-sensitively with padding spaces removed (PS3.5 6.2)."""
        return (
            self.ae_title == title
            and address.version == self.network.version
            and address in self.network
        )

    def contains(self, title: str, network: str) -> bool:
        """Whether every caller of the title from the network is covered."""
        asked = ipaddress.ip_network(network, strict=False)
        return self.covers(title, asked.network_address) and self.covers(
            title, asked.broadcast_address
        )


def parse_address(text: str) -> Address | None:
    """An address without its zone; None for other text. IPv4 mapped to IPv6 becomes IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def configured(peers: Iterable[PeerSettings]) -> list[Rule]:
    """The settings' peers."""
    return [Rule.of(peer.ae_title, peer.address, peer.certificate) for peer in peers]


def covering(caller: Caller, rules: Iterable[Rule]) -> list[Rule]:
    """The peers that a caller may be, by title and address."""
    address = parse_address(caller.address)
    title = caller.ae_title.strip()
    return [] if address is None else [rule for rule in rules if rule.covers(title, address)]


def allowed(caller: Caller, settings: list[Rule], approved: list[Rule]) -> bool:
    """Whether a caller may open an association; while no peer is known only loopback may.

    Where a peer that covers the caller names a certificate, one without a name is not enough: a
    wide approval never loosens a narrow one.
    """
    if not settings and not approved:
        address = parse_address(caller.address)
        return address is not None and address.is_loopback
    candidates = covering(caller, settings) or covering(caller, approved)
    named = [rule.certificate for rule in candidates if rule.certificate]
    return caller.certificate in named if named else bool(candidates)


class ReportingDestinations:
    """Destinations as callers: they may report storage commitment, from their host's address.

    That is all a destination may do that is no peer.
    """

    def __init__(self, destinations: Iterable[DestinationSettings]) -> None:
        self._destinations = [
            each for each in destinations if each.kind == "dicom" and each.commitment != "off"
        ]
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, frozenset[Address]]] = {}

    def titled(self, ae_title: str) -> list[str]:
        """Names of the destinations with this AE title, which several may share."""
        return [each.name for each in self._destinations if each.ae_title == ae_title]

    def at(self, caller: Caller) -> list[str]:
        """Those of them whose host is where the caller calls from."""
        address = parse_address(caller.address)
        return [
            each.name
            for each in self._destinations
            if each.ae_title == caller.ae_title and address in self._addresses(each.host)
        ]

    def _addresses(self, host: str) -> frozenset[Address]:
        """What the host's name stands for; a name server that is slow is asked by one thread."""
        with self._lock:
            until, known = self._known.get(host, (0.0, frozenset()))
            if time.monotonic() < until:
                return known
            try:
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                known = frozenset(filter(None, (parse_address(str(each[4][0])) for each in found)))
            except OSError as error:
                # The last known stay.
                log.get(role="receive").warning(
                    "destination not resolved", host=host, error_type=type(error).__name__
                )
            self._known[host] = (time.monotonic() + RESOLVE_SECONDS, known)
            return known


class AccessPolicy:
    """The policy of one receiver, over real associations. Safe to use from many threads."""

    def __init__(
        self,
        peers: list[PeerSettings],
        store: Store,
        clock: Clock,
        reporting_destinations: ReportingDestinations | None = None,
    ) -> None:
        self.log = log.get(role="receive")
        self.reporting_destinations = reporting_destinations or ReportingDestinations(())
        self._settings = configured(peers)
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        # None until the database could first be asked.
        self._approved: list[Rule] | None = None
        self._refresh_due = self._write_due = 0.0
        self._waiting: dict[tuple[str, str], RefusedCaller] = {}

    def rejection(self, association: Any) -> Rejection | None:
        """What to answer a requested association with; None lets it in."""
        caller = caller_of(association)
        self.refresh()
        approved = self._approved
        if allowed(caller, self._settings, approved or []):
            return None
        if approved is None:
            # It may be one of those that we cannot know now: it is to try again.
            return TEMPORARY
        return NOT_RECOGNISED

    def only_reports(self, association: Any) -> bool:
        """Whether the caller is no peer, but a destination calling to report.

        One that a peer's line covers is that peer, with all that is asked of it (a certificate).
        """
        caller = caller_of(association)
        if not self.reporting_destinations.titled(caller.ae_title):
            return False
        self.refresh()
        approved = self._approved
        if approved is None or allowed(caller, self._settings, approved):
            return False
        covered = covering(caller, [*self._settings, *approved])
        return not covered and bool(self.reporting_destinations.at(caller))

    def refresh(self) -> None:
        """Read the approved peers again if it is time; the last known stay if it cannot be done.

        One thread asks while the others go on with what is known: a database that does not answer
        holds up one association, not all.
        """
        with self._lock:
            if time.monotonic() < self._refresh_due:
                return
            self._refresh_due = time.monotonic() + REFRESH_SECONDS
        try:
            with self._store.read() as session:
                found = records.approved_peers(session)
            self._approved = [
                Rule.of(each.ae_title, each.address, each.certificate) for each in found
            ]
        except (QCError, SQLAlchemyError, ValueError) as error:
            # ValueError: a row that no command of ours has written.
            self.log.warning("peers not read", error_type=type(error).__name__)

    def flush(self) -> None:
        """Write refused callers down, if any wait and it is time."""
        with self._lock:
            if not self._waiting or time.monotonic() < self._write_due:
                return
            self._write_due = time.monotonic() + WRITE_SECONDS
            waiting, self._waiting = self._waiting, {}
        try:
            with self._store.begin() as session:
                records.record_refusals(session, waiting.values())
        except (QCError, SQLAlchemyError) as error:
            # They will call again.
            self.log.warning("callers not recorded", error_type=type(error).__name__)

    def note(self, caller: Caller, called_ae: str, reason: str) -> None:
        """Put a caller on the list of those not accepted; `called_ae` is whom it called."""
        now = self._clock()
        title, address = printable(caller.ae_title), str(parse_address(caller.address))
        called = printable(called_ae)
        seen = RefusedCaller(title, address, caller.certificate, 1, now, now, called, reason)
        with self._lock:
            known = self._waiting.get((title, address))
            if known is not None:
                seen = replace(
                    known,
                    attempts=known.attempts + 1,
                    certificate=caller.certificate or known.certificate,
                    last_seen_at=now,
                    called_ae=called,
                    reason=reason,
                )
            elif len(self._waiting) >= _MOST_WAITING:
                return
            self._waiting[title, address] = seen
        self.flush()


def caller_of(association: Any) -> Caller:
    """Who requests an association, as the wire and its TLS layer tell."""
    return Caller(
        association.calling_ae,
        association.requestor.address_info.address,
        certificate_of(association),
    )


def printable(title: str) -> str:
    """A title from the wire as an AE title: what may not stand in one becomes a question mark."""
    kept = "".join(c if c.isascii() and c.isprintable() and c != "\\" else "?" for c in title)
    return kept.strip()[:16] or "?"

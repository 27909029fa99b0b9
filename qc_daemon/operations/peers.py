"""Peers for an operator: list those that may store and refused callers, add, approve, remove."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_network
from typing import Any

from pydantic import TypeAdapter, ValidationError

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import open_store, parse_choices
from qc_daemon.receive import access
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import peers
from qc_daemon.records.received.peers import RefusedCaller
from qc_daemon.settings import AETitle, Fingerprint, Settings
from qc_daemon.settings.section import Network

_TITLE: TypeAdapter[str] = TypeAdapter(AETitle)
_FINGERPRINT: TypeAdapter[str] = TypeAdapter(Fingerprint)
_NETWORK: TypeAdapter[str] = TypeAdapter(Network)


class PeerState(StrEnum):
    """Why a peer is in the list: it may store by the settings or an approval, it may only report
    storage commitment, or it was refused."""

    SETTINGS = "settings"
    REPORTS_ONLY = "reports only"
    APPROVED = "approved"
    REFUSED = "refused"


def list_peers(settings: Settings, states: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Peers of the settings, destinations that may report storage commitment, peers of the
    database, then refused callers, latest first; those in the states, by default all.

    Raises UsageError for another state.
    """
    peer_states = parse_choices(PeerState, states, "--state")
    return [row for row in _rows(settings) if not peer_states or row["state"] in peer_states]


def _rows(settings: Settings) -> list[dict[str, Any]]:
    with open_store(settings).read() as session:
        approved, refused = peers.approved_peers(session), peers.refused_callers(session)
    return [
        *(
            _row(
                PeerState.SETTINGS, peer.ae_title, shortest_address(peer.address), peer.certificate
            )
            for peer in settings.receive.peer
        ),
        *(
            _row(PeerState.REPORTS_ONLY, each.ae_title, each.host, None)
            for each in settings.destination
            if each.kind == "dicom" and each.commitment != "off"
        ),
        *(
            _row(
                PeerState.APPROVED, peer.ae_title, peer.address, peer.certificate, peer.approved_at
            )
            for peer in approved
        ),
        *(
            _row(
                PeerState.REFUSED,
                caller.ae_title,
                caller.address,
                caller.certificate,
                caller.first_seen_at,
                caller.last_seen_at,
                caller.attempts,
                caller.called_ae,
                caller.reason,
            )
            for caller in refused
        ),
    ]


def add_peer(
    settings: Settings,
    ae_title: str,
    address: str,
    certificate: str | None,
    clock: Clock = utc_now,
) -> str:
    """Approve a peer; returns a line that says which."""
    title = _validate(_TITLE, ae_title, "AE title")
    network = _network(address, "--address")
    digest = None if certificate is None else _validate(_FINGERPRINT, certificate, "--certificate")
    _refuse_if_settings_decide(settings, title, network)
    return _approve(settings, title, network, digest, clock())


def approve_caller(
    settings: Settings,
    ae_title: str,
    address: str | None,
    network: str | None,
    clock: Clock = utc_now,
) -> str:
    """Approve a refused caller with its address and certificate, or a whole network; returns a line
    that says which."""
    with open_store(settings).read() as session:
        callers = [
            caller for caller in peers.refused_callers(session) if caller.ae_title == ae_title
        ]
        approved_addresses = [
            peer.address for peer in peers.approved_peers(session) if peer.ae_title == ae_title
        ]
    if address is not None:
        callers = [caller for caller in callers if caller.address == address]
    if (
        not callers
        and approved_addresses
        and network is None
        and address in (None, *approved_addresses)
    ):
        return f"{ae_title} may store already, from {', '.join(approved_addresses)}"
    caller = _single_caller(callers, ae_title)
    allowed_network = _network(network or caller.address, "--network")
    if not access.PeerRule.of(ae_title, allowed_network, None).contains(ae_title, caller.address):
        raise UsageError(f"--network {network}: {caller.address} is not in it")
    _refuse_if_settings_decide(settings, ae_title, caller.address)
    outcome = _approve(settings, ae_title, allowed_network, caller.certificate, clock())
    ours = settings.receive.ae_title
    if caller.called_ae in (None, ours):
        return outcome
    return (
        f"{outcome}; but it calls us {caller.called_ae}, and we are {ours}: set that on the"
        " machine, or ae_title in [receive]"
    )


def remove_peer(settings: Settings, ae_title: str, address: str | None) -> int:
    """Remove approvals; returns how many. Raises UsageError for a peer of the settings, QCError for
    an unknown one."""
    network = None if address is None else _network(address, "--address")
    with open_store(settings).begin() as session:
        count = peers.remove(session, ae_title, network)
    if count:
        objects = {"peer": ae_title, "network": network}
        record(settings, AuditKind.PEER_CHANGED, objects=objects, detail={"what": "removed"})
        return count
    if any(
        peer.ae_title == ae_title and network in (None, shortest_address(peer.address))
        for peer in settings.receive.peer
    ):
        raise UsageError(f"{ae_title} is a peer of the settings file; edit receive.peer there")
    where = "" if network is None else f" at {network}"
    raise QCError(ErrorCode.STORAGE, f"no approved peer {ae_title}{where}; see peer list")


def shortest_address(address: str) -> str:
    """An address range in one spelling; a range of one address as that address."""
    network = ip_network(address, strict=False)
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)


def _approve(
    settings: Settings, title: str, network: str, certificate: str | None, now: datetime
) -> str:
    tls = settings.receive.tls
    if certificate is not None and (tls is None or tls.mutual == "none"):
        raise UsageError(
            f"{title}: a certificate can be asked for only over TLS; set [receive.tls]"
        )
    with open_store(settings).begin() as session:
        peers.approve(session, title, network, certificate, now)
        for caller in peers.refused_callers(session):
            rule = access.PeerRule.of(title, network, certificate)
            if access.is_allowed(_as_caller(caller), [], [rule]):
                peers.remove_caller(session, caller.ae_title, caller.address)
    objects = {"peer": title, "network": network, "certificate": certificate}
    record(settings, AuditKind.PEER_CHANGED, objects=objects, detail={"what": "approved"})
    bound = "" if certificate is None else f" with certificate {certificate}"
    return f"{title} may store from {network}{bound}"


def _refuse_if_settings_decide(settings: Settings, title: str, address: str) -> None:
    """Refuse an approval that could change nothing, for the settings decide about its callers."""
    for rule in access.rules_of(settings.receive.peer):
        if rule.contains(title, address):
            raise UsageError(
                f"{title} at {address}: a peer of the settings file decides about it;"
                " edit receive.peer there"
            )


def _single_caller(callers: list[RefusedCaller], ae_title: str) -> RefusedCaller:
    if not callers:
        raise QCError(ErrorCode.STORAGE, f"no refused caller {ae_title}; see peer list, peer add")
    if len(callers) > 1:
        addresses = ", ".join(caller.address for caller in callers)
        raise UsageError(f"{ae_title} called from {addresses}; choose with --address")
    return callers[0]


def _as_caller(caller: RefusedCaller) -> access.Caller:
    return access.Caller(caller.ae_title, caller.address, caller.certificate)


def _network(value: str, option: str) -> str:
    return shortest_address(_validate(_NETWORK, value, option))


def _validate(kind: TypeAdapter[str], value: str, noun: str) -> str:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"{noun} {value}: {message}") from None


def _row(
    state: PeerState,
    ae_title: str,
    address: str,
    certificate: str | None,
    since: datetime | None = None,
    last: datetime | None = None,
    attempts: int | None = None,
    called_ae: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    return {
        "state": state.value,
        "ae_title": ae_title,
        "address": address,
        "certificate": certificate,
        "attempts": attempts,
        "since": None if since is None else since.isoformat(timespec="seconds"),
        "last_seen": None if last is None else last.isoformat(timespec="seconds"),
        "called_ae": called_ae,
        "reason": reason,
    }

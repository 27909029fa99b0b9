"""Who may store to us: deny by default, peers by AE title and address range."""

import ipaddress
from collections.abc import Sequence

from qc_daemon.settings import PeerSettings

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def allowed(calling_ae: str, address: str, peers: Sequence[PeerSettings]) -> bool:
    """Whether a caller may open an association; without peers only loopback may.

    AE titles compare case-sensitively with padding spaces removed (PS3.5 6.2).
    """
    caller = _address(address)
    if caller is None:
        return False
    if not peers:
        return caller.is_loopback
    title = calling_ae.strip()
    return any(peer.ae_title == title and _within(caller, peer.address) for peer in peers)


def _address(text: str) -> _Address | None:
    """An address without its zone; IPv4 seen through a dual-stack socket is IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _within(address: _Address, network: str) -> bool:
    net = ipaddress.ip_network(network, strict=False)
    return address.version == net.version and address in net

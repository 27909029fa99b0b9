"""Who may store: deny by default."""

import pytest

from qc_daemon.receive.policy import allowed
from qc_daemon.settings import PeerSettings

VOLUSON = PeerSettings(ae_title="VOLUSON1", address="10.0.0.0/8")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_no_peers_accept_loopback(address: str) -> None:
    assert allowed("ANYONE", address, [])


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.2", "fe80::1%eth0", "nonsense", ""])
def test_no_peers_refuse_the_rest(address: str) -> None:
    assert not allowed("ANYONE", address, [])


@pytest.mark.parametrize(
    ("title", "address", "answer"),
    [
        ("VOLUSON1", "10.1.2.3", True),
        ("VOLUSON1 ", "10.1.2.3", True),
        ("VOLUSON1", "::ffff:10.1.2.3", True),
        ("VOLUSON2", "10.1.2.3", False),
        ("voluson1", "10.1.2.3", False),
        ("VOLUSON1", "11.1.2.3", False),
        # With peers named, loopback is nothing special.
        ("VOLUSON1", "127.0.0.1", False),
        ("VOLUSON1", "2001:db8::1", False),
    ],
)
def test_peers_by_title_and_address(title: str, address: str, answer: bool) -> None:
    assert allowed(title, address, [VOLUSON]) is answer


def test_one_of_several_peers_is_enough() -> None:
    other = PeerSettings(ae_title="VOLUSON1", address="2001:db8::/32")
    assert allowed("VOLUSON1", "2001:db8::7", [VOLUSON, other])

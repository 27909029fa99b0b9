"""Senders that vanish, flood or lie about lengths, against the service's real processes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import fuzzing
from tests.support.dicom_objects import ultrasound
from tests.support.fault_load import receiver_pids
from tests.support.peers import association, store
from tests.support.receive_service import receive_service, stored_uids
from tests.support.service import Service
from tests.support.waiting import eventually

PLACES = 8
SMALL = b"a data set's first bytes, of many that were promised"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Few places, and a network timeout that a test can wait for. Shared by the tests."""
    more = f"max_associations = {PLACES}\nmax_associations_per_ae = 0"
    service = receive_service(tmp_path_factory.mktemp("sender"), timeout=3, more=more).start()
    yield service
    service.end()


def begin_object(port: int) -> socket.socket:
    """A connection in the middle of an object."""
    seed = fuzzing.seeds(None, [ultrasound()])[0]
    peer = socket.create_connection(("127.0.0.1", port), timeout=60)
    peer.sendall(fuzzing.associate([(seed.sop_class, seed.syntax)]))
    kind, body = read_pdu(peer)
    assert kind == 0x02, body
    command = fuzzing.c_store(seed.sop_class, seed.instance)
    first = fuzzing.p_data(1, command, SMALL)[0]
    # Of a fragment of a megabyte some bytes come, and no more.
    head = struct.pack(">BBIIBB", 0x04, 0, (1 << 20) - 6, (1 << 20) - 10, 1, 0x00)
    peer.sendall(first + head + SMALL)
    return peer


def read_pdu(peer: socket.socket) -> tuple[int, bytes]:
    head = peer.recv(6, socket.MSG_WAITALL)
    kind, _, length = struct.unpack(">BBI", head)
    return kind, peer.recv(length, socket.MSG_WAITALL)


def parts(service: Service) -> list[Path]:
    return list((service.folder / "spool" / "incoming").glob("*.part"))


def handles(service: Service) -> int:
    return sum(psutil.Process(pid).num_fds() for pid in receiver_pids(service))


def instances(service: Service) -> list[str]:
    return stored_uids(f"sqlite:///{service.folder / 'qc.db'}")


def assert_as_before(service: Service, before: list[str]) -> None:
    """Nothing is left of the vanished: no file, no row but those `before`, all places free."""
    eventually(lambda: not parts(service))
    assert instances(service) == before
    # A place is free a moment after the file is gone.
    eventually(lambda: accepted_at_once(service.port) == PLACES)
    sound = ultrasound()
    eventually(lambda: is_stored(service.port, sound))
    assert instances(service) == [*before, sound.SOPInstanceUID]
    assert service.events("process died") == []


def accepted_at_once(port: int) -> int:
    """How many of as many associations as there are places are accepted."""
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            for _ in range(PLACES)
        ]
        for peer in peers:
            peer.sendall(fuzzing.associate([(fuzzing.VERIFICATION, "1.2.840.10008.1.2")]))
        return [read_pdu(peer)[0] for peer in peers].count(0x02)


def is_stored(port: int, dataset: object) -> bool:
    # The association may end between the look and the send.
    with association(port) as peer, contextlib.suppress(RuntimeError):
        return bool(peer.is_established and peer.send_c_store(dataset).get("Status") == 0)
    return False


def test_a_connection_reset_in_mid_object_leaves_nothing(service: Service) -> None:
    before = instances(service)
    for _ in range(3 * PLACES):
        peer = begin_object(service.port)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        eventually(lambda: len(parts(service)) < PLACES)
    assert_as_before(service, before)


def test_a_sender_silent_in_mid_object_times_out_and_leaves_nothing(service: Service) -> None:
    """As behind a cable that was pulled: no FIN, no RST, no more bytes."""
    before, handles_before = instances(service), handles(service)
    peers = [begin_object(service.port) for _ in range(PLACES)]
    eventually(lambda: parts(service))
    for peer in peers:
        while peer.recv(4096):
            pass
    assert_as_before(service, before)
    for peer in peers:
        peer.close()
    # A pool of database connections may have grown.
    eventually(lambda: handles(service) <= handles_before + 32)


def test_a_flood_of_associations_is_served_within_the_limit(service: Service) -> None:
    """Beyond the limit a transient rejection (PS3.8 9.3.4), and those inside it are served."""
    before = instances(service)
    request = fuzzing.associate([(fuzzing.VERIFICATION, "1.2.840.10008.1.2")])
    peers = [socket.create_connection(("127.0.0.1", service.port), 60) for _ in range(100)]
    for peer in peers:
        peer.sendall(request)
    answers = [read_pdu(peer) for peer in peers]
    accepted = [peer for peer, (kind, _) in zip(peers, answers, strict=True) if kind == 0x02]
    assert len(accepted) == PLACES
    # Result 2: rejected transient.
    assert {body[1] for kind, body in answers if kind == 0x03} == {2}
    for peer in accepted:
        peer.sendall(fuzzing.RELEASE)
        assert read_pdu(peer)[0] == 0x06
    for peer in peers:
        peer.close()
    assert_as_before(service, before)


def test_objects_in_pdus_of_the_maximum_length(service: Service) -> None:
    """One that fills the length we offered, then one that claims 4 GiB."""
    large = ultrasound(pixels=bytes(3 << 20))
    with association(service.port) as peer:
        offered = peer.acceptor.maximum_length
        assert peer.send_c_store(large).Status == 0x0000
    assert offered >= 1 << 17
    fragments: list[int] = []

    def claim() -> None:
        with begin_object(service.port) as peer:
            peer.sendall(bytes(1 << 20) + struct.pack(">BBIIBB", 4, 0, 0xFFFFFFFF, 99, 1, 0))
            while peer.recv(4096):
                pass
            fragments.append(1)

    threads = [threading.Thread(target=claim) for _ in range(PLACES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(psutil.Process(pid).memory_info().rss < 300 << 20 for pid in receiver_pids(service))
    eventually(lambda: not parts(service))
    assert store(service.port, ultrasound()) == [0x0000]
    assert service.events("process died") == []

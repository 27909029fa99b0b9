"""TCP ports for programs that must be told one, and for addresses where nobody answers.

What can bind port 0 does so and says which port it was given. A number that the kernel gave to a
probe is not ours once the probe is closed: the next `bind` to port 0, or any connection, may be
given the same one.
"""

import fcntl
import itertools
import os
import socket
import tempfile
from pathlib import Path

# Registered ports of nobody that runs here, below those that the kernel gives out by itself.
_FIRST = 20_000
# An open descriptor holds the lock of its port until this process ends.
_LOCKS: list[int] = []


def _end() -> int:
    """The first port that the kernel gives out by itself (ip(7), ip_local_port_range)."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768


def reserve_port() -> int:
    """A port that no other process of the tests, and not the kernel, gives to anybody else."""
    folder = Path(tempfile.gettempdir()) / "qc-test-ports"
    folder.mkdir(exist_ok=True)
    span = _end() - _FIRST
    # Processes begin at different places, so that few try each other's.
    for step in itertools.islice(itertools.count(os.getpid() * 131), span):
        port = _FIRST + step % span
        descriptor = os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                os.close(descriptor)
                continue
        _LOCKS.append(descriptor)
        return port
    raise OSError("no port is left for the tests")

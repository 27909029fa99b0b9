"""Loaded by every Python process whose PYTHONPATH holds this folder: no address but loopback.

A look-up of, or a connection to, anything else is written to `outside.log` beside this file and
refused.
An audit hook (PEP 578) sees all that goes through Python's sockets and cannot be taken off again.
Each process also writes what it is, so that a test can tell that the guard was there.
"""

import ipaddress
import os
import sys
from typing import Any

_PLACE = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0}
_PLACE |= {"socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "socket.getnameinfo": 0}
"""Events that name a peer, and which of their arguments does."""


def _write(name: str, line: str) -> None:
    path = os.path.join(os.path.dirname(__file__), name)  # noqa: PTH118, PTH120 (imports nothing)
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(line + "\n")


def _outside(peer: Any) -> bool:
    host = peer[0] if isinstance(peer, tuple) else peer
    # No host is ours; a path is a Unix socket.
    if host in (None, "", "localhost") or (
        isinstance(peer, str | bytes) and peer[:1] in ("/", b"/")
    ):
        return False
    if isinstance(host, bytes):
        host = host.decode("ascii", errors="replace")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _PLACE:
        return
    peer = arguments[_PLACE[event]]
    # 0.0.0.0 and :: are looked up to listen; connecting to them stays on this machine.
    if peer in ("0.0.0.0", "::") or not _outside(peer):
        return
    _write("outside.log", f"{os.getpid()} {event} {peer!r} by {_command()}")
    raise OSError(f"the socket guard refuses {event}")


def _command() -> str:
    return " ".join(sys.orig_argv[1:])[:500].replace("\n", " ")


sys.addaudithook(_guard)
_write("processes.log", _command())

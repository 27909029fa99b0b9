"""Who holds a lease: a process, named so that its host can tell whether it still lives."""

import contextlib
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def owner(role: str, pid: int) -> str:
    """`role:host:pid:birth`; the birth mark tells the process from a later one with its number."""
    return f"{role}:{socket.gethostname()}:{pid}:{birth(pid)}"


def gone(owner: str) -> bool:
    """Whether the owner is a process of this host that no longer runs; False if it is another's.

    A container that shares its host name with another on the same database would be misjudged; the
    lease token then still keeps work from being finished twice.
    """
    _, *place = owner.rsplit(":", 3)
    if len(place) != 3 or place[0] != socket.gethostname() or not place[1].isdecimal():
        return False
    _, pid, born = place
    return birth(int(pid)) != born


def birth(pid: int) -> str:
    """Boot and start time in clock ticks since then (proc(5), stat field 22); "" if not running."""
    boot = stat = ""
    with contextlib.suppress(OSError):
        boot = _BOOT_ID.read_text()[:8]
        stat = Path(f"/proc/{pid}/stat").read_text()
    # The command name in field 2 may hold spaces and brackets; fields count on after its end.
    fields = stat.rpartition(")")[2].split()
    # A zombie (Z) has ended already: its parent just has not looked.
    if len(fields) < 20 or fields[0] == "Z":
        return ""
    return f"{boot}-{fields[19]}"

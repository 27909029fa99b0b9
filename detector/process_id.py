"""Names of processes that own leases, by which their host can tell whether they still run."""

import contextlib
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def lease_owner(role: str, pid: int) -> str:
    """`role:host:pid:start`; the start mark tells a process from a later one with its number."""
    return f"{role}:{socket.gethostname()}:{pid}:{start_mark(pid)}"


def has_exited(owner: str) -> bool:
    """Whether the owner is a process of this host that no longer runs; False if it is another's.

    A container that shares its host name with another on the same database would be misjudged; the
    lease token then still keeps work from being finished twice.
    """
    _, *parts = owner.rsplit(":", 3)
    if len(parts) != 3 or parts[0] != socket.gethostname() or not parts[1].isdecimal():
        return False
    _, pid, start = parts
    return start_mark(int(pid)) != start


def start_mark(pid: int) -> str:
    """Boot, and start in clock ticks since then (proc(5), stat field 22); "" if not running."""
    boot = stat = ""
    with contextlib.suppress(OSError):
        boot = _BOOT_ID.read_text()[:8]
        stat = Path(f"/proc/{pid}/stat").read_text()
    # The command name in field 2 may hold spaces and brackets; fields count on after its end.
    fields = stat.rpartition(")")[2].split()
    # A zombie (Z) has ended already; its parent has not waited for it yet.
    if len(fields) < 20 or fields[0] == "Z":
        return ""
    return f"{boot}-{fields[19]}"

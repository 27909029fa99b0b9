"""Is everything in place: settings, spool, database, bundle, port, destinations, peers."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pynetdicom import AE

from detector.codes import QCError
from model.bundle import verify
from qc_daemon.operate import bundle_folder
from qc_daemon.records import schema
from qc_daemon.settings import DestinationSettings, Settings

T = TypeVar("T")
VERIFICATION = "1.2.840.10008.1.1"
LEAST_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    healthy: bool
    message: str


def examine(settings: Settings) -> Iterator[Check]:
    """Every check, in the order an installer would mend them; none changes anything."""
    for name, check in (
        ("spool", _spool),
        ("database", _database),
        ("bundle", _bundle),
        ("receiver", _receiver),
    ):
        yield _checked(name, check, settings)
    for destination in settings.destination:
        yield _checked(f"destination {destination.name}", _destination, destination)


def _checked(name: str, check: Callable[[T], str], subject: T) -> Check:
    try:
        return Check(name, True, check(subject))
    except QCError as error:
        return Check(name, False, error.message)
    except OSError as error:
        return Check(name, False, error.strerror or str(error))


def _spool(settings: Settings) -> str:
    spool = settings.store.spool
    existing = next(p for p in (spool, *spool.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        raise OSError(0, f"{existing} is not writable; give it to the service's user")
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE_BYTES:
        raise OSError(0, f"only {free / 2**30:.1f} GiB free at {existing}; make room")
    return f"{spool}, {free / 2**30:.0f} GiB free"


def _database(settings: Settings) -> str:
    problem = schema.check(settings.store.url)
    if problem:
        raise OSError(0, problem)
    return "tables are up to date"


def _bundle(settings: Settings) -> str:
    folder = bundle_folder(settings.score.bundle)
    problems = verify(folder)
    if problems:
        raise OSError(0, problems[0])
    return f"{folder.name}, verified"


def _receiver(settings: Settings) -> str:
    receive = settings.receive
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((receive.host, receive.port)) != 0:
            return f"{receive.host}:{receive.port} is free; the service is not running"
    _echo(receive.ae_title, receive.host, receive.port, "QCDOCTOR", 5)
    return f"{receive.ae_title} answers on {receive.host}:{receive.port}"


def _destination(destination: DestinationSettings) -> str:
    if destination.folder is not None and destination.kind == "folder":
        if not os.access(destination.folder, os.W_OK):
            raise OSError(0, f"{destination.folder} is not a writable folder")
        return f"{destination.folder} is writable"
    _echo(destination.ae_title, destination.host, destination.port, "QCDAEMON", 10)
    return f"{destination.ae_title} answers C-ECHO"


def _echo(called: str, host: str, port: int, calling: str, timeout: float) -> None:
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    entity.connection_timeout = timeout
    entity.add_requested_context(VERIFICATION)
    association = entity.associate(host, port, ae_title=called)
    if not association.is_established:
        raise OSError(0, f"{called}@{host}:{port} does not accept our association")
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    if not status or status.Status != 0x0000:
        raise OSError(0, f"{called}@{host}:{port} does not answer C-ECHO")

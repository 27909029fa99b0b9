"""Is everything in place: settings, spool, database, bundle, port, destinations, peers."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import requests
from pynetdicom import AE

from detector.codes import QCError
from detector.console import UsageError
from model.bundle import verify
from qc_daemon import dicomweb
from qc_daemon.certificate import WARN_BEFORE, expires
from qc_daemon.deliver.outcome import http_words
from qc_daemon.operate import (
    bundle_folder,
    commitment_fault,
    commitment_words,
    destination_condition,
)
from qc_daemon.receive import check_tls
from qc_daemon.records import schema
from qc_daemon.records.store import Store
from qc_daemon.requestor import associate
from qc_daemon.retain.reconcile import reconcile
from qc_daemon.settings import DestinationSettings, Settings, TLSSettings
from qc_daemon.tls import tls_args

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
        ("spool and database", _reconciled),
        ("bundle", _bundle),
        ("device", _device),
        ("receiver", _receiver),
    ):
        yield _checked(name, check, settings)
    if settings.receive.tls is not None:
        yield _checked("certificate", _certificate, settings.receive.tls)
    for destination in settings.destination:
        yield _checked(f"destination {destination.name}", _destination, destination)
        if destination.kind == "dicom":
            subject = (settings, destination)
            yield _checked(f"commitment {destination.name}", _commitment, subject)


def _checked(name: str, check: Callable[[T], str], subject: T) -> Check:
    try:
        return Check(name, True, check(subject))
    except QCError as error:
        return Check(name, False, error.message)
    except UsageError as error:
        return Check(name, False, str(error))
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
    if schema.will_be_made(settings.store.url):
        return "is not there yet; serve makes it"
    problem = schema.check(settings.store.url)
    if problem:
        raise OSError(0, problem)
    return "tables are up to date"


def _reconciled(settings: Settings) -> str:
    spool = settings.store.spool
    if schema.check(settings.store.url) or not spool.is_dir():
        return "nothing to compare yet"
    found = reconcile(Store(settings.store.url), spool, datetime.now(UTC))
    if not found.clean:
        raise OSError(
            0,
            f"{found.missing} files are missing and {found.damaged} damaged,"
            f" {found.orphans} are orphans (see spool list)",
        )
    return f"{found.files} files, all known"


def _bundle(settings: Settings) -> str:
    folder = bundle_folder(settings.score.bundle)
    problems = verify(folder)
    if problems:
        raise OSError(0, problems[0])
    return f"{folder.name}, verified"


def _device(settings: Settings) -> str:
    # Imports torch.
    from model.device import choose_device

    return f"{settings.score.device}: {choose_device(settings.score.device)}"


def _receiver(settings: Settings) -> str:
    receive, tls = settings.receive, settings.receive.tls
    only = tls if tls is not None and tls.only else None
    port = receive.port if only is None else only.port
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((receive.host, port)) != 0:
            return f"{receive.host}:{port} is free; the service is not running"
    if only is not None:
        return f"{receive.host}:{port} is open, for TLS only"
    try:
        ours = DestinationSettings(
            name="receiver", ae_title=receive.ae_title, host=receive.host, port=port
        )
        _echo(ours, "QCDOCTOR", 5)
    except ConnectionRefusedError:
        return f"{receive.ae_title} answers on {receive.host}:{port}; we are none of its peers"
    return f"{receive.ae_title} answers on {receive.host}:{port}"


def _certificate(tls: TLSSettings) -> str:
    check_tls(tls)
    end = expires(tls.certificate)
    left = end - datetime.now(UTC)
    if left <= timedelta(0):
        raise OSError(0, f"{tls.certificate} expired on {end:%Y-%m-%d}; renew it")
    told = f"{tls.certificate.name} holds until {end:%Y-%m-%d}, {left.days} days"
    return f"{told}; renew it soon" if left < WARN_BEFORE else told


def _destination(destination: DestinationSettings) -> str:
    if destination.folder is not None and destination.kind == "folder":
        folder = destination.folder
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise OSError(0, f"{existing} is not a writable folder")
        return f"{folder} is writable" if existing == folder else f"{folder} will be made"
    if destination.kind == "dicomweb":
        return _web(destination)
    _echo(destination, "QCDAEMON", 10)
    return f"{destination.ae_title} answers C-ECHO"


def _commitment(subject: tuple[Settings, DestinationSettings]) -> str:
    """What the service has last seen; nothing is asked, for that would be a request."""
    settings, destination = subject
    if schema.check(settings.store.url):
        return "nothing is known yet"
    condition = destination_condition(settings, destination.name)
    fault = commitment_fault(destination, condition)
    if fault is not None:
        raise OSError(0, fault)
    return commitment_words(destination, condition)


def _web(destination: DestinationSettings) -> str:
    """A question to its QIDO-RS, which shows address, TLS and credentials; nothing is stored."""
    hasty = destination.model_copy(update={"timeout": min(10.0, destination.timeout)})
    with dicomweb.session(destination) as session:
        try:
            dicomweb.client(hasty, session).search_for_studies(limit=1)
        except requests.HTTPError as error:
            raise OSError(0, f"{destination.url} answers HTTP {_status(error)}") from error
        except requests.RequestException as error:
            raise OSError(
                0, f"{destination.url} cannot be reached: {dicomweb.trouble(error)}"
            ) from error
        except ValueError as error:
            raise OSError(0, f"{destination.url} is no DICOMweb service") from error
    told = f"{destination.url} answers QIDO-RS"
    secret = destination.token or destination.user
    plain = secret is not None and (destination.url or "").startswith("http:")
    return f"{told}; credentials go there in the clear, use https" if plain else told


def _status(error: requests.HTTPError) -> str:
    assert error.response is not None
    status = error.response.status_code
    return f"{status}, {http_words(status)}"


def _echo(peer: DestinationSettings, calling: str, timeout: float) -> None:
    called, host, port = peer.ae_title, peer.host, peer.port
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    entity.connection_timeout = timeout
    entity.add_requested_context(VERIFICATION)
    association = associate(entity, host, port, ae_title=called, tls_args=tls_args(peer))
    if association.is_rejected:
        raise ConnectionRefusedError(0, f"{called}@{host}:{port} rejects our association")
    if not association.is_established:
        raise OSError(0, f"{called}@{host}:{port} does not accept our association")
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    if not status or status.Status != 0x0000:
        raise OSError(0, f"{called}@{host}:{port} does not answer C-ECHO")

"""Our own ports: the receiver's with its certificate, and that of the metrics."""

import socket
from datetime import timedelta

import requests

from qc_daemon.dicom.association_failure import is_called_title_unknown
from qc_daemon.dicom.certificates import WARN_BEFORE, earliest_expiry
from qc_daemon.dicom.implementation import DOCTOR_AE_TITLE, IMPLEMENTATION_CLASS_UID
from qc_daemon.dicom.tls import has_revocations
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.operations.doctor_checks.echo import (
    open_association,
    require_echo,
    require_established,
)
from qc_daemon.receive import check_tls
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import DestinationSettings, Settings, TLSSettings
from qc_daemon.spool import service_lock


def check_receiver(settings: Settings) -> str:
    """Check that the port is free where no service runs, and answered by our service where one
    does."""
    receive, tls = settings.receive, settings.receive.tls
    only = tls if tls is not None and tls.only else None
    port = receive.port if only is None else only.port
    setting = "receive.port" if only is None else "receive.tls.port"
    where = f"{receive.host}:{port}"
    running = service_lock.is_running(settings.store.spool)
    if not _is_listening(receive.host, port):
        if running:
            raise NoticeError(f"{where} is free, though a service runs; has it the role receive?")
        require_free_port(receive.host, port, setting)
        return f"{where} is free for the service"
    if not running:
        raise OSError(
            0,
            f"another program answers on {where}, and our service is not running;"
            f" stop it or change {setting}",
        )
    if only is not None:
        return f"{where} is open, for TLS only"
    return _check_own_receiver(receive.ae_title, receive.host, port)


def _check_own_receiver(ae_title: str, host: str, port: int) -> str:
    """Send C-ECHO to our receiver. Raises OSError if another program answers."""
    where = f"{host}:{port}"
    ours = DestinationSettings(name="receiver", ae_title=ae_title, host=host, port=port)
    with open_association(ours, DOCTOR_AE_TITLE, 5) as association:
        if association.is_rejected and not is_called_title_unknown(association):
            return f"{ae_title} answers on {where}; we are none of its peers"
        require_established(association, ours)
        answered = association.acceptor.implementation_class_uid
        if answered != IMPLEMENTATION_CLASS_UID:
            raise OSError(
                0, f"another DICOM service answers on {where} ({answered}); change receive.port"
            )
        require_echo(association, ours)
    return f"{ae_title} answers on {where}"


def _is_listening(host: str, port: int) -> bool:
    with socket.socket(_address_family(host)) as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def require_free_port(host: str, port: int, setting: str) -> None:
    """Raises OSError if nobody could listen there."""
    with socket.socket(_address_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = (error.strerror or "error").lower()
            raise OSError(
                0, f"cannot listen on {host}:{port}: {why}; change the host or {setting}"
            ) from error


def _address_family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def check_metrics(settings: Settings) -> str:
    """Whether the port of the metrics is free, or answered by our service, and that it is ready."""
    observe = settings.observe
    if observe.port is None:
        return "not served; observe.port names a port for them"
    where = f"{observe.host}:{observe.port}"
    if not service_lock.is_running(settings.store.spool) or observe.port == 0:
        require_free_port(observe.host, observe.port, "observe.port")
        return f"{where} is free for the service"
    try:
        answer = requests.get(f"http://{where}/ready", timeout=5).json()
        ready, reasons = answer["ready"], answer["reasons"]
    except requests.ConnectionError as error:
        raise OSError(0, f"the service does not answer on {where}") from error
    except (requests.RequestException, KeyError, TypeError, ValueError) as error:
        raise OSError(0, f"another program answers on {where}; change observe.port") from error
    if not ready:
        raise OSError(0, f"the service is not ready: {'; '.join(map(str, reasons))[:500]}")
    return f"{where} answers: ready"


def check_certificate(tls: TLSSettings, clock: Clock = utc_now) -> str:
    """Until when the receiver's certificate holds."""
    check_tls(tls)
    end = earliest_expiry(tls.certificate)
    remaining = end - clock()
    if remaining <= timedelta(0):
        raise OSError(0, f"{tls.certificate} expired on {end:%Y-%m-%d}; renew it")
    summary = f"{tls.certificate.name} holds until {end:%Y-%m-%d}, {remaining.days} days"
    if tls.ca is not None and tls.mutual != "none" and has_revocations(tls.ca):
        summary += f"; revoked certificates are refused by the list in {tls.ca.name}"
    if remaining < WARN_BEFORE:
        raise NoticeError(f"{summary}; renew it soon")
    return summary

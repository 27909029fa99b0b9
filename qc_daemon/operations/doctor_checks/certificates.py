"""Every certificate that we show or trust, but the receiver's, which has a check of its own."""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from detector.plain_text import count_of
from qc_daemon.dicom.certificates import WARN_BEFORE, earliest_expiry
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings


def _named(settings: Settings) -> Iterator[tuple[str, Path, Path | None]]:
    """Setting, certificate and its key; an authority has none."""
    web = settings.web
    if web.certificate is not None:
        yield "web", web.certificate, web.key
    hl7 = settings.hl7.tls
    if hl7 is not None:
        yield "hl7", hl7.certificate, hl7.key
        if hl7.ca is not None:
            yield "hl7 ca", hl7.ca, None
    tls = [(f"destination {each.name}", each.tls) for each in settings.destination]
    tls += [(f"peer {each.ae_title}", each.tls) for each in settings.receive.peer]
    tls.append(("worklist", settings.worklist.tls))
    for name, client in tls:
        if client is not None and client.certificate is not None:
            yield name, client.certificate, client.key
        if client is not None and client.ca is not None:
            yield f"{name} ca", client.ca, None
    for server in settings.audit_log.server:
        if server.certificate is not None:
            yield f"audit_log.server {server.name}", server.certificate, server.key
        if server.ca is not None:
            yield f"audit_log.server {server.name} ca", server.ca, None
    if settings.mail.ca is not None:
        yield "mail.ca", settings.mail.ca, None
    for hook in settings.webhook:
        if hook.ca is not None:
            yield f"webhook {hook.name} ca", hook.ca, None


def check_certificates(settings: Settings, clock: Clock = utc_now) -> str:
    """Each can be read, is of its key, and holds. Raises OSError for one that does not."""
    named = list(_named(settings))
    soon = []
    for name, path, key in named:
        try:
            remaining = earliest_expiry(path) - clock()
            if key is not None:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key)
        except ssl.SSLError as error:
            raise OSError(0, f"{name}: {path} is not of its key {key}; give the pair") from error
        except OSError as error:
            raise OSError(
                0, f"{name}: {error.filename or path} cannot be read: {error.strerror}"
            ) from error
        except ValueError as error:
            raise OSError(0, f"{name}: {path} is no certificate (PEM)") from error
        if remaining <= timedelta(0):
            raise OSError(0, f"{name}: {path} has expired; renew it")
        if remaining < WARN_BEFORE:
            soon.append(f"{name}: {path.name} ends in {remaining.days} days")
    if soon:
        raise NoticeError(f"{'; '.join(soon)}: renew in time")
    return f"{count_of(len(named), 'file')} read, none ends soon" if named else "none is named"

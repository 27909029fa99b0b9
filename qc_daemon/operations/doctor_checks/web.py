"""The pages: can their port be had, and is it ours that answers."""

import socket

from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.records import schema
from qc_daemon.records.accounts import accounts
from qc_daemon.records.clock import utc_now
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from qc_daemon.spool import service_lock


def check_web(settings: Settings) -> str:
    """Raises OSError where the pages cannot be served; NoticeError where nobody can log in."""
    web = settings.web
    if web.port is None:
        return "no pages are served (web.port names no port)"
    where = f"{web.host}:{web.port}"
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(2)
        is_open = web.port != 0 and probe.connect_ex((web.host, web.port)) == 0
    is_running = service_lock.is_running(settings.store.spool)
    if is_open and not is_running:
        raise OSError(
            0, f"another program answers on {where}, and our service is not running;"
            " stop it or change web.port",
        )  # fmt: skip
    if not is_open:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((web.host, web.port))
            except OSError as error:
                why = (error.strerror or "error").lower()
                raise OSError(
                    0, f"cannot listen on {where}: {why}; change web.host or web.port"
                ) from error
    if not schema.check(settings.store.url):
        with Store(settings.store.url).read() as session:
            names = [each.name for each in accounts.listing(session) if each.is_enabled]
        if not names:
            raise NoticeError(f"{where}: nobody can log in; qc-daemon user add makes an account")
    return f"{where} is {'open' if is_open else 'free for the service'}{_provider(settings)}"


def _provider(settings: Settings) -> str:
    """Ask the OpenID provider for its description. Raises OSError."""
    oidc = settings.web.oidc
    if oidc is None:
        return ""
    from qc_daemon.operations.logins.external_accounts import LoginError
    from qc_daemon.operations.logins.oidc_provider import OidcProvider

    try:
        OidcProvider(oidc, utc_now).begin("https://localhost/", "/")
    except LoginError as error:
        raise OSError(
            0, f"nobody can log in at {oidc.issuer} ({error.detail}); see [web.oidc]"
        ) from error
    return f"; {oidc.issuer} answers"

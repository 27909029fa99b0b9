"""What proxies say of a request: only of those that the settings trust, by who connects to us."""

import time
from ipaddress import ip_address, ip_network

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from detector.console import UsageError
from qc_daemon.observe import counters, log
from qc_daemon.operations.accounts import parse_account_name
from qc_daemon.settings.login import HeaderLoginSettings
from qc_daemon.web.context import context_of

_LOG_SECONDS = 60.0


class LoginHeaders:
    """Removes the headers of `web.header_login` from requests that come from anywhere but the
    proxies named there, and counts them; a header that comes twice counts as well: one of them is
    the browser's. Stands before whatever reads X-Forwarded-For."""

    def __init__(self, app: ASGIApp, login: HeaderLoginSettings) -> None:
        self._app = app
        self._networks = [ip_network(each, strict=False) for each in login.addresses]
        names = (login.name_header, login.full_name_header, login.roles_header)
        self._names = {name.lower().encode() for name in names if name is not None}
        self._logged_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = [name for name, _ in scope["headers"] if name.lower() in self._names]
            is_trusted = self._is_trusted(scope) and len(sent) == len(set(sent))
            if sent and not is_trusted:
                headers = [each for each in scope["headers"] if each[0].lower() not in self._names]
                scope = {**scope, "headers": headers}
                self._count(scope)
        await self._app(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope.get("client")
        if client is None:
            return False
        try:
            address = ip_address(client[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def _count(self, scope: Scope) -> None:
        counters.add("login_headers_ignored")
        # A line for each would be a way to fill the disk.
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS or not self._logged_at:
            self._logged_at = now
            address = scope["client"][0] if scope.get("client") else None
            log.get(role="web").warning("log-in header ignored", address=address)


def name_by_proxy(request: Request) -> str | None:
    """Whom a trusted proxy says this request is of, as an account's name; None for nobody."""
    login = context_of(request).settings.web.header_login
    value = None if login is None else request.headers.get(login.name_header)
    if not value:
        return None
    try:
        return parse_account_name(value)
    except UsageError:
        return None


def header_of(request: Request, name: str | None) -> str | None:
    """A header's text, which proxies send as UTF-8; None for none."""
    value = None if name is None else request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value

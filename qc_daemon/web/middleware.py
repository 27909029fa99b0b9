"""What holds of every answer and request: security headers, and no writing from another site."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qc_daemon.web.problems import problem_response

# Nothing but our own files; no inline script or style, no plugin, no frame around us.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # Pages name patients: no browser or proxy keeps them. What names nobody says otherwise.
    "cache-control": "no-store",
}
_HSTS = "max-age=31536000"
_READS = ("GET", "HEAD", "OPTIONS")


class SecurityHeaders:
    """Adds SECURITY_HEADERS to every answer, but for those that it has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                names = {name.lower() for name, _ in headers}
                security_headers = dict(SECURITY_HEADERS)
                if scope["scheme"] == "https":
                    security_headers["strict-transport-security"] = _HSTS
                headers += _missing(security_headers.items(), names)
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _missing(
    security_headers: Iterable[tuple[str, str]], names: set[bytes]
) -> Iterable[tuple[bytes, bytes]]:
    for name, value in security_headers:
        if name.encode() not in names:
            yield name.encode(), value.encode()


class SameSite:
    """Refuses a write that another site has a browser send (Fetch Metadata, W3C; else Origin).

    A program with a token sends neither a cookie nor these headers, and is let through: what it may
    do depends on the token alone. A write with a cookie must say where it comes from.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _READS:
            reason = _refusal(Headers(scope=scope), scope["scheme"])
            if reason is not None:
                await problem_response(403, reason)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal(headers: Headers, scheme: str) -> str | None:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return None if site == "same-origin" else "this request comes from another site"
    if origin is not None:
        own = (scheme, headers.get("host", "").casefold())
        parts = urlsplit(origin)
        is_own = (parts.scheme, parts.netloc.casefold()) == own
        return None if is_own else "this request comes from another site"
    if "cookie" in headers:
        return "this request does not say which site it comes from"
    return None

"""Who may use a route: every route says so by an `Access` among its dependencies.

`app.create_app` refuses a route that has none, so that what is forgotten is closed.
"""

import hmac
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from qc_daemon.audit_trail.recorder import act_as
from qc_daemon.operations.principals import (
    Principal,
    actor_of,
    principal_of_session,
    principal_of_token,
)
from qc_daemon.records.tables import LoginMethod
from qc_daemon.verbs import Verb
from qc_daemon.web.context import context_of
from qc_daemon.web.proxies import name_by_proxy

COOKIE, PLAIN_COOKIE = "__Host-qc", "qc"
KIOSK_COOKIE = "__Host-qc-kiosk"
CSRF_FIELD, CSRF_HEADER = "csrf_token", "x-csrf-token"
_READS = ("GET", "HEAD", "OPTIONS")
_BEARER = "bearer "


class LoginRequiredError(HTTPException):
    """There is no session and no token that counts."""

    def __init__(self) -> None:
        super().__init__(401, "log in, or send a token", {"WWW-Authenticate": "Bearer"})


class Access:
    """Dependency of a route that gives the `Principal`: an account with one of the verbs; without
    any verb, every account.

    A write within a session must carry the session's token, as a field of the form or a header.
    Raises 401 without an account, 403 without the verb or that token.
    """

    def __init__(self, *verbs: Verb) -> None:
        self.verbs = frozenset(verbs)

    async def __call__(self, request: Request) -> Principal:
        principal = await run_in_threadpool(principal_of, request)
        if principal is None:
            raise LoginRequiredError
        act_as(actor_of(principal))
        if self.verbs and not self.verbs & principal.verbs:
            raise HTTPException(403, "the role of this account does not allow it")
        if request.method not in _READS and principal.session_id is not None:
            await _check_csrf(request, principal)
        return principal


class BoardAccess(Access):
    """Dependency of the live board: as `Access`, also for a screen that keeps an API token in a
    cookie, which may see the board and nothing else."""

    async def __call__(self, request: Request) -> Principal:
        principal = await run_in_threadpool(board_principal_of, request)
        if principal is None:
            raise LoginRequiredError
        if not self.verbs & principal.verbs:
            raise HTTPException(403, "the role of this account does not allow it")
        return principal


class Public(Access):
    """Dependency of a route that is open to everybody; gives the principal if there is one."""

    async def __call__(self, request: Request) -> Principal | None:  # type: ignore[override]
        return await run_in_threadpool(principal_of, request)


def principal_of(request: Request) -> Principal | None:
    """Who asks, by bearer token or session cookie; None for nobody."""
    context = context_of(request)
    address = address_of(request)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        # A token that does not count is no reason to look for a cookie.
        if not authorization.casefold().startswith(_BEARER):
            return None
        token = authorization[len(_BEARER) :].strip()
        return principal_of_token(context.settings, token, address, context.clock)
    cookie = session_cookie(request)
    if cookie is None:
        return None
    principal = principal_of_session(context.settings, cookie, address, context.clock)
    if principal is None or principal.login_method is not LoginMethod.HEADER:
        return principal
    # A session that a proxy vouched for counts while it still names that person.
    return principal if name_by_proxy(request) == principal.account.name else None


def board_principal_of(request: Request) -> Principal | None:
    """Who looks at the board: an account, else the screen whose token is kept in a cookie."""
    principal = principal_of(request)
    token = request.cookies.get(KIOSK_COOKIE)
    if principal is not None or token is None:
        return principal
    return kiosk_of_token(request, token)


def kiosk_of_token(request: Request, token: str) -> Principal | None:
    """The screen with this API token; None if the token does not count or lacks the verb."""
    context = context_of(request)
    principal = principal_of_token(context.settings, token, address_of(request), context.clock)
    if principal is None or not principal.may(Verb.SEE_BOARD):
        return None
    return replace(principal, verbs=frozenset({Verb.SEE_BOARD}))


def session_cookie(request: Request) -> str | None:
    """What the session cookie holds."""
    return request.cookies.get(COOKIE)


def address_of(request: Request) -> str:
    """Where the request is from: of a trusted proxy's, whom it names."""
    return request.client.host if request.client is not None else ""


async def _check_csrf(request: Request, principal: Principal) -> None:
    token = request.headers.get(CSRF_HEADER)
    if token is None and _is_form(request):
        field = (await request.form()).get(CSRF_FIELD)
        token = field if isinstance(field, str) else None
    if token is None or not hmac.compare_digest(
        token.encode(errors="replace"), principal.csrf_token.encode()
    ):
        raise HTTPException(403, "the form is too old; load the page again")


def _is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")


def accesses_of(dependant: Dependant) -> Iterator[Access]:
    """Every `Access` of a route."""
    for each in dependant.dependencies:
        if isinstance(each.call, Access):
            yield each.call
        yield from accesses_of(each)


def require_access(routes: Iterator[tuple[str, Any]]) -> None:
    """Raises RuntimeError for a route that does not say who may use it, or says it twice."""
    for path, dependant in routes:
        if len(list(accesses_of(dependant))) != 1:
            raise RuntimeError(f"route {path} needs one Access among its dependencies")

"""Log in at an OpenID provider: the way there, and the answer that comes back."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from qc_daemon.operations.logins.external_accounts import LoginError, LoginProblem
from qc_daemon.operations.logins.external_login import log_in_by_claims, report_refused
from qc_daemon.operations.logins.oidc_provider import LoginAttempt, OidcProvider
from qc_daemon.operations.principals import Principal
from qc_daemon.records.tables import LoginMethod
from qc_daemon.web.access import Public, address_of, session_cookie
from qc_daemon.web.context import context_of
from qc_daemon.web.login_answers import (
    LOCKED,
    go_on,
    login_form,
    own_path,
    set_session_cookie,
)

router = APIRouter(include_in_schema=False)
_PLAIN = Annotated[Principal | None, Depends(Public())]
ATTEMPT_COOKIE = "__Host-qc-login"
_CALLBACK = "/login/oidc/callback"
_ATTEMPT_SECONDS = 600
_MAX_NEXT_LETTERS = 1000


@router.get("/login/oidc")
def begin_login(request: Request, principal: _PLAIN, next: str = "/") -> Response:
    """Lead to the provider's page."""
    context, provider = context_of(request), _provider(request)
    path = own_path(next)[:_MAX_NEXT_LETTERS]
    try:
        url, attempt = provider.begin(_own_url(request, _CALLBACK), path)
    except LoginError as error:
        report_refused(
            context.settings, error, LoginMethod.OIDC, address_of(request), context.clock
        )
        return login_form(request, path, error.problem)
    response = RedirectResponse(url, 303)
    # Lax: the answer comes from the provider's site.
    response.set_cookie(
        ATTEMPT_COOKIE,
        attempt.to_cookie(),
        max_age=_ATTEMPT_SECONDS,
        path="/",
        secure=True,
        httponly=True,
        samesite="lax",
    )
    return response


@router.get(_CALLBACK)
def finish_login(request: Request, principal: _PLAIN) -> Response:
    """Begin a session of whom the provider names."""
    context, provider = context_of(request), _provider(request)
    address, next_path = address_of(request), "/"
    key = f"oidc {address}"
    if context.login_limits.is_locked(key, address):
        return login_form(request, next_path, LOCKED)
    try:
        cookie = request.cookies.get(ATTEMPT_COOKIE)
        attempt = LoginAttempt.from_cookie(cookie, context.clock())
        next_path = own_path(attempt.next)
        claims = provider.finish(request.query_params, attempt, _own_url(request, _CALLBACK))
    except LoginError as error:
        report_refused(context.settings, error, LoginMethod.OIDC, address, context.clock)
        if error.problem is LoginProblem.NOT_ACCEPTED:
            context.login_limits.count_refusal(key, address)
        return _without_attempt(login_form(request, next_path, error.problem))
    try:
        token = log_in_by_claims(
            context.settings,
            claims,
            address=address,
            agent=request.headers.get("user-agent", ""),
            ends=session_cookie(request),
            clock=context.clock,
        )
    except LoginError as error:
        return _without_attempt(login_form(request, next_path, error.problem))
    context.login_limits.forget(key, address)
    response = go_on(request, next_path)
    set_session_cookie(response, token)
    return _without_attempt(response)


def _provider(request: Request) -> OidcProvider:
    """Raises HTTPException 404 without one in the settings."""
    provider = context_of(request).oidc
    if provider is None:
        raise HTTPException(404)
    return provider


def _own_url(request: Request, path: str) -> str:
    """Our address of this path, as the browser has it; the provider compares it with those that it
    was told."""
    return f"{request.url.scheme}://{request.url.netloc}{path}"


def _without_attempt(response: Response) -> Response:
    response.delete_cookie(ATTEMPT_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return response

"""Log in, log out, choose a language, and where `/` leads."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.operations.logins.external_accounts import LoginError
from qc_daemon.operations.logins.external_login import log_in_by_header
from qc_daemon.operations.principals import Principal, log_in, log_out
from qc_daemon.records.tables import LoginMethod
from qc_daemon.verbs import Verb
from qc_daemon.web.access import COOKIE, Access, Public, address_of, session_cookie
from qc_daemon.web.context import context_of
from qc_daemon.web.login_answers import (
    LOCKED,
    WRONG,
    go_on,
    login_form,
    own_path,
    set_session_cookie,
)
from qc_daemon.web.proxies import header_of
from qc_daemon.web.rendering import LANGUAGE_COOKIE

router = APIRouter(include_in_schema=False)
_YEAR_SECONDS = 365 * 24 * 3600
_PLAIN = Annotated[Principal | None, Depends(Public())]
_MAX_LETTERS = 2000


@router.get("/")
def home(principal: Annotated[Principal, Depends(Access())]) -> Response:
    """The first page that the account may see."""
    return RedirectResponse(_home(principal), 303)


def _home(principal: Principal) -> str:
    if principal.may(Verb.REVIEW):
        return "/worklist"
    if principal.may_see_findings:
        return "/exams"
    if principal.may(Verb.SEE_BOARD):
        return "/board"
    return "/operations" if principal.may(Verb.SEE_OPERATIONS) else "/account"


@router.get("/login")
def login_page(request: Request, principal: _PLAIN, next: str = "/") -> Response:
    """The form; or a session at once for whom a trusted proxy names."""
    if principal is not None:
        return RedirectResponse(own_path(next), 303)
    if context_of(request).settings.web.header_login is not None and _names_somebody(request):
        return _log_in_by_header(request, next)
    return login_form(request, next)


def _names_somebody(request: Request) -> bool:
    login = context_of(request).settings.web.header_login
    return login is not None and bool(request.headers.get(login.name_header))


def _log_in_by_header(request: Request, next_path: str) -> Response:
    context = context_of(request)
    login = context.settings.web.header_login
    assert login is not None
    try:
        token = log_in_by_header(
            context.settings,
            request.headers[login.name_header],
            header_of(request, login.full_name_header),
            header_of(request, login.roles_header),
            address=address_of(request),
            agent=request.headers.get("user-agent", ""),
            ends=session_cookie(request),
            clock=context.clock,
        )
    except LoginError as error:
        return login_form(request, next_path, error.problem)
    response = go_on(request, own_path(next_path))
    set_session_cookie(response, token)
    return response


@router.post("/login")
def login(
    request: Request,
    principal: _PLAIN,
    name: Annotated[str, Form(max_length=_MAX_LETTERS)],
    password: Annotated[str, Form(max_length=_MAX_LETTERS)],
    next: Annotated[str, Form(max_length=_MAX_LETTERS)] = "/",
) -> Response:
    """Begin a session, under a new cookie, and go on to where one wanted to."""
    context = context_of(request)
    address = address_of(request)
    if context.login_limits.is_locked(name, address):
        return login_form(request, next, LOCKED, name)
    begun = log_in(
        context.settings,
        name,
        password,
        address=address,
        agent=request.headers.get("user-agent", ""),
        ends=session_cookie(request),
        clock=context.clock,
    )
    if begun is None:
        context.login_limits.count_refusal(name, address)
        return login_form(request, next, WRONG, name)
    context.login_limits.forget(name, address)
    token, _ = begun
    response = RedirectResponse(own_path(next), 303)
    set_session_cookie(response, token)
    return response


@router.post("/logout")
def logout(request: Request, principal: Annotated[Principal, Depends(Access())]) -> Response:
    """End the session, and lead to where whoever vouched for it ends theirs."""
    context = context_of(request)
    log_out(context.settings, principal, context.clock)
    target = None
    if principal.login_method is LoginMethod.OIDC and context.oidc is not None:
        back_to = f"{request.url.scheme}://{request.url.netloc}/login"
        target = context.oidc.end_session_url(back_to)
    elif principal.login_method is LoginMethod.HEADER:
        login = context.settings.web.header_login
        target = None if login is None else login.logout_page
    # A redirection of a form may not lead elsewhere (form-action): a page of ours does.
    response = RedirectResponse("/login", 303) if target is None else go_on(request, target)
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.get("/language/{language}")
def choose_language(
    language: str, request: Request, principal: _PLAIN, next: str = "/"
) -> Response:
    """Keep the language in this browser."""
    response = RedirectResponse(own_path(next), 303)
    if language in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE,
            language,
            max_age=_YEAR_SECONDS,
            path="/",
            secure=True,
            httponly=True,
            samesite="lax",
        )
    return response

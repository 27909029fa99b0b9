"""Log in, log out, choose a language, and where `/` leads."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.operations.principals import Principal, log_in, log_out
from qc_daemon.verbs import Verb
from qc_daemon.web.access import COOKIE, Access, Public, address_of, session_cookie
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import LANGUAGE_COOKIE, is_own_path, render

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
    """The form."""
    if principal is not None:
        return RedirectResponse(next if is_own_path(next) else "/", 303)
    return render(request, "login.html", None, {"next": next, "error": None, "name": ""})


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
    error, status = "wrong", 403
    begun = None
    if context.login_limits.is_locked(name, address):
        error, status = "locked", 429
    else:
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
    if begun is None:
        values = {"next": next, "error": error, "name": name}
        return render(request, "login.html", None, values, status)
    context.login_limits.forget(name, address)
    token, _ = begun
    response = RedirectResponse(next if is_own_path(next) else "/", 303)
    response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.post("/logout")
def logout(request: Request, principal: Annotated[Principal, Depends(Access())]) -> Response:
    """End the session."""
    context = context_of(request)
    log_out(context.settings, principal, context.clock)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.get("/language/{language}")
def choose_language(
    language: str, request: Request, principal: _PLAIN, next: str = "/"
) -> Response:
    """Keep the language in this browser."""
    response = RedirectResponse(next if is_own_path(next) else "/", 303)
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

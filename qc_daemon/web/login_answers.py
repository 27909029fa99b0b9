"""What a log-in or log-out is answered: the form, or a session's cookie and where it leads."""

from fastapi import Request
from starlette.responses import Response

from qc_daemon.operations.logins.external_accounts import LoginProblem
from qc_daemon.web.access import COOKIE
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import build_url, is_own_path, render

WRONG, LOCKED = "wrong", "locked"
_STATUS = {WRONG: 403, LOCKED: 429, LoginProblem.UNAVAILABLE: 503}


def login_form(
    request: Request, next_path: str, problem: str | None = None, name: str = ""
) -> Response:
    """The form, with what went wrong before."""
    oidc = context_of(request).settings.web.oidc
    values = {
        "next": next_path,
        "error": problem,
        "name": name,
        "provider": None if oidc is None else oidc.title,
        # Not the address of an answer that came from elsewhere.
        "here": build_url("/login", next=next_path),
    }
    status = 200 if problem is None else _STATUS.get(problem, 403)
    return render(request, "login.html", None, values, status)


def set_session_cookie(response: Response, token: str) -> None:
    """Have the browser keep the session."""
    response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="strict")


def go_on(request: Request, url: str) -> Response:
    """A page that leads on by itself. After a redirection that another site began, a browser would
    not send our strict cookie; after a page of ours it does."""
    return render(request, "continue.html", None, {"target": url})


def own_path(path: str) -> str:
    """The path if it stays on this site, else the first page."""
    return path if is_own_path(path) else "/"

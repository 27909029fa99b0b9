"""What a failed request is answered: a page for a person, problem details for a program."""

from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.observe import log
from qc_daemon.operations.finding_lists import NotVisibleError
from qc_daemon.web.access import LoginRequiredError, principal_of
from qc_daemon.web.middleware import SECURITY_HEADERS
from qc_daemon.web.problems import problem_response
from qc_daemon.web.rendering import render

API = "/api/"
_MISSING = "there is no such thing, or this account may not see it"
_UNAVAILABLE = (
    ErrorCode.SPOOL_MISSING,
    ErrorCode.SPOOL_DAMAGED,
    ErrorCode.NOT_AVAILABLE,
    ErrorCode.DELIVERY_UNREACHABLE,
)


def add_handlers(app: FastAPI) -> None:
    """Have the application answer errors."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(NotVisibleError, lambda request, _: _answer(request, 404, _MISSING))
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(UsageError, _usage_error)
    app.add_exception_handler(QCError, _qc_error)
    app.add_exception_handler(Exception, _unexpected)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    is_login = isinstance(error, LoginRequiredError)
    if is_login and request.method == "GET" and not _is_program(request):
        path = request.url.path
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/login?next={quote(path + query, safe='')}", 303)
    detail = _MISSING if error.status_code == 404 else str(error.detail)
    headers = dict(error.headers) if error.headers else None
    return _answer(request, error.status_code, detail, headers)


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Where, and what was wrong; never what was sent.
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _answer(request, 422, f"{where}: {first['msg']}")


def _usage_error(request: Request, error: Exception) -> Response:
    return _answer(request, 422, str(error).replace("--", ""))


def _qc_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QCError)
    if isinstance(error.__cause__, SQLAlchemyError):
        log.get(role="web").error("request failed", code=error.code.value, reason=error.message)
        return _answer(request, 503, "the database cannot be used", {"Retry-After": "10"})
    if error.code in _UNAVAILABLE:
        return _answer(request, 404, error.message)
    return _answer(request, 409, error.message)


def _unexpected(request: Request, error: Exception) -> Response:
    kind, place = type(error).__name__, log.where(error)
    log.get(role="web").error("request failed", error_type=kind, error_at=place)
    # This answer is given outside of the middleware.
    return _answer(request, 500, "an internal error; it is in the log", dict(SECURITY_HEADERS))


def _is_program(request: Request) -> bool:
    return request.url.path.startswith(API) or "authorization" in request.headers


def _answer(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    if _is_program(request) or not hasattr(request.app.state, "context"):
        return problem_response(status, detail, headers)
    try:
        principal = None if status >= 500 else principal_of(request)
    except QCError:
        principal = None
    response = render(
        request, "error.html", principal, {"status": status, "detail": detail}, status
    )
    response.headers.update(headers or {})
    return response

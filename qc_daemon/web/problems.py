"""Errors as problem details (RFC 9457) for programs."""

from http import HTTPStatus

from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"


def problem_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An answer that says what went wrong, in one line without values of patients."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)

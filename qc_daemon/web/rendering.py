"""Pages from templates: words in the reader's language, times in the zone of the settings."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, StreamingResponse

from qc_daemon.language.catalogues import ENGLISH, LANGUAGES
from qc_daemon.language.person_names import format_name
from qc_daemon.language.wording import Wording
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web import page_words, static_files
from qc_daemon.web.context import context_of

FOLDER = Path(__file__).parent
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["person_name"] = format_name
LANGUAGE_COOKIE = "qc-language"


def render(
    request: Request,
    template: str,
    principal: Principal | None,
    values: Mapping[str, Any] | None = None,
    status: int = 200,
) -> HTMLResponse:
    """The page; `values` are the template's own, beside those of every page."""
    return HTMLResponse(render_text(request, template, principal, values), status)


def render_text(
    request: Request,
    template: str,
    principal: Principal | None,
    values: Mapping[str, Any] | None = None,
) -> str:
    """The template's text, as `render`."""
    page = _ENVIRONMENT.get_template(template)
    return page.render(_page_values(request, principal), **(values or {}))


def render_stream(
    request: Request,
    template: str,
    principal: Principal | None,
    values: Mapping[str, Any] | None = None,
) -> StreamingResponse:
    """The page piece by piece, as its values come: for what takes long."""
    page = _ENVIRONMENT.get_template(template)
    pieces = page.generate(_page_values(request, principal), **(values or {}))
    return StreamingResponse(pieces, media_type="text/html; charset=utf-8")


def _page_values(request: Request, principal: Principal | None) -> dict[str, Any]:
    """What templates of every page have."""
    context = context_of(request)
    wording = Wording(language_of(request, principal))
    zone = context.settings.schedule.local_zone

    def moment(value: datetime | str | None) -> str:
        """A moment to the minute, in the zone that the foot of the page names."""
        if value is None:
            return ""
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
        return f"{at.astimezone(zone):%Y-%m-%d %H:%M}" if at.tzinfo else f"{at:%Y-%m-%d %H:%M}"

    return {
        "gettext": wording.gettext,
        "ngettext": wording.ngettext,
        "wording": wording,
        "language": wording.language,
        "languages": LANGUAGES,
        "principal": principal,
        "may": _may(principal),
        "Verb": Verb,
        "moment": moment,
        "zone": str(zone),
        "url": build_url,
        "path": request.url.path,
        "here": _here(request),
        "static": _static,
        "words": page_words,
        "has_htmx": static_files.HTMX.is_file(),
    }


def _static(name: str) -> str:
    """The address of one of our files."""
    return f"/static/{static_files.version()}/{name}"


def _may(principal: Principal | None) -> Any:
    return lambda *verbs: principal is not None and any(principal.may(verb) for verb in verbs)


def _here(request: Request) -> str:
    """Path and query of this page, for a link back to it."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def language_of(request: Request, principal: Principal | None) -> str:
    """The language that was chosen here, else the account's, else the browser's, else ours."""
    language = request.cookies.get(LANGUAGE_COOKIE)
    if language in LANGUAGES:
        return language
    if principal is not None and principal.account.language in LANGUAGES:
        return str(principal.account.language)
    for part in request.headers.get("accept-language", "").split(","):
        word = part.partition(";")[0].partition("-")[0].strip().casefold()
        if word in LANGUAGES:
            return word
    return context_of(request).settings.report.language or ENGLISH


def build_url(path: str, parameters: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """The path with these parameters and changes in its query; None and "" are left out, a list is
    repeated."""
    every = {**(parameters or {}), **changes}
    pairs = [
        (name, str(each))
        for name, value in every.items()
        for each in (value if _is_list(value) else [value])
        if each not in (None, "")
    ]
    return f"{quote(path)}?{urlencode(pairs)}" if pairs else quote(path)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_own_path(path: str) -> bool:
    """Whether a redirection to it stays on this site: no scheme, no host, nothing that a browser
    reads as one."""
    return (
        path.startswith("/")
        and not path.startswith(("//", "/\\"))
        and path.isascii()
        and path.isprintable()
        and "\\" not in path
    )

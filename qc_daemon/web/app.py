"""The application: its routes, what holds of every answer, and who may use what."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from qc_daemon.operations.finding_pictures import FindingPictures
from qc_daemon.operations.image_counts import ImageCounts
from qc_daemon.operations.logins.oidc_provider import OidcProvider
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from qc_daemon.settings.web import WebSettings
from qc_daemon.web import static_files
from qc_daemon.web.access import require_access
from qc_daemon.web.api import audits as audits_api
from qc_daemon.web.api import exams as exams_api
from qc_daemon.web.api import findings as findings_api
from qc_daemon.web.api import models as models_api
from qc_daemon.web.api import operations as operations_api
from qc_daemon.web.api import people as people_api
from qc_daemon.web.api.shared import Problem
from qc_daemon.web.board_feed import BoardFeed
from qc_daemon.web.context import WebContext
from qc_daemon.web.errors import add_handlers
from qc_daemon.web.login_limits import LoginLimits
from qc_daemon.web.middleware import SameSite, SecurityHeaders
from qc_daemon.web.pages import (
    access_log,
    account,
    audits,
    board,
    changes,
    exam,
    external_login,
    login,
    models,
    operations,
    queues,
    second_readings,
    worklist,
    worklist_actions,
)
from qc_daemon.web.proxies import LoginHeaders

_PAGES = (
    login,
    external_login,
    board,
    worklist,
    worklist_actions,
    second_readings,
    exam,
    account,
    access_log,
    audits,
    operations,
    queues,
    changes,
    # After `/models/confirm`.
    models,
    static_files,
)
_API = (findings_api, exams_api, people_api, audits_api, models_api, operations_api)


def create_app(settings: Settings, store: Store, clock: Clock = utc_now) -> FastAPI:
    """The pages and the REST API of these settings, on this store, which operations have too
    (`shared_store`). Raises RuntimeError for a route that does not say who may use it."""
    app = FastAPI(
        title="qc-daemon",
        version=version("qc-daemon"),
        # Without `/docs`: its scripts come from another host.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            *_proxy_middleware(settings.web),
            Middleware(SecurityHeaders),
            Middleware(SameSite),
            Middleware(
                RequestBodyLimitMiddleware, max_body_size=1024 * settings.web.request_kilobytes
            ),
        ],
    )
    app.state.context = WebContext(
        settings,
        store,
        clock,
        LoginLimits(settings.web),
        FindingPictures(settings, store),
        BoardFeed(settings, clock),
        ImageCounts(settings, clock),
        None if settings.web.oidc is None else OidcProvider(settings.web.oidc, clock),
    )
    # Put in as they are: an included router would hide its routes from the check below.
    for module in (*_PAGES, *_API):
        app.router.routes += module.router.routes
    add_handlers(app)
    require_access(routes_of(app))
    app.openapi = lambda: _describe_api(app)  # type: ignore[method-assign]
    return app


def _proxy_middleware(web: WebSettings) -> Iterator[Middleware]:
    """What proxies say of a request; first what depends on who connects to us."""
    if web.header_login is not None:
        yield Middleware(LoginHeaders, web.header_login)
    if web.trusted_proxies:
        yield Middleware(ProxyHeadersMiddleware, trusted_hosts=list(web.trusted_proxies))


def _describe_api(app: FastAPI) -> dict[str, Any]:
    """The API as OpenAPI has it, with its problem details and how a program says who it is."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
    assert app.openapi_schema is not None
    return app.openapi_schema


def routes_of(app: ASGIApp) -> Iterator[tuple[str, Any]]:
    """Path and dependencies of every route, as "GET /exams". Raises RuntimeError for a route of
    which they cannot be told, such as a mounted application."""
    assert isinstance(app, FastAPI)
    for route in app.routes:
        if not isinstance(route, APIRoute):
            raise RuntimeError(f"route {route} is no route of ours")
        yield f"{' '.join(sorted(route.methods or ()))} {route.path}", route.dependant

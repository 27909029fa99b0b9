"""What every page and answer has at hand: settings, store, clock, and what is kept in memory."""

from dataclasses import dataclass

from fastapi import Request

from qc_daemon.operations.finding_pictures import FindingPictures
from qc_daemon.operations.image_counts import ImageCounts
from qc_daemon.operations.logins.oidc_provider import OidcProvider
from qc_daemon.records.clock import Clock
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from qc_daemon.web.board_feed import BoardFeed
from qc_daemon.web.login_limits import LoginLimits


@dataclass(frozen=True, slots=True)
class WebContext:
    """Of one application; `store` is the one that operations use too (`shared_store`)."""

    settings: Settings
    store: Store
    clock: Clock
    login_limits: LoginLimits
    pictures: FindingPictures
    board: BoardFeed
    image_counts: ImageCounts
    oidc: OidcProvider | None


def context_of(request: Request) -> WebContext:
    """The context of the application that the request came to."""
    context: WebContext = request.app.state.context
    return context

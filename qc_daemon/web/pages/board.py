"""The live board: exams turn as their images are scored, pushed as server-sent events; and the
screen on a wall that shows it without an account's session."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from detector.anatomy import View
from qc_daemon.operations.board import BoardExam, BoardScope, board_scope, board_tile
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web.access import (
    KIOSK_COOKIE,
    BoardAccess,
    Public,
    board_principal_of,
    kiosk_of_token,
)
from qc_daemon.web.board_feed import Board
from qc_daemon.web.board_words import tile_text
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import build_url, language_of, render, render_text

router = APIRouter(include_in_schema=False)
_ACCESS = BoardAccess(Verb.SEE_BOARD, Verb.SEE_ALL, Verb.SEE_OWN)
_Looks = Annotated[Principal, Depends(_ACCESS)]
_Machine = Annotated[str, Query(max_length=16)]
# How often a board that is open is asked again whether its account still counts.
_CHECK_SECONDS = 20.0
_RETRY_MILLISECONDS = 2000
_YEAR_SECONDS = 366 * 24 * 3600
_MAX_TOKEN_LETTERS = 200


@dataclass(frozen=True, slots=True)
class _BoardRequest:
    """Who looks at which board, in which language."""

    request: Request
    principal: Principal
    scope: BoardScope
    is_kiosk: bool


def _board_request(
    request: Request, principal: Principal, machine: str, kiosk: bool
) -> _BoardRequest:
    # A screen that shows nothing else has no use for the way to other pages.
    is_kiosk = kiosk or principal.verbs == {Verb.SEE_BOARD}
    settings = context_of(request).settings
    scope = board_scope(settings, principal, machine.strip() or None, is_kiosk=is_kiosk)
    return _BoardRequest(request, principal, scope, is_kiosk)


@router.get("/board")
def board_page(
    request: Request, principal: _Looks, machine: _Machine = "", kiosk: bool = False
) -> Response:
    """The board as it is; its script keeps it so."""
    context = context_of(request)
    board_request = _board_request(request, principal, machine, kiosk)
    board = context.board.board()
    chosen = {
        "machine": board_request.scope.machine,
        "kiosk": "1" if board_request.is_kiosk else None,
    }
    machines = sorted({each for exam in board.exams for each in exam.contents.machines})
    values = {
        "tiles": list(_tiles(board_request, board).values()),
        "is_kiosk": board_request.is_kiosk,
        "machine": board_request.scope.machine or "",
        "machines": machines if board_request.scope.persons is None else [],
        "events": build_url("/board/events", chosen),
        "kiosk_url": build_url("/board", chosen, kiosk="1"),
        "last_event": f"{context.board.epoch}-{board.version}",
        "receive": context.settings.receive,
    }
    return render(request, "board.html", principal, values)


def _tiles(board_request: _BoardRequest, board: Board) -> dict[int, str]:
    """The tiles that the board shows, by exam and in its order."""
    context = context_of(board_request.request)
    views = [View(each) for each in context.settings.report.views]
    scope, principal = board_request.scope, board_request.principal
    language = language_of(board_request.request, principal)
    # The page behind a tile shows an image's finding to who may see it.
    sees_page = principal.may(Verb.SEE_ALL) or scope.persons is not None
    is_linked = sees_page and not board_request.is_kiosk

    def html(exam: BoardExam) -> str | None:
        tile = board_tile(exam, scope, views)
        if tile is None:
            return None
        values = {"tile": tile, "text": tile_text(tile, language), "is_linked": is_linked}
        return render_text(board_request.request, "board_tile.html", principal, values)

    shown_as = (scope, language, is_linked)
    tiles = {
        exam.exam_id: context.board.tiles.tile(exam, shown_as, partial(html, exam))
        for exam in board.exams
    }
    return {exam_id: tile for exam_id, tile in tiles.items() if tile is not None}


@router.get("/board/events", response_class=EventSourceResponse)
async def board_events(
    request: Request,
    principal: _Looks,
    machine: _Machine = "",
    kiosk: bool = False,
    after: Annotated[str, Query(max_length=40)] = "",
    last_event_id: Annotated[str, Header(max_length=40)] = "",
) -> AsyncIterator[ServerSentEvent]:
    """Each change of the board: which exams there are, in order, and the tiles that changed since
    `Last-Event-ID`, else since `after`; of another process's, all."""
    feed = context_of(request).board
    board_request = await run_in_threadpool(_board_request, request, principal, machine, kiosk)
    version = _version(last_event_id or after, feed.epoch)
    shown: dict[str, Any] = {}
    await run_in_threadpool(feed.board)
    with feed.subscribe() as subscription:
        checked = time.monotonic()
        while True:
            board = feed.last
            if board.version > version:
                change = await run_in_threadpool(_change, board_request, board, version)
                if change["tiles"] or any(shown.get(key) != change[key] for key in _LASTING):
                    yield ServerSentEvent(
                        event="board",
                        data=change,
                        id=f"{feed.epoch}-{board.version}",
                        retry=_RETRY_MILLISECONDS,
                    )
                version, shown = board.version, {key: change[key] for key in _LASTING}
            if feed.is_closed:
                return
            await subscription.wait(_CHECK_SECONDS)
            if time.monotonic() - checked > _CHECK_SECONDS:
                again = await run_in_threadpool(_principal_again, request, principal)
                if again is None:
                    # The screen asks again, and is told why it may not.
                    return
                board_request = await run_in_threadpool(
                    _board_request, request, again, machine, kiosk
                )
                checked = time.monotonic()


_LASTING = ("exams", "is_current")


def _principal_again(request: Request, before: Principal) -> Principal | None:
    """Who looks, asked again; None if the account may not any more, or may do otherwise."""
    principal = board_principal_of(request)
    if principal is None or principal.verbs != before.verbs:
        return None
    return principal


def _version(event_id: str, epoch: str) -> int:
    """The version of an event's id; -1 where it is of another process, or none."""
    of_epoch, _, number = event_id.partition("-")
    is_ours = of_epoch == epoch and number.isascii() and number.isdecimal()
    return int(number) if is_ours else -1


def _change(board_request: _BoardRequest, board: Board, version: int) -> dict[str, Any]:
    tiles = _tiles(board_request, board)
    changed = {exam.exam_id for exam in board.changed_since(version)}
    return {
        "exams": list(tiles),
        "tiles": [tile for exam_id, tile in tiles.items() if exam_id in changed],
        "is_current": board.is_current,
    }


@router.get("/kiosk")
def kiosk_page(request: Request, _: Annotated[Principal | None, Depends(Public())]) -> Response:
    """The form that a screen on a wall is given its token in."""
    return render(request, "kiosk.html", None, {"is_wrong": False})


@router.post("/kiosk")
def kiosk(
    request: Request,
    _: Annotated[Principal | None, Depends(Public())],
    token: Annotated[str, Form(max_length=_MAX_TOKEN_LETTERS)],
    machine: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Keep the token in this browser, as long as it counts, and show the board."""
    token = token.strip()
    if kiosk_of_token(request, token) is None:
        return render(request, "kiosk.html", None, {"is_wrong": True}, 403)
    response = RedirectResponse(build_url("/board", kiosk="1", machine=machine.strip()), 303)
    response.set_cookie(
        KIOSK_COOKIE,
        token,
        max_age=_YEAR_SECONDS,
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return response

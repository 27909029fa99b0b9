"""What the service does, without patients: an overview, destinations, peers, disk and checks."""

import threading
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from qc_daemon.operations.destinations import destination_notes, list_destinations
from qc_daemon.operations.disk import read_disk_use
from qc_daemon.operations.doctor import examine
from qc_daemon.operations.doctor_checks.check_result import CheckResult
from qc_daemon.operations.peers import list_peers
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.queue import count_problems
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.rendering import render, render_stream

router = APIRouter(include_in_schema=False)
Sees = Annotated[Principal, Depends(Access(Verb.SEE_OPERATIONS))]


@router.get("/operations")
def operations_page(request: Request, principal: Sees) -> Response:
    """What waits, what failed and where it goes."""
    settings = context_of(request).settings
    destinations = list_destinations(settings)
    values = {
        "destinations": destinations,
        "notes": [note for row in destinations for note in destination_notes(row)],
        "problems": count_problems(settings),
    }
    return render(request, "operations.html", principal, values)


@router.get("/operations/destinations")
def destinations_page(request: Request, principal: Sees) -> Response:
    """Destinations, what is wrong with them, and what can be done."""
    rows = list_destinations(context_of(request).settings)
    notes = [note for row in rows for note in destination_notes(row)]
    return render(request, "destinations.html", principal, {"rows": rows, "notes": notes})


@router.get("/operations/peers")
def peers_page(request: Request, principal: Sees) -> Response:
    """Who may store, and who was refused."""
    rows = list_peers(context_of(request).settings)
    return render(request, "peers.html", principal, {"rows": rows})


@router.get("/operations/disk")
def disk_page(request: Request, principal: Sees) -> Response:
    """How much room there is, and what takes it."""
    settings = context_of(request).settings
    values = {"disk": read_disk_use(settings), "kept": settings.store}
    return render(request, "disk.html", principal, values)


_checking = threading.Lock()


@router.get("/operations/checks")
def checks_page(request: Request, principal: Sees, run: bool = False) -> Response:
    """The checks of `doctor`, each as soon as it is done; one run at a time."""
    if not run:
        return render(request, "checks.html", principal, {"results": None})
    results = _results(examine(context_of(request).settings))
    return render_stream(request, "checks.html", principal, {"results": results})


def _results(results: Iterator[CheckResult]) -> Iterator[CheckResult]:
    """The results, unless somebody has the checks run just now."""
    if not _checking.acquire(blocking=False):
        yield CheckResult("checks", False, "they are being run already; wait for them")
        return
    try:
        yield from results
    finally:
        _checking.release()

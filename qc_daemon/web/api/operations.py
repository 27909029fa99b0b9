"""What the service does: queue, quarantine, destinations, peers, commitments, disk and checks."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from qc_daemon.operations.changes.change import Choice
from qc_daemon.operations.commitments import list_commitments
from qc_daemon.operations.destinations import list_destinations
from qc_daemon.operations.disk import read_disk_use
from qc_daemon.operations.peers import PeerState, list_peers
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.quarantine import list_quarantined
from qc_daemon.operations.queue import count_problems, list_jobs
from qc_daemon.operations.shared import Listing
from qc_daemon.records.listings import IdChoice, Window
from qc_daemon.records.tables import CommitmentState, JobKind, JobState
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.api.shared import (
    ERRORS,
    After,
    Body,
    ChangeAnswer,
    Ids,
    Key,
    Limit,
    Page,
    Word,
    change_once,
)
from qc_daemon.web.context import context_of

router = APIRouter(prefix="/api/v1/operations", tags=["operations"])
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_OPERATIONS))]
_Operates = Annotated[Principal, Depends(Access(Verb.OPERATE))]


class RowsRequest(Body):
    """Rows by their numbers."""

    ids: Ids


class DismissalRequest(RowsRequest):
    """Quarantined objects that nothing more is to be done about, and why."""

    reason: Annotated[str, Field(min_length=1, max_length=200)]


class DestinationRequest(Body):
    """A destination by its name in the settings."""

    name: Word


class PeerRequest(Body):
    """A sender by its AE title and address or network; with the SHA-256 of its certificate where it
    has to show one."""

    ae_title: Word
    address: Word
    certificate: Word | None = None


class ApprovalRequest(Body):
    """A refused caller: its address where several called by this title, or a whole network."""

    ae_title: Word
    address: Word | None = None
    network: Word | None = None


class RemovalRequest(Body):
    """An approved peer; only the approval of this address, if one is given."""

    ae_title: Word
    address: Word | None = None


class Problems(BaseModel):
    """What a person should look at: jobs given up, objects in quarantine and jobs that wait after a
    failure; the latter two by the code of their reason."""

    failed: list[dict[str, Any]]
    quarantined: dict[str, int]
    retried: dict[str, int]


class Disk(BaseModel):
    """Sizes in bytes; `database` is null where it is not a file here."""

    size: int
    free: int
    originals: int
    database: int | None


def _page(rows: Listing, limit: int) -> Page:
    is_last = len(rows) < limit or rows.total == len(rows)
    return Page(items=list(rows), cursor=None if is_last else str(rows[-1]["id"]))


@router.get("/problems", responses=ERRORS)
def problems(request: Request, principal: _Sees) -> Problems:
    """What a person should look at."""
    counted = count_problems(context_of(request).settings)
    failed = [
        {
            "kind": each.kind,
            "destination": each.destination,
            "code": each.code,
            "count": each.count,
        }
        for each in counted.failed
    ]
    return Problems(failed=failed, quarantined=counted.quarantined, retried=counted.retried)


@router.get("/queue", responses=ERRORS)
def queue(
    request: Request,
    principal: _Sees,
    state: Annotated[list[JobState] | None, Query()] = None,
    kind: Annotated[list[JobKind] | None, Query()] = None,
    limit: Limit = 50,
    cursor: After = None,
) -> Page:
    """Jobs, the oldest first; without a state those that are not done."""
    rows = list_jobs(
        context_of(request).settings,
        state or (),
        kinds=kind or (),
        window=Window(limit=limit),
        choice=IdChoice(after=int(cursor or 0)),
    )
    return _page(rows, limit)


@router.post("/queue/retry", responses=ERRORS)
def retry(
    request: Request, principal: _Operates, body: RowsRequest, key: Key = None
) -> ChangeAnswer:
    """Make sent, dead and quarantined jobs ready again."""
    choice = Choice(tuple(body.ids))
    return change_once(request, principal, key, "queue-retry", body, choice)


@router.post("/queue/cancel", responses=ERRORS)
def cancel(
    request: Request, principal: _Operates, body: RowsRequest, key: Key = None
) -> ChangeAnswer:
    """Give jobs up."""
    choice = Choice(tuple(body.ids))
    return change_once(request, principal, key, "queue-cancel", body, choice)


@router.get("/quarantine", responses=ERRORS)
def quarantine(
    request: Request,
    principal: _Sees,
    dismissed: bool = False,
    limit: Limit = 50,
    cursor: After = None,
) -> Page:
    """Objects that could not be scored, the first received first."""
    choice = IdChoice(after=int(cursor or 0))
    rows = list_quarantined(
        context_of(request).settings, (), Window(limit=limit), choice, with_dismissed=dismissed
    )
    return _page(rows, limit)


@router.post("/quarantine/release", responses=ERRORS)
def release(
    request: Request, principal: _Operates, body: RowsRequest, key: Key = None
) -> ChangeAnswer:
    """Score quarantined objects again."""
    choice = Choice(tuple(body.ids))
    return change_once(request, principal, key, "quarantine-release", body, choice)


@router.post("/quarantine/dismiss", responses=ERRORS)
def dismiss(
    request: Request, principal: _Operates, body: DismissalRequest, key: Key = None
) -> ChangeAnswer:
    """Set quarantined objects aside that need nothing more. Nothing is deleted."""
    choice = Choice(tuple(body.ids), reason=body.reason)
    return change_once(request, principal, key, "quarantine-dismiss", body, choice)


@router.get("/commitments", responses=ERRORS)
def commitments(
    request: Request,
    principal: _Sees,
    state: Annotated[list[CommitmentState] | None, Query()] = None,
    limit: Limit = 50,
    cursor: After = None,
) -> Page:
    """Requests for storage commitment that were made to us, the oldest first."""
    choice = IdChoice(after=int(cursor or 0))
    settings = context_of(request).settings
    return _page(list_commitments(settings, state or (), Window(limit=limit), choice), limit)


@router.post("/commitments/retry", responses=ERRORS)
def retry_commitments(
    request: Request, principal: _Operates, body: RowsRequest, key: Key = None
) -> ChangeAnswer:
    """Report requests that were given up again."""
    choice = Choice(tuple(body.ids))
    return change_once(request, principal, key, "commitment-retry", body, choice)


@router.get("/destinations", responses=ERRORS)
def destinations(request: Request, principal: _Sees) -> Page:
    """Where objects go; all on one page."""
    return Page(items=list_destinations(context_of(request).settings), cursor=None)


@router.post("/destinations/retry", responses=ERRORS)
def retry_destination(
    request: Request, principal: _Operates, body: DestinationRequest, key: Key = None
) -> ChangeAnswer:
    """Send again what was given up."""
    choice = Choice(name=body.name)
    return change_once(request, principal, key, "destination-retry", body, choice)


@router.post("/destinations/relearn", responses=ERRORS)
def relearn_destination(
    request: Request, principal: _Operates, body: DestinationRequest, key: Key = None
) -> ChangeAnswer:
    """Offer again what it does not take."""
    choice = Choice(name=body.name)
    return change_once(request, principal, key, "destination-relearn", body, choice)


@router.get("/peers", responses=ERRORS)
def peers(
    request: Request,
    principal: _Sees,
    state: Annotated[list[PeerState] | None, Query()] = None,
) -> Page:
    """Who may store, and who was refused; all on one page."""
    return Page(items=list_peers(context_of(request).settings, state or ()), cursor=None)


@router.post("/peers", responses=ERRORS)
def add_peer(
    request: Request, principal: _Operates, body: PeerRequest, key: Key = None
) -> ChangeAnswer:
    """Let a sender store to us."""
    certificate = body.certificate or ""
    choice = Choice(name=body.ae_title, address=body.address, certificate=certificate)
    return change_once(request, principal, key, "peer-add", body, choice)


@router.post("/peers/approve", responses=ERRORS)
def approve_caller(
    request: Request, principal: _Operates, body: ApprovalRequest, key: Key = None
) -> ChangeAnswer:
    """Let a caller that was refused store to us, with the certificate that it showed."""
    choice = Choice(name=body.ae_title, address=body.address or "", network=body.network or "")
    return change_once(request, principal, key, "peer-approve", body, choice)


@router.post("/peers/remove", responses=ERRORS)
def remove_peer(
    request: Request, principal: _Operates, body: RemovalRequest, key: Key = None
) -> ChangeAnswer:
    """Take an approval back."""
    choice = Choice(name=body.ae_title, address=body.address or "")
    return change_once(request, principal, key, "peer-remove", body, choice)


@router.get("/disk", responses=ERRORS)
def disk(request: Request, principal: _Sees) -> Disk:
    """How much room there is, and what takes it."""
    use = read_disk_use(context_of(request).settings)
    return Disk(size=use.size, free=use.free, originals=use.originals, database=use.database)

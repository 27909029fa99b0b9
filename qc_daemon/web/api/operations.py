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
    ChangeBody,
    Ids,
    Limit,
    Page,
    Word,
    add_change,
    operation_id,
)
from qc_daemon.web.context import context_of

router = APIRouter(
    prefix="/api/v1/operations", tags=["operations"], generate_unique_id_function=operation_id
)
_Sees = Annotated[Principal, Depends(Access(Verb.SEE_OPERATIONS))]


class RowsRequest(ChangeBody):
    """Rows by their numbers."""

    ids: Ids

    def choice(self) -> Choice:
        return Choice(tuple(self.ids))


class DismissalRequest(RowsRequest):
    """Quarantined objects that nothing more is to be done about, and why."""

    reason: Annotated[str, Field(min_length=1, max_length=200)]

    def choice(self) -> Choice:
        return Choice(tuple(self.ids), reason=self.reason)


class DestinationRequest(ChangeBody):
    """A destination by its name in the settings."""

    name: Word

    def choice(self) -> Choice:
        return Choice(name=self.name)


class PeerRequest(ChangeBody):
    """A sender by its AE title and address or network; with the SHA-256 of its certificate where it
    has to show one."""

    ae_title: Word
    address: Word
    certificate: Word | None = None

    def choice(self) -> Choice:
        return Choice(name=self.ae_title, address=self.address, certificate=self.certificate or "")


class ApprovalRequest(ChangeBody):
    """A refused caller: its address where several called by this title, or a whole network."""

    ae_title: Word
    address: Word | None = None
    network: Word | None = None

    def choice(self) -> Choice:
        return Choice(name=self.ae_title, address=self.address or "", network=self.network or "")


class RemovalRequest(ChangeBody):
    """An approved peer; only the approval of this address, if one is given."""

    ae_title: Word
    address: Word | None = None

    def choice(self) -> Choice:
        return Choice(name=self.ae_title, address=self.address or "")


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


@router.get("/destinations", responses=ERRORS)
def destinations(request: Request, principal: _Sees) -> Page:
    """Where objects go; all on one page."""
    return Page(items=list_destinations(context_of(request).settings), cursor=None)


@router.get("/peers", responses=ERRORS)
def peers(
    request: Request,
    principal: _Sees,
    state: Annotated[list[PeerState] | None, Query()] = None,
) -> Page:
    """Who may store, and who was refused; all on one page."""
    return Page(items=list_peers(context_of(request).settings, state or ()), cursor=None)


@router.get("/disk", responses=ERRORS)
def disk(request: Request, principal: _Sees) -> Disk:
    """How much room there is, and what takes it."""
    use = read_disk_use(context_of(request).settings)
    return Disk(size=use.size, free=use.free, originals=use.originals, database=use.database)


for _path, _change, _body, _words in (
    (
        "/queue/retry",
        "queue-retry",
        RowsRequest,
        "Make sent, dead and quarantined jobs ready again.",
    ),
    ("/queue/cancel", "queue-cancel", RowsRequest, "Give jobs up."),
    ("/quarantine/release", "quarantine-release", RowsRequest, "Score quarantined objects again."),
    (
        "/quarantine/dismiss",
        "quarantine-dismiss",
        DismissalRequest,
        "Set quarantined objects aside that need nothing more. Nothing is deleted.",
    ),
    (
        "/commitments/retry",
        "commitment-retry",
        RowsRequest,
        "Report requests that were given up again.",
    ),
    (
        "/destinations/retry",
        "destination-retry",
        DestinationRequest,
        "Send again what was given up.",
    ),
    (
        "/destinations/relearn",
        "destination-relearn",
        DestinationRequest,
        "Offer again what it does not take.",
    ),
    ("/peers", "peer-add", PeerRequest, "Let a sender store to us."),
    (
        "/peers/approve",
        "peer-approve",
        ApprovalRequest,
        "Let a caller that was refused store to us, with the certificate that it showed.",
    ),
    ("/peers/remove", "peer-remove", RemovalRequest, "Take an approval back."),
):
    add_change(router, _path, _change, _body, _words)

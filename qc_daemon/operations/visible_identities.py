"""Persons and devices that an account may see, and who has read a person's report.

Who sees everybody's images sees all; a sonographer herself; who operates, devices but no person.
"""

from typing import Any

from qc_daemon.operations.access_log import list_access
from qc_daemon.operations.finding_lists import NotVisibleError
from qc_daemon.operations.identities import Counts, count_images, list_devices, list_persons
from qc_daemon.operations.identity_names import identity_names
from qc_daemon.operations.principals import Principal, scope_of
from qc_daemon.operations.shared import Listing, open_store
from qc_daemon.records.accounts.access_log import AccessFilter
from qc_daemon.records.acquisition import identities
from qc_daemon.records.tables import IdentityKind
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb


def list_visible_persons(
    settings: Settings, principal: Principal, counts: Counts
) -> list[dict[str, Any]]:
    """Rows of `person list`; of who sees only herself her own, without suggestions of others."""
    rows = list_persons(settings, counts)
    with open_store(settings).read() as session:
        own = scope_of(session, principal).persons
    if own is None:
        return rows
    return [row | {"similar_to": [], "similar_by": []} for row in rows if row["id"] in own]


def list_visible_devices(
    settings: Settings, principal: Principal, counts: Counts
) -> list[dict[str, Any]]:
    """Rows of `device list`."""
    return list_devices(settings, counts) if may_see_devices(principal) else []


def list_names(settings: Settings, principal: Principal, kind: IdentityKind) -> dict[str, str]:
    """What the persons or devices that the account sees are called, by id and in order of names;
    those that were merged into another one under that one alone."""
    if kind is IdentityKind.DEVICE and not may_see_devices(principal):
        return {}
    with open_store(settings).read() as session:
        names = identity_names(session, kind)
        aliases = identities.roots(session, kind)
        own = scope_of(session, principal).persons
    if kind is IdentityKind.PERSON and own is not None:
        names = {id: name for id, name in names.items() if id in own}
    roots = {id: name for id, name in names.items() if id not in aliases}
    return dict(sorted(roots.items(), key=lambda each: (each[1].casefold(), each[0])))


def may_see_devices(principal: Principal) -> bool:
    """Whether the account sees devices and sites."""
    return principal.may(Verb.SEE_ALL) or principal.may(Verb.SEE_OPERATIONS)


def read_visible(
    settings: Settings, principal: Principal, kind: IdentityKind, id: str
) -> dict[str, Any]:
    """The person or device. Raises NotVisibleError."""
    lists = {
        IdentityKind.PERSON: list_visible_persons,
        IdentityKind.DEVICE: list_visible_devices,
    }
    counts = count_images(settings, kind, [id])
    for row in lists[kind](settings, principal, counts):
        if row["id"] == id:
            return row
    raise NotVisibleError


def list_readers(settings: Settings, principal: Principal, id: str, limit: int) -> Listing | None:
    """Who has read the person's report, the last first: for herself, and for who sees the access
    log; None for others."""
    with open_store(settings).read() as session:
        members = identities.members(session, IdentityKind.PERSON, id) or {id}
    is_own = principal.account.person_id in members
    if not is_own and not principal.may(Verb.SEE_ACCESS):
        return None
    return list_access(settings, AccessFilter(subjects=members), limit)

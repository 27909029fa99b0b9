"""What the audit log records: a kind, who did it, to which objects.

Identifiers only. A Patient ID is one, and PS3.15 A.5.3 asks for it; a name never comes here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_TEXT = 512
"""Letters of one value; longer ones are cut, so that a record stays far below MAX_RECORD."""
MAX_OBJECTS = 32
"""Objects of one kind that a record lists; of more the number is in `count`."""


class AuditKind(StrEnum):
    """What happened; `message.EVENTS` says which audit message (PS3.15 A.5.3) each is."""

    START = "start"
    STOP = "stop"
    RECEIVED = "received"
    SENT = "sent"
    VIEWED = "viewed"
    SEARCHED = "searched"
    EXPORTED = "exported"
    IMPORTED = "imported"
    DELETED = "deleted"
    REVIEWED = "reviewed"
    REJECTED = "rejected"
    RETRACTED = "retracted"
    RELEASED = "released"
    DISMISSED = "dismissed"
    LOGIN = "login"
    LOGOUT = "logout"
    CALLER_REFUSED = "caller-refused"
    SETTINGS_CHANGED = "settings-changed"
    BUNDLE_ACTIVATED = "bundle-activated"
    SITE_CHANGED = "site-changed"
    PEER_CHANGED = "peer-changed"
    ACCOUNT_CHANGED = "account-changed"
    IDENTITY_CHANGED = "identity-changed"
    PATIENT_CHANGED = "patient-changed"
    QUEUE_CHANGED = "queue-changed"
    LOG_USED = "log-used"
    LOG_REPAIRED = "log-repaired"


class ActorKind(StrEnum):
    """What the actor's id is: an account of the pages, a user of this machine, or the service."""

    ACCOUNT = "account"
    MACHINE_USER = "machine-user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: an account's name with where it came from, a user of this machine, or us."""

    kind: ActorKind
    id: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a transfer: AE title or URL or folder, and its address."""

    id: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class AuditSource:
    """The machine that reports: AuditSourceID, its name, our AE title, AuditEnterpriseSiteID."""

    id: str
    host: str
    ae_title: str
    enterprise_site: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An event before it is a record of the chain.

    `objects` are ids by their kind, as {"finding": "12"}; `instances` are numbers by SOP Class UID;
    `detail` are words of ours by what they are, as {"format": "csv"}: no free text of people.
    """

    kind: AuditKind
    is_success: bool = True
    actor: Actor | None = None
    peer: Peer | None = None
    study: str | None = None
    patient_id: str | None = None
    instances: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, str] = field(default_factory=dict)


def to_body(event: AuditEvent) -> dict[str, Any]:
    """The event as keys of a record; what it has not is left out."""
    body: dict[str, Any] = {"kind": str(event.kind), "success": event.is_success}
    if event.actor is not None:
        body["actor"] = _texts({"kind": event.actor.kind, "id": event.actor.id})
        if event.actor.address:
            body["actor"]["address"] = _text(event.actor.address)
    if event.peer is not None:
        body["peer"] = _texts({"id": event.peer.id})
        if event.peer.address:
            body["peer"]["address"] = _text(event.peer.address)
    if event.study is not None:
        body["study"] = _text(event.study)
    if event.patient_id is not None:
        body["patient_id"] = _text(event.patient_id)
    if event.instances:
        body["instances"] = {_text(uid): int(number) for uid, number in event.instances.items()}
    for name, values in (("objects", event.objects), ("detail", event.detail)):
        if values:
            body[name] = _texts(values)
    return body


def from_body(body: Mapping[str, Any]) -> AuditEvent:
    """The event of a record. Raises KeyError, TypeError or ValueError for one of another form."""
    actor, peer = body.get("actor"), body.get("peer")
    return AuditEvent(
        AuditKind(body["kind"]),
        bool(body["success"]),
        None
        if actor is None
        else Actor(ActorKind(actor["kind"]), actor["id"], actor.get("address")),
        None if peer is None else Peer(peer["id"], peer.get("address")),
        body.get("study"),
        body.get("patient_id"),
        body.get("instances", {}),
        body.get("objects", {}),
        body.get("detail", {}),
    )


def listed(ids: "list[int] | tuple[int, ...] | list[str]") -> str:
    """Ids for `objects`, as "3, 4, 5"; of very many the first and how many more."""
    words = ", ".join(map(str, ids[:MAX_OBJECTS]))
    more = len(ids) - MAX_OBJECTS
    return f"{words} and {more} more" if more > 0 else words


def _texts(values: Mapping[str, str]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in values.items()}


def _text(value: str) -> str:
    """One line of what can be written: XML has no control characters, and surrogates no UTF-8."""
    clean = "".join(c if c.isprintable() else "?" for c in str(value))
    return clean if len(clean) <= MAX_TEXT else f"{clean[: MAX_TEXT - 1]}…"

"""Which bundle is active: the database's word, that settings only seed."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import BundleRow
from qc_daemon.records.upsert import insert_once, insert_or_update, table_of

_columns = table_of(BundleRow).c
# Asked with every object: built once, and on the table (see `upsert.table_of`).
_HISTORY = select(_columns.name, _columns.path, _columns.model_id, _columns.activated_at).order_by(
    _columns.activated_at.desc(), _columns.model_id
)


@dataclass(frozen=True, slots=True)
class ActiveBundle:
    """A bundle that is or was active; `model_id` is the SHA-256 of its manifest."""

    name: str
    path: str
    model_id: str
    activated_at: datetime


def seed(session: Session, name: str, path: str, model_id: str, now: datetime) -> ActiveBundle:
    """Make the bundle active if none has ever been; returns the active one.

    A bundle that is active under another path (the installation moved) gets the new path.
    """
    current = active(session)
    if current is None:
        insert_once(session, BundleRow, _values(name, path, model_id, now), ("model_id",))
    elif current.model_id == model_id and (current.name, current.path) != (name, path):
        activate(session, name, path, model_id, current.activated_at)
    bundle = active(session)
    assert bundle is not None
    return bundle


def activate(session: Session, name: str, path: str, model_id: str, now: datetime) -> ActiveBundle:
    """Make the bundle the active one for exams that open from now on."""
    insert_or_update(session, BundleRow, _values(name, path, model_id, now), ("model_id",))
    return ActiveBundle(name, path, model_id, now)


def active(session: Session) -> ActiveBundle | None:
    """The bundle that new exams are fixed to; None before the first seed."""
    history = list_bundles(session)
    return history[0] if history else None


def list_bundles(session: Session) -> list[ActiveBundle]:
    """Every bundle that has been active, the active one first."""
    return [ActiveBundle(*row) for row in session.execute(_HISTORY)]


def _values(name: str, path: str, model_id: str, now: datetime) -> dict[str, str | datetime]:
    return {"name": name, "path": path, "model_id": model_id, "activated_at": now}

"""Random keys of this store: made once, never shown, saved with the database's backup."""

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import Secret
from qc_daemon.records.upsert import insert_once

_BYTES = 32


def get(session: Session, name: str) -> bytes:
    """The secret for this purpose; makes it if there is none, for which the session must write."""
    stored = read(session, name)
    if stored is None:
        values = {"name": name, "value": secrets.token_bytes(_BYTES)}
        insert_once(session, Secret, values, ("name",))
        stored = read(session, name)
    assert stored is not None
    return stored


def read(session: Session, name: str) -> bytes | None:
    """The secret for this purpose, None where none was needed yet."""
    return session.execute(select(Secret.value).where(Secret.name == name)).scalar_one_or_none()

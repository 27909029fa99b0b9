"""Persons and devices as people write them: by an id of `person list` or `device list`, or by name.

Names are compared by their words, in any order, without case, accents and punctuation. An id counts
before a name.
"""

from typing import Any

from sqlalchemy.orm import Session

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.records.acquisition import identities
from qc_daemon.records.tables import IdentityKind
from qc_daemon.review.events import name_words


def identity_name(row: Any) -> str:
    """What a person or device is called: by a person's word, else as headers have it, else its
    id."""
    from qc_daemon.report.summary.text import format_person

    if row.name:
        return str(row.name)
    if hasattr(row, "received_name"):
        return format_person(row.received_name) or row.code or row.id
    return " ".join(filter(None, (row.model, row.station_name or row.serial_number))) or row.id


def _names(row: Any) -> set[tuple[str, ...]]:
    """The words of each name that it goes by: also of each group of a name in a header (PN)."""
    received = (getattr(row, "received_name", None) or "").split("=")
    return {name_words(name) for name in (identity_name(row), *received)}


def identity_names(session: Session, kind: IdentityKind) -> dict[str, str]:
    """What persons or devices are called, by id."""
    return {each.id: identity_name(each) for each in identities.rows(session, kind)}


def resolve_identity(session: Session, kind: IdentityKind, value: str) -> str:
    """The id of the one that this id or name counts for. Raises QCError STORAGE where there is
    none, UsageError where several are called so."""
    value = value.strip()
    roots = identities.roots(session, kind)
    rows = identities.rows(session, kind)
    if any(row.id == value for row in rows):
        return roots.get(value, value)
    words = name_words(value)
    same = {roots.get(row.id, row.id) for row in rows if words and words in _names(row)}
    if not same:
        raise QCError(ErrorCode.STORAGE, f"there is no {kind} {value}; see {kind} list")
    if len(same) > 1:
        ids = ", ".join(sorted(same))
        raise UsageError(f"--{kind} {value}: several are called so; give one of {ids}")
    return same.pop()

"""What people decided of sites and persons is only added to, in the database itself."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from detector.errors import QCError
from qc_daemon.records import schema
from qc_daemon.records.acquisition import identities
from qc_daemon.records.results import sites
from qc_daemon.records.store import Store
from qc_daemon.records.tables import IdentityKind, SiteAction

NOW = datetime(2026, 11, 29, tzinfo=UTC)
TABLES = ("identity_change", "site_calibration")
BEFORE = "0017"
"""The last version whose database lets the histories be changed."""


def decide(store: Store) -> None:
    """One decision of each kind."""
    with store.begin() as session:
        sites.append(session, "St. Anna", "m", SiteAction.WAIVED, NOW, decided_by="Dr Lee")
        session.execute(
            text("INSERT INTO person (id, identity, created_at) VALUES ('p1', 'name:x', :now)"),
            {"now": NOW},
        )
        identities.rename(session, IdentityKind.PERSON, "p1", "Jane Doe", "Dr Lee", NOW)


def decisions(store: Store) -> list[tuple[str, str]]:
    with store.read() as session:
        (waived,) = sites.history(session)
        (renamed,) = identities.history(session, IdentityKind.PERSON)
    return [(waived.site, str(waived.decided_by)), (renamed.subject_id, renamed.changed_by)]


def test_histories_are_only_added_to_before_and_after_a_downgrade(url: str) -> None:
    schema.upgrade(url, BEFORE)
    store = Store(url)
    decide(store)
    expected = decisions(store)
    store.close()
    schema.upgrade(url)
    check(url, expected)
    schema.downgrade(url, BEFORE)
    store = Store(url)
    with store.begin() as session:
        session.execute(text("UPDATE site_calibration SET decided_by = 'Dr Ng'"))
    store.close()
    schema.upgrade(url)
    check(url, [("st anna", "Dr Ng"), expected[1]])
    assert schema.check(url) is None


def check(url: str, expected: list[tuple[str, str]]) -> None:
    store = Store(url)
    assert decisions(store) == expected
    for table in TABLES:
        for change in (f"UPDATE {table} SET id = id + 1", f"DELETE FROM {table}"):
            with (
                pytest.raises((DatabaseError, QCError), match=f"{table} is only added to"),
                store.begin() as session,
            ):
                session.execute(text(change))
    assert decisions(store) == expected
    store.close()

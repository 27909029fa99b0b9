"""Who released which images for teaching: kept by both databases, and only added to."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from detector.errors import QCError
from qc_daemon.records import schema
from qc_daemon.records.listings import Window
from qc_daemon.records.results import teaching_releases
from qc_daemon.records.results.teaching_releases import TeachingDecision
from qc_daemon.records.store import Store
from qc_daemon.records.tables import TeachingAction

NOW = datetime(2026, 11, 29, tzinfo=UTC)
RELEASED = TeachingDecision(1, TeachingAction.RELEASED, (7, 8), "ab" * 32)
REJECTED = TeachingDecision(2, TeachingAction.REJECTED, (9,))


def test_decisions_are_kept_and_only_added_to(url: str) -> None:
    schema.upgrade(url)
    store = Store(url)
    with store.begin() as session:
        teaching_releases.add(session, "p", [RELEASED, REJECTED], "Dr Lee", NOW)
    with store.read() as session:
        assert teaching_releases.of_preparation(session, "p") == {1: RELEASED, 2: REJECTED}
        assert teaching_releases.of_preparation(session, "q") == {}
        rows = teaching_releases.listing(session)
        assert teaching_releases.listing(session, Window(until=NOW)) == []
    assert rows[0] == {
        "at": "2026-11-29T00:00:00+00:00",
        "by": "Dr Lee",
        "action": "released",
        "preparation": "p",
        "number": 1,
        "finding_ids": [7, 8],
        "sha256": "ab" * 32,
    }
    for change in ("UPDATE teaching_release SET number = 3", "DELETE FROM teaching_release"):
        with (
            pytest.raises((DatabaseError, QCError), match="teaching_release is only added to"),
            store.begin() as session,
        ):
            session.execute(text(change))
    with pytest.raises((DatabaseError, QCError)), store.begin() as session:
        teaching_releases.add(session, "p", [RELEASED], "Dr Ng", NOW)
    store.close()
    # The table goes with all in it, and comes again.
    schema.downgrade(url, "0020")
    schema.upgrade(url)
    assert schema.check(url) is None

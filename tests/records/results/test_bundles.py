"""Settings only seed the active bundle; activation is the database's."""

from datetime import UTC, datetime, timedelta

from qc_daemon.records.results.bundles import activate, active, list_bundles, seed
from qc_daemon.records.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


def test_the_first_seed_is_active_and_later_ones_change_nothing(store: Store) -> None:
    with store.begin() as session:
        assert active(session) is None
        first = seed(session, "default", "/b/default", "m1", NOW)
        assert seed(session, "other", "/b/other", "m2", LATER) == first
        assert active(session) == first
        assert len(list_bundles(session)) == 1


def test_activated_bundle_is_active_and_earlier_ones_are_listed(store: Store) -> None:
    with store.begin() as session:
        seed(session, "default", "/b/default", "m1", NOW)
        second = activate(session, "other", "/b/other", "m2", LATER)
        assert seed(session, "default", "/b/default", "m1", LATER) == second
        assert [bundle.model_id for bundle in list_bundles(session)] == ["m2", "m1"]
        activate(session, "default", "/b/default", "m1", LATER + timedelta(seconds=1))
        assert [bundle.model_id for bundle in list_bundles(session)] == ["m1", "m2"]


def test_seed_after_a_move_updates_the_path(store: Store) -> None:
    with store.begin() as session:
        seed(session, "default", "/old/default", "m1", NOW)
        moved = seed(session, "default", "/new/default", "m1", LATER)
        assert (moved.path, moved.activated_at) == ("/new/default", NOW)

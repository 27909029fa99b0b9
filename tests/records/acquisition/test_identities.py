"""Persons and devices: a new identity is a new one, and only people's decisions change that."""

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.acquisition.identities import IdentityError
from qc_daemon.records.store import Store
from qc_daemon.records.tables import IdentityKind
from tests.support.records import Records

NOW = datetime(2026, 11, 29, tzinfo=UTC)
PERSON, DEVICE = IdentityKind.PERSON, IdentityKind.DEVICE


def person(store: Store, name: str, code: str | None = None, scheme: str | None = None) -> str:
    with store.begin() as session:
        return identities.identify_persons(session, [Operator(name, code, scheme)], NOW)[0]


def merge(store: Store, id: str, into: str) -> None:
    with store.begin() as session:
        identities.merge(session, PERSON, [id], into, "Dr Lee", NOW)


def split(store: Store, id: str) -> str:
    with store.begin() as session:
        return identities.split(session, PERSON, id, "Dr Lee", NOW)


def roots(store: Store) -> dict[str, str]:
    with store.read() as session:
        return identities.roots(session, PERSON)


def test_one_identity_is_one_person_however_it_is_typed(store: Store) -> None:
    assert person(store, "Doe^Jane") == person(store, "DOE^JANE")
    assert person(store, "Doe^Jane", "7", "A") == person(store, "Roe^Mary", "7", "a")
    ids = {
        person(store, "Doe^Jane"),
        person(store, "Doe^J"),
        person(store, "Doe^Jane", "7", "A"),
        person(store, "Doe^Jane", "7", "B"),
    }
    assert len(ids) == 4
    assert not any("doe" in id or "jane" in id for id in ids)


def test_a_code_gets_its_name_when_one_comes(store: Store) -> None:
    with store.begin() as session:
        (id,) = identities.identify_persons(session, [Operator(None, "7", "A")], NOW)
    assert person(store, "Doe^Jane", "7", "A") == id
    with store.read() as session:
        (listed,) = identities.every(session, PERSON)
    assert listed.row.received_name == "Doe^Jane"


def test_a_merge_and_its_split(store: Store) -> None:
    one, two, three = (person(store, name) for name in ("A^B", "A^Bo", "A^Bob"))
    merge(store, one, two)
    merge(store, two, three)
    assert roots(store) == {one: three, two: three}
    assert split(store, two) == three
    assert roots(store) == {one: two}
    with store.read() as session:
        assert identities.members(session, PERSON, one) == {one, two}
        assert identities.members(session, PERSON, three) == {three}
        assert identities.members(session, PERSON, "p0") is None
        changes = [
            (c.action, c.subject_id, c.other_id) for c in identities.history(session, PERSON)
        ]
    assert changes == [("merge", one, two), ("merge", two, three), ("split", two, three)]


def test_what_cannot_be_merged_split_or_renamed_says_why(store: Store) -> None:
    one, two, three = (person(store, name) for name in ("A^B", "A^Bo", "A^Bob"))
    merge(store, one, two)
    cases = [
        (lambda: merge(store, two, two), "into itself"),
        (lambda: merge(store, "p0", two), "no person p0"),
        (lambda: merge(store, two, "p0"), "no person p0"),
        (lambda: merge(store, one, three), f"is merged into {two} already; split it first"),
        (lambda: merge(store, three, one), f"is merged into {two} already; merge into that one"),
        (lambda: split(store, three), f"{three} is not merged into another"),
        (lambda: split(store, two), f"merged into it: {one}, split one of those"),
        (lambda: split(store, "p0"), "no person p0"),
        (lambda: rename(store, one, "B"), "rename that one"),
    ]
    for attempt, words in cases:
        with pytest.raises(IdentityError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert roots(store) == {one: two}


def rename(store: Store, id: str, name: str) -> None:
    with store.begin() as session:
        identities.rename(session, PERSON, id, name, "Dr Lee", NOW)


def test_a_rename_is_recorded_with_the_name_before(store: Store) -> None:
    id = person(store, "A^B")
    rename(store, id, "Anna B")
    rename(store, id, "Anna Bee")
    with pytest.raises(IdentityError, match="has that name already"):
        rename(store, id, "Anna Bee")
    with store.read() as session:
        names = [(c.before, c.after) for c in identities.history(session, PERSON)]
        (listed,) = identities.every(session, PERSON)
    assert names == [(None, "Anna B"), ("Anna B", "Anna Bee")]
    assert listed.row.name == "Anna Bee"


def test_an_image_of_several_operators_is_shared(records: Records) -> None:
    operators = (Operator("A^B"), Operator("C^D"))
    ids = [records.image().revision_id for _ in range(2)]
    with records.store.begin() as session:
        acquisitions.store(session, ids[0], Acquisition(operators), "US1", NOW)
        acquisitions.store(session, ids[1], Acquisition(operators[:1]), "US1", NOW)
    with records.store.read() as session:
        persons = {
            each.row.received_name: each.images for each in identities.every(session, PERSON)
        }
        (device,) = identities.every(session, DEVICE)
    assert persons == {"A^B": 2, "C^D": 1}
    assert (device.images, device.row.calling_ae) == (2, "US1")


def test_merges_of_two_people_at_once_make_no_circle(store: Store) -> None:
    ids = [person(store, name) for name in ("A^A", "B^B", "C^C")]
    problems: list[str] = []

    def attempt(id: str, into: str) -> None:
        try:
            merge(store, id, into)
        except IdentityError as error:
            problems.append(str(error))

    pairs = [(ids[0], ids[1]), (ids[1], ids[2]), (ids[2], ids[0])]
    threads = [threading.Thread(target=attempt, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(problems) == 1
    assert len(set(roots(store).values())) == 1


def test_two_workers_that_see_a_new_person_make_one(store: Store) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(person(store, "New^Person"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 4
    assert len(set(ids)) == 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_the_history_is_all_there_is_to_know(
    store: Store, decisions: list[tuple[int, int]]
) -> None:
    """Whatever is merged and split, the merges that stand are the fold of the history."""
    ids = [person(store, f"P^{number}") for number in range(5)]
    for one, other in decisions:
        try:
            if one == other:
                split(store, ids[one])
            else:
                merge(store, ids[one], ids[other])
        except IdentityError:
            continue
    with store.read() as session:
        merged: dict[str, str] = {}
        for change in identities.history(session, PERSON):
            if change.action == "merge":
                assert change.other_id is not None
                merged[change.subject_id] = change.other_id
            else:
                assert merged.pop(change.subject_id) == change.other_id
        standing = {
            each.row.id: each.row.merged_into
            for each in identities.every(session, PERSON)
            if each.row.merged_into is not None
        }
    assert standing == merged
    for id in list(standing):
        split(store, id)
    assert roots(store) == {}

"""Pseudonyms and UIDs: the same by the same key, and valid."""

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from qc_daemon.deidentification.pseudonyms import pseudonym, replacement_uid

KEY = bytes(range(32))


@given(st.text(), st.text())
def test_uids_are_valid_and_differ_by_key_kind_and_part(first: str, second: str) -> None:
    uid = replacement_uid(KEY, "study", first)
    assert UID(uid).is_valid
    assert replacement_uid(KEY, "study", first) == uid
    assert replacement_uid(KEY, "series", first) != uid
    assert replacement_uid(bytes(32), "study", first) != uid
    assert (replacement_uid(KEY, "study", second) == uid) == (first == second)
    assert replacement_uid(KEY, "study", first, second) != replacement_uid(
        KEY, "study", first + second
    )


@given(st.text(min_size=1))
def test_a_pseudonym_is_no_part_of_what_it_stands_for(text: str) -> None:
    name = pseudonym(KEY, "patient", text)
    assert len(name) == 12
    assert name == pseudonym(KEY, "patient", text)
    assert name != pseudonym(bytes(32), "patient", text)

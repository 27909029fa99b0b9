"""The private scheme: codes are unique, short enough and documented."""

from pathlib import Path

from detector.anatomy import LABELS, View
from detector.errors import Flag
from model.criteria.rules import RULES
from model.finding import QUALITY_LABELS
from qc_daemon.report.derived_uids import derived_uid, object_uid
from qc_daemon.report.sr import codes

ROOT = Path(__file__).parents[3]
LISTED = [code for _, listed in codes.PRIVATE for code in listed]


def test_a_code_has_one_meaning() -> None:
    values = [code.value for code in LISTED]
    assert len(set(values)) == len(values)


def test_codes_fit_their_representations() -> None:
    """SH of 16 and LO of 64 characters, PS3.5 6.2."""
    for code in LISTED:
        assert 1 <= len(code.value) <= 16
        assert 1 <= len(code.meaning) <= 64
        assert code.scheme_designator == "99QCD"


def test_every_word_of_the_closed_lists_has_a_code() -> None:
    assert set(codes.VIEWS) == set(View)
    assert set(codes.QUALITIES) == set(QUALITY_LABELS)
    assert set(codes.FLAGS) == set(Flag)
    assert set(codes.LABEL_CODES) == {label.code for label in LABELS}
    assert set(codes.CRITERIA) == {rule.code for rules in RULES.values() for rule in rules}


def test_same_criterion_code_means_the_same_in_every_view() -> None:
    meanings = {(rule.code, rule.meaning) for rules in RULES.values() for rule in rules}
    assert len(meanings) == len(codes.CRITERIA)


def test_conformance_statement_lists_the_scheme() -> None:
    statement = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert codes.conformance_table() in statement, "run conformance_table() and paste it"


def test_uids_are_legal_and_depend_on_every_part() -> None:
    base = ("sr", "1.2", "3.4", ("aa", "bb"), "m", 1)
    uid = object_uid(*base)
    assert uid == object_uid("sr", "1.2", "3.4", ("bb", "aa"), "m", 1)
    assert len(uid) <= 64
    others = {
        object_uid("overlay", *base[1:]),
        object_uid("sr", "1.3", *base[2:]),
        object_uid(*base[:2], "3.5", *base[3:]),
        object_uid(*base[:3], ("aa",), *base[4:]),
        object_uid(*base[:4], "n", 1),
        object_uid(*base[:5], 2),
        derived_uid("sr"),
    }
    assert uid not in others
    assert len(others) == 7

"""Two bundles on the same pictures: by hand where numbers are small."""

from typing import Any

import pytest

from qc_daemon.audit.bundle_comparison import (
    LARGEST,
    Answer,
    ComparedPicture,
    Reading,
    compare_bundles,
)

STANDARD = Answer("NT", "standard", 0.9)
POOR = Answer("NT", "non-standard", 0.2)
UNSURE = Answer("NT", "review", 0.5)
OTHER = Answer("OTHER", "review", None)


def picture(number: int, stored: Answer, shadow: Answer, **values: Any) -> ComparedPicture:
    return ComparedPicture(
        **{
            "finding_id": number,
            "study_instance_uid": "1.2",
            "sop_instance_uid": f"1.2.{number}",
            "revision": 1,
            "frame": 1,
            "region": 0,
            "exam": number // 2,
            "device": "d1" if number % 2 else None,
            "stored": stored,
            "shadow": shadow,
        }
        | values
    )


def pictures(*pairs: tuple[Answer, Answer]) -> list[ComparedPicture]:
    return [picture(number, *pair) for number, pair in enumerate(pairs, 1)]


def test_verdicts_are_a_table_with_review_in_a_row_of_its_own():
    content = compare_bundles(
        pictures(
            (STANDARD, STANDARD),
            (STANDARD, POOR),
            (POOR, STANDARD),
            (POOR, STANDARD),
            (UNSURE, STANDARD),
            (POOR, OTHER),
        )
    )
    group = content["all"]
    assert group["answers"] == ["standard", "non-standard", "review"]
    assert group["table"] == [[1, 1, 0], [2, 0, 1], [1, 0, 0]]
    # 1 and 2 of 3 differing pairs: exact, two-sided.
    assert group["mcnemar"] == {"stored_only": 1, "shadow_only": 2, "method": "exact", "p": 1.0}
    assert (group["change"]["n"], group["change"]["value"]) == (4, 0.25)
    assert group["change"]["low"] <= 0.25 <= group["change"]["high"]
    assert (group["agreement"]["n"], group["agreement"]["left_out"]) == (4, 2)
    assert group["agreement"]["table"] == [[1, 1], [2, 0]]
    assert content["counts"] == {
        "compared": 6,
        "exams": 4,
        "changed": 5,
        "verdicts_changed": 5,
        "views_changed": 1,
    }
    assert [each["view"] for each in content["views"]] == ["NT"]
    assert [(each["id"], each["n"]) for each in content["devices"]] == [("d1", 3)]
    assert content["view_agreement"]["table"][0] == [5, 0, 0, 0, 1]


def test_the_same_answers_differ_in_nothing():
    content = compare_bundles(pictures((STANDARD, STANDARD), (POOR, POOR), (OTHER, OTHER)))
    assert content["changes"] == content["largest"] == []
    assert content["all"]["mcnemar"]["p"] == 1.0
    assert content["all"]["change"] == {"n": 2, "value": 0.0, "low": 0.0, "high": 0.0}
    assert content["all"]["agreement"]["kappa"] == 1.0


def test_the_largest_changes_are_named_first():
    moved = [
        picture(number, POOR, Answer("NT", "non-standard", 0.2 + number / 100))
        for number in range(1, 31)
    ]
    content = compare_bundles(moved)
    assert content["largest"] == list(range(30, 30 - LARGEST, -1))
    assert len(content["changes"]) == 30
    assert content["changes"][0]["change"] == pytest.approx(0.01)


def test_both_are_compared_with_the_same_blinded_readings():
    read = (Reading("NT", "standard", True),)
    content = compare_bundles(
        [
            picture(1, STANDARD, STANDARD, readings=read),
            picture(2, POOR, STANDARD, readings=read),
            picture(3, POOR, STANDARD, readings=read),
            # One bundle gives no verdict; one reader saw the answer; one says nothing of quality.
            picture(4, UNSURE, STANDARD, readings=read),
            picture(5, POOR, POOR, readings=(Reading("NT", "standard", False),)),
            picture(6, POOR, POOR, readings=(Reading("OTHER", None, True),)),
        ]
    )
    readers = content["readers"]
    assert readers["stored"]["table"] == [[1, 0], [2, 0]]
    assert readers["shadow"]["table"] == [[3, 0], [0, 0]]
    assert readers["stored"]["n"] == readers["shadow"]["n"] == 3
    assert readers["mcnemar"] == {"stored_only": 0, "shadow_only": 2, "method": "exact", "p": 0.5}
    assert (readers["unblinded"], readers["undecided"]) == (1, 1)


def test_nothing_to_compare_is_said_as_such():
    content = compare_bundles([])
    assert content["counts"]["compared"] == 0
    assert content["all"]["agreement"] is None
    assert content["all"]["change"]["value"] is None
    assert content["readers"]["stored"] is None


def test_the_order_of_pictures_does_not_count():
    many = pictures(*[(STANDARD, POOR), (POOR, STANDARD), (UNSURE, POOR)] * 10)
    assert compare_bundles(many[::-1]) == compare_bundles(many)

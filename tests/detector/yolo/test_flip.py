"""A picture and its mirror image, and what two looks agree on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.boxes import Detection
from detector.yolo.flip import agreed, mirrored

CODES = ("CP1", "CP2", "CF", "NT", "NB")
corner = st.floats(0, 100)
side = st.floats(0.5, 50)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
looks = st.lists(
    st.builds(Detection, st.sampled_from(CODES), boxes, st.floats(0, 1)),
    unique_by=lambda d: d.label,
)


@given(looks)
def test_mirrored_twice_all_are_back(found: list[Detection]) -> None:
    back = mirrored(mirrored(found, 150), 150)
    assert [(d.label, d.confidence) for d in back] == [(d.label, d.confidence) for d in found]
    for one, other in zip(found, back, strict=True):
        assert other.bbox == pytest.approx(one.bbox)


def test_sides_change_names() -> None:
    found = (Detection("CP1", (3.0, 4.0, 20.0, 30.0), 0.9), Detection("CF", (1.0, 1, 9, 9), 0.5))
    assert mirrored(found, 100) == (
        Detection("CP2", (80.0, 4.0, 97.0, 30.0), 0.9),
        Detection("CF", (91.0, 1.0, 99.0, 9.0), 0.5),
    )


def test_two_looks_meet_between_nearer_to_the_surer() -> None:
    (found,) = agreed(
        (Detection("NT", (0.0, 0.0, 40.0, 10.0), 0.9),),
        (Detection("NT", (4.0, 0.0, 44.0, 10.0), 0.3),),
    )
    assert found.bbox == pytest.approx((1, 0, 41, 10))
    assert found.confidence == pytest.approx(0.6)


def test_disagreement_is_doubt() -> None:
    far = (Detection("NT", (50.0, 50.0, 90.0, 60.0), 0.4),)
    near = (Detection("NT", (0.0, 0.0, 40.0, 10.0), 0.9),)
    assert agreed(near, far) == agreed(far, near) == agreed(near, ())
    assert agreed(near, far) == (Detection("NT", (0.0, 0.0, 40.0, 10.0), 0.45),)


@given(looks, looks)
def test_each_label_once_best_first_and_never_surer_than_the_surer_look(
    once: list[Detection], again: list[Detection]
) -> None:
    found = agreed(once, again)
    assert sorted(d.label for d in found) == sorted({d.label for d in (*once, *again)})
    assert [d.confidence for d in found] == sorted((d.confidence for d in found), reverse=True)
    for d in found:
        assert d.confidence <= max(o.confidence for o in (*once, *again) if o.label == d.label)


@given(looks)
def test_who_agrees_with_himself_is_as_sure(found: list[Detection]) -> None:
    said = {d.label: d for d in agreed(found, found)}
    for d in found:
        assert said[d.label].confidence == pytest.approx(d.confidence)
        assert said[d.label].bbox == pytest.approx(d.bbox)

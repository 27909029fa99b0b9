"""Mirrored detections, and the merging of an image's detections with its mirror image's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.boxes import Detection
from detector.yolo.flip import merge_detections, mirror_detections

CODES = ("CP1", "CP2", "CF", "NT", "NB")
corner = st.floats(0, 100)
side = st.floats(0.5, 50)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
detection_lists = st.lists(
    st.builds(Detection, st.sampled_from(CODES), boxes, st.floats(0, 1)),
    unique_by=lambda d: d.label,
)


@given(detection_lists)
def test_mirroring_twice_gives_the_detections_back(detections: list[Detection]) -> None:
    back = mirror_detections(mirror_detections(detections, 150), 150)
    assert [(d.label, d.confidence) for d in back] == [(d.label, d.confidence) for d in detections]
    for before, after in zip(detections, back, strict=True):
        assert after.bbox == pytest.approx(before.bbox)


def test_sides_change_names() -> None:
    detections = (
        Detection("CP1", (3.0, 4.0, 20.0, 30.0), 0.9),
        Detection("CF", (1.0, 1, 9, 9), 0.5),
    )
    assert mirror_detections(detections, 100) == (
        Detection("CP2", (80.0, 4.0, 97.0, 30.0), 0.9),
        Detection("CF", (91.0, 1.0, 99.0, 9.0), 0.5),
    )


def test_a_merged_box_is_the_mean_weighted_by_confidence() -> None:
    (merged,) = merge_detections(
        (Detection("NT", (0.0, 0.0, 40.0, 10.0), 0.9),),
        (Detection("NT", (4.0, 0.0, 44.0, 10.0), 0.3),),
    )
    assert merged.bbox == pytest.approx((1, 0, 41, 10))
    assert merged.confidence == pytest.approx(0.6)


def test_a_box_elsewhere_in_the_mirror_image_halves_the_confidence() -> None:
    far = (Detection("NT", (50.0, 50.0, 90.0, 60.0), 0.4),)
    near = (Detection("NT", (0.0, 0.0, 40.0, 10.0), 0.9),)
    assert merge_detections(near, far) == merge_detections(far, near) == merge_detections(near, ())
    assert merge_detections(near, far) == (Detection("NT", (0.0, 0.0, 40.0, 10.0), 0.45),)


@given(detection_lists, detection_lists)
def test_merged_labels_are_unique_sorted_and_no_more_confident_than_their_best(
    detections: list[Detection], from_mirror: list[Detection]
) -> None:
    merged = merge_detections(detections, from_mirror)
    assert sorted(d.label for d in merged) == sorted({d.label for d in (*detections, *from_mirror)})
    assert [d.confidence for d in merged] == sorted((d.confidence for d in merged), reverse=True)
    for d in merged:
        assert d.confidence <= max(
            o.confidence for o in (*detections, *from_mirror) if o.label == d.label
        )


@given(detection_lists)
def test_merging_detections_with_themselves_changes_nothing(detections: list[Detection]) -> None:
    merged = {d.label: d for d in merge_detections(detections, detections)}
    for d in detections:
        assert merged[d.label].confidence == pytest.approx(d.confidence)
        assert merged[d.label].bbox == pytest.approx(d.bbox)

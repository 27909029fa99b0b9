"""Of a header stay numbers and codes of a closed list, none that the Standard asks to remove."""

from typing import Any

import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from qc_daemon.deidentification.image_facts import (
    OPTIONAL_REGION_ELEMENTS,
    REGION_ELEMENTS,
    ImageFacts,
    read_image_facts,
)
from qc_daemon.deidentification.pixel_cleaning import PixelPlan, plan_cleaning
from qc_daemon.deidentification.teaching_image import Pseudonyms, build_header
from tests.deidentification.test_pixel_cleaning import frame, no_words

CANARY = "CANARY"
NAMES = Pseudonyms("0123456789ab", "2.25.1", "2.25.2", "2.25.3")
REGION = {
    "RegionSpatialFormat": 1,
    "RegionDataType": 1,
    "RegionFlags": 2,
    "RegionLocationMinX0": 10,
    "RegionLocationMinY0": 5,
    "RegionLocationMaxX1": 39,
    "RegionLocationMaxY1": 34,
    "PhysicalUnitsXDirection": 3,
    "PhysicalUnitsYDirection": 3,
    "PhysicalDeltaX": 0.0125,
    "PhysicalDeltaY": 0.0125,
}


def plan(frames: int = 1) -> PixelPlan:
    box = (10.0, 5.0, 40.0, 35.0)
    return plan_cleaning([frame(number + 1, box) for number in range(frames)], no_words)


def with_region(**changes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in (REGION | changes).items():
        if value is not None:
            setattr(item, keyword, value)
    dataset = Dataset()
    dataset.SequenceOfUltrasoundRegions = [item]
    return dataset


def is_listed(tag: BaseTag) -> bool:
    """Whether Table E.1-1 has an action for the attribute."""
    listed = {tuple(each[:2]) for each in dicomfields_2026c.ALL_TAGS}
    return (tag.group, tag.element) in listed


def test_the_table_asks_nothing_of_what_stays() -> None:
    for keyword in REGION_ELEMENTS:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        assert not is_listed(Tag(tag)), keyword
        assert dictionary_VR(tag) == REGION_ELEMENTS[keyword]


def test_what_the_table_lists_is_empty_or_ours() -> None:
    """Actions D, Z and U: a dummy, an empty value, another UID; X is not there at all."""
    header = build_header(ImageFacts(frame_time_ms=20.0), plan(2), NAMES, 7)
    ours = {
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
    }
    removed = {tuple(each[:2]) for each in dicomfields_2026c.X_TAGS}
    for element in header.iterall():
        assert not element.tag.is_private
        assert (element.tag.group, element.tag.element) not in removed
        if is_listed(element.tag) and element.keyword not in ours:
            assert element.is_empty, element.keyword


def test_the_region_of_the_picture_stays_with_its_scale() -> None:
    facts = read_image_facts(with_region(), ExplicitVRLittleEndian)
    assert ImageFacts.from_json(facts.to_json()) == facts
    (item,) = build_header(facts, plan(), NAMES, 1).SequenceOfUltrasoundRegions
    assert {each.keyword: each.value for each in item} == REGION
    moved = read_image_facts(with_region(RegionLocationMinX0=11), ExplicitVRLittleEndian)
    assert "SequenceOfUltrasoundRegions" not in build_header(moved, plan(), NAMES, 1)


@pytest.mark.parametrize("keyword", sorted(set(REGION_ELEMENTS) - OPTIONAL_REGION_ELEMENTS))
def test_a_region_that_lacks_what_the_standard_asks_for_goes(keyword: str) -> None:
    facts = read_image_facts(with_region(**{keyword: None}), ExplicitVRLittleEndian)
    assert facts.regions == (None,)


def test_how_pixels_were_compressed_stays() -> None:
    dataset = Dataset()
    assert not read_image_facts(dataset, ExplicitVRLittleEndian).is_lossy
    assert read_image_facts(dataset, JPEGBaseline8Bit).is_lossy
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = [12.5, 0]
    dataset.LossyImageCompressionMethod = ["ISO_10918_1", "ANNA"]
    facts = read_image_facts(dataset, ExplicitVRLittleEndian)
    assert (facts.lossy_ratios, facts.lossy_methods) == ((12.5,), ("ISO_10918_1",))
    header = build_header(facts, plan(), NAMES, 1)
    assert (header.LossyImageCompression, header.LossyImageCompressionRatio) == ("01", 12.5)
    assert header.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"FrameTime": "33.3"}, 33.3),
        ({"FrameTimeVector": ["0", "10", "30"]}, 20.0),
        ({"CineRate": "50"}, 20.0),
        ({"RecommendedDisplayFrameRate": "25", "FrameTime": "0"}, 40.0),
        ({}, None),
        ({"FrameTime": "-1"}, None),
    ],
)
def test_the_speed_of_a_cine(elements: dict[str, Any], expected: float | None) -> None:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    facts = read_image_facts(dataset, ExplicitVRLittleEndian)
    assert facts.frame_time_ms == expected
    assert build_header(facts, plan(3), NAMES, 1).FrameTime == (expected or 40.0)


_VRS = (
    "AE",
    "CS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "UC",
    "UR",
    "UT",
    "DS",
    "IS",
    "AS",
    "DA",
    "OB",
    "UN",
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 2) -> DataElement | RawDataElement:
    """An element with the canary as its value, of the dictionary or private, flat or nested."""
    tag = Tag(
        draw(
            st.one_of(
                st.sampled_from([Tag(t) for t in _TAGS]),
                st.builds(
                    lambda group, element: Tag(group * 2 + 9, 0x1000 + element),
                    st.integers(0, 100),
                    st.integers(0, 200),
                ),
            )
        )
    )
    if depth and draw(st.booleans()):
        items = draw(st.lists(elements(depth=depth - 1), min_size=1, max_size=3))
        item = Dataset()
        for each in items:
            item[each.tag] = each
        return DataElement(tag, "SQ", Sequence([item]))
    vr = draw(st.sampled_from(_VRS))
    # As it stands in a file, whether it keeps the rules of its VR or not.
    return RawDataElement(tag, vr, len(CANARY), CANARY.encode(), 0, False, True)


_TAGS = [
    tag
    for tag in (
        *(int(Tag(each[0], each[1])) for each in dicomfields_2026c.ALL_TAGS),
        *(
            int(tag_for_keyword(keyword) or 0)
            for keyword in (
                *("Manufacturer", "ManufacturerModelName", "ImageType", "Modality", "FrameTime"),
                *("LossyImageCompression", "LossyImageCompressionMethod", "CineRate"),
                *("LossyImageCompressionRatio", "SequenceOfUltrasoundRegions", "FrameTimeVector"),
                *(*REGION, "RecommendedDisplayFrameRate", "PhotometricInterpretation"),
                *("BurnedInAnnotation", "SOPClassUID", "NumberOfFrames", "SpecificCharacterSet"),
            )
        ),
    )
    if tag > 0x00080000 and dictionary_has_tag(tag)
]


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(st.lists(elements(), min_size=1, max_size=8))
def test_a_canary_in_any_element_is_nowhere(each: list[DataElement | RawDataElement]) -> None:
    dataset, item = Dataset(), Dataset()
    for element in each:
        dataset[element.tag] = element
        item[element.tag] = element
    if not isinstance(dataset.get_item("SequenceOfUltrasoundRegions"), RawDataElement):
        dataset.SequenceOfUltrasoundRegions = [with_region().SequenceOfUltrasoundRegions[0], item]
    facts = read_image_facts(dataset, ExplicitVRLittleEndian)
    assert CANARY not in str(facts.to_json())
    assert CANARY not in str(build_header(facts, plan(), NAMES, 1))

"""The finding's JSON form, which other programs read: no key goes, and none changes its meaning."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from detector.errors import Flag
from model.finding import (
    DIRECTIONS,
    QUALITY_LABELS,
    REASON_KINDS,
    BundleId,
    Criterion,
    Finding,
    Judgement,
    Reason,
    utc,
)

probability = st.floats(0, 1)
box = st.tuples(*[st.floats(0, 2000) for _ in range(4)])
judgements = st.builds(
    Judgement,
    region_index=st.integers(0, 3),
    region_bbox=box,
    view=st.sampled_from(View),
    view_probability=probability,
    quality=st.sampled_from(QUALITY_LABELS),
    probability=st.none() | probability,
    raw_probability=st.none() | probability,
    gates=st.tuples(probability, probability, probability),
    detections=st.lists(
        st.builds(
            Detection,
            label=st.sampled_from([label.code for label in LABELS]),
            bbox=box,
            confidence=probability,
        ),
        max_size=4,
    ).map(tuple),
    description=st.text(),
    criteria=st.lists(
        st.builds(
            Criterion,
            code=st.just("CRIT-SIZE"),
            met=st.sampled_from([True, False, None]),
            value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
            evidence=st.lists(st.just("NT"), max_size=2).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    flags=st.lists(st.sampled_from(Flag), unique=True).map(tuple),
    reasons=st.lists(
        st.builds(
            Reason,
            kind=st.sampled_from(REASON_KINDS),
            code=st.text(),
            words=st.text(),
            direction=st.none() | st.sampled_from(DIRECTIONS),
        ),
        max_size=3,
    ).map(tuple),
)
findings = st.builds(
    Finding,
    judgement=judgements,
    bundle=st.just(BundleId("default", "0", "ab" * 32)),
    frame=st.integers(1, 500),
    revision=st.integers(1, 9),
    source=st.none() | st.just("a.dcm"),
    sop_instance_uid=st.none() | st.just("1.2.3"),
    created=st.just("2026-11-22T00:00:00.000Z"),
)


@given(findings)
def test_json_round_trip(finding: Finding) -> None:
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


@given(findings)
def test_json_has_the_contract_s_keys(finding: Finding) -> None:
    assert list(finding.to_json()) == [
        "source",
        "study_instance_uid",
        "series_instance_uid",
        "sop_instance_uid",
        "revision",
        "frame",
        "region",
        "bundle",
        "view",
        "quality",
        "gates",
        "detections",
        "description",
        "criteria",
        "reasons",
        "flags",
        "created",
    ]


@given(findings)
def test_findings_of_earlier_versions_have_no_reasons(finding: Finding) -> None:
    body = finding.to_json()
    del body["reasons"]
    judgement = replace(finding.judgement, reasons=())
    assert Finding.from_json(body) == replace(finding, judgement=judgement)


def test_direction_stands_only_where_there_is_one() -> None:
    plain = Reason("structure", "PAL", "palate not visible: find the mid-sagittal plane")
    assert list(plain.to_json()) == ["kind", "code", "words"]
    assert replace(plain, direction="low").to_json()["direction"] == "low"
    for wrong in ({"kind": "mood"}, {"direction": "sideways"}):
        with pytest.raises(ValueError, match="none of"):
            Reason.from_json(plain.to_json() | wrong)


def test_a_moment_is_utc_to_the_millisecond() -> None:
    assert utc(datetime(2026, 3, 1, 12, 0, 0, 5000, UTC)) == "2026-03-01T12:00:00.005Z"
    with pytest.raises(ValueError, match="time zone"):
        utc(datetime(2026, 3, 1))

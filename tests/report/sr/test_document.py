"""The structured report: valid, read by others, and read back as what went in."""

import itertools
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import CodeContentItem, RelationshipTypeValues, srread
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from detector.errors import ErrorCode, Flag, QCError
from detector.plain_text import decimals
from model.criteria.rules import RULES
from model.finding import (
    DIRECTIONS,
    NON_STANDARD,
    QUALITY_LABELS,
    STANDARD,
    BundleId,
    Criterion,
    Finding,
    Reason,
    SiteFacts,
)
from qc_daemon.dicom.implementation import MANUFACTURER
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.source import InstanceReference, SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.biometry import MachineReport, MachineValue
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.sr.parse import parse_findings, parse_machine_reports
from tests.support.report_objects import assert_same_findings

CREATED = datetime(2026, 1, 2, 9, 30, 0, 250000, tzinfo=UTC)
PROBABILITY = 0.1234567890123456  # What `nuchal_finding` has.
RETIRED_IMAGE = "1.2.840.10008.5.1.4.1.1.6"
RETIRED_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"

Make = Callable[..., Any]


def report(sources: list[SourceInstance], findings: list[Finding], **changes: Any) -> Dataset:
    return build_sr(sources, findings, **{"revision": 1, "created": CREATED, **changes})


def walk(item: Dataset) -> list[Dataset]:
    below = item.get("ContentSequence", [])
    return [item, *itertools.chain.from_iterable(map(walk, below))]


def values_of(dataset: Dataset, code: str) -> list[str]:
    """Coded values (or numbers) of the content items with this concept name."""
    items = []
    for item in walk(dataset):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == code:
            coded = item.get("ConceptCodeSequence")
            items.append(coded[0].CodeValue if coded else item.MeasuredValueSequence[0])
    return items


def test_without_a_zone_in_the_source_times_are_in_this_machine_s_zone(
    a_source: Make, a_finding: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand beside the source's, whose clock hangs in the same house."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        late = datetime(2026, 11, 22, 18, 39, tzinfo=UTC)
        here, stated = (
            build_sr([source], [a_finding(source)], revision=1, created=late)
            for source in (a_source(), a_source(TimezoneOffsetFromUTC="-0400"))
        )
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (here.ContentDate, here.ContentTime) == ("20261123", "023900.000000")
    assert (stated.ContentDate, stated.ContentTime) == ("20261122", "143900.000000")


def test_report_is_what_the_design_says(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    document = report([source], [a_finding(source)])
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert (document.PatientName, document.PatientID) == ("Müller^Änne", "4711")
    templates = [
        item.ContentTemplateSequence[0].TemplateIdentifier
        for item in walk(document)[1:]
        if "ContentTemplateSequence" in item
    ]
    assert templates == ["1501", "1410", "1410"]
    assert values_of(document, "VIEW") == ["VIEW-NT"]
    assert values_of(document, "QLTY") == ["NON"]
    assert values_of(document, "111050") == ["111236"]
    assert values_of(document, "CRIT-GAIN") == ["373067005"]
    assert values_of(document, "CRIT-NT") == ["373066001"]
    assert values_of(document, "CRIT-NASAL") == ["373068000"]
    (probability,) = values_of(document, "PSTD")
    assert probability.FloatingPointValue == 0.1234567890123456
    assert probability.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    (region, _) = [item for item in walk(document) if item.ValueType == "SCOORD"]
    assert region.GraphicType == "POLYLINE"
    assert region.GraphicData == [10.25, 20.5, 60.75, 20.5, 60.75, 40, 10.25, 40, 10.25, 20.5]
    texts = {
        item.ConceptNameCodeSequence[0].CodeValue: item.TextValue
        for item in walk(document)
        if item.ValueType == "TEXT"
    }
    assert texts["111002"] == "model_id=" + "0123456789abcdef" * 4
    assert texts["111001"] == "qc-daemon SpatialCLIP default"
    assert texts["111003"] == "0.1"
    assert "122405" in texts
    assert texts["121106"].startswith("Machine-made")


@pytest.mark.parametrize(
    ("quality", "assessment"),
    [(STANDARD, ["111237"]), (NON_STANDARD, ["111236"]), ("review", [])],
)
def test_public_quality_assessment_stands_beside_ours(
    a_source: Make, a_finding: Make, quality: str, assessment: list[str]
) -> None:
    source = a_source()
    document = report([source], [a_finding(source, quality=quality)])
    assert values_of(document, "111050") == assessment


@pytest.mark.parametrize(
    ("code", "met", "limited"),
    [
        ("CRIT-GAIN", False, ["RID13"]),
        ("CRIT-SIZE", False, ["RID13"]),
        ("CRIT-GAIN", None, []),
        ("CRIT-NECK", False, []),
    ],
)
def test_image_quality_is_limited_by_technical_faults_only(
    a_source: Make, a_finding: Make, code: str, met: bool | None, limited: list[str]
) -> None:
    source = a_source()
    document = report([source], [a_finding(source, criteria=(Criterion(code, met),))])
    assert values_of(document, "111101") == limited


def test_boxes_are_tied_to_their_finding(a_source: Make, a_finding: Make) -> None:
    source = a_source(SOPClassUID=MULTI_FRAME, NumberOfFrames=3)
    findings = [a_finding(source, frame=1, detections=()), a_finding(source, frame=3)]
    document = report([source], findings)
    identifiers = [
        item.TextValue
        for item in walk(document)
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == "112039"
    ]
    assert identifiers == ["F1", "F2", "F2-B1", "F2-B2"]
    uids = [item.UID for item in walk(document) if item.ValueType == "UIDREF"]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize(
    ("sop_class", "frames", "referenced"),
    [
        ("1.2.840.10008.5.1.4.1.1.6.1", None, None),
        ("1.2.840.10008.5.1.4.1.1.6.1", 5, None),
        (RETIRED_IMAGE, None, None),
        (MULTI_FRAME, 5, 2),
        (MULTI_FRAME, None, 2),
        (RETIRED_MULTI_FRAME, 5, 2),
    ],
)
def test_frame_number_goes_by_class(
    a_source: Make, a_finding: Make, sop_class: str, frames: int | None, referenced: int | None
) -> None:
    source = a_source(SOPClassUID=sop_class, NumberOfFrames=frames)
    finding = a_finding(source, frame=2)
    document = dcmread(BytesIO(to_bytes(report([source], [finding]))))
    measured = document.ContentSequence[-1]
    images = [item for item in walk(measured) if item.ValueType == "IMAGE"]
    assert len(images) == 3
    for image in images:
        reference = image.ReferencedSOPSequence[0]
        assert reference.ReferencedSOPClassUID == sop_class
        assert reference.get("ReferencedFrameNumber") == referenced
    series = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPClassUID == sop_class
    assert parse_findings(document)[0].frame == 2


def test_nothing_detected_is_still_a_finding(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    finding = a_finding(
        source,
        view=View.OTHER,
        quality="review",
        probability=None,
        raw_probability=None,
        detections=(),
        description="",
        criteria=(),
        flags=(),
    )
    document = to_bytes(report([source], [finding]))
    assert parse_findings(document) == [finding]
    assert not values_of(dcmread(BytesIO(document)), "PSTD")


def test_networks_in_another_precision_are_named(
    a_source: Make, a_finding: Make, tmp_path: Path, dciodvfy: Callable[[Path], list[str]]
) -> None:
    source = a_source()
    finding = replace(a_finding(source), runtime="openvino 1, float32, SonoNet bfloat16")
    content = to_bytes(report([source], [finding]))
    assert parse_findings(content) == [finding]
    parameters = [item for item in walk(dcmread(BytesIO(content))) if "111002" in str(item)]
    assert any("runtime=openvino 1" in str(item.get("TextValue", "")) for item in parameters)
    path = tmp_path / "sr.dcm"
    path.write_bytes(content)
    assert dciodvfy(path) == []
    assert b"runtime=" not in to_bytes(report([source], [a_finding(source)]))


def test_same_content_same_bytes(a_source: Make, a_finding: Make) -> None:
    source = a_source()

    def build(**changes: Any) -> Dataset:
        return report([a_source()], [a_finding(source)], **changes)

    assert to_bytes(build()) == to_bytes(build())
    second = build(revision=2)
    assert second.SOPInstanceUID != build().SOPInstanceUID
    assert second.SeriesInstanceUID == build().SeriesInstanceUID
    another = report([a_source("bb" * 32)], [a_finding(source)])
    assert another.SOPInstanceUID != build().SOPInstanceUID
    assert re.fullmatch(r"2\.25\.[1-9]\d{1,38}", build().SOPInstanceUID)


def test_sources_of_any_order_make_the_same_uid(a_source: Make, a_finding: Make) -> None:
    one, two = a_source("aa" * 32), a_source("bb" * 32, SOPInstanceUID="1.2.3.9")
    findings = [a_finding(one), a_finding(two)]
    assert (
        report([one, two], findings).SOPInstanceUID == report([two, one], findings).SOPInstanceUID
    )


def test_amended_report_names_its_predecessor(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    first = report([source], [a_finding(source)])
    reference = InstanceReference(
        first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPClassUID, first.SOPInstanceUID
    )
    second = report([source], [a_finding(source)], revision=2, previous=[reference])
    series = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in first


def test_procedure_reported_is_the_sources_or_a_default(a_source: Make, a_finding: Make) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "US12", "99LOCAL", "NT scan"
    coded = a_source(ProcedureCodeSequence=[item])
    assert values_of(report([coded], [a_finding(coded)]), "121058") == ["US12"]
    unknown = a_source()
    assert values_of(report([unknown], [a_finding(unknown)]), "121058") == [
        codes.DEFAULT_PROCEDURE.value
    ]


def test_dates_stand_in_the_sources_zone(a_source: Make, a_finding: Make) -> None:
    source = a_source(TimezoneOffsetFromUTC="+0200")
    document = report([source], [a_finding(source)])
    assert (document.ContentDate, document.ContentTime) == ("20260102", "113000.250000")
    assert document.TimezoneOffsetFromUTC == "+0200"


def named(parent: Dataset, code: str) -> list[Dataset]:
    """The children with this concept name."""
    return [
        item
        for item in parent.get("ContentSequence", [])
        if item.ConceptNameCodeSequence[0].CodeValue == code
    ]


def test_each_criterion_cites_its_standard(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    document = report(
        [source], [a_finding(source, view=view) for view in (View.NT, View.CRL, View.HEAD)]
    )
    groups = document.ContentSequence[-1].ContentSequence
    cited = {}
    for view, group in zip(("NT", "CRL", "HEAD"), (groups[0], groups[3], groups[6]), strict=True):
        for rule in RULES[View(view)]:
            for item in named(group, rule.code):
                (standard,) = named(item, "111051")
                assert standard.RelationshipType == "HAS PROPERTIES"
                assert standard.ConceptCodeSequence[0].CodeValue == "111240"
                (authority,) = named(standard, "121406")
                cited[view, rule.code] = (authority.TextValue, rule.source)
    assert ("NT", "CRIT-NT") in cited
    assert ("CRL", "CRIT-GAIN") in cited
    assert all(reported == written for reported, written in cited.values())
    # A criterion of another view has no source in this one's guideline.
    (foreign,) = named(groups[3], "CRIT-NASAL")
    assert not named(foreign, "111051")


def test_library_lists_each_image_once(a_source: Make, a_finding: Make) -> None:
    still = a_source()
    cine = a_source(
        "bb" * 32, SOPClassUID=RETIRED_MULTI_FRAME, SOPInstanceUID="1.2.3.9", NumberOfFrames=4
    )
    document = report(
        [still, cine], [a_finding(still), a_finding(cine, frame=2), a_finding(cine, frame=4)]
    )
    (library,) = named(document, "111028")
    (group,) = named(library, "126200")
    entries = [
        (e.ReferencedSOPSequence[0].ReferencedSOPInstanceUID, e.ReferencedSOPSequence[0])
        for e in group.ContentSequence
    ]
    assert [uid for uid, _ in entries] == [still.sop_instance_uid, "1.2.3.9"]
    assert all("ReferencedFrameNumber" not in reference for _, reference in entries)
    entry = group.ContentSequence[0]
    assert named(entry, "121139")[0].ConceptCodeSequence[0].CodeValue == "US"
    (rows, columns) = (named(entry, code)[0] for code in ("110910", "110911"))
    assert values_of(group.ContentSequence[1], "121140")[0].NumericValue == 4
    edges = [values_of(entry, f"REGION-{edge}")[0].NumericValue for edge in ("X0", "Y1", "X1")]
    assert edges == [0, 120, 160]
    assert rows.MeasuredValueSequence[0].NumericValue == 120
    assert columns.MeasuredValueSequence[0].NumericValue == 160


def test_every_bundle_is_a_device_of_its_own(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    second = BundleId("long\\name" * 9, "0.2", "f" * 64)
    document = report([source], [a_finding(source), a_finding(source, frame=2, bundle=second)])
    ours = [e for e in document.ContributingEquipmentSequence if e.Manufacturer == MANUFACTURER]
    assert [e.DeviceSerialNumber for e in ours] == ["0123456789abcdef" * 4, "f" * 64]
    assert len({e.DeviceUID for e in ours}) == 2
    assert all(e.PurposeOfReferenceCodeSequence[0].CodeValue == "109102" for e in ours)
    again = report([source], [a_finding(source)]).ContributingEquipmentSequence
    assert ours[0].DeviceUID in [e.get("DeviceUID") for e in again]


def test_pixel_spacing_is_reported_where_the_header_calibrates_it(
    a_source: Make, a_finding: Make
) -> None:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 149, 119
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.0125, -0.01
    coded = a_source(SequenceOfUltrasoundRegions=[region])
    document = report([coded], [a_finding(coded), a_finding(coded, region_index=1)])
    spacing = {code: values_of(document, code) for code in ("111026", "111066")}
    assert [v.FloatingPointValue for v in spacing["111026"]] == [0.125]
    assert [v.FloatingPointValue for v in spacing["111066"]] == [0.1]
    assert spacing["111026"][0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert parse_findings(document)[0] == a_finding(coded)
    unknown = a_source()
    assert not values_of(report([unknown], [a_finding(unknown)]), "111026")


def machine_report(source: SourceInstance, *values: MachineValue, number: int = 1) -> MachineReport:
    reference = InstanceReference(
        source.study_instance_uid, "1.2.3.8", "1.2.840.10008.5.1.4.1.1.88.33", f"1.2.3.8.{number}"
    )
    return MachineReport(reference, values, "ee" * 32)


def test_what_the_machine_measured_stands_beside_the_findings(
    a_source: Make, a_finding: Make
) -> None:
    source = a_source()
    twins = machine_report(
        source,
        MachineValue("A", "CRL", 62.5, "mm"),
        MachineValue("A", "GA-CRL", 88.0, "d"),
        MachineValue("A", "NT", 1.1, "mm"),
        MachineValue("B", "CRL", 59.25, "mm"),
    )
    unnamed = machine_report(source, MachineValue(None, "GA", 87.0, "d"), number=2)
    document = dcmread(
        BytesIO(to_bytes(report([source], [a_finding(source)], measured=[twins, unnamed])))
    )
    assert parse_findings(document) == [a_finding(source)]
    assert parse_machine_reports(document) == [twins, unnamed]
    groups = {
        named(group, "112039")[0].TextValue: group
        for group in document.ContentSequence[-1].ContentSequence
    }
    assert [key for key in groups if key[0] == "M"] == ["M1", "M2", "M3"]
    first, second, third = groups["M1"], groups["M2"], groups["M3"]
    assert [named(g, "11951-1")[0].TextValue for g in (first, second)] == ["A", "B"]
    assert named(first, "121024")[0].ConceptCodeSequence[0].CodeValue == "121026"
    assert not named(third, "121024")
    assert values_of(first, "11957-8")[0].NumericValue == 62.5
    assert values_of(first, "33069-6")[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    (source_item,) = named(first, "121112")
    assert source_item.ValueType == "COMPOSITE"
    assert source_item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.8.1"
    referenced = [
        instance.ReferencedSOPInstanceUID
        for series in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert referenced == [source.sop_instance_uid, "1.2.3.8.1", "1.2.3.8.2"]
    without = report([source], [a_finding(source)])
    assert without.SOPInstanceUID != document.SOPInstanceUID
    assert parse_machine_reports(without) == []


def test_a_fetus_is_named_without_control_characters(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    odd = machine_report(
        source, MachineValue("\aA", "CRL", 62.5, "mm"), MachineValue("\a", "CRL", 60.0, "mm")
    )
    document = report([source], [a_finding(source)], measured=[odd])
    (reported,) = parse_machine_reports(to_bytes(document))
    assert [value.fetus for value in reported.values] == ["A", None]


def test_a_measurement_without_code_or_value_is_refused(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    for value in (
        MachineValue(None, "BPD", 20.0, "mm"),
        MachineValue(None, "CRL", 2.0, "in"),
        MachineValue(None, "CRL", float("nan"), "mm"),
    ):
        with pytest.raises(QCError, match="measurement"):
            report([source], [a_finding(source)], measured=[machine_report(source, value)])


def test_highdicom_reads_the_groups(tmp_path: Path, a_source: Make, a_finding: Make) -> None:
    source = a_source()
    path = tmp_path / "report.dcm"
    path.write_bytes(to_bytes(report([source], [a_finding(source)])))
    parsed = srread(path).content
    (verdict,) = parsed.get_image_measurement_groups()
    assert verdict.tracking_identifier == "F1"
    boxes = parsed.get_planar_roi_measurement_groups()
    assert [box.finding_type.value for box in boxes] == ["NT", "NB"]
    assert boxes[0].roi.value.shape == (5, 2)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"probability": float("nan")}, "probability"),
        ({"view_probability": 1.5}, "probability"),
        ({"detections": (Detection("NT", (0, 0, float("inf"), 1), 0.5),)}, "box"),
        ({"detections": (Detection("NT", (5, 0, 1, 1), 0.5),)}, "box"),
        ({"detections": (Detection("XYZ", (0, 0, 1, 1), 0.5),)}, "label"),
        ({"criteria": (Criterion("CRIT-NEW", True),)}, "criterion"),
        ({"criteria": (Criterion("CRIT-NT", True, float("nan")),)}, "value"),
        ({"criteria": (Criterion("CRIT-NT", True, 1.0, "a\\b"),)}, "unit"),
        ({"reasons": (Reason("structure", "CRIT-NT", "x"),)}, "reasons"),
        ({"frame": 0}, "frame"),
        ({"frame": 9}, "frame"),
        ({"sop_instance_uid": "1.2.3"}, "source"),
        ({"sop_instance_uid": None}, "source"),
    ],
)
def test_values_that_no_valid_object_can_hold_are_refused(
    a_source: Make, a_finding: Make, changes: dict[str, Any], word: str
) -> None:
    source = a_source(SOPClassUID=MULTI_FRAME, NumberOfFrames=5)
    with pytest.raises(QCError, match=word) as caught:
        report([source], [a_finding(source, **changes)])
    assert caught.value.code is ErrorCode.REPORT_INVALID
    assert "\n" not in caught.value.message


def test_source_without_a_uid_is_refused(a_source: Make) -> None:
    with pytest.raises(QCError, match="Series Instance UID"):
        a_source(SeriesInstanceUID="")


def test_exam_without_findings_has_no_report(a_source: Make) -> None:
    with pytest.raises(QCError, match="without findings"):
        report([a_source()], [])


@pytest.mark.parametrize("junk", [b"", b"no DICOM", b"\0" * 128 + b"DICM"])
def test_other_documents_are_refused_by_the_parser(junk: bytes) -> None:
    with pytest.raises(QCError) as caught:
        parse_findings(junk)
    assert caught.value.code is ErrorCode.REPORT_INVALID


probabilities = st.floats(0.0, 1.0)
coordinates = st.floats(0.0, 2047.0, allow_subnormal=False)
texts = st.text(max_size=200)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x0, x1 = sorted((draw(coordinates), draw(coordinates)))
    y0, y1 = sorted((draw(coordinates), draw(coordinates)))
    return (x0, y0, x1, y1)


labels = st.sampled_from([label.code for label in LABELS])
criteria = st.builds(
    Criterion,
    code=st.sampled_from(sorted({rule.code for rules in RULES.values() for rule in rules})),
    met=st.sampled_from([True, False, None]),
    value=st.none() | st.floats(-1e6, 1e6),
    unit=st.sampled_from(["1", "mm", "deg", "{pixels}", "%"]),
    evidence=st.lists(labels, max_size=3).map(tuple),
)
reasons = st.builds(
    lambda named, words, direction: Reason(*named, words, direction),
    named=st.sampled_from(sorted(codes.REASON_CODES)),
    words=st.text("abc:, äß骨", max_size=80).map(str.strip),
    direction=st.none() | st.sampled_from(DIRECTIONS),
)
changes = st.fixed_dictionaries(
    {
        "region_index": st.integers(0, 9),
        "region_bbox": boxes(),
        "view": st.sampled_from(View),
        "view_probability": probabilities,
        "quality": st.sampled_from(QUALITY_LABELS),
        "probability": st.none() | probabilities,
        "raw_probability": st.none() | probabilities,
        "gates": st.tuples(probabilities, probabilities, probabilities),
        "detections": st.lists(
            st.builds(Detection, label=labels, bbox=boxes(), confidence=probabilities), max_size=3
        ).map(tuple),
        "description": texts,
        "criteria": st.lists(criteria, max_size=4).map(tuple),
        "flags": st.lists(st.sampled_from(Flag), unique=True).map(tuple),
        "reasons": st.lists(reasons, max_size=4).map(tuple),
        "frame": st.integers(1, 99),
        "revision": st.integers(1, 1000),
    }
)


@given(
    reported=st.lists(changes, min_size=1, max_size=2),
    sop_class=st.sampled_from([MULTI_FRAME, "1.2.840.10008.5.1.4.1.1.6.1", RETIRED_IMAGE]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parsed_findings_equal_the_reported_ones(
    a_source: Make, a_finding: Make, reported: list[dict[str, Any]], sop_class: str
) -> None:
    source = a_source(SOPClassUID=sop_class)
    findings = [a_finding(source, **change) for change in reported]
    assert_same_findings(parse_findings(to_bytes(report([source], findings))), findings)


def test_valid_and_readable_by_others(
    tmp_path: Path,
    a_source: Make,
    a_finding: Make,
    dciodvfy: Callable[[Path], list[str]],
    dsrdump: Callable[[Path], str],
) -> None:
    step = Dataset()
    step.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    step.ReferencedSOPInstanceUID = "1.2.3.4.5"
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    still = a_source(
        PatientName="山田^太郎",
        SpecificCharacterSet="ISO_IR 192",
        ReferencedPerformedProcedureStepSequence=[step],
        RequestAttributesSequence=[request],
    )
    cine = a_source("bb" * 32, SOPClassUID=MULTI_FRAME, SOPInstanceUID="1.2.3.9", NumberOfFrames=4)
    findings = [a_finding(still), a_finding(cine, frame=2), a_finding(cine, frame=4, criteria=())]
    before = report([still], findings[:1])
    previous = InstanceReference(
        before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPClassUID, before.SOPInstanceUID
    )
    path = tmp_path / "report.dcm"
    path.write_bytes(to_bytes(report([still, cine], findings, revision=2, previous=[previous])))
    assert dciodvfy(path) == []
    reported = dsrdump(path)
    assert "Comprehensive 3D SR Document" in reported
    assert reported.count("Measurement Group") == 9


def test_real_character_sets_survive(shared_data: Path, a_finding: Make) -> None:
    """Names of every character set come out as the text they meant."""
    paths = sorted((shared_data / "malformed" / "charset").glob("chr*.dcm"))
    assert paths
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        header.StudyInstanceUID = header.get("StudyInstanceUID") or "1.2.3"
        header.SeriesInstanceUID = header.get("SeriesInstanceUID") or "1.2.3.4"
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
        header.SOPInstanceUID = header.get("SOPInstanceUID") or "1.2.3.5"
        source = SourceInstance.of(header, "dd" * 32)
        document = dcmread(BytesIO(to_bytes(report([source], [a_finding(source)]))))
        assert str(document.PatientName) == str(header.get("PatientName", "")), path.name


def test_no_warning_names_the_patient(a_source: Make, a_finding: Make) -> None:
    """highdicom warns of a name of one component, with the name."""
    source = a_source(PatientName="CANARY")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report([source], [a_finding(source)])
    assert not [each for each in caught if "CANARY" in str(each.message)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.1234567890123456, "0.1235"),
        (0.5, "0.5"),
        (0.99999, "0.99999"),
        (1 - 1e-12, "0.999999999999"),
        (0.00001, "0.00001"),
        (160.0, "160"),
        (12.34567, "12.3457"),
    ],
)
def test_number_has_the_digits_that_a_person_reads(value: float, text: str) -> None:
    assert decimals(value) == text


@given(st.floats(0, 1))
@example(5.2916628416763066e-20)
def test_no_probability_becomes_certain_in_its_digits(value: float) -> None:
    text = decimals(value)
    assert len(text) <= 16
    assert abs(float(text) - value) <= 5.1e-5
    assert (float(text) in (0.0, 1.0)) <= (value in (0.0, 1.0) or min(value, 1 - value) < 1e-13)


def test_structures_are_listed_once_and_named_by_criteria(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    evidence = ("NT", "NB", "F")
    finding = a_finding(
        source,
        criteria=tuple(Criterion(rule.code, True, 0.5, "1", evidence) for rule in RULES[View.NT]),
    )
    document = report([source], [finding])
    assert values_of(document, "EVIDENCE") == list(evidence)
    (reported,) = parse_findings(document)
    assert [c.evidence for c in reported.judgement.criteria] == [evidence] * len(RULES[View.NT])


def test_reasons_stand_in_their_order_with_words_and_direction(
    a_source: Make, a_finding: Make
) -> None:
    source = a_source()
    document = report([source], [a_finding(source)])
    assert values_of(document, "REASON") == ["CRIT-GAIN", "PAL"]
    items = [i for i in walk(document) if _concept(i) == "REASON"]
    (words, direction), (other_words,) = ([*item.ContentSequence] for item in items)
    assert {each.RelationshipType for each in (words, direction)} == {"HAS PROPERTIES"}
    assert words.TextValue == "gain too low: turn the overall gain up"
    assert direction.ConceptCodeSequence[0].CodeMeaning == "Low"
    assert other_words.TextValue == "palate not visible: find the mid-sagittal plane"


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(names[0].get("CodeValue", ""))


@pytest.mark.parametrize(
    "site",
    [
        SiteFacts(
            "st marys", "reviewed", 120, 2.75, 0.4321, "0123456789ab", "At most 5% are poor."
        ),
        SiteFacts("st marys", "none", 0, 0.0, 0.25),
        SiteFacts("st marys", "none", 0, 0.0, PROBABILITY),
        SiteFacts("Sankt Märia", "unlabelled", 40, -1.5),
    ],
)
def test_the_site_is_named_and_read_back(
    a_source: Make,
    a_finding: Make,
    site: SiteFacts,
    tmp_path: Path,
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    source = a_source()
    finding = a_finding(source, site=site, flags=(Flag.NOT_COMMISSIONED,))
    content = to_bytes(report([source], [finding]))
    (parsed,) = parse_findings(content)
    assert parsed.judgement.site == site
    assert parsed.judgement.flags == (Flag.NOT_COMMISSIONED,)
    # What says that nothing was calibrated needs no rows of numbers.
    is_empty = site.kind == "none" and site.bundle_probability == PROBABILITY
    assert (b"SITE-SHIFT" in content) is not is_empty
    path = tmp_path / "sr.dcm"
    path.write_bytes(content)
    assert dciodvfy(path) == []


def test_a_report_of_an_earlier_version_is_still_parsed(a_source: Make, a_finding: Make) -> None:
    """There each criterion holds its structures as codes, and the bundle's name stands alone."""
    source = a_source()
    document = dcmread(BytesIO(to_bytes(report([source], [a_finding(source)]))))
    for item in walk(document):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == "111001":
            item.TextValue = "default"
        for index, child in enumerate(item.get("ContentSequence", [])):
            if child.ConceptNameCodeSequence[0].CodeValue == "READ-FROM":
                label = codes.LABEL_CODES[child.TextValue.split()[0]]
                item.ContentSequence[index] = CodeContentItem(
                    codes.EVIDENCE, label, RelationshipTypeValues.INFERRED_FROM
                )
    (reported,) = parse_findings(document)
    assert reported.bundle.name == "default"
    assert [c.evidence for c in reported.judgement.criteria] == [(), ("NT",), ("NB",)]

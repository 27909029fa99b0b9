"""A sound ultrasound header, findings of it, and the comparison with findings read from an SR."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from detector.anatomy import View
from detector.boxes import Detection
from detector.errors import Flag
from model.finding import BundleId, Criterion, Finding, Judgement, Reason
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.groups import storable_text
from qc_daemon.review.events import Event, EventKind
from qc_daemon.review.state import ReviewState, ReviewStatus

FL_STEP = 6.2e-5
"""Half the spacing of FL numbers just below 2048, rounded up."""
REVIEWED_AT = datetime(2026, 3, 5, 7, 8, 9, tzinfo=UTC)
US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
BUNDLE = BundleId("default", "0.1", "0123456789abcdef" * 4)


def ultrasound_header(**values: Any) -> Dataset:
    """A still as a well-behaved scanner writes its header; `values` replace or add elements."""
    header = Dataset()
    elements = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": US_IMAGE,
        "SOPInstanceUID": "1.2.826.0.1.3680043.10.1.1.1",
        "StudyInstanceUID": "1.2.826.0.1.3680043.10.1.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.1.3",
        "PatientName": "Müller^Änne",
        "PatientID": "4711",
        "PatientBirthDate": "19900102",
        "PatientSex": "F",
        "StudyDate": "20260102",
        "StudyTime": "101112.5",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Doe^Jane",
        "Manufacturer": "Maker",
        "Modality": "US",
        "Rows": 120,
        "Columns": 160,
        **values,
    }
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    return header


def source_instance(sha256: str = "aa" * 32, **values: Any) -> SourceInstance:
    return SourceInstance.of(ultrasound_header(**values), sha256)


def nuchal_finding(source: SourceInstance, **changes: Any) -> Finding:
    """A non-standard NT view with two boxes; `changes` go to the finding or its judgement."""
    judgement = {
        "region_index": 0,
        "region_bbox": (0.0, 0.0, 160.0, 120.0),
        "view": View.NT,
        "view_probability": 0.97,
        "quality": "non-standard",
        "probability": 0.1234567890123456,
        "raw_probability": 0.2,
        "gates": (0.2, 0.3, 0.5),
        "detections": (
            Detection("NT", (10.25, 20.5, 60.75, 40.0), 0.91),
            Detection("NB", (70.0, 30.0, 90.0, 36.5), 0.55),
        ),
        "description": "nuchal translucency at the lower left, “thin”",
        "criteria": (
            Criterion("CRIT-GAIN", False, 0.3, "1", ()),
            Criterion("CRIT-NT", True, 1.5, "mm", ("NT",)),
            Criterion("CRIT-NASAL", None, None, "deg", ("NB", "F")),
        ),
        "flags": (Flag.LOW_RESOLUTION,),
        "reasons": (
            Reason("criterion", "CRIT-GAIN", "gain too low: turn the overall gain up", "low"),
            Reason("structure", "PAL", "palate not visible: find the mid-sagittal plane"),
        ),
        "site": None,
    }
    if not changes.keys().isdisjoint({"view", "quality", "criteria"}):
        judgement["reasons"] = ()
    finding = {
        "bundle": BUNDLE,
        "frame": 1,
        "revision": 1,
        "created": "2026-01-02T09:12:13.456Z",
        "study_instance_uid": source.study_instance_uid,
        "series_instance_uid": source.series_instance_uid,
        "sop_instance_uid": source.sop_instance_uid,
    }
    for key, value in changes.items():
        (judgement if key in judgement else finding)[key] = value
    return Finding(judgement=Judgement(**judgement), **finding)


def reviewed(**changes: Any) -> ReviewState:
    """A person's override to a standard NT view; `changes` go to the event."""
    values: dict[str, Any] = {
        "number": 1,
        "kind": EventKind.OVERRIDE,
        "reader": "Dr Lee",
        "at": REVIEWED_AT,
        "revision": 1,
        "model_id": "m",
        "view": View.NT,
        "verdict": "standard",
        "reason": "measurable",
    }
    return ReviewState(ReviewStatus.OVERRIDDEN, Event(**values | changes))


def assert_same_findings(parsed: list[Finding], reported: list[Finding]) -> None:
    """Equal but for what FL and UT cannot carry."""
    assert len(parsed) == len(reported)
    for actual, original in zip(parsed, reported, strict=True):
        boxes = [d.bbox for d in actual.judgement.detections]
        expected = [d.bbox for d in original.judgement.detections]
        np.testing.assert_allclose(
            np.reshape(boxes, (-1, 4)), np.reshape(expected, (-1, 4)), rtol=0, atol=FL_STEP
        )
        aligned = tuple(
            replace(d, bbox=box)
            for d, box in zip(actual.judgement.detections, expected, strict=True)
        )
        judgement = replace(actual.judgement, detections=aligned)
        description = storable_text(original.judgement.description)
        storable = replace(
            original, source=None, judgement=replace(original.judgement, description=description)
        )
        assert replace(actual, judgement=judgement).to_json() == storable.to_json()

"""A reader of our structured reports that shares nothing with the service's: pydicom only.

It goes by the conformance statement: codes by value and scheme, groups by tracking identifier.
"""

from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

OUTCOMES = {"373066001": True, "373067005": False, "373068000": None}
QUALITIES = {"STD": "standard", "NON": "non-standard", "REV": "review"}
FLAGS = {
    "FLAG-OOD": "out-of-distribution",
    "FLAG-EVIDENCE": "no-real-evidence",
    "FLAG-AGE": "beyond-first-trimester",
    "FLAG-TEXT": "burned-in-text",
    "FLAG-LOWRES": "low-resolution",
    "FLAG-HEADER": "header-normalised",
    "FLAG-SAMEUID": "same-uid-other-content",
    "FLAG-PATIENTS": "other-patient-in-study",
    "FLAG-COLOUR": "colour-doubtful",
    "FLAG-FRAMES": "more-frames-than-stated",
    "FLAG-BADFRAMES": "unreadable-frames",
    "FLAG-NOTUS": "not-ultrasound",
    "FLAG-VIEW": "view-disagreement",
    "FLAG-COMMISSION": "not-commissioned",
}
DIRECTIONS = {"62482003": "low", "75540009": "high"}
MACHINE_MADE = 'Machine-made text: "'


def items(item: Dataset) -> Iterator[Dataset]:
    """The item and all below it."""
    yield item
    for child in item.get("ContentSequence", []):
        yield from items(child)


def concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return f"{names[0].CodingSchemeDesignator} {names[0].CodeValue}" if names else ""


def children(item: Dataset, name: str) -> list[Dataset]:
    return [child for child in item.get("ContentSequence", []) if concept(child) == name]


def only(item: Dataset, name: str) -> Dataset:
    (child,) = children(item, name)
    return child


def groups(report: Dataset) -> list[Dataset]:
    """The measurement groups."""
    measurements = only(report, "DCM 126010")
    return [g for g in measurements.ContentSequence if concept(g) == "DCM 125007"]


def findings(report: Dataset) -> list[dict[str, Any]]:
    """Findings as `Finding.to_json` writes them, `source` None."""
    series_of = {
        str(instance.ReferencedSOPInstanceUID): (
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
        )
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    verdicts: dict[str, dict[str, Any]] = {}
    for group in groups(report):
        name = only(group, "DCM 112039").TextValue
        if name.startswith("F") and "-" not in name:
            verdicts[name] = _verdict(group, series_of)
        elif name.startswith("F"):
            verdicts[name.split("-")[0]]["detections"].append(_box(group))
    return list(verdicts.values())


def _verdict(group: Dataset, series_of: dict[str, tuple[str, str]]) -> dict[str, Any]:
    reference = only(group, "DCM 121112").ReferencedSOPSequence[0]
    uid = str(reference.ReferencedSOPInstanceUID)
    study, series = series_of[uid]
    comment = children(group, "DCM 121106")
    text = comment[0].TextValue if comment else f'{MACHINE_MADE}"'
    assert text.startswith(MACHINE_MADE)
    assert text.endswith('"')
    frame = reference.get("ReferencedFrameNumber") or _optional(group, "FRAME") or 1
    return {
        "source": None,
        "study_instance_uid": study,
        "series_instance_uid": series,
        "sop_instance_uid": uid,
        "revision": int(_value(only(group, "99QCD REVISION"))),
        "frame": int(frame),
        "region": {
            "index": int(_value(only(group, "99QCD REGION"))),
            "bbox": [
                _value(only(group, f"99QCD REGION-{edge}")) for edge in ("X0", "Y0", "X1", "Y1")
            ],
        },
        "bundle": {
            "name": only(group, "DCM 111001").TextValue.removeprefix("qc-daemon SpatialCLIP "),
            "version": only(group, "DCM 111003").TextValue,
            "model_id": only(group, "DCM 111002").TextValue.split("model_id=")[1],
        },
        "view": {
            "code": _coded(only(group, "99QCD VIEW")).split("VIEW-")[1],
            "probability": _value(only(group, "99QCD VIEW-P")),
        },
        "quality": {
            "label": QUALITIES[_coded(only(group, "99QCD QLTY"))],
            "probability": _optional(group, "PSTD"),
            "raw_probability": _optional(group, "PSTD-RAW"),
        },
        "gates": {
            name: _value(only(group, f"99QCD {code}"))
            for name, code in (("image", "GIMG"), ("text", "GTXT"), ("spatial", "GSPA"))
        },
        "detections": [],
        "description": text[len(MACHINE_MADE) : -1],
        "criteria": [
            _criterion(item) for item in group.ContentSequence if "QCD CRIT-" in concept(item)
        ],
        "reasons": [_reason(item) for item in children(group, "99QCD REASON")],
        "flags": [FLAGS[_coded(item)] for item in children(group, "99QCD FLAG")],
        "created": only(group, "99QCD CREATED").TextValue,
    }


def _criterion(item: Dataset) -> dict[str, Any]:
    values, units = children(item, "99QCD VALUE"), children(item, "99QCD UNIT")
    unit = units[0].TextValue if units else "1"
    if values:
        unit = values[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue
    return {
        "code": concept(item).split()[1],
        "met": OUTCOMES[_coded(item)],
        "value": _value(values[0]) if values else None,
        "unit": unit,
        "evidence": [
            label for each in children(item, "99QCD READ-FROM") for label in each.TextValue.split()
        ],
    }


def _reason(item: Dataset) -> dict[str, str]:
    code = _coded(item)
    kind = "structure"
    if code.startswith("CRIT-"):
        kind = "criterion"
    elif code.startswith("REG-"):
        kind, code = "region", code.removeprefix("REG-").lower()
    reason = {"kind": kind, "code": code, "words": only(item, "99QCD REASON-WORDS").TextValue}
    for direction in children(item, "99QCD DIRECTION"):
        reason["direction"] = DIRECTIONS[_coded(direction)]
    return reason


def _box(group: Dataset) -> dict[str, Any]:
    points = only(group, "DCM 111030").GraphicData
    xs, ys = points[0::2], points[1::2]
    return {
        "label": _coded(only(group, "DCM 121071")),
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "confidence": _value(only(group, "99QCD CONF")),
    }


def _coded(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def _value(item: Dataset) -> float:
    """The double where it stands, which has all the digits; whole numbers have none."""
    measured = item.MeasuredValueSequence[0]
    value = float(measured.get("FloatingPointValue", measured.NumericValue))
    # The decimal string has the digits that a person reads.
    assert abs(float(measured.NumericValue) - value) <= 5e-4 * max(0.1, abs(value))
    assert len(str(measured.NumericValue)) <= 16
    return value


def _optional(group: Dataset, code: str) -> float | None:
    values = children(group, f"99QCD {code}")
    return _value(values[0]) if values else None

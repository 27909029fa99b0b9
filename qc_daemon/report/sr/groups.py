"""The measurement groups of a finding: TID 1501 for its verdict, TID 1410 for each box.

The groups are tied by Tracking Identifier: finding `F2` has the boxes `F2-B1`, `F2-B2`, ...
"""

import math
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import highdicom.sr as hd
import numpy as np
from pydicom.sr.coding import Code
from pydicom.uid import UltrasoundImageStorage
from pydicom.valuerep import DSfloat

from detector.boxes import Box, Detection
from detector.errors import ErrorCode, QCError
from detector.plain_text import decimals
from model.criteria.rules import RULES, TECHNICAL_CODES
from model.finding import BundleId, Criterion, Finding, Judgement, Reason, SiteFacts
from model.parts.opinion import PartId
from model.site.record import NONE
from qc_daemon.report.derived_uids import derived_uid
from qc_daemon.report.equipment import MANUFACTURER
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes

MACHINE_MADE = 'Machine-made text: "'
MACHINE_MADE_END = '"'
MODEL_ID = "model_id="
RUNTIME = "runtime="
ALGORITHM = "qc-daemon SpatialCLIP "
"""The algorithm's name is this and the bundle's name, since "default" alone says nothing."""
FINDING = "F"
"""The tracking identifiers of findings begin with this."""

_RULE_SOURCES = {(view, r.code): r.source for view, rules in RULES.items() for r in rules}
_TEXT_CONTROLS = frozenset("\t\n\f\r")


def build_groups(
    number: int, finding: Finding, source: SourceInstance
) -> list[hd.templates.Template]:
    """The finding's group, then one group per detection, in the order of the detections.

    Raises QCError REPORT_INVALID for a finding that `check_finding` refuses.
    """
    check_finding(finding, source)
    return [
        _finding_group(number, finding, source),
        *(
            _box_group(number, index, detection, finding, source)
            for index, detection in enumerate(finding.judgement.detections, start=1)
        ),
    ]


def check_finding(finding: Finding, source: SourceInstance) -> None:
    """Check what no DICOM validator checks: numbers, boxes, frames and words of our own lists.

    Raises QCError REPORT_INVALID.
    """
    j = finding.judgement
    boxes = [j.region_bbox, *(d.bbox for d in j.detections)]
    if not all(_is_box(box) for box in boxes):
        raise _invalid("a box is not finite or not ordered")
    probabilities = [j.view_probability, j.probability, j.raw_probability]
    probabilities.append(None if j.site is None else j.site.bundle_probability)
    probabilities += [opinion.probability for opinion in j.opinions]
    probabilities += [*j.gates, *(d.confidence for d in j.detections)]
    if not all(p is None or (math.isfinite(p) and 0.0 <= p <= 1.0) for p in probabilities):
        raise _invalid("a probability, gate or confidence is outside 0..1")
    if j.site is not None and not math.isfinite(j.site.shift):
        raise _invalid("the site's shift is not finite")
    if not all(c.value is None or math.isfinite(c.value) for c in j.criteria):
        raise _invalid("a criterion's value is not finite")
    labels = [d.label for d in j.detections] + [e for c in j.criteria for e in c.evidence]
    for word in labels:
        if word not in codes.LABEL_CODES:
            raise _invalid(f"{word!r} is no anatomy label of the vocabulary")
    for criterion in j.criteria:
        if criterion.code not in codes.CRITERIA:
            raise _invalid(f"{criterion.code!r} is no criterion of the table")
        if not _is_code_value(criterion.unit):
            raise _invalid(f"the unit of {criterion.code} is no UCUM code of 1 to 16 characters")
    for reason in j.reasons:
        if (reason.kind, reason.code) not in codes.REASON_CODES:
            raise _invalid(f"{reason.code!r} is no {reason.kind} of the table of reasons")
    frames = source.header.get("NumberOfFrames") if source.is_multi_frame else None
    if finding.frame < 1 or (frames and finding.frame > int(frames)):
        raise _invalid(f"frame {finding.frame} is not among the source's {frames or 'frames'}")
    named: list[BundleId | PartId] = [finding.bundle, *(each.part for each in j.opinions)]
    for models in named:
        if not all(part.strip() for part in (models.name, models.version, models.model_id)):
            raise _invalid("the bundle, or a part, has no name, version or model id")


def _finding_group(number: int, finding: Finding, source: SourceInstance) -> hd.templates.Template:
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(f"{FINDING}{number}", finding, source),
        algorithm_id=_algorithm(finding.bundle, finding.runtime),
        measurements=list(_measurements(finding, source)),
        qualitative_evaluations=list(_evaluations(finding)),
        source_images=[
            hd.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=source.sop_class_uid,
                referenced_sop_instance_uid=source.sop_instance_uid,
                referenced_frame_numbers=source.frame_numbers(finding.frame),
            )
        ],
    )
    group[0].ContentSequence.extend(_texts(finding))
    return group


def _box_group(
    number: int, index: int, detection: Detection, finding: Finding, source: SourceInstance
) -> hd.templates.Template:
    site = codes.FINDING_SITES.get(detection.label)
    return hd.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(f"{FINDING}{number}-B{index}", finding, source),
        referenced_region=_region(detection.bbox, finding.frame, source),
        finding_type=codes.LABEL_CODES[detection.label],
        finding_sites=None if site is None else [hd.FindingSite(site)],
        algorithm_id=_algorithm(finding.bundle, finding.runtime),
        measurements=[number_item(codes.CONFIDENCE, detection.confidence)],
    )


def _region(box: Box, frame: int, source: SourceInstance) -> hd.ImageRegion:
    region = hd.ImageRegion(
        graphic_type=hd.GraphicTypeValues.POLYLINE,
        graphic_data=polyline(box),
        source_image=hd.SourceImageForRegion(
            referenced_sop_class_uid=UltrasoundImageStorage,
            referenced_sop_instance_uid=source.sop_instance_uid,
            referenced_frame_numbers=source.frame_numbers(frame),
        ),
    )
    # highdicom looks the class up and knows no retired one, so the true class comes afterwards.
    reference = region.ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPClassUID = source.sop_class_uid
    return region


def polyline(box: Box) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """The box as a closed polygon, shape (5, 2), columns x and y.

    float32 as SCOORD stores it (FL, PS3.3 C.18.6): within 6.1e-5 px below 2048.
    """
    x0, y0, x1, y1 = box
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], dtype=np.float32)


def finding_uid(finding: Finding, source: SourceInstance, box: str = "") -> str:
    """Tracking Unique Identifier of the finding, or of one of its boxes: the same finding of the
    same content keeps it in every revision of the report."""
    return derived_uid(
        "tracking",
        source.sop_instance_uid,
        source.sha256,
        finding.bundle.model_id,
        str(finding.frame),
        str(finding.judgement.region_index),
        box,
    )


def _tracking(identifier: str, finding: Finding, source: SourceInstance) -> hd.TrackingIdentifier:
    uid = finding_uid(finding, source, identifier.partition("-")[2])
    return hd.TrackingIdentifier(uid=uid, identifier=identifier)


@lru_cache(maxsize=8)
def _algorithm(bundle: BundleId, runtime: str) -> hd.AlgorithmIdentification:
    """Algorithm identification (TID 4019), made once a bundle because making it costs time."""
    parameters = [f"{MODEL_ID}{bundle.model_id}"]
    if runtime:
        parameters.append(f"{RUNTIME}{storable_text(runtime)}")
    return hd.AlgorithmIdentification(
        name=f"{ALGORITHM}{bundle.name}",
        version=bundle.version,
        parameters=parameters,
        manufacturer=MANUFACTURER,
    )


def _measurements(finding: Finding, source: SourceInstance) -> Iterator[hd.Measurement]:
    j = finding.judgement
    yield number_item(codes.VIEW_PROBABILITY, j.view_probability)
    if j.probability is not None:
        yield number_item(codes.PROBABILITY, j.probability)
    if j.raw_probability is not None:
        yield number_item(codes.RAW_PROBABILITY, j.raw_probability)
    yield from _site_measurements(j)
    for name, gate in zip(codes.GATES, j.gates, strict=True):
        yield number_item(name, gate)
    yield _count(codes.REGION, j.region_index)
    for name, edge in zip(codes.REGION_BOX, j.region_bbox, strict=True):
        yield number_item(name, edge, codes.PIXELS)
    spacing = source.spacing_mm.get(j.region_index)
    if spacing is not None:
        for name, millimetres in zip(codes.SPACINGS, spacing, strict=True):
            measurement = hd.Measurement(name, float(millimetres), codes.MILLIMETRE)
            set_decimal(measurement[0], f"{millimetres:.6g}")
            yield measurement
    yield _count(codes.REVISION, finding.revision)
    if not source.is_multi_frame and finding.frame != 1:
        # A single-frame class with several frames: no legal reference can name the frame.
        yield _count(codes.FRAME, finding.frame)


def _site_measurements(judgement: Judgement) -> Iterator[hd.Measurement]:
    site = judgement.site
    if site is None or site == SiteFacts(site.id, NONE, 0, 0.0, judgement.probability):
        # Nothing is calibrated: no number, no shift, and the probability is the bundle's.
        return
    if site.bundle_probability is not None:
        yield number_item(codes.BUNDLE_PROBABILITY, site.bundle_probability)
    yield _count(codes.SITE_NUMBER, site.n)
    yield number_item(codes.SITE_SHIFT, site.shift)


def _evaluations(finding: Finding) -> Iterator[hd.QualitativeEvaluation]:
    j = finding.judgement
    yield hd.QualitativeEvaluation(codes.VIEW, codes.VIEWS[j.view])
    # Each structure once; criteria name theirs by its letters.
    for label in dict.fromkeys(label for c in j.criteria for label in c.evidence):
        yield hd.QualitativeEvaluation(codes.EVIDENCE, codes.LABEL_CODES[label])
    yield hd.QualitativeEvaluation(codes.QUALITY, codes.QUALITIES[j.quality])
    if j.quality in codes.QUALITY_ASSESSMENTS:
        yield hd.QualitativeEvaluation(
            codes.QUALITY_ASSESSMENT, codes.QUALITY_ASSESSMENTS[j.quality]
        )
    if any(c.met is False and c.code in TECHNICAL_CODES for c in j.criteria):
        yield hd.QualitativeEvaluation(codes.IMAGE_QUALITY, codes.LIMITED_QUALITY)
    for criterion in j.criteria:
        yield _criterion(criterion, _RULE_SOURCES.get((j.view, criterion.code), ""))
    for reason in j.reasons:
        yield _reason(reason)
    if j.site is not None:
        kind = codes.SITE_CALIBRATIONS[j.site.kind]
        yield hd.QualitativeEvaluation(codes.SITE_CALIBRATION, kind)
    for flag in j.flags:
        yield hd.QualitativeEvaluation(codes.FLAG, codes.FLAGS[flag])
    yield hd.QualitativeEvaluation(codes.CLINICAL_USE, codes.MET[finding.bundle.clinical_use])


def _criterion(criterion: Criterion, source: str) -> hd.QualitativeEvaluation:
    """The outcome, inferred from its value and the structures it was read from (by the letters of
    the group's EVIDENCE items); the standard that asks for it as a property (as TID 4014 has it),
    with `source` (may be empty) as its authority.
    """
    evaluation = hd.QualitativeEvaluation(codes.CRITERIA[criterion.code], codes.MET[criterion.met])
    basis = hd.ContentSequence()
    inferred = hd.RelationshipTypeValues.INFERRED_FROM
    unit = codes.unit_code(criterion.unit)
    if criterion.value is not None:
        value = hd.NumContentItem(codes.VALUE, float(criterion.value), unit, None, inferred)
        basis.append(set_decimal(value, f"{criterion.value:.4g}"))
    elif unit != codes.NO_UNIT:
        basis.append(hd.TextContentItem(codes.UNIT, criterion.unit, inferred))
    if criterion.evidence:
        basis.append(hd.TextContentItem(codes.READ_FROM, " ".join(criterion.evidence), inferred))
    if source:
        basis.append(_standard(source))
    if basis:
        evaluation[0].ContentSequence = basis
    return evaluation


def _reason(reason: Reason) -> hd.QualitativeEvaluation:
    """What speaks against a standard view, with the words and the direction as its properties.

    TID 1501 takes an evaluation as a code or as a text: the code is for programs, the text below
    it for readers.
    """
    value = codes.REASON_CODES[reason.kind, reason.code]
    evaluation = hd.QualitativeEvaluation(codes.REASON, value)
    properties = hd.ContentSequence()
    has_properties = hd.RelationshipTypeValues.HAS_PROPERTIES
    words = storable_text(reason.words)
    if words:
        properties.append(hd.TextContentItem(codes.REASON_WORDS, words, has_properties))
    if reason.direction is not None:
        direction = codes.DIRECTIONS[reason.direction]
        properties.append(hd.CodeContentItem(codes.DIRECTION, direction, has_properties))
    if properties:
        evaluation[0].ContentSequence = properties
    return evaluation


@lru_cache(maxsize=64)
def _standard(source: str) -> hd.CodeContentItem:
    """The criterion's source as a content item, made once a source because making it costs time."""
    properties = hd.RelationshipTypeValues.HAS_PROPERTIES
    standard = hd.CodeContentItem(codes.QUALITY_STANDARD, codes.OWN_STANDARD, properties)
    standard.ContentSequence = hd.ContentSequence(
        [hd.TextContentItem(codes.REFERENCE_AUTHORITY, source, properties)]
    )
    return standard


def _texts(finding: Finding) -> Iterator[hd.TextContentItem]:
    contains = hd.RelationshipTypeValues.CONTAINS
    description = storable_text(finding.judgement.description)
    if description:
        comment = f"{MACHINE_MADE}{description}{MACHINE_MADE_END}"
        yield hd.TextContentItem(codes.COMMENT, comment, contains)
    site = finding.judgement.site
    if site is not None:
        for name, value in (
            (codes.SITE, site.id),
            (codes.SITE_CALIBRATION_ID, site.calibration),
            (codes.SITE_PROMISE, site.promise),
        ):
            words = storable_text(value or "")
            if words:
                yield hd.TextContentItem(name, words, contains)
    if finding.created:
        yield hd.TextContentItem(codes.CREATED, finding.created, contains)


def storable_text(text: str) -> str:
    """The text without what UT cannot hold: controls but tab and line ends, lone surrogates."""
    return "".join(
        c for c in text if c in _TEXT_CONTROLS or unicodedata.category(c) not in ("Cc", "Cs")
    )


def number_item(name: Code, value: float, unit: Code = codes.NO_UNIT) -> hd.Measurement:
    """A number with the digits that a person reads, and bit-exact beside them."""
    measurement = hd.Measurement(name, float(value), unit)
    set_decimal(measurement[0], decimals(float(value)))
    return measurement


def _count(name: Code, value: int) -> hd.Measurement:
    measurement = hd.Measurement(name, value, codes.NO_UNIT)
    set_decimal(measurement[0], str(value))
    return measurement


def set_decimal(item: hd.NumContentItem, text: str) -> hd.NumContentItem:
    """Set Numeric Value to `text`, with as many digits as a person reads; highdicom has written the
    float as Floating Point Value (FD) too, which is bit-exact (PS3.3 C.18.1)."""
    item.MeasuredValueSequence[0].NumericValue = DSfloat(text)
    return item


def _is_box(box: Box) -> bool:
    x0, y0, x1, y1 = box
    return all(map(math.isfinite, box)) and x0 <= x1 and y0 <= y1


def _is_code_value(text: str) -> bool:
    return (
        1 <= len(text) <= 16
        and text.isascii()
        and text.isprintable()
        and "\\" not in text
        and text.strip() == text
    )


def _invalid(reason: str) -> QCError:
    return QCError(ErrorCode.REPORT_INVALID, f"a finding cannot be reported: {reason}")

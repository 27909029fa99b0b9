"""Parses our own structured reports back into findings.

A parsed finding has all but `source` (a path, which no report holds). Probabilities,
gates, values and region edges are bit-exact (FloatingPointValue, FD); box edges are what FL holds,
within 6.1e-5 px below 2048; descriptions have lost control characters and lone surrogates.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code

from detector.boxes import Box, Detection
from detector.errors import ErrorCode, QCError
from model.finding import BundleId, Criterion, Finding, Judgement, Reason, SiteFacts
from model.parts.opinion import Opinion
from model.site.record import NONE as NO_CALIBRATION
from qc_daemon.report.source import InstanceReference
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.biometry import BIOMETRY, MachineReport, MachineValue
from qc_daemon.report.sr.groups import (
    ALGORITHM,
    FINDING,
    MACHINE_MADE,
    MACHINE_MADE_END,
    MODEL_ID,
    RUNTIME,
)
from qc_daemon.report.sr.opinions import OPINION, parse_part
from qc_daemon.report.sr.reviews import PERSON, ReportedReview, parse_observation_time
from qc_daemon.review.events import EventKind

_FINDING_GROUP = "1501"
_BOX_GROUP = "1410"


def parse_findings(report: Dataset | bytes) -> list[Finding]:
    """The findings of a report that `build_sr` made, in their order.

    Raises QCError REPORT_INVALID for any other document.
    """
    return _read(report, _findings)


def parse_machine_reports(report: Dataset | bytes) -> list[MachineReport]:
    """The machines' measurements in a report that `build_sr` made; without the hashes.

    Raises QCError REPORT_INVALID for any other document.
    """
    return _read(report, _machine_reports)


def parse_reviews(report: Dataset | bytes) -> list[ReportedReview]:
    """Persons' verdicts in a report that `build_sr` made, apart from the models' findings.

    Raises QCError REPORT_INVALID for any other document.
    """
    return _read(report, _reviews)


def _reviews(report: Dataset) -> list[ReportedReview]:
    reviews = []
    for group in _one(report, codes.IMAGING_MEASUREMENTS).ContentSequence:
        tracking = str(_one(group, codes.TRACKING_IDENTIFIER).TextValue)
        if tracking.startswith(PERSON):
            reviews.append(_review(int(tracking.removeprefix(PERSON)), group))
    return reviews


def _review(number: int, group: Dataset) -> ReportedReview:
    reasons = _items(group, codes.REVIEW_REASON)
    verdicts = _items(group, codes.QUALITY)
    return ReportedReview(
        number=number,
        tracking_uid=str(_one(group, codes.TRACKING_UID).UID),
        kind=_kind_of_review(_coded_value(_one(group, codes.REVIEW))),
        view=_key_of_code(codes.VIEWS, _coded_value(_one(group, codes.VIEW))),
        verdict=_key_of_code(codes.QUALITIES, _coded_value(verdicts[0])) if verdicts else None,
        criteria=tuple((each.code, each.met) for each in _criteria(group)),
        reason=_key_of_code(codes.REVIEW_REASONS, _coded_value(reasons[0])) if reasons else None,
        reader=str(_one(group, codes.PERSON_OBSERVER_NAME).PersonName),
        at=parse_observation_time(group),
        is_blinded=bool(_key_of_code(codes.MET, _coded_value(_one(group, codes.BLINDED)))),
    )


def _kind_of_review(coded: Dataset) -> EventKind:
    if _has_code(coded, codes.DECIDED):
        return EventKind.OVERRIDE
    kind: EventKind = _key_of_code(codes.REVIEWS, coded)
    return kind


def _read(report: Dataset | bytes, parse: Callable[[Dataset], list[Any]]) -> list[Any]:
    try:
        return parse(report if isinstance(report, Dataset) else dcmread(BytesIO(report)))
    except (InvalidDicomError, AttributeError, LookupError, ValueError, TypeError) as error:
        raise QCError(
            ErrorCode.REPORT_INVALID, "this is no structured report of qc-daemon"
        ) from error


def _findings(report: Dataset) -> list[Finding]:
    series_of_instances = dict(_series_of_instances(report))
    boxes: dict[str, list[Detection]] = {}
    opinions: dict[str, list[Opinion]] = {}
    measured: list[tuple[str, Dataset]] = []
    for group in _one(report, codes.IMAGING_MEASUREMENTS).ContentSequence:
        tracking = str(_one(group, codes.TRACKING_IDENTIFIER).TextValue)
        template = str(group.ContentTemplateSequence[0].TemplateIdentifier)
        if template == _FINDING_GROUP and tracking.startswith(FINDING):
            measured.append((tracking, group))
        elif template == _FINDING_GROUP and tracking.startswith(OPINION):
            key = FINDING + tracking.partition("-")[0].removeprefix(OPINION)
            opinions.setdefault(key, []).append(_opinion(group))
        elif template == _BOX_GROUP:
            boxes.setdefault(tracking.partition("-")[0], []).append(_detection(group))
    if not measured:
        raise ValueError("no finding")
    return [
        _finding(
            group, tuple(boxes.get(key, ())), tuple(opinions.get(key, ())), series_of_instances
        )
        for key, group in measured
    ]


def _machine_reports(report: Dataset) -> list[MachineReport]:
    series_of_instances = dict(_series_of_instances(report))
    values: dict[InstanceReference, list[MachineValue]] = {}
    for group in _one(report, codes.IMAGING_MEASUREMENTS).ContentSequence:
        if not str(_one(group, codes.TRACKING_IDENTIFIER).TextValue).startswith(BIOMETRY):
            continue
        source = _one(group, codes.SOURCE_OF_MEASUREMENT).ReferencedSOPSequence[0]
        uid = str(source.ReferencedSOPInstanceUID)
        reference = InstanceReference(
            *series_of_instances[uid], str(source.ReferencedSOPClassUID), uid
        )
        fetus = _text(group, codes.FETUS_ID) or None
        values.setdefault(reference, []).extend(_machine_values(group, fetus))
    return [MachineReport(reference, tuple(of_report)) for reference, of_report in values.items()]


def _machine_values(group: Dataset, fetus: str | None) -> Iterator[MachineValue]:
    for item in group.ContentSequence:
        if item.ValueType != "NUM":
            continue
        concept: str = _key_of_code(codes.MACHINE_CONCEPTS, item.ConceptNameCodeSequence[0])
        if _items(item, codes.METHOD):
            concept = codes.AGE_BY_CRL
        units = item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
        yield MachineValue(fetus, concept, _measured_value(item), str(units.CodeValue))


def _series_of_instances(report: Dataset) -> Iterator[tuple[str, tuple[str, str]]]:
    """SOP Instance UID to Study and Series Instance UID."""
    for study in report.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            for instance in series.ReferencedSOPSequence:
                parents = (str(study.StudyInstanceUID), str(series.SeriesInstanceUID))
                yield str(instance.ReferencedSOPInstanceUID), parents


def _finding(
    group: Dataset,
    detections: tuple[Detection, ...],
    opinions: tuple[Opinion, ...],
    series_of_instances: dict[str, tuple[str, str]],
) -> Finding:
    reference = _one(group, codes.SOURCE_OF_MEASUREMENT).ReferencedSOPSequence[0]
    sop_instance_uid = str(reference.ReferencedSOPInstanceUID)
    study, series = series_of_instances[sop_instance_uid]
    frame = reference.get("ReferencedFrameNumber") or _number_or_none(group, codes.FRAME) or 1
    return Finding(
        judgement=replace(_judgement(group, detections), opinions=opinions),
        bundle=_bundle(group),
        frame=int(frame),
        revision=int(_number(group, codes.REVISION)),
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop_instance_uid,
        created=_text(group, codes.CREATED),
        runtime=_parameter(group, RUNTIME),
    )


def _judgement(group: Dataset, detections: tuple[Detection, ...]) -> Judgement:
    image, text, spatial = (_number(group, name) for name in codes.GATES)
    x0, y0, x1, y1 = (_number(group, name) for name in codes.REGION_BOX)
    return Judgement(
        region_index=int(_number(group, codes.REGION)),
        region_bbox=(x0, y0, x1, y1),
        view=_key_of_code(codes.VIEWS, _coded_value(_one(group, codes.VIEW))),
        view_probability=_number(group, codes.VIEW_PROBABILITY),
        quality=_key_of_code(codes.QUALITIES, _coded_value(_one(group, codes.QUALITY))),
        probability=_number_or_none(group, codes.PROBABILITY),
        raw_probability=_number_or_none(group, codes.RAW_PROBABILITY),
        gates=(image, text, spatial),
        detections=detections,
        description=_description(group),
        criteria=tuple(_criteria(group)),
        flags=tuple(
            _key_of_code(codes.FLAGS, _coded_value(item)) for item in _items(group, codes.FLAG)
        ),
        # Reports of earlier versions have none.
        reasons=tuple(map(_reason, _items(group, codes.REASON))),
        site=_site(group),
    )


def _opinion(group: Dataset) -> Opinion:
    reasons = _items(group, codes.OPINION_REASON)
    return Opinion(
        role=_key_of_code(codes.OPINIONS, _coded_value(_one(group, codes.OPINION))),
        part=parse_part(
            _text(group, codes.ALGORITHM_NAME),
            _text(group, codes.ALGORITHM_VERSION),
            _text(group, codes.ALGORITHM_PARAMETERS),
        ),
        label=_text(group, codes.OPINION_CLASS),
        probability=_number(group, codes.CLASS_PROBABILITY),
        views=tuple(
            _key_of_code(codes.VIEWS, _coded_value(item))
            for item in _items(group, codes.CLASS_VIEW)
        ),
        reason=_key_of_code(codes.OPINION_REASONS, _coded_value(reasons[0])) if reasons else None,
    )


def _site(group: Dataset) -> SiteFacts | None:
    """None in a report without site calibration, as of earlier versions."""
    kinds = _items(group, codes.SITE_CALIBRATION)
    if not kinds:
        return None
    kind = _key_of_code(codes.SITE_CALIBRATIONS, _coded_value(kinds[0]))
    has_own = kind != NO_CALIBRATION or _items(group, codes.BUNDLE_PROBABILITY)
    probability = codes.BUNDLE_PROBABILITY if has_own else codes.PROBABILITY
    return SiteFacts(
        id=_text(group, codes.SITE),
        kind=kind,
        # A site without calibration has none of these: its probability is the bundle's.
        n=int(_number_or_none(group, codes.SITE_NUMBER) or 0),
        shift=_number_or_none(group, codes.SITE_SHIFT) or 0.0,
        bundle_probability=_number_or_none(group, probability),
        calibration=_text(group, codes.SITE_CALIBRATION_ID) or None,
        promise=_text(group, codes.SITE_PROMISE) or None,
    )


def _criteria(group: Dataset) -> Iterator[Criterion]:
    for item in group.ContentSequence:
        name = item.ConceptNameCodeSequence[0]
        code = str(name.get("CodeValue"))
        if name.CodingSchemeDesignator != codes.SCHEME or code not in codes.CRITERIA:
            continue
        value, unit = None, codes.NO_UNIT.value
        for basis in _items(item, codes.VALUE):
            value = _measured_value(basis)
            measured = basis.MeasuredValueSequence[0]
            unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
        for basis in _items(item, codes.UNIT):
            unit = str(basis.TextValue)
        evidence = tuple(_text(item, codes.READ_FROM).split()) or tuple(
            # As reports of earlier versions have it.
            _key_of_code(codes.LABEL_CODES, _coded_value(basis))
            for basis in _items(item, codes.EVIDENCE)
        )
        yield Criterion(code, _key_of_code(codes.MET, _coded_value(item)), value, unit, evidence)


def _reason(item: Dataset) -> Reason:
    kind, code = _key_of_code(codes.REASON_CODES, _coded_value(item))
    directions = _items(item, codes.DIRECTION)
    return Reason(
        kind,
        code,
        _text(item, codes.REASON_WORDS),
        _key_of_code(codes.DIRECTIONS, _coded_value(directions[0])) if directions else None,
    )


def _detection(group: Dataset) -> Detection:
    region = _one(group, codes.IMAGE_REGION)
    corners = [float(v) for v in region.GraphicData]
    if region.GraphicType != "POLYLINE" or len(corners) != 10 or corners[:2] != corners[-2:]:
        raise ValueError("a box that is no closed polygon of four corners")
    box: Box = (corners[0], corners[1], corners[4], corners[5])
    label: str = _key_of_code(codes.LABEL_CODES, _coded_value(_one(group, codes.FINDING)))
    return Detection(label, box, _number(group, codes.CONFIDENCE))


def _bundle(group: Dataset) -> BundleId:
    return BundleId(
        name=_text(group, codes.ALGORITHM_NAME).removeprefix(ALGORITHM),
        version=_text(group, codes.ALGORITHM_VERSION),
        model_id=_text(group, codes.ALGORITHM_PARAMETERS).removeprefix(MODEL_ID),
        # Reports of earlier versions say nothing: their models were not meant for it.
        clinical_use=any(
            _key_of_code(codes.MET, _coded_value(i)) for i in _items(group, codes.CLINICAL_USE)
        ),
    )


def _description(group: Dataset) -> str:
    return _text(group, codes.COMMENT).removeprefix(MACHINE_MADE).removesuffix(MACHINE_MADE_END)


def _items(parent: Dataset, name: Code) -> list[Dataset]:
    return [
        item
        for item in parent.get("ContentSequence", [])
        if _has_code(item.ConceptNameCodeSequence[0], name)
    ]


def _parameter(group: Dataset, prefix: str) -> str:
    """What follows the prefix in one of the algorithm's parameters; empty where none has it."""
    texts = (str(item.TextValue) for item in _items(group, codes.ALGORITHM_PARAMETERS))
    return next((text.removeprefix(prefix) for text in texts if text.startswith(prefix)), "")


def _one(parent: Dataset, name: Code) -> Dataset:
    return _items(parent, name)[0]


def _has_code(item: Dataset, code: Code) -> bool:
    return bool(
        item.get("CodeValue") == code.value
        and item.CodingSchemeDesignator == code.scheme_designator
    )


def _coded_value(item: Dataset) -> Dataset:
    coded: Dataset = item.ConceptCodeSequence[0]
    return coded


def _key_of_code(table: Any, coded: Dataset) -> Any:
    """The key of the table's entry with this code."""
    for key, code in table.items():
        if _has_code(coded, code):
            return key
    raise ValueError("an unknown code")


def _measured_value(item: Dataset) -> float:
    value = item.MeasuredValueSequence[0]
    return float(value.get("FloatingPointValue", value.NumericValue))


def _number(parent: Dataset, name: Code) -> float:
    return _measured_value(_one(parent, name))


def _number_or_none(parent: Dataset, name: Code) -> float | None:
    items = _items(parent, name)
    return _measured_value(items[0]) if items else None


def _text(parent: Dataset, name: Code) -> str:
    items = _items(parent, name)
    return str(items[0].TextValue) if items else ""

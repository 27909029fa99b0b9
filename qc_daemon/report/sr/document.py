"""The structured report of an exam: Comprehensive 3D SR, TID 1500 (PS3.16).

One TID 1501 group per finding and one TID 1410 group per box; `parse_findings` is the inverse.
"""

import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import datetime

from highdicom import sr as content
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, UltrasoundImageStorage

from detector.errors import ErrorCode, QCError
from model.finding import Finding
from qc_daemon.report.derived_uids import derived_uid, object_uid
from qc_daemon.report.equipment import (
    MANUFACTURER,
    MODEL_NAME,
    contributing_equipment_of,
    contributing_parts_of,
    device_observer,
    local_time,
    serial_number,
    set_creation_time,
    software_version,
)
from qc_daemon.report.normalise import UTF8, inherit, referenced_requests
from qc_daemon.report.source import InstanceReference, SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.biometry import MachineReport, build_biometry_groups
from qc_daemon.report.sr.groups import build_groups
from qc_daemon.report.sr.image_library import build_image_library
from qc_daemon.report.sr.opinions import build_opinion_groups
from qc_daemon.report.sr.reviews import build_review_group
from qc_daemon.review.state import ReviewState

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = "Ultrasound image quality (machine-made)"


def build_sr(
    sources: Sequence[SourceInstance],
    findings: Sequence[Finding],
    *,
    revision: int,
    created: datetime,
    previous: Sequence[InstanceReference] = (),
    measured: Sequence[MachineReport] = (),
    reviews: Sequence[ReviewState | None] = (),
) -> Dataset:
    """The report of these findings, in their order; same arguments, same dataset.

    Patient and study come from the first source; `revision` counts the exam's reports from 1,
    `created` knows its zone, `previous` are the reports this one replaces, `measured` are the
    machines' own reports of the exam, `reviews` what persons say of the findings, in their order
    (empty: of none). Raises QCError REPORT_INVALID for a finding without its
    source, or for values that no valid report can hold.
    """
    if not findings:
        raise QCError(ErrorCode.REPORT_INVALID, "an exam without findings has no report")
    by_instance = {source.sop_instance_uid: source for source in sources}
    check_study(sources)
    first = sources[0]
    groups: list[content.templates.Template] = []
    states = reviews or [None] * len(findings)
    for number, (finding, state) in enumerate(zip(findings, states, strict=True), start=1):
        source = _source_of(finding, by_instance)
        groups += build_groups(number, finding, source)
        groups += build_opinion_groups(number, finding, source)
        if state is not None and state.outcome is not None:
            groups.append(_review_group(number, finding, source, state))
    groups += build_biometry_groups(measured)
    model_id = joined_model_ids(findings)
    try:
        report = _document(
            first,
            # highdicom copies, parses and searches its content, which takes longer than making it:
            # it gets the first finding only, and the report all of them afterwards.
            _content(first, groups[:1], model_id),
            by_instance,
            sop_instance_uid=sr_uid(sources, model_id, revision, measured),
            series_instance_uid=derived_uid("sr-series", first.study_instance_uid, model_id),
            revision=revision,
            model_id=model_id,
        )
        report.ContentSequence = _content(first, groups, model_id)[0].ContentSequence
        _add_library(report, list(by_instance.values()), findings)
        report.ContributingEquipmentSequence += contributing_equipment_of(
            f.bundle for f in findings
        ) + contributing_parts_of(o.part for f in findings for o in f.judgement.opinions)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # highdicom refuses what would be invalid; its words may quote patient data.
        raise QCError(
            ErrorCode.REPORT_INVALID, f"the report was refused ({type(error).__name__})"
        ) from error
    inherit(report, first.header)
    _add_request(report, first.header)
    evidence = [source.reference for source in by_instance.values()]
    evidence += [machine.reference for machine in measured]
    report.CurrentRequestedProcedureEvidenceSequence = _hierarchy(dict.fromkeys(evidence))
    if previous:
        report.PredecessorDocumentsSequence = _hierarchy(previous)
    set_creation_time(report, local_time(created, first.header))
    return report


def _review_group(
    number: int, finding: Finding, source: SourceInstance, state: ReviewState
) -> content.templates.Template:
    with warnings.catch_warnings():
        # highdicom warns of names without a caret, and quotes them.
        warnings.simplefilter("ignore")
        return build_review_group(number, finding, source, state)


def _content(
    first: SourceInstance, measured: Sequence[content.templates.Template], model_id: str
) -> content.MeasurementReport:
    """TID 1500 with these groups."""
    return content.MeasurementReport(
        observation_context=content.ObservationContext(
            observer_device_context=device_observer(model_id)
        ),
        procedure_reported=_procedures(first.header),
        imaging_measurements=measured,
        title=dicom.DCM.ImagingMeasurementReport,
    )


def joined_model_ids(findings: Sequence[Finding]) -> str:
    """The model ids of the findings' bundles, joined by `+`; an exam has one as a rule."""
    return "+".join(sorted({finding.bundle.model_id for finding in findings}))


def _add_library(
    report: Dataset, sources: Sequence[SourceInstance], findings: Sequence[Finding]
) -> None:
    """The image library stands before the measurements (TID 1500 row 5)."""
    items = report.ContentSequence
    items.insert(len(items) - 1, build_image_library(sources, findings))


def sr_uid(
    sources: Sequence[SourceInstance],
    model_id: str,
    revision: int,
    measured: Sequence[MachineReport] = (),
) -> str:
    """SOP Instance UID of the report."""
    return object_uid(
        "sr",
        Comprehensive3DSRStorage,
        sources[0].study_instance_uid,
        [source.sha256 for source in sources] + [machine.sha256 for machine in measured],
        model_id,
        revision,
    )


def check_study(sources: Sequence[SourceInstance]) -> None:
    """Raises QCError REPORT_INVALID unless the sources are of one study."""
    if len({source.study_instance_uid for source in sources}) != 1:
        raise QCError(ErrorCode.REPORT_INVALID, "a report needs sources of one study")


def _source_of(finding: Finding, by_instance: dict[str, SourceInstance]) -> SourceInstance:
    try:
        return by_instance[finding.sop_instance_uid or ""]
    except KeyError:
        raise QCError(
            ErrorCode.REPORT_INVALID, "a finding's source instance is not among the sources"
        ) from None


def _procedures(header: Dataset) -> list[Code]:
    """The source's procedure codes, else the named default."""
    items = header.get("ProcedureCodeSequence") or []
    received = [
        Code(str(i.CodeValue), str(i.CodingSchemeDesignator), str(i.CodeMeaning)) for i in items
    ]
    return received or [codes.DEFAULT_PROCEDURE]


def _document(
    first: SourceInstance,
    report: content.MeasurementReport,
    by_instance: dict[str, SourceInstance],
    *,
    sop_instance_uid: str,
    series_instance_uid: str,
    revision: int,
    model_id: str,
) -> Dataset:
    with warnings.catch_warnings():
        # They quote the patient's name.
        warnings.simplefilter("ignore")
        document: Dataset = content.Comprehensive3DSR(
            evidence=[_evidence(source) for source in by_instance.values()],
            content=report[0],
            series_instance_uid=series_instance_uid,
            series_number=SERIES_NUMBER,
            series_description=SERIES_DESCRIPTION,
            sop_instance_uid=sop_instance_uid,
            instance_number=revision,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            device_serial_number=serial_number(model_id),
            software_versions=software_version(),
            institution_name=first.header.get("InstitutionName"),
            is_complete=True,
            is_final=False,
            is_verified=False,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set=UTF8,
            coding_schemes=[codes.coding_scheme()],
        )
    return document


def _evidence(source: SourceInstance) -> Dataset:
    """The source's header under a class that highdicom knows; true references are written later.

    highdicom copies patient and study by the modules of the source's class, and knows no retired
    classes.
    """
    evidence = deepcopy(source.header)
    evidence.SOPClassUID = UltrasoundImageStorage
    return evidence


def _add_request(report: Dataset, header: Dataset) -> None:
    """SR Document General Module (PS3.3 C.17.2): the request and the performed procedure."""
    report.ReferencedPerformedProcedureStepSequence = header.get(
        "ReferencedPerformedProcedureStepSequence", []
    )
    report.PerformedProcedureCodeSequence = header.get("ProcedureCodeSequence", [])
    requests = referenced_requests(header)
    if requests:
        report.ReferencedRequestSequence = requests


def _hierarchy(references: Iterable[InstanceReference]) -> list[Dataset]:
    """Hierarchical SOP Instance Reference Macro (PS3.3 table C.17-3), in order of appearance."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class_uid
        item.ReferencedSOPInstanceUID = reference.sop_instance_uid
        series = studies.setdefault(reference.study_instance_uid, {})
        series.setdefault(reference.series_instance_uid, []).append(item)
    items = []
    for study_instance_uid, series in studies.items():
        study = Dataset()
        study.StudyInstanceUID = study_instance_uid
        study.ReferencedSeriesSequence = []
        for series_instance_uid, instances in series.items():
            one = Dataset()
            one.SeriesInstanceUID = series_instance_uid
            one.ReferencedSOPSequence = instances
            study.ReferencedSeriesSequence.append(one)
        items.append(study)
    return items

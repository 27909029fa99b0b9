"""Key Object Selection documents (PS3.3 A.35.4; PS3.16 TID 2010).

Two kinds: the exam's images that need attention, machine-made beside the report, and the note that
a person has rejected an image, which is never made without that person.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodeContentItem, ObserverContext, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from detector.errors import ErrorCode, QCError
from model.finding import NON_STANDARD, REVIEW, STRUCTURE_REASON, Finding
from qc_daemon.report.derived_uids import derived_uid, object_uid
from qc_daemon.report.equipment import (
    MANUFACTURER,
    MODEL_NAME,
    device_observer,
    local_time,
    set_creation_time,
    software_version,
)
from qc_daemon.report.normalise import UTF8, inherit, referenced_requests
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.document import check_study, joined_model_ids
from qc_daemon.report.summary import words

SERIES_NUMBER = 9903
SERIES_DESCRIPTION = "Ultrasound images needing attention (machine-made)"
REJECTION_SERIES_NUMBER = 9904
REJECTION_SERIES_DESCRIPTION = "Ultrasound images rejected (confirmed by a person)"
REJECTION = "Rejected for quality reasons; a person has confirmed it"
RETRACTION = "Rejection retracted by a person, {why}: the image stands; see the rejection note"


def needs_attention(finding: Finding) -> bool:
    """Whether a person should look at the image: it is not standard, or could not be judged."""
    return finding.judgement.quality in (NON_STANDARD, REVIEW)


def build_key_objects(
    sources: Sequence[SourceInstance],
    findings: Sequence[Finding],
    *,
    revision: int,
    created: datetime,
    by_person: Sequence[Finding] = (),
) -> list[Dataset]:
    """The selections of these findings' images that need attention, one for each reason.

    Title 113010 Quality Issue. TID 2010 gives a selection one reason, so an image stands in the
    selection of each of its reasons: in the findings' order, once, a cine with the frames
    concerned. `sources`, `revision` and `created` are as of `build_sr`; same arguments, same
    datasets. The standard lets no selection name its predecessor: a later one says in its text that
    it replaces an earlier one. `by_person` are those of the findings that a person decided: the
    text counts their images. Raises QCError REPORT_INVALID.
    """
    decided = {finding.sop_instance_uid for finding in by_person}
    by_reason: dict[Code, list[Finding]] = {}
    for finding in filter(needs_attention, findings):
        for reason in _reasons(finding):
            by_reason.setdefault(reason, []).append(finding)
    if by_reason:
        check_study(sources)
    images = len({finding.sop_instance_uid for finding in findings})
    return [
        _selection(
            sources,
            of_reason,
            reason,
            images,
            joined_model_ids(findings),
            revision,
            created,
            len(decided.intersection(each.sop_instance_uid for each in of_reason)),
        )
        for reason, of_reason in by_reason.items()
    ]


def build_rejection(
    source: SourceInstance, reason: Code, *, number: int, created: datetime, again: int = 0
) -> Dataset:
    """The note that a person rejected this image: title 113001 Rejected for Quality Reasons.

    `number` counts the exam's notes from 1, `again` how often the image was rejected before. All
    frames of a cine are rejected with it. Raises QCError REPORT_INVALID.
    """
    return _document(
        [source],
        {},
        title=codes.REJECTED,
        reason=reason,
        description=REJECTION,
        # The observer was a person, whose name the database keeps; the machine observed nothing.
        observed_by=None,
        series=(
            derived_uid("rejection-series", source.study_instance_uid),
            REJECTION_SERIES_NUMBER,
            REJECTION_SERIES_DESCRIPTION,
        ),
        sop_instance_uid=derived_uid(
            "rejection",
            KeyObjectSelectionDocumentStorage,
            source.study_instance_uid,
            source.sop_instance_uid,
            source.sha256,
            reason.value,
            *([str(again)] if again else []),
        ),
        number=number,
        created=created,
    )


def build_retraction(
    source: SourceInstance, note: Dataset, why: str, *, number: int, created: datetime
) -> Dataset:
    """The note that a person took the rejection of this image back: title REJ-RETRACTED, 99QCD.

    It selects the image and the rejection note, which stays. The standard and IHE IOCM know no
    retraction: whoever does not know the title takes it for a mere selection. `why` is said in
    words; `number` as of `build_rejection`. Raises QCError REPORT_INVALID.
    """
    return _document(
        [source],
        {},
        title=codes.REJECTION_RETRACTED,
        reason=None,
        description=RETRACTION.format(why=why),
        observed_by=None,
        series=(
            derived_uid("rejection-series", source.study_instance_uid),
            REJECTION_SERIES_NUMBER,
            REJECTION_SERIES_DESCRIPTION,
        ),
        sop_instance_uid=derived_uid(
            "retraction", KeyObjectSelectionDocumentStorage, str(note.SOPInstanceUID)
        ),
        number=number,
        created=created,
        notes=[note],
    )


def _instance_uid(finding: Finding, by_instance: Mapping[str, SourceInstance]) -> str:
    """SOP Instance UID of the finding's source. Raises QCError REPORT_INVALID for another one."""
    uid = finding.sop_instance_uid or ""
    if uid not in by_instance:
        raise QCError(
            ErrorCode.REPORT_INVALID, "a finding's source instance is not among the sources"
        )
    return uid


def _reasons(finding: Finding) -> Iterable[Code]:
    """Why it needs attention: what is unmet, else what is missing, else the verdict itself."""
    judgement = finding.judgement
    broken = [rule.code for rule in words.unmet(judgement)] or [
        reason.code for reason in judgement.reasons if reason.kind == STRUCTURE_REASON
    ]
    if judgement.quality == REVIEW:
        broken = []
    return dict.fromkeys(map(codes.attention_reason, broken)) or [
        codes.QUALITIES[judgement.quality]
    ]


def _selection(
    sources: Sequence[SourceInstance],
    findings: Sequence[Finding],
    reason: Code,
    images: int,
    model_id: str,
    revision: int,
    created: datetime,
    decided: int,
) -> Dataset:
    """The document with the images of these findings, out of so many; of `decided` images a person
    said so."""
    by_instance = {source.sop_instance_uid: source for source in sources}
    frames: dict[str, list[int]] = {}
    for finding in findings:
        numbers = frames.setdefault(_instance_uid(finding, by_instance), [])
        # Several regions of one frame are one key object.
        if finding.frame not in numbers:
            numbers.append(finding.frame)
    image_sources = [by_instance[uid] for uid in frames]
    study_instance_uid = image_sources[0].study_instance_uid
    return _document(
        image_sources,
        frames,
        title=codes.QUALITY_ISSUE,
        reason=reason,
        description=_description(reason, len(image_sources), images, revision, decided),
        observed_by=device_observer(model_id),
        series=(
            derived_uid("key-objects-series", study_instance_uid, model_id),
            SERIES_NUMBER,
            SERIES_DESCRIPTION,
        ),
        sop_instance_uid=object_uid(
            f"key-objects {reason.scheme_designator} {reason.value}",
            KeyObjectSelectionDocumentStorage,
            study_instance_uid,
            (source.sha256 for source in image_sources),
            model_id,
            revision,
        ),
        number=revision,
        created=created,
    )


def _description(reason: Code, count: int, images: int, revision: int, decided: int) -> str:
    """In words; nothing of the patient, nor the person's name."""
    text = f"Machine-made; in need of attention: {count} of {images} images, {reason.meaning}"
    if decided:
        text += f" (reviewed by a person: {decided} of {count})"
    return text if revision == 1 else f"{text}. Version {revision}, in place of earlier ones"


def _document(
    sources: Sequence[SourceInstance],
    frames: Mapping[str, Sequence[int]],
    *,
    title: Code,
    reason: Code | None,
    description: str,
    observed_by: ObserverContext | None,
    series: tuple[str, int, str],
    sop_instance_uid: str,
    number: int,
    created: datetime,
    notes: Sequence[Dataset] = (),
) -> Dataset:
    """The document; `frames` by SOP Instance UID, for those not selected as a whole; `notes` are
    key objects that are selected too."""
    first = sources[0]
    series_instance_uid, series_number, series_description = series
    try:
        content = KeyObjectSelection(
            document_title=title,
            referenced_objects=[*(_image(source) for source in sources), *notes],
            observer_device_context=observed_by,
            description=description,
        )
        if reason is not None:
            _modify_title(content, reason)
        document: Dataset = KeyObjectSelectionDocument(
            evidence=[*(source.header for source in sources), *notes],
            content=content,
            series_instance_uid=series_instance_uid,
            series_number=series_number,
            series_description=series_description,
            sop_instance_uid=sop_instance_uid,
            instance_number=number,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions=software_version(),
            institution_name=first.header.get("InstitutionName"),
            requested_procedures=referenced_requests(first.header) or None,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set=UTF8,
            coding_schemes=[codes.coding_scheme()],
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # highdicom refuses what would be invalid; its words may quote patient data.
        raise QCError(
            ErrorCode.REPORT_INVALID, f"the key objects were refused ({type(error).__name__})"
        ) from error
    _narrow(document, sources, frames)
    document.ReferencedPerformedProcedureStepSequence = first.header.get(
        "ReferencedPerformedProcedureStepSequence", []
    )
    inherit(document, first.header)
    set_creation_time(document, local_time(created, first.header))
    return document


def _image(source: SourceInstance) -> Dataset:
    """A header that highdicom takes for an image: it goes by Rows and Columns, not by the class."""
    image = deepcopy(source.header)
    image.Rows = image.Columns = 1
    return image


def _modify_title(content: KeyObjectSelection, reason: Code) -> None:
    """Document Title Modifier (TID 2010 row 3, CID 7011), before all that follows."""
    content[0].ContentSequence.insert(
        0,
        CodeContentItem(
            name=codes.TITLE_MODIFIER,
            value=reason,
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        ),
    )


def _narrow(
    document: Dataset, sources: Sequence[SourceInstance], frames: Mapping[str, Sequence[int]]
) -> None:
    """Name the frames of cines, as highdicom does not, and no purpose, as TID 2010 does not."""
    multi_frame = {source.sop_instance_uid for source in sources if source.is_multi_frame}
    for item in document.ContentSequence:
        if item.ValueType not in ("IMAGE", "COMPOSITE"):
            continue
        del item.ConceptNameCodeSequence
        (reference,) = item.ReferencedSOPSequence
        uid = reference.ReferencedSOPInstanceUID
        if uid in multi_frame and uid in frames:
            reference.ReferencedFrameNumber = sorted(frames[uid])

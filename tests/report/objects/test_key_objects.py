"""Key objects: what needs attention, why, in which frames; valid, and read by others."""

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from highdicom.ko import KeyObjectSelectionDocument
from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.finding import Criterion, Finding, Reason
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.key_objects import (
    build_key_objects,
    build_rejection,
    build_retraction,
)
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes

Make = Callable[..., Any]
CREATED = datetime(2026, 1, 2, 9, 30, 0, 250000, tzinfo=UTC)
CINE = "1.2.840.10008.5.1.4.1.1.3.1"
RETIRED = "1.2.840.10008.5.1.4.1.1.6"
POSITIONING = codes.REASONS["111209"]


def selections(
    sources: list[SourceInstance], findings: list[Finding], **changes: Any
) -> list[Dataset]:
    documents = build_key_objects(
        sources, findings, **{"revision": 1, "created": CREATED, **changes}
    )
    return [dcmread(BytesIO(to_bytes(document))) for document in documents]


def select(sources: list[SourceInstance], findings: list[Finding], **changes: Any) -> Dataset:
    (documents,) = selections(sources, findings, **changes)
    return documents


def reject(source: SourceInstance, **changes: Any) -> Dataset:
    values = {"reason": POSITIONING, "number": 1, "created": CREATED, **changes}
    return dcmread(BytesIO(to_bytes(build_rejection(source, values.pop("reason"), **values))))


def retract(source: SourceInstance, note: Dataset) -> Dataset:
    documents = build_retraction(source, note, "another image was meant", number=2, created=CREATED)
    return dcmread(BytesIO(to_bytes(documents)))


def title(document: Dataset) -> tuple[str, str]:
    code = document.ConceptNameCodeSequence[0]
    return (code.CodeValue, code.CodingSchemeDesignator)


def modifiers(document: Dataset) -> list[tuple[str, str]]:
    codes_used = []
    for item in document.ContentSequence:
        if item.RelationshipType == "HAS CONCEPT MOD":
            assert item.ConceptNameCodeSequence[0].CodeValue == "113011"
            code = item.ConceptCodeSequence[0]
            codes_used.append((code.CodeValue, code.CodingSchemeDesignator))
    return codes_used


def references(document: Dataset) -> list[tuple[str, Any]]:
    """SOP Instance UID and frames of each key object."""
    codes_used = []
    for item in document.ContentSequence:
        if item.ValueType in ("IMAGE", "COMPOSITE", "WAVEFORM"):
            assert item.RelationshipType == "CONTAINS"
            (reference,) = item.ReferencedSOPSequence
            frames = reference.get("ReferencedFrameNumber")
            # TID 2010 names no purpose of reference.
            assert "ConceptNameCodeSequence" not in item
            codes_used.append((str(reference.ReferencedSOPInstanceUID), frames))
    return codes_used


def evidence(document: Dataset) -> list[tuple[str, str, str, str]]:
    return [
        (
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            str(instance.ReferencedSOPClassUID),
            str(instance.ReferencedSOPInstanceUID),
        )
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]


def description(document: Dataset) -> str:
    (text,) = [
        item.TextValue
        for item in document.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == "113012"
    ]
    return str(text)


def test_a_structure_is_a_reason_where_no_criterion_is(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    for reason, code in (
        (Reason("structure", "PAL", "palate not visible: find it"), "111209"),
        (Reason("region", "whole", "the picture as a whole is unlike: compare it"), "NON"),
    ):
        finding = a_finding(source, quality="non-standard", criteria=(), reasons=(reason,))
        assert modifiers(select([source], [finding]))[0][0] == code


def test_images_that_need_attention_are_the_key_objects(a_source: Make, a_finding: Make) -> None:
    bad, good, unsure = (
        a_source(sha * 32, SOPInstanceUID=uid, SeriesInstanceUID=series)
        for sha, uid, series in (
            ("aa", "1.2.1", "1.2.10"),
            ("bb", "1.2.2", "1.2.10"),
            ("cc", "1.2.3", "1.2.20"),
        )
    )
    documents = select(
        [bad, good, unsure],
        [a_finding(bad), a_finding(good, quality="standard"), a_finding(unsure)],
    )
    assert documents.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.59"
    assert (documents.Modality, documents.InstanceNumber) == ("KO", 1)
    assert title(documents) == ("113010", "DCM")
    assert documents.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    assert references(documents) == [("1.2.1", None), ("1.2.3", None)]
    study = bad.study_instance_uid
    assert evidence(documents) == [
        (study, "1.2.10", bad.sop_class_uid, "1.2.1"),
        (study, "1.2.20", bad.sop_class_uid, "1.2.3"),
    ]
    assert description(documents) == (
        "Machine-made; in need of attention: 2 of 3 images, Gain not adequate"
    )


def test_nothing_to_attend_to_makes_no_document(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    fine = a_finding(source, quality="standard")
    assert selections([source], [fine]) == []


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"criteria": (Criterion("CRIT-GAIN", False),)}, [("NOT-GAIN", "99QCD")]),
        ({"criteria": (Criterion("CRIT-FOCUS", False),)}, [("NOT-SHARP", "99QCD")]),
        ({"criteria": (Criterion("CRIT-SHADOW", False),)}, [("111207", "DCM")]),
        (
            {"criteria": (Criterion("CRIT-PLANE", False), Criterion("CRIT-NASAL", False))},
            [("111209", "DCM")],
        ),
        (
            {"criteria": (Criterion("CRIT-NECK", False), Criterion("CRIT-GAIN", False))},
            [("111209", "DCM"), ("NOT-GAIN", "99QCD")],
        ),
        ({"criteria": (Criterion("CRIT-GAIN", None),)}, [("NON", "99QCD")]),
        (
            {"criteria": (Criterion("CRIT-GAIN", False),), "quality": "review"},
            [("REV", "99QCD")],
        ),
    ],
)
def test_reasons_are_coded(
    a_source: Make, a_finding: Make, changes: dict[str, Any], reasons: list[tuple[str, str]]
) -> None:
    source = a_source()
    documents = selections([source], [a_finding(source, **changes)])
    # TID 2010 lets a document have one reason.
    assert [modifiers(document) for document in documents] == [[reason] for reason in reasons]
    assert len({document.SOPInstanceUID for document in documents}) == len(reasons)
    assert len({document.SeriesInstanceUID for document in documents}) == 1
    for document in documents:
        assert references(document) == [(source.sop_instance_uid, None)]
        # And what modifies the title stands before context and objects.
        kinds = [item.RelationshipType for item in document.ContentSequence]
        order = ["HAS CONCEPT MOD", "HAS OBS CONTEXT", "CONTAINS"]
        assert kinds == sorted(kinds, key=order.index)


def test_an_image_stands_with_each_of_its_reasons(a_source: Make, a_finding: Make) -> None:
    dark, dark_and_unsharp, unsure = (
        a_source(sha * 32, SOPInstanceUID=uid)
        for sha, uid in (("aa", "1.2.1"), ("bb", "1.2.2"), ("cc", "1.2.3"))
    )
    gain, plane = Criterion("CRIT-GAIN", False), Criterion("CRIT-PLANE", False)
    documents = selections(
        [dark, dark_and_unsharp, unsure],
        [
            a_finding(dark, criteria=(gain,)),
            a_finding(dark_and_unsharp, criteria=(plane, gain)),
            a_finding(unsure, view=View.OTHER, quality="review", probability=None, criteria=()),
        ],
    )
    reasons = {modifiers(each)[0][0]: [uid for uid, _ in references(each)] for each in documents}
    assert reasons == {"NOT-GAIN": ["1.2.1", "1.2.2"], "111209": ["1.2.2"], "REV": ["1.2.3"]}


def test_standard_images_lend_no_reasons(a_source: Make, a_finding: Make) -> None:
    bad, good = a_source(), a_source("bb" * 32, SOPInstanceUID="1.2.9")
    shadow = (Criterion("CRIT-SHADOW", False),)
    documents = select(
        [bad, good],
        [a_finding(bad), a_finding(good, quality="standard", criteria=shadow)],
    )
    assert modifiers(documents) == [("NOT-GAIN", "99QCD")]


@pytest.mark.parametrize(
    ("sop_class", "frames", "referenced"),
    [
        (CINE, [4, 2, 2], [2, 4]),
        (CINE, [3], 3),
        ("1.2.840.10008.5.1.4.1.1.6.1", [1, 2], None),
        (RETIRED, [1], None),
    ],
)
def test_frames_are_named_by_class(
    a_source: Make, a_finding: Make, sop_class: str, frames: list[int], referenced: Any
) -> None:
    source = a_source(SOPClassUID=sop_class, NumberOfFrames=5)
    findings = [
        a_finding(source, frame=frame, region_index=number) for number, frame in enumerate(frames)
    ]
    findings.append(a_finding(source, frame=5, quality="standard"))
    documents = select([source], findings)
    assert references(documents) == [(source.sop_instance_uid, referenced)]
    assert evidence(documents)[0][2] == sop_class
    assert description(documents).startswith("Machine-made; in need of attention: 1 of 1 images")


def test_patient_study_and_order_are_the_sources(a_source: Make, a_finding: Make) -> None:
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    step = Dataset()
    step.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    step.ReferencedSOPInstanceUID = "1.2.3.4.5"
    source = a_source(
        PatientName="山田^太郎",
        SpecificCharacterSet="ISO_IR 192",
        TimezoneOffsetFromUTC="+0200",
        RequestAttributesSequence=[request],
        ReferencedPerformedProcedureStepSequence=[step],
    )
    for documents in (select([source], [a_finding(source)]), reject(source)):
        assert (documents.PatientName, documents.PatientID) == ("山田^太郎", "4711")
        assert (documents.StudyID, documents.AccessionNumber) == ("S1", "A1")
        assert documents.StudyInstanceUID == source.study_instance_uid
        assert documents.ReferencedRequestSequence[0].RequestedProcedureID == "RP1"
        reference = documents.ReferencedPerformedProcedureStepSequence[0]
        assert reference.ReferencedSOPInstanceUID == "1.2.3.4.5"
        assert (documents.ContentDate, documents.ContentTime) == ("20260102", "113000.250000")
        reasons = description(documents)
        for patient_data in ("山田", "4711", "A1", "19900102", "Doe"):
            assert patient_data not in reasons


def test_same_content_same_bytes(a_source: Make, a_finding: Make) -> None:
    def build(**changes: Any) -> Dataset:
        source = a_source()
        return select([source], [a_finding(source)], **changes)

    assert to_bytes(build()) == to_bytes(build())
    second = build(revision=2)
    assert second.SOPInstanceUID != build().SOPInstanceUID
    assert second.SeriesInstanceUID == build().SeriesInstanceUID
    assert "in place of earlier ones" in description(second)


def test_a_rejection_names_image_and_reason(a_source: Make) -> None:
    source = a_source(SOPClassUID=CINE, NumberOfFrames=3)
    note = reject(source)
    assert title(note) == ("113001", "DCM")
    assert modifiers(note) == [("111209", "DCM")]
    assert references(note) == [(source.sop_instance_uid, None)]
    assert [each[3] for each in evidence(note)] == [source.sop_instance_uid]
    # No machine stands as the observer of what a person decided.
    assert all(item.RelationshipType != "HAS OBS CONTEXT" for item in note.ContentSequence)
    assert to_bytes(reject(source)) == to_bytes(note)
    second = reject(source, reason=codes.REASON_GAIN)
    assert second.SOPInstanceUID != note.SOPInstanceUID
    assert second.SeriesInstanceUID == note.SeriesInstanceUID


def test_a_retraction_names_image_and_rejection_note(a_source: Make) -> None:
    source = a_source()
    note = reject(source)
    documents = retract(source, note)
    assert title(documents) == ("REJ-RETRACTED", "99QCD")
    assert modifiers(documents) == []
    assert [uid for uid, _ in references(documents)] == [
        source.sop_instance_uid,
        note.SOPInstanceUID,
    ]
    assert "another image was meant" in description(documents)
    assert documents.SeriesInstanceUID == note.SeriesInstanceUID
    assert documents.SOPInstanceUID != note.SOPInstanceUID
    assert to_bytes(documents) == to_bytes(retract(source, note))


def test_values_that_no_valid_object_can_hold_are_refused(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    stranger = a_finding(source, sop_instance_uid="1.2.3.4.5.6")
    second = a_source(StudyInstanceUID="1.9", SOPInstanceUID="1.9.1")
    for sources, finding in (([source], stranger), ([source, second], a_finding(source))):
        with pytest.raises(QCError) as caught:
            build_key_objects(sources, [finding], revision=1, created=CREATED)
        assert caught.value.code is ErrorCode.REPORT_INVALID


def test_highdicom_reads_it(a_source: Make, a_finding: Make) -> None:
    source = a_source()
    parsed = KeyObjectSelectionDocument.from_dataset(select([source], [a_finding(source)]))
    (image,) = parsed.content.get_references()
    assert image.referenced_sop_instance_uid == source.sop_instance_uid
    assert parsed.resolve_reference(source.sop_instance_uid)[1] == source.series_instance_uid
    (observer,) = parsed.content.get_observer_contexts()
    assert observer.observer_type.value == "121007"


def test_valid_and_readable_by_others(
    tmp_path: Path,
    a_source: Make,
    a_finding: Make,
    dciodvfy: Callable[[Path], list[str]],
    dsrdump: Callable[[Path], str],
) -> None:
    still = a_source()
    cine = a_source("bb" * 32, SOPClassUID=CINE, SOPInstanceUID="1.2.3.9", NumberOfFrames=4)
    retired = a_source("cc" * 32, SOPClassUID=RETIRED, SOPInstanceUID="1.2.3.10")
    findings = [a_finding(still), a_finding(cine, frame=2), a_finding(retired, quality="review")]
    documents = {
        **{
            modifiers(each)[0][0]: each
            for each in selections([still, cine, retired], findings, revision=2)
        },
        "unordered": select([a_source(AccessionNumber="", PatientName="")], [a_finding(still)]),
        "rejection": reject(cine),
        "retraction": retract(cine, reject(cine)),
    }
    for name, document in documents.items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(to_bytes(document))
        assert dciodvfy(path) == [], name
        assert "Key Object Selection Document" in dsrdump(path)


def test_every_real_header_makes_valid_key_objects(
    tmp_path: Path,
    shared_data: Path,
    a_finding: Make,
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    paths = sorted((shared_data / "us_dicom").glob("*.dcm"))
    assert len(paths) >= 26
    unexpected = {}
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        source = SourceInstance.of(header, "cc" * 32)
        frame = int(header.get("NumberOfFrames") or 1)
        documents = tmp_path / path.name
        documents.write_bytes(to_bytes(select([source], [a_finding(source, frame=frame)])))
        # Three files carry UIDs under 999, which no authority gave out; references repeat them.
        illegal = str(header.SOPInstanceUID).startswith("999.999.")
        errors = [
            line for line in dciodvfy(documents) if not (illegal and "Illegal root for UID" in line)
        ]
        if errors:
            unexpected[path.name] = errors
    assert unexpected == {}

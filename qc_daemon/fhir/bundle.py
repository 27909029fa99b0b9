"""The SR of an exam (TID 1500) as a FHIR R4 transaction: a DiagnosticReport and an Observation for
each image that was judged.

Codes are the SR's own, by the systems that FHIR names for them. Patient, order and study are meant
by their identifiers (logical references): who they are in a FHIR server is that server's to know.
Each resource is put by an identifier that stays the same over the revisions of a report, so that a
report sent twice, or amended, is one report.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code

from detector.errors import ErrorCode, QCError

SYSTEMS = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "99QCD": "urn:oid:2.25.142857958582252099662572707024426216067",
}
"""Code systems by their Coding Scheme Designators (HL7's registry of terminologies)."""
UID_SYSTEM = "urn:dicom:uid"
MEDIA_TYPE = "application/fhir+json"

Json = dict[str, Any]

_QUALITY = Code("111050", "DCM", "Quality Assessment")
_GROUP, _TRACKING, _ALGORITHM, _VERSION = "125007", "112040", "111001", "111003"
_VERDICT = "QLTY"
# Of TID 4019; it is `device`, and no part of the result.
_OF_THE_DEVICE = frozenset({"111001", "111002", "111003", "122405", "112039", "112040"})
_IMAGE_TEMPLATE = "1501"
# One name of things that FHIR has no UID of.
_NAMESPACE = uuid.UUID("b14be1c8-6f0d-5c0e-9b0b-0b6a7d4c8a55")


def to_bundle(sr: bytes) -> Json:
    """The transaction for an SR (a PS3.10 file of ours). Raises QCError REPORT_INVALID."""
    try:
        dataset = dcmread(BytesIO(sr))
        return _bundle(dataset)
    except (InvalidDicomError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise QCError(
            ErrorCode.REPORT_INVALID, f"the report cannot be read as FHIR ({type(error).__name__})"
        ) from error


def encode(bundle: Json) -> bytes:
    """It as bytes, the same for the same bundle."""
    return json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()


def _bundle(dataset: Dataset) -> Json:
    groups = [each for each in _groups(dataset) if _template(each) == _IMAGE_TEMPLATE]
    observations = [_observation(dataset, each) for each in groups]
    report = _report(dataset, [_full_url(each) for each in observations])
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [_entry(each) for each in (*observations, report)],
    }


def _entry(resource: Json) -> Json:
    identifier = resource["identifier"][0]
    kind = resource["resourceType"]
    return {
        "fullUrl": _full_url(resource),
        "resource": resource,
        "request": {
            "method": "PUT",
            "url": f"{kind}?identifier={identifier['system']}|{identifier['value']}",
        },
    }


def _full_url(resource: Json) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, resource['identifier'][0]['value'])}"


def _report(dataset: Dataset, results: Sequence[str]) -> Json:
    subject = _subject(dataset)
    study = str(dataset.StudyInstanceUID)
    name = f"{study} {subject['identifier']['value'] if subject else ''}"
    report: Json = {
        "resourceType": "DiagnosticReport",
        "identifier": [
            _uid(f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"),
            _uid(str(dataset.SOPInstanceUID)),
        ],
        # The SR is unverified: no person answers for it.
        "status": "preliminary",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v2-0074",
                        "code": "OUS",
                        "display": "OB Ultrasound",
                    }
                ]
            }
        ],
        "code": _concept(_code_of(dataset.ConceptNameCodeSequence[0])),
        "issued": _instant(dataset),
        "imagingStudy": [{"type": "ImagingStudy", "identifier": _uid(study)}],
        "result": [{"reference": each} for each in results],
    }
    return report | _common(dataset)


def _observation(dataset: Dataset, group: Dataset) -> Json:
    items = list(group.get("ContentSequence", []))
    named = [(_code_of(item.ConceptNameCodeSequence[0]), item) for item in items]
    by_value = {code.value: item for code, item in named}
    verdicts = [
        _code_of(by_value[value].ConceptCodeSequence[0])
        for value in (_VERDICT, _QUALITY.value)
        if value in by_value
    ]
    observation: Json = {
        "resourceType": "Observation",
        "identifier": [_uid(str(by_value[_TRACKING].UID))],
        "status": "preliminary",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "imaging",
                        "display": "Imaging",
                    }
                ]
            }
        ],
        "code": _concept(_QUALITY),
        "issued": _instant(dataset),
        "focus": [
            {"display": "image", "identifier": _uid(each)} for each in dict.fromkeys(_images(group))
        ],
        "device": {"display": _device(by_value)},
        "component": [
            component
            for code, item in named
            if code.value not in _OF_THE_DEVICE and code.value not in (_VERDICT, _QUALITY.value)
            for component in _component(code, item)
        ],
    }
    if verdicts:
        observation["valueCodeableConcept"] = {
            "coding": [_coding(each) for each in verdicts],
            "text": verdicts[0].meaning,
        }
    else:
        observation["dataAbsentReason"] = _absent("unknown", "Unknown")
    return {name: value for name, value in observation.items() if value} | _common(dataset)


def _component(code: Code, item: Dataset) -> Iterator[Json]:
    """What an item of the group says beside the verdict; pictures and boxes are the SR's."""
    component: Json = {"code": _concept(code)}
    match str(item.ValueType):
        case "CODE":
            component["valueCodeableConcept"] = _concept(_code_of(item.ConceptCodeSequence[0]))
        case "NUM" if item.get("MeasuredValueSequence"):
            measured = item.MeasuredValueSequence[0]
            unit = _code_of(measured.MeasurementUnitsCodeSequence[0])
            number = measured.get("FloatingPointValue")
            component["valueQuantity"] = {
                "value": float(measured.NumericValue if number is None else number),
                "unit": unit.meaning,
                "system": SYSTEMS["UCUM"],
                "code": unit.value,
            }
        case "NUM":
            component["dataAbsentReason"] = _absent("not-applicable", "Not Applicable")
        case "TEXT" if str(item.TextValue).strip():
            component["valueString"] = str(item.TextValue).strip()
        case _:
            return
    yield component


def _common(dataset: Dataset) -> Json:
    """What report and observations have in common, as far as the header has it."""
    common: Json = {}
    subject = _subject(dataset)
    if subject is not None:
        common["subject"] = subject
    accession = str(dataset.get("AccessionNumber") or "").strip()
    if accession:
        common["basedOn"] = [
            {
                "type": "ServiceRequest",
                "identifier": {
                    "type": {
                        "coding": [
                            {
                                "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                                "code": "ACSN",
                                "display": "Accession ID",
                            }
                        ]
                    },
                    "value": accession,
                },
            }
        ]
    day = str(dataset.get("StudyDate") or "")
    if len(day) == 8 and day.isdecimal():
        common["effectiveDateTime"] = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    return common


def _subject(dataset: Dataset) -> Json | None:
    patient_id = str(dataset.get("PatientID") or "").strip()
    if not patient_id:
        return None
    identifier: Json = {
        "type": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                    "code": "MR",
                    "display": "Medical record number",
                }
            ]
        },
        "value": patient_id,
    }
    issuer = str(dataset.get("IssuerOfPatientID") or "").strip()
    if issuer:
        identifier["assigner"] = {"display": issuer}
    return {"type": "Patient", "identifier": identifier}


def _groups(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        if item.get("ConceptNameCodeSequence"):
            if _code_of(item.ConceptNameCodeSequence[0]).value == _GROUP:
                yield item
            yield from _groups(item)


def _template(item: Dataset) -> str:
    sequence = item.get("ContentTemplateSequence")
    return str(sequence[0].TemplateIdentifier) if sequence else ""


def _images(item: Dataset) -> Iterator[str]:
    for reference in item.get("ReferencedSOPSequence", []):
        yield str(reference.ReferencedSOPInstanceUID)
    for child in item.get("ContentSequence", []):
        yield from _images(child)


def _device(items: dict[str, Dataset]) -> str:
    texts = [str(items[each].TextValue) for each in (_ALGORITHM, _VERSION) if each in items]
    return " ".join(texts) or "qc-daemon"


def _code_of(item: Dataset) -> Code:
    return Code(
        str(item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")),
        str(item.CodingSchemeDesignator),
        str(item.CodeMeaning),
    )


def _coding(code: Code) -> Json:
    system = SYSTEMS.get(code.scheme_designator)
    coding = {"code": code.value, "display": code.meaning}
    return coding if system is None else {"system": system, **coding}


def _concept(code: Code) -> Json:
    return {"coding": [_coding(code)], "text": code.meaning}


def _absent(code: str, words: str) -> Json:
    system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
    return {"coding": [{"system": system, "code": code, "display": words}]}


def _uid(uid: str) -> Json:
    return {"system": UID_SYSTEM, "value": f"urn:oid:{uid}"}


def _instant(dataset: Dataset) -> str:
    """When the report was made: in the zone that it names, else in this machine's."""
    text = f"{dataset.ContentDate}{str(dataset.ContentTime)[:6]}"
    offset = str(dataset.get("TimezoneOffsetFromUTC") or "")
    if offset:
        return datetime.strptime(f"{text}{offset}", "%Y%m%d%H%M%S%z").isoformat()
    return datetime.strptime(text, "%Y%m%d%H%M%S").astimezone().isoformat()

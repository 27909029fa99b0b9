"""Some two hundred exams to report: every kind of source, header, verdict and destination.

Each axis is walked in its own shuffled order, so that every value meets many of every other axis.
Headers are written and read again, so that text comes from bytes as it does from a machine.
"""

import hashlib
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from detector.errors import Flag
from model.criteria.rules import RULES
from model.finding import STANDARD, BundleId, Criterion, Finding, Reason
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.renditions import render_report
from qc_daemon.report.source import InstanceReference, SourceInstance
from qc_daemon.report.sr.biometry import MachineReport, MachineValue
from qc_daemon.report.sr.document import build_sr
from qc_daemon.review.events import Event, EventKind
from qc_daemon.review.reasons import REASONS
from qc_daemon.review.state import ReviewState, ReviewStatus

COUNT = 204
CREATED = datetime(2026, 1, 2, 9, 30, 0, 250000, tzinfo=UTC)
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
STILL, CINE = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
RETIRED_STILL, RETIRED_CINE = "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME = (CINE, RETIRED_CINE)
STUDY, ROOT = "1.2.826.0.1.3680043.10.1.2", "1.2.826.0.1.3680043.10.1"

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """What goes into one report. `name` says which values of the axes it has."""

    name: str
    sources: tuple[SourceInstance, ...]
    findings: tuple[Finding, ...]
    patient_name: str = ""
    revision: int = 1
    previous: tuple[InstanceReference, ...] = ()
    measured: tuple[MachineReport, ...] = ()
    reviews: tuple[ReviewState | None, ...] = ()
    fallback: bool = False
    illegal_uids: bool = False

    @property
    def retired_cine(self) -> bool:
        return any(source.sop_class_uid == RETIRED_CINE for source in self.sources)

    @property
    def boxes(self) -> int:
        return sum(len(finding.judgement.detections) for finding in self.findings)

    def build(self) -> Dataset:
        report = build_sr(
            self.sources,
            self.findings,
            revision=self.revision,
            created=CREATED,
            previous=self.previous,
            measured=self.measured,
            reviews=self.reviews,
        )
        return as_comprehensive(report) if self.fallback else report


def as_comprehensive(report: Dataset) -> Dataset:
    """What a destination gets that knows no Comprehensive 3D SR."""
    return dcmread(BytesIO(render_report(to_bytes(report), COMPREHENSIVE_SR, {}).payload))


# kind: for each source its class, Number of Frames (None: absent) and the frames found in it.
KINDS: dict[str, list[tuple[str, int | None, tuple[int, ...]]]] = {
    "still": [(STILL, None, (1,))],
    "cine": [(CINE, 40, (17, 40))],
    "cine without a count": [(CINE, None, (3,))],
    "several frames in a single-frame class": [(STILL, 4, (1, 4))],
    "retired still": [(RETIRED_STILL, None, (1,))],
    "retired cine": [(RETIRED_CINE, 9, (2, 9))],
    "capture": [(CAPTURE, None, (1,))],
    "exam": [(STILL, None, (1,)), (CINE, 5, (5,)), (RETIRED_STILL, None, (1,))],
}
# name: Specific Character Set and Patient's Name.
TEXTS: dict[str, tuple[str | list[str] | None, str]] = {
    "Latin-1": ("ISO_IR 100", "Müller-Strøm^Änne"),
    "Cyrillic": ("ISO_IR 144", "Люксембург^Роза"),
    "Japanese": (
        ["ISO_IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "Japanese from ASCII": (
        ["", "ISO 2022 IR 87"],
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    "none": (None, "Doe^Jane"),
}
NAME_OF_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(**dict(zip(NAME_OF_CODE, (value, scheme, meaning), strict=True)))


def region(x0: int, x1: int, delta: float) -> Dataset:
    return item(
        RegionSpatialFormat=1,
        RegionDataType=1,
        RegionLocationMinX0=x0,
        RegionLocationMinY0=0,
        RegionLocationMaxX1=x1,
        RegionLocationMaxY1=119,
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=delta,
        PhysicalDeltaY=-delta,
    )


TYPE_2 = (
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# pattern: elements of the header; None takes one away.
HEADERS: dict[str, dict[str, Any]] = {
    "complete": {},
    "type 2 missing": dict.fromkeys(TYPE_2),
    "type 2 empty": dict.fromkeys(TYPE_2, ""),
    "no manufacturer": {"Manufacturer": None, "Modality": None},
    "no size": {"Rows": None, "Columns": None},
    "bad dates": {"StudyDate": "20261399", "StudyTime": "256161", "PatientBirthDate": "unknown"},
    "ACR-NEMA dates": {"StudyDate": "1994.11.05", "StudyTime": "11:20:30"},
    "bad sex": {"PatientSex": "female", "PatientAge": "30"},
    "ordered": {
        "RequestAttributesSequence": [
            item(RequestedProcedureID="RP1", RequestedProcedureDescription="NT scan")
        ],
        "ReferencedPerformedProcedureStepSequence": [
            item(
                ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.3",
                ReferencedSOPInstanceUID=f"{ROOT}.5",
            )
        ],
        "ProcedureCodeSequence": [code("US12", "99LOCAL", "First-trimester scan")],
        "InstitutionName": "ScoredExam",
        "StudyDescription": "NT",
        "TimezoneOffsetFromUTC": "+0800",
    },
    "identity removed": {
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "qc",
        "OtherPatientIDsSequence": [item(PatientID="2", TypeOfPatientID="TEXT")],
    },
    "calibrated": {"SequenceOfUltrasoundRegions": [region(0, 79, 0.0125), region(80, 159, 0.01)]},
}
VERDICTS = [
    (view, quality)
    for view in View
    for quality in ("standard", "non-standard", "review")
    if view is not View.OTHER or quality == "review"
]
DETECTIONS = (0, 1, 2, 1, 0, 3, 2, 0, 1, 1, 0, 1, 2, 1, 0, 1, 0, 32)
DESCRIPTIONS = (
    "",
    "nuchal translucency at the lower left",
    "胎儿 \N{SMILING FACE WITH SMILING EYES} “thin”\r\nline\0",
    "x" * 5000,
)
TWINS = (
    MachineValue("A", "CRL", 62.5, "mm"),
    MachineValue("A", "GA-CRL", 88.0, "d"),
    MachineValue("A", "NT", 1.1, "mm"),
    MachineValue("B", "CRL", 59.25, "mm"),
    MachineValue("B", "NT", 1.3, "mm"),
)
MEASURED: dict[str, list[tuple[MachineValue, ...]]] = {
    "nothing": [],
    "one": [(MachineValue(None, "CRL", 62.5, "mm"), MachineValue(None, "GA", 87.0, "d"))],
    "twins": [TWINS],
    "two reports": [TWINS[:2], (MachineValue("1", "NT", 1.7, "mm"),)],
}
BUNDLES = (
    [BundleId("default", "0.1", "0123456789abcdef" * 4)],
    [BundleId("default", "0.1", "0123456789abcdef" * 4), BundleId("Klinik Ä", "2", "fe" * 32)],
)


def cases(us_header: Make, a_finding: Make) -> list[Case]:
    """The made-up ones."""
    draw = random.Random(5)
    kinds, texts, headers, measured, verdicts, detections, descriptions, revisions, bundles = (
        _walk(draw, axis)
        for axis in (
            list(KINDS),
            list(TEXTS),
            list(HEADERS),
            list(MEASURED),
            VERDICTS,
            DETECTIONS,
            DESCRIPTIONS,
            (1, 2, 1, 5),
            BUNDLES,
        )
    )
    matrix = []
    for number in range(COUNT):
        kind, text, header, machine = next(kinds), next(texts), next(headers), next(measured)
        sources, findings = [], []
        bundle = next(bundles)
        for position, (sop_class, frames, frames_with_findings) in enumerate(KINDS[kind]):
            source = _source(us_header, number, position, sop_class, frames, text, header)
            sources.append(source)
            for frame in frames_with_findings:
                view, quality = next(verdicts)
                finding = _finding(a_finding, draw, source, view, quality, next(detections))
                judgement = replace(finding.judgement, description=next(descriptions))
                findings.append(
                    replace(
                        finding,
                        judgement=judgement,
                        frame=frame,
                        revision=1 + number % 3,
                        bundle=draw.choice(bundle),
                    )
                )
        revision = next(revisions)
        matrix.append(
            Case(
                f"{number}: {kind}, {text}, {header}, {machine}, report {revision}",
                tuple(sources),
                tuple(findings),
                patient_name=TEXTS[text][1],
                revision=revision,
                previous=_previous(revision),
                measured=tuple(_machine(n, v) for n, v in enumerate(MEASURED[machine])),
                # Persons review what was reported before.
                reviews=tuple(_review(number + n) for n in range(len(findings)))
                if revision > 1
                else (),
                fallback=number % 3 == 2,
            )
        )
    return matrix


READERS = ("Lee^Ann", "Dr Müller-Strøm", "王^小明")


def _review(number: int) -> ReviewState | None:
    """What a person says of a finding; of every fourth nobody does."""
    if number % 4 == 3:
        return None
    view = list(View)[number % len(View)]
    kind = (EventKind.ACCEPT, EventKind.OVERRIDE, EventKind.RESOLVE)[number % 3]
    rules = RULES.get(view, ())[: number % 5]
    outcome = Event(
        number=1,
        kind=kind,
        reader=READERS[number % len(READERS)],
        at=datetime(2026, 1, 2, 9, number % 60, 30, tzinfo=UTC),
        revision=1,
        model_id="m",
        view=view,
        verdict=None if view is View.OTHER else ("standard", "non-standard")[number % 2],
        criteria=tuple((r.code, (True, False, None)[n % 3]) for n, r in enumerate(rules)),
        reason=None if kind is EventKind.ACCEPT else list(REASONS)[number % len(REASONS)],
        is_blinded=number % 5 == 0,
    )
    return ReviewState(ReviewStatus.RESOLVED, outcome)


def real_cases(shared_data: Path, a_finding: Make) -> list[Case]:
    """The headers of real pictures."""
    matrix = []
    draw = random.Random(6)
    for number, path in enumerate(sorted((shared_data / "us_dicom").glob("*.dcm"))):
        header = dcmread(path, stop_before_pixels=True)
        source = SourceInstance.of(header, hashlib.sha256(path.name.encode()).hexdigest())
        view, quality = VERDICTS[number % len(VERDICTS)]
        finding = _finding(a_finding, draw, source, view, quality, number % 4)
        frames = int(header.get("NumberOfFrames") or 1)
        illegal = str(header.SOPInstanceUID).startswith("999.999.")
        matrix.append(
            Case(
                f"real: {path.name}",
                (source,),
                (replace(finding, frame=frames),),
                patient_name=str(source.header.PatientName or ""),
                fallback=number % 3 == 2,
                illegal_uids=illegal,
            )
        )
    return matrix


def _walk(draw: random.Random, axis: Sequence[Any]) -> Iterator[Any]:
    """Its values over and over, each round in another order."""
    while True:
        yield from draw.sample(list(axis), len(axis))


def _source(
    us_header: Make,
    number: int,
    position: int,
    sop_class: str,
    frames: int | None,
    text: str,
    header: str,
) -> SourceInstance:
    charset, name = TEXTS[text]
    values: dict[str, Any] = {
        "SpecificCharacterSet": charset,
        "PatientName": name,
        "ReferringPhysicianName": name,
        "SOPClassUID": sop_class,
        "SOPInstanceUID": f"{ROOT}.{number}.{position}.1",
        "SeriesInstanceUID": f"{ROOT}.{number}.3" if position < 2 else f"{ROOT}.{number}.4",
        "StudyInstanceUID": f"{STUDY}.{number}",
        "NumberOfFrames": frames,
        **HEADERS[header],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = us_header(**{key: value for key, value in values.items() if value is not None})
        for keyword in [key for key, value in values.items() if value is None]:
            if keyword in dataset:
                delattr(dataset, keyword)
        buffer = BytesIO()
        dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
        received = dcmread(BytesIO(buffer.getvalue()), force=True)
    return SourceInstance.of(received, hashlib.sha256(f"{number} {position}".encode()).hexdigest())


def _finding(
    a_finding: Make,
    draw: random.Random,
    source: SourceInstance,
    view: View,
    quality: str,
    detections: int,
) -> Finding:
    is_other = view is View.OTHER
    flags = list(Flag)
    criteria = _criteria(draw, view)
    finding: Finding = a_finding(
        source,
        view=view,
        quality=quality,
        view_probability=draw.random(),
        probability=None if is_other else draw.choice([0.0, 1.0, draw.random()]),
        raw_probability=None if is_other else draw.random(),
        gates=tuple(draw.random() for _ in range(3)),
        region_index=draw.choice([0, 1]),
        detections=tuple(_detection(draw) for _ in range(detections)),
        criteria=criteria,
        flags=tuple(draw.sample(flags, draw.randrange(len(flags) + 1))),
        reasons=() if quality == STANDARD else _reasons(criteria),
    )
    return finding


def _detection(draw: random.Random) -> Detection:
    """A box inside 60 x 80 pixels, which every source of ours has."""
    x0, x1 = sorted(draw.uniform(0, 80) for _ in range(2))
    y0, y1 = sorted(draw.uniform(0, 60) for _ in range(2))
    return Detection(draw.choice(LABELS).code, (x0, y0, x1, y1), draw.random())


def _criteria(draw: random.Random, view: View) -> tuple[Criterion, ...]:
    """Of every fourth finding all that the view has, else some: they are most of a report."""
    rules = RULES[view]
    some = draw.sample(rules, draw.choice([0, 2, 3, len(rules)]) if rules else 0)
    return tuple(_criterion(draw, rule.code) for rule in some)


def _criterion(draw: random.Random, name: str) -> Criterion:
    value = draw.choice([None, draw.uniform(-180, 180)])
    unit = draw.choice(["1", "mm", "deg", "%"])
    evidence = tuple(label.code for label in draw.sample(LABELS, draw.randrange(3)))
    return Criterion(name, draw.choice([True, False, None]), value, unit, evidence)


def _reasons(criteria: tuple[Criterion, ...]) -> tuple[Reason, ...]:
    """One for each criterion that is not met, then a structure and a part of the picture."""
    # Of their own, so that the rest of the cases stays as it is.
    draw = random.Random(len(criteria))
    unmet = [Reason("criterion", c.code, f"{c.code}: fix it") for c in criteria if c.met is False]
    return (
        *(replace(reason, direction=draw.choice([None, "low", "high"])) for reason in unmet),
        Reason("structure", draw.choice(LABELS).code, "Gaumen nicht sichtbar: 断面を探す"),
        Reason("region", draw.choice(["upper-left", "middle-right", "centre", "whole"]), "part"),
    )


def _previous(revision: int) -> tuple[InstanceReference, ...]:
    return tuple(
        InstanceReference(STUDY, f"{ROOT}.9", "1.2.840.10008.5.1.4.1.1.88.34", f"2.25.{number}")
        for number in range(1, revision)
    )[-1:]


def _machine(number: int, values: tuple[MachineValue, ...]) -> MachineReport:
    reference = InstanceReference(STUDY, f"{ROOT}.8", COMPREHENSIVE_SR, f"{ROOT}.8.{number + 1}")
    return MachineReport(reference, values, f"{number:064x}")

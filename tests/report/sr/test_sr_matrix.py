"""Some two hundred reports, a third of them in the default suite: valid for every judge, and read
by others as what went in."""

import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset

from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.person_verdict import is_acceptance
from qc_daemon.report.sr.groups import storable_text
from qc_daemon.report.sr.parse import parse_findings, parse_machine_reports, parse_reviews
from qc_daemon.review.events import EventKind
from tests.support import pixelmed, sr_reader
from tests.support.environment import ROOT, require
from tests.support.sr_matrix import COUNT, MULTI_FRAME, Case, cases, real_cases

FL_STEP = 6.2e-5
ILLEGAL_ROOT = re.compile(r'Error - Illegal root for UID - "999\.999\.')
"""Three real files carry UIDs under 999, which no authority gave out; references repeat them."""
FRAME_OF_RETIRED = (
    "Error - Shall not be present for Referenced SOP Class that is not multi-frame"
    " - attribute <ReferencedFrameNumber>"
)
"""dciodvfy does not know the retired Ultrasound Multi-frame class, which is multi-frame as its name
says: without the frame number a box would be shown on the wrong frames."""
NOT_CHECKED = "W: The VR checker does not support this Specific Character Set: ISO_IR 192"
"""dsrdump of DCMTK 3.6.7 reads UTF-8, and says that it does not check it."""

PUBLIC = {"DCM", "SCT", "UCUM", "LN", "RADLEX", "RFC5646"}
# What PixelMed (of June 2022) may say, and why: codes of items that it does not find in TID 1501 or
# 1410, which are extensible.
EXTENSIONS = {
    r"[\w-]+,99QCD": "ours, each in the conformance statement",
    "111050,DCM": "Quality Assessment, the public code beside ours",
    "111101,DCM": "Image Quality, for technical faults",
    "111051,DCM": "Quality Control Standard, which a criterion cites",
    "121406,DCM": "Reference Authority: where that standard is written",
    "121106,DCM": "Comment: the machine-made text",
    "121140,DCM": "Number of Frames of an image in the library",
    "122405,DCM": "Algorithm Manufacturer, which its TID 4019 has not yet",
    "121024,DCM": "Subject Class: twins, told for one group; see docs/decisions.md",
    "11951-1,LN": "Fetus ID, as Subject Class",
    "121112,DCM": "Source of Measurement: a machine's report, where TID 1501 has an image",
    "121005,DCM": "Observer Type: a person, of a group alone (TID 1002)",
    "121008,DCM": "Person Observer Name, as Observer Type",
}
ALLOWED = [
    rf'Warning: .*/[A-Z]+ \({code},"[^"/]*"\): Content Item not in template' for code in EXTENSIONS
]
# The procedure as the machine named it, or the default: CID 100 is a baseline group, which may be
# extended, and has no ultrasound of pregnancy.
ALLOWED.append(
    r'Error: .*/CODE \(121058,DCM,"Procedure reported"\): .* not found in context group 100'
)
ONE_BOX = (
    r"Error: Template 1410 .*\[Row [57]\] .*Measurement Group\"\): Missing conditional content item"
)
"""It takes every group of a report with one box in all for a box (it counts them in the wrong
place), and misses the regions of the other groups."""


A_THIRD = COUNT // 3
"""What the default suite checks: each value of each axis five times or more. `make test-slow` has
all."""


@pytest.fixture(scope="module", params=[A_THIRD, pytest.param(COUNT, marks=pytest.mark.slow)])
def matrix(
    request: pytest.FixtureRequest,
    us_header: Callable[..., Any],
    a_finding: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Case, Path]]:
    """Each case with the file of its report."""
    all_cases = cases(us_header, a_finding)[: request.param]
    shared = Path(os.environ.get("QC_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if (shared / "us_dicom").is_dir():
        all_cases += real_cases(shared, a_finding)
    folder = tmp_path_factory.mktemp("matrix")
    return [(case, _write(folder / f"{n:03}.dcm", case)) for n, case in enumerate(all_cases)]


def _write(path: Path, case: Case) -> Path:
    path.write_bytes(to_bytes(case.build()))
    return path


@pytest.fixture(scope="module")
def parsed_reports(matrix: list[tuple[Case, Path]]) -> list[tuple[Case, Dataset]]:
    """Each case with its report as read again by pydicom."""
    return [(case, dcmread(path)) for case, path in matrix]


def test_the_matrix_is_large_enough(matrix: list[tuple[Case, Path]]) -> None:
    count = sum(not case.name.startswith("real: ") for case, _ in matrix)
    assert count >= A_THIRD
    assert len({case.name for case, _ in matrix}) == len(matrix)
    detections = Counter(len(f.judgement.detections) for case, _ in matrix for f in case.findings)
    assert detections[0] >= count // 10
    assert detections[32] >= count // 17
    assert sum(case.fallback for case, _ in matrix) >= count * 3 // 10
    assert sum(bool(case.previous) for case, _ in matrix) >= count * 3 // 10
    twins = [c for c, _ in matrix if any(v.fetus == "B" for m in c.measured for v in m.values)]
    assert len(twins) >= count // 5


def test_real_headers_are_in_it(matrix: list[tuple[Case, Path]], shared_data: Path) -> None:
    """The others are there without the shared data too."""
    assert shared_data.is_dir()
    assert sum(case.name.startswith("real: ") for case, _ in matrix) >= 26


def test_dciodvfy_finds_no_error(
    matrix: list[tuple[Case, Path]], dciodvfy: Callable[[Path], list[str]]
) -> None:
    faults = {}
    for case, path in matrix:
        errors = set(dciodvfy(path))
        if case.retired_cine:
            errors.discard(FRAME_OF_RETIRED)
        if case.illegal_uids:
            errors = {line for line in errors if not ILLEGAL_ROOT.match(line)}
        if errors:
            faults[case.name] = errors
    assert faults == {}


def test_dsrdump_reads_without_a_complaint(
    matrix: list[tuple[Case, Path]], dsrdump: object
) -> None:
    faults = {}
    for case, path in matrix:
        process = subprocess.run(
            ["dsrdump", path], capture_output=True, text=True, errors="replace"
        )
        complaints = set(process.stderr.splitlines()) - {NOT_CHECKED}
        if process.returncode or complaints:
            faults[case.name] = (process.returncode, complaints)
        title = "Comprehensive SR Document" if case.fallback else "Comprehensive 3D SR Document"
        assert process.stdout.startswith(title), case.name
    assert faults == {}


def _unexpected(cases: list[tuple[Case, Path]]) -> dict[str, int]:
    """What PixelMed says of these reports that is not allowed, with how often."""
    reported = pixelmed.validate(path for _, path in cases)
    lines: Counter[str] = Counter()
    for case, path in cases:
        allowed = [*ALLOWED, ONE_BOX] if case.boxes == 1 else ALLOWED
        lines.update(
            line
            for line in reported[path.name]
            if not any(re.fullmatch(pattern, line) for pattern in allowed)
        )
    return dict(lines)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("matrix", [COUNT], indirect=True)
def test_pixelmed_finds_no_fault_in_any(matrix: list[tuple[Case, Path]]) -> None:
    require(pixelmed.present(), "PixelMed's DicomSRValidator and a JDK")
    assert _unexpected(matrix) == {}


def test_an_independent_reader_finds_what_went_in(
    parsed_reports: list[tuple[Case, Dataset]],
) -> None:
    for case, report in parsed_reports:
        reported = [finding.to_json() for finding in case.findings]
        faults = sr_reader.findings(report)
        for got, want in zip(faults, reported, strict=True):
            want["description"] = storable_text(want["description"])
            _assert_boxes(
                [d.pop("bbox") for d in got["detections"]],
                [d.pop("bbox") for d in want["detections"]],
            )
            assert got == want, case.name


def _assert_boxes(got: list[Any], want: list[Any]) -> None:
    """Equal as far as FL can carry them."""
    np.testing.assert_allclose(
        np.reshape(got, (-1, 4)), np.reshape(want, (-1, 4)), rtol=0, atol=FL_STEP
    )


def test_what_persons_say_is_read_apart(parsed_reports: list[tuple[Case, Dataset]]) -> None:
    count = 0
    for case, report in parsed_reports:
        outcomes = [
            (finding.judgement, state.outcome)
            for finding, state in zip(case.findings, case.reviews, strict=False)
            if state is not None
        ]
        reviews = parse_reviews(report)
        assert [each.number for each in reviews] == [
            number for number, state in enumerate(case.reviews, start=1) if state is not None
        ]
        for got, (models, want) in zip(reviews, outcomes, strict=True):
            assert want is not None
            # Read blinded, what agrees with the models accepts it.
            kind = EventKind.ACCEPT if is_acceptance(models, want) else want.kind
            assert (got.kind, got.view, got.verdict) == (kind, want.view, want.verdict)
            assert (got.criteria, got.reason, got.reader) == (
                want.criteria,
                want.reason,
                want.reader,
            )
            assert (got.at, got.is_blinded) == (want.at, want.is_blinded)
        count += len(reviews)
    assert count >= len(parsed_reports) // 4


def test_our_own_reader_finds_what_went_in(parsed_reports: list[tuple[Case, Dataset]]) -> None:
    for case, report in parsed_reports:
        for got, want in zip(parse_findings(report), case.findings, strict=True):
            reported, expected = got.to_json(), want.to_json()
            expected["description"] = storable_text(expected["description"])
            _assert_boxes(
                [d.pop("bbox") for d in reported["detections"]],
                [d.pop("bbox") for d in expected["detections"]],
            )
            assert reported == expected, case.name
        by_fetus = [
            (m.reference, sorted(m.values, key=lambda v: str(v.fetus))) for m in case.measured
        ]
        assert [(m.reference, list(m.values)) for m in parse_machine_reports(report)] == by_fetus


def test_highdicom_finds_what_went_in_some(matrix: list[tuple[Case, Path]]) -> None:
    """Every fifth; highdicom takes its time, and the slow test has all."""
    _highdicom_finds(matrix[::5])


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [COUNT], indirect=True)
def test_highdicom_finds_what_went_in_any(matrix: list[tuple[Case, Path]]) -> None:
    _highdicom_finds(matrix)


def _highdicom_finds(cases: list[tuple[Case, Path]]) -> None:
    for case, path in cases:
        content = srread(path).content
        verdicts = {g.tracking_identifier: g for g in content.get_image_measurement_groups()}
        boxes = {g.tracking_identifier: g for g in content.get_planar_roi_measurement_groups()}
        assert len(boxes) == case.boxes, case.name
        for number, finding in enumerate(case.findings, start=1):
            j = finding.judgement
            group = verdicts[f"F{number}"]
            values = {m.name.value: m.value for m in group.get_measurements()}
            assert values["VIEW-P"] == j.view_probability
            assert values.get("PSTD") == j.probability
            assert tuple(values[name] for name in ("GIMG", "GTXT", "GSPA")) == j.gates
            reported = {e.name.value: e.value for e in group.get_qualitative_evaluations()}
            assert reported["VIEW"].value == f"VIEW-{j.view.value}"
            assert sr_reader.QUALITIES[reported["QLTY"].value] == j.quality
            outcomes = {
                c: sr_reader.OUTCOMES[reported[c].value] for c in reported if c[:5] == "CRIT-"
            }
            assert outcomes == {c.code: c.met for c in j.criteria}
            (image,) = group.source_images
            reference = image.ReferencedSOPSequence[0]
            assert reference.ReferencedSOPInstanceUID == finding.sop_instance_uid
            for index, detection in enumerate(j.detections, start=1):
                box = boxes[f"F{number}-B{index}"]
                assert box.finding_type.value == detection.label
                assert box.get_measurements()[0].value == detection.confidence
                x0, y0, x1, y1 = detection.bbox
                _assert_boxes(
                    [*box.roi.value.min(axis=0), *box.roi.value.max(axis=0)], [x0, y0, x1, y1]
                )


def test_boxes_and_frames_are_sound(parsed_reports: list[tuple[Case, Dataset]]) -> None:
    """What no validator looks at."""
    for case, report in parsed_reports:
        headers = {source.sop_instance_uid: source.header for source in case.sources}
        for item in _measured(report):
            if item.ValueType == "SCOORD":
                _assert_closed(item, case.name)
                x, y = item.GraphicData[0::2], item.GraphicData[1::2]
                named = item.ContentSequence[0].ReferencedSOPSequence[0]
                header = headers[named.ReferencedSOPInstanceUID]
                assert 0 <= min(x) <= max(x) <= header.get("Columns", 2048), case.name
                assert 0 <= min(y) <= max(y) <= header.get("Rows", 2048), case.name
            if item.ValueType == "IMAGE":
                named = item.ReferencedSOPSequence[0]
                header = headers[named.ReferencedSOPInstanceUID]
                frame = named.get("ReferencedFrameNumber")
                assert (frame is not None) == (header.SOPClassUID in MULTI_FRAME), case.name
                last = int(header.get("NumberOfFrames") or 2**31)
                assert frame is None or 1 <= frame <= last, case.name


def _assert_closed(item: Dataset, name: str) -> None:
    assert item.GraphicType == "POLYLINE", name
    points = list(zip(item.GraphicData[0::2], item.GraphicData[1::2], strict=True))
    assert len(points) == 5, name
    assert points[0] == points[-1], name
    assert all(math.isfinite(value) for value in item.GraphicData), name


def _measured(report: Dataset) -> Iterator[Dataset]:
    yield from sr_reader.items(sr_reader.only(report, "DCM 126010"))


def test_uids_are_unique_and_evidence_is_exact(parsed_reports: list[tuple[Case, Dataset]]) -> None:
    uses: Counter[str] = Counter()
    for case, report in parsed_reports:
        uses[report.SOPInstanceUID] += 1
        names = [sr_reader.only(g, "DCM 112039").TextValue for g in sr_reader.groups(report)]
        uids = [sr_reader.only(g, "DCM 112040").UID for g in sr_reader.groups(report)]
        by_name = dict(zip(names, uids, strict=True))
        assert len(by_name) == len(names), case.name
        # A person's group has the UID of the finding that it is about, and no other is shared.
        persons = {name for name in names if name.startswith("P")}
        assert all(by_name[name] == by_name[f"F{name[1:]}"] for name in persons), case.name
        assert len(set(uids)) == len(uids) - len(persons), case.name
        assert all(re.fullmatch(r"2\.25\.[1-9]\d{1,38}", uid) for uid in uids), case.name
        referenced = {
            (named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID)
            for item in sr_reader.items(report)
            for named in item.get("ReferencedSOPSequence", [])
        }
        evidence = [
            (named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID)
            for study in report.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for named in series.ReferencedSOPSequence
        ]
        assert len(evidence) == len(set(evidence)), case.name
        assert set(evidence) == referenced, case.name
        assert "PertinentOtherEvidenceSequence" not in report, case.name
        predecessors = [
            named.ReferencedSOPInstanceUID
            for study in report.get("PredecessorDocumentsSequence", [])
            for series in study.ReferencedSeriesSequence
            for named in series.ReferencedSOPSequence
        ]
        assert predecessors == [reference.sop_instance_uid for reference in case.previous]
    assert set(uses.values()) == {1}


def test_patients_are_inherited_in_any_character_set(
    parsed_reports: list[tuple[Case, Dataset]],
) -> None:
    for case, report in parsed_reports:
        assert report.SpecificCharacterSet == "ISO_IR 192", case.name
        assert str(report.PatientName) == case.patient_name, case.name
        for keyword in ("PatientID", "StudyInstanceUID", "AccessionNumber", "PatientSex"):
            inherited = case.sources[0].header[keyword].value
            assert (report[keyword].value or "") == (inherited or ""), case.name


def test_nothing_private_is_undeclared(parsed_reports: list[tuple[Case, Dataset]]) -> None:
    statement = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    declared = set(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", statement, re.MULTILINE))
    used: set[tuple[str, str]] = set()
    for case, report in parsed_reports:
        reported = {
            (str(c.CodingSchemeDesignator), str(c.CodeValue), str(c.CodeMeaning))
            for c in _codes(report, case.name)
        }
        used |= {(value, meaning) for scheme, value, meaning in reported if scheme == "99QCD"}
        received = {
            str(c.CodingSchemeDesignator)
            for source in case.sources
            for c in source.header.get("ProcedureCodeSequence", [])
        }
        assert {scheme for scheme, _, _ in reported} <= PUBLIC | {"99QCD"} | received, case.name
    assert used
    assert used <= declared


def _codes(dataset: Dataset, name: str) -> Iterator[Dataset]:
    """All coded concepts; no element may be private."""
    for element in dataset:
        assert not element.tag.is_private, name
        if element.VR == "SQ":
            for item in element.value:
                if "CodeValue" in item:
                    yield item
                yield from _codes(item, name)
